"""Draws of weights as vectors, and the order in which predictions use them."""

from collections.abc import Mapping, Sequence
from operator import attrgetter

import torch
from torch import Tensor, nn


def join_stacked(tensors: Mapping[str, Tensor], num_networks: int) -> Tensor:
    """Joins stacked tensors into one vector for each network.

    Args:
        tensors: Tensors by name, each of shape [K, ...].
        num_networks: K.

    Returns:
        Shape [K, P]; complex numbers as pairs of real ones.
    """
    rows = [_real(value.detach()).reshape(num_networks, -1) for value in tensors.values()]
    return torch.cat(rows, 1) if rows else torch.zeros(num_networks, 0)


def split_stacked(vectors: Tensor, names: Sequence[str], stacked: nn.Module) -> dict[str, Tensor]:
    """Splits vectors into the tensors that `join_stacked` has joined.

    Args:
        vectors: Shape [S, P].
        names: Names of parameters or buffers, in order.
        stacked: A stacked network that has them.

    Returns:
        Tensors by name, each of shape [S, ...], in the types of the network.

    Example:
        >>> from lightning_vi.sampling import stack_networks
        >>> stacked = stack_networks([nn.Linear(2, 1), nn.Linear(2, 1)])
        >>> parts = split_stacked(torch.zeros(5, 3), ["weight", "bias"], stacked)
        >>> {name: list(value.shape) for name, value in parts.items()}
        {'weight': [5, 1, 2], 'bias': [5, 1]}
    """
    result, first = dict[str, Tensor](), 0
    for name in names:
        value = attrgetter(name)(stacked)
        shape = _real(value)[0].shape
        part = vectors[:, first : first + shape.numel()].reshape(-1, *shape).to(value.dtype.to_real())
        result[name] = torch.view_as_complex(part) if value.is_complex() else part
        first += shape.numel()
    return result


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value


def spread_order(number: int) -> list[int]:
    """Returns the integers below a number in an order whose beginnings are spread over all of them.

    They are sorted by their bits in reverse (van der Corput).

    Args:
        number: Any number.

    Example:
        >>> spread_order(8)
        [0, 4, 2, 6, 1, 5, 3, 7]
    """
    width = max(1, (number - 1).bit_length())
    return sorted(range(number), key=lambda index: int(f"{index:0{width}b}"[::-1], 2))
