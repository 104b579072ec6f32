"""Regular grids in the plane."""

from typing import NamedTuple

import numpy as np

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Floats


class Grid(NamedTuple):
    """Coordinates of a regular grid, each [G1, G2]."""

    x: Floats
    y: Floats


def as_grid(nodes: Floats, grid_shape: tuple[int, int] | None, name: str) -> Grid:
    """Returns nodes [G1 * G2, 2] as a grid, in which one coordinate varies along rows, the other along columns."""
    count = len(nodes)
    if grid_shape is None:
        slow = 0 if nodes[0, 0] == nodes[min(1, count - 1), 0] else 1
        row = int(np.argmax(nodes[:, slow] != nodes[0, slow])) or count
        grid_shape = (count // row, row)
    if len(grid_shape) != 2 or min(grid_shape) < 2 or grid_shape[0] * grid_shape[1] != count:
        raise InputValueError(
            f"{name} must be a regular grid of at least 2 x 2 nodes: its shape is {nodes.shape}, "
            f"which does not make rows and columns of grid_shape {tuple(grid_shape)}"
        )
    x, y = np.moveaxis(nodes.reshape(*grid_shape, 2), -1, 0)
    across = (x, y) if np.allclose(x, x[:1]) else (y, x)
    if not (np.allclose(across[0], across[0][:1]) and np.allclose(across[1], across[1][:, :1])):
        raise InputValueError(
            f"{name} reshaped to {tuple(grid_shape)} is not a regular grid; pass the correct grid_shape"
        )
    return Grid(x, y)
