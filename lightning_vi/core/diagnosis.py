"""Why a network failed on an input, found by a second pass after the failure."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_vi.errors import InputError, InputValueError, NotFittedError
from lightning_vi.locks import exclusive
from lightning_vi.sampling import NetworkInput, evaluating, tensors
from lightning_vi.sampling.private_draws import PrivateDraws

if TYPE_CHECKING:
    from lightning_vi.core.predictor import Predictor

_LAYERS = (nn.Linear, _ConvNd, nn.RNNBase, _BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.Embedding, nn.EmbeddingBag)
_Call = tuple[str, nn.Module, Tensor]


@contextmanager
def explained(predictor: "Predictor", x: NetworkInput) -> Iterator[None]:
    """Runs its body, and explains a failure that the shape or type of an input has caused. It costs nothing otherwise.

    Args:
        predictor: The predictor that the body uses.
        x: The input.

    Raises:
        ValueError: If the body fails and a layer of the network cannot take its input, or the network's output does not
            fit the likelihood.
    """
    try:
        yield
    except (NotFittedError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        with exclusive(predictor):  # other threads may predict, and the second pass adds hooks
            message = _explanation(predictor, x, error)
        if message:
            raise InputValueError(message) from error
        raise


def _explanation(predictor: "Predictor", x: NetworkInput, error: Exception) -> str:
    """A better message than that of an error; empty if there is none."""
    calls: list[_Call] = []
    first = tensors(x)[0]

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            calls.append((name, module, inputs[0]))

    layers = {name: part for name, part in predictor.named_modules() if isinstance(part, _LAYERS)}
    handles = [layer.register_forward_pre_hook(partial(record, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad(), evaluating(predictor), PrivateDraws(0):
            outputs = predictor.forward(x)
    except Exception:  # in all likelihood the one to explain
        reason = _reason(predictor, calls, first) if calls else ""
        if not reason and first.dim() < 2:
            reason = _without_batch(first)
        if reason or isinstance(x, Tensor) or not isinstance(error, TypeError | LookupError | AttributeError):
            return reason
        shapes = [_shape(tensor) for tensor in tensors(x)]
        return f"x is a {type(x).__name__} with tensors of the shapes {shapes}, which the network cannot take: {error}"
    finally:
        for handle in handles:
            handle.remove()
    if isinstance(error, InputError):
        return ""
    if first.dim() < 2:
        return _without_batch(first)
    try:
        predictor.likelihood.check_outputs(outputs.unsqueeze(0))
    except InputError as misfit:
        return f"{misfit}; x has the shape {_shape(first)}"
    return ""


def _without_batch(x: Tensor) -> str:
    return f"x has the shape {_shape(x)}, but its first dimension must be the batch: use x.unsqueeze(0)"


def _reason(predictor: "Predictor", calls: list[_Call], x: Tensor) -> str:
    full_name, layer, given = calls[-1]
    name = full_name.split("backbone.")[-1]
    kind = next(base for base in type(layer).__mro__ if base.__module__.startswith("torch.")).__name__
    is_first = len({name for name, *_ in calls}) == 1
    label = f"the {'first ' if is_first else ''}layer {name!r} ({kind})"
    got = f"x has the shape {_shape(x)} and the type {str(x.dtype).removeprefix('torch.')}"
    if not is_first:
        got += f", which gives {label} an input of shape {_shape(given)}"
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        if given.is_floating_point():
            return f"{got}, but {label} needs integers: use x.long()"
        return f"{got}, but {label} takes integers from 0 to {layer.num_embeddings - 1}: one of x is out of range"
    parameter = next(layer.parameters(), None)
    if parameter is not None and parameter.is_floating_point() and not given.is_floating_point():
        return f"{got}, but {label} needs {str(parameter.dtype).removeprefix('torch.')}: use x.float()"
    axis, attribute, need, num_dims = _requirement(layer)
    if x.dim() < 2:
        return f"{got}, but its first dimension must be the batch: use x.unsqueeze({1 if need == 1 else 0})"
    if num_dims and given.dim() != num_dims:
        return f"{got}, but {label} needs {num_dims} dimensions, [B, channels, ...]"
    if given.dim() <= (axis if axis >= 0 else -axis - 1):
        return f"{got}, but {label} needs more dimensions"
    width = given.shape[axis]
    if width == need:
        return ""
    if axis == 1 and given.dim() > 2 and given.shape[-1] == need:
        return f"{got}, but {label} takes {need} channels in dimension 1: use x.movedim(-1, 1)"
    if is_first:
        argument = "n_inputs" if _takes(getattr(_holder(predictor), "backbone", None), "n_inputs") else attribute
        return f"{got}, but {label} takes {need} and not {width} features: build the network with {argument}={width}"
    return f"{got}, but {label} takes {need} and not {width} features ({attribute}={need})"


def _requirement(layer: nn.Module) -> tuple[int, str, int, int]:
    """Dimension, name and number of features that a layer takes, and its number of dimensions if that is fixed."""
    if isinstance(layer, nn.Linear):
        return -1, "in_features", layer.in_features, 0
    if isinstance(layer, _ConvNd):
        return 1, "in_channels", layer.in_channels, len(layer.kernel_size) + 2
    if isinstance(layer, nn.RNNBase):
        return -1, "input_size", layer.input_size, 0
    if isinstance(layer, _BatchNorm):
        return 1, "num_features", layer.num_features, 0
    if isinstance(layer, nn.LayerNorm):
        return -1, "normalized_shape", layer.normalized_shape[-1], 0
    return 1, "num_channels", layer.num_channels, 0  # type: ignore[return-value]


def _holder(predictor: Any) -> Any:
    """The method inside calibrations."""
    while hasattr(predictor, "method"):
        predictor = predictor.method
    return predictor


def _takes(network: Any, argument: str) -> bool:
    return argument in inspect.signature(type(network)).parameters


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
