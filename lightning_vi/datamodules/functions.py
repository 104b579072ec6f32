"""Regression on the grid points of random functions, such as solutions of differential equations."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Unpack, cast

import numpy as np
import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules._standardize import Standardizer, as_float32
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits, TestSplit
from lightning_vi.errors import InputValueError

Ranges = Mapping[str, tuple[float, float]]
SPLITS = ("train", "val", "test", "calib", "ood")


class FunctionDataModule(ArrayDataModule, ABC):
    r"""Base class of regression problems whose rows are the grid points of random functions.

    A row has the coordinates of a grid point and the parameters :math:`\theta` of a function, and its target is

    .. math:: y = f(x; \theta) + \sigma(x; \theta) \varepsilon, \qquad \varepsilon \sim N(0, I).

    Each parameter is uniform in a range, which is another one for the out-of-distribution functions. Splits consist of
    whole functions: no two splits share one. Each split has a random state of its own, which depends on `data_seed`.

    Subclasses set `coordinate_names`, `target_names`, `ranges` and `ood_ranges`, and implement `function` and
    `noise_std`.

    Units: `X_*` and the batches have inputs standardized on the training rows. Targets are in their original units, and
    methods standardize them by `target_mean` and `target_std`.

    Args:
        batch_size: Number of rows per batch.
        n_functions: Number of training functions n, at least 4. The validation, test, calibration and
            out-of-distribution sets have a quarter as many each, rounded down.
        n_grid: Number of grid points per coordinate, at least 2. The grid is even, from 0 to 1 in each coordinate, and
            has G points in all.
        data_seed: Seed of the functions and of the noise.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those of the
            out-of-distribution functions.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Standardized inputs, the grid points of one function after the other,
            [n G, F] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Targets, [n G, D] float32.
        truth_train, truth_val, truth_test, truth_calib, truth_ood: The targets without noise, [n G, D] float32.
        noise_std_train, noise_std_val, noise_std_test, noise_std_calib, noise_std_ood: Standard deviation of the noise,
            [n G, D] float32.
        input_names: Names of the F inputs: coordinates, then parameters.
        grid_shape: Number of grid points per coordinate, (n_grid,) or (n_grid, n_grid).

    Raises:
        ValueError: If an argument is out of range.
    """

    coordinate_names: ClassVar[tuple[str, ...]]
    """Names of the coordinates."""
    target_names: ClassVar[tuple[str, ...]]
    """Names of the D targets."""
    ranges: ClassVar[Ranges]
    """Range of each parameter."""
    ood_ranges: ClassVar[Ranges]
    """Range of each parameter of the out-of-distribution functions."""
    truth_train: Tensor
    truth_val: Tensor
    truth_test: Tensor
    truth_calib: Tensor
    truth_ood: Tensor
    noise_std_train: Tensor
    noise_std_val: Tensor
    noise_std_test: Tensor
    noise_std_calib: Tensor
    noise_std_ood: Tensor

    def __init__(
        self,
        batch_size: int = 128,
        *,
        n_functions: int = 96,
        n_grid: int = 80,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_functions = check_int("n_functions", n_functions, at_least=4)
        n_grid = check_int("n_grid", n_grid, at_least=2)
        seed = check_seed("data_seed", data_seed)
        check_test_split(test_split)
        counts = {name: n_functions if name == "train" else n_functions // 4 for name in SPLITS}
        points = {name: self._draw_points(name, count, n_grid, seed) for name, count in counts.items()}
        truth = {name: self.function(x) for name, x in points.items()}
        noise_std = {name: self.noise_std(x) for name, x in points.items()}
        noise = {name: random_state(seed, name, "noise").standard_normal(y.shape) for name, y in truth.items()}

        rows = {name: x.flatten(0, 1) for name, x in points.items()}
        targets = {name: (truth[name] + noise_std[name] * torch.from_numpy(noise[name])).flatten(0, 1) for name in rows}
        scale = Standardizer.fit(rows["train"].numpy())
        scale_y = Standardizer.fit(targets["train"].numpy())
        splits = {name: (as_float32(scale(rows[name].numpy())), targets[name].float()) for name in SPLITS}
        super().__init__(**cast(Splits, splits), batch_size=batch_size, **loader_options)
        for name in SPLITS:
            setattr(self, f"truth_{name}", truth[name].flatten(0, 1).float())
            setattr(self, f"noise_std_{name}", noise_std[name].flatten(0, 1).float())
        self.input_mean, self.input_std = as_float32(scale.mean), as_float32(scale.std)
        self.target_mean, self.target_std = as_float32(scale_y.mean), as_float32(scale_y.std)
        self.input_names = [*self.coordinate_names, *self.ranges]
        self.grid_shape = (n_grid,) * len(self.coordinate_names)
        self.test_split = test_split

    @abstractmethod
    def function(self, points: Tensor) -> Tensor:
        """Returns the noise-free targets of functions; differentiable.

        Args:
            points: Coordinates and parameters in their own units, [n, G, F].

        Returns:
            Targets, [n, G, D].
        """

    @abstractmethod
    def noise_std(self, points: Tensor) -> Tensor:
        """Returns the standard deviation of the noise.

        Args:
            points: Coordinates and parameters of the whole grid of functions in their own units, [n, G, F].

        Returns:
            Standard deviations, [n, G, D].
        """

    def points(self, inputs: Tensor) -> Tensor:
        """Returns standardized inputs in their own units.

        Args:
            inputs: Inputs, such as `X_test`, [N, F].

        Returns:
            Coordinates and parameters, [N, F].
        """
        if self.input_mean is None or self.input_std is None:
            return inputs
        return inputs * self.input_std + self.input_mean

    def as_functions(self, rows: Tensor) -> Tensor:
        """Arranges rows as functions on the grid.

        Args:
            rows: Inputs, targets or predictions of whole functions, [n G, ...].

        Returns:
            Functions, [n, G, ...] in one dimension and [n, n_grid, n_grid, ...] in two.

        Raises:
            ValueError: If the rows are not those of whole functions.
        """
        size = int(np.prod(self.grid_shape))
        if len(rows) == 0 or len(rows) % size:
            raise InputValueError(f"rows must be a multiple of the {size} grid points of a function, got {len(rows)}.")
        return rows.reshape(-1, *self.grid_shape, *rows.shape[1:])

    def _draw_points(self, split: str, count: int, n_grid: int, seed: int) -> Tensor:
        """Returns the coordinates and parameters of all grid points, [count, G, F] float64."""
        ranges = self.ood_ranges if split == "ood" else self.ranges
        low, high = np.array(list(ranges.values())).T
        parameters = torch.from_numpy(random_state(seed, split, "parameters").uniform(low, high, (count, len(low))))
        axes = [torch.linspace(0.0, 1.0, n_grid, dtype=torch.float64)] * len(self.coordinate_names)
        grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
        return torch.cat(
            [grid.expand(count, -1, -1), parameters.unsqueeze(1).expand(-1, len(grid), -1)],
            dim=-1,
        )


def check_test_split(value: str) -> None:
    """Raises a `ValueError` unless the name is that of a test set."""
    if value not in ("test", "ood"):
        raise InputValueError(f"test_split must be 'test' or 'ood', got {value!r}.")


def random_state(seed: int, split: str, purpose: str) -> np.random.Generator:
    """Returns a random state for each seed, split and purpose."""
    return np.random.default_rng([seed, *f"{split} {purpose}".encode()])
