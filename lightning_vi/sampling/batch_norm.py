"""Running statistics of batch normalization for weights that no training step has used."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_vi.errors import InputValueError
from lightning_vi.sampling.network import (
    NetworkInput,
    batch_size,
    call_with,
    evaluating,
    map_tensors,
    rows_first,
    tensors,
)


def running_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Running means and variances of a network's batch normalization.

    Args:
        network: Any network.

    Returns:
        The network's buffers by name; empty if no layer tracks statistics.
    """
    return {
        f"{name}.{kind}".removeprefix("."): getattr(norm, kind)
        for name, norm in _tracking_norms(network).items()
        for kind in ("running_mean", "running_var")
    }


@torch.no_grad()
def estimate_statistics(network: nn.Module, weights: Mapping[str, Tensor], x: NetworkInput) -> dict[str, Tensor]:
    """Running means and variances for S sets of weights, from one pass in training mode over some rows.

    Everything except batch normalization is in evaluation mode. The network's statistics, modes and weights stay as
    they are, also if a pass fails.

    Args:
        network: The network.
        weights: Parameters by name, each of shape [S, ...].
        x: Input, each tensor of shape [N, ...].

    Returns:
        By the names of `running_statistics`, each of shape [S, channels].
    """
    num_sets = len(next(iter(weights.values())))
    norms = _tracking_norms(network)
    statistics = {
        f"{name}.{kind}".removeprefix("."): buffer.new_zeros(num_sets, *buffer.shape)
        for name, norm in norms.items()
        for kind, buffer in norm.named_buffers(recurse=False)
    }
    with evaluating(network), _measuring(norms.values()):
        for index in range(num_sets):
            call_with(network, {name: value[index] for name, value in {**weights, **statistics}.items()}, x)
    return {name: statistics[name] for name in running_statistics(network)}


def _tracking_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


@contextmanager
def _measuring(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Runs its body with layers whose statistics after one pass are those of its batch alone."""
    states = [(norm, norm.training, norm.momentum) for norm in norms]
    try:
        for norm, _, _ in states:
            norm.training, norm.momentum = True, None
        yield
    finally:
        for norm, training, momentum in states:
            norm.training, norm.momentum = training, momentum


def first_rows(inputs: Iterable[NetworkInput], num_rows: int) -> NetworkInput:
    """First rows of a dataset's inputs. Inputs whose rows differ in shape from the first ones are skipped.

    Inputs from which rows cannot be taken, such as the nodes and edges of a graph, are not joined: the first one is
    returned as it is.

    Args:
        inputs: Network inputs, one for each batch.
        num_rows: The most rows to return.

    Returns:
        An input in plain dictionaries, lists and tuples, that shares no memory with `inputs`.

    Raises:
        ValueError: If there are no data.

    Example:
        >>> first_rows([torch.zeros(2, 3), torch.ones(2, 3)], num_rows=3)[:, 0]
        tensor([0., 0., 1.])
    """
    parts: list[NetworkInput] = []
    missing = num_rows
    for x in inputs:
        if not parts and not rows_first(x):
            return map_tensors(torch.clone, _plain(x))
        part = map_tensors(lambda tensor: tensor[:missing], _plain(x))  # noqa: B023
        if not parts or _row_shapes(part) == _row_shapes(parts[0]):
            parts.append(part)
            missing -= batch_size(part)
        if missing <= 0:
            break
    if not parts:
        raise InputValueError("there are no data to fit the posterior to")
    joined = iter([torch.cat(column) for column in zip(*map(tensors, parts), strict=True)])
    return map_tensors(lambda _: next(joined), parts[0])


def _row_shapes(x: NetworkInput) -> list[torch.Size]:
    return [tensor.shape[1:] for tensor in tensors(x)]


def _plain(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {name: _plain(value) for name, value in x.items()}
    if isinstance(x, Sequence) and not isinstance(x, str):
        values = [_plain(value) for value in x]
        return tuple(values) if isinstance(x, tuple) else values
    return x


class KeptRows(nn.Module):
    """Rows of training inputs that are part of a method's state.

    Attributes:
        rows: The input; None if nothing is kept.

    Example:
        >>> kept = KeptRows()
        >>> kept.rows = {"image": torch.zeros(2, 3)}
        >>> other = KeptRows()
        >>> _ = other.load_state_dict(kept.state_dict())
        >>> other.double().rows["image"].dtype
        torch.float64
    """

    rows: NetworkInput | None

    def __init__(self) -> None:
        super().__init__()
        self.rows = None

    def on(self, device: torch.device) -> NetworkInput:
        """Returns the rows on a device.

        Args:
            device: Where they are needed; loading a checkpoint may have left them elsewhere.

        Returns:
            The input.

        Raises:
            ValueError: If nothing is kept.
        """
        if self.rows is None:
            raise InputValueError("there are no rows from which to estimate the statistics of batch normalization")
        return map_tensors(lambda tensor: tensor.to(device), self.rows)

    def get_extra_state(self) -> dict[str, Any]:  # noqa: D102
        return {"rows": self.rows}

    def set_extra_state(self, state: dict[str, Any]) -> None:  # noqa: D102
        self.rows = state["rows"]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.rows = None if self.rows is None else map_tensors(fn, self.rows)
        return self
