"""Facts about a network: how it is called, which parts it consists of, and which of them are random."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lightning_vi.backbones import SelectOutput, selected_output
from lightning_vi.errors import InputTypeError
from lightning_vi.layers import stochastic_parameters
from lightning_vi.locks import all_modules, filtered_warnings, holding

NetworkInput = Tensor | Sequence[Any] | Mapping[str, Any]
"""A tensor; a tuple or list of positional arguments; or a dictionary, whose entries are keyword arguments if the
network's `forward` takes them, and which is one argument otherwise. The first dimension of each tensor is the batch;
other tensors, such as the edges of a graph, belong to all rows together."""

_ROW_BY_ROW = {
    *("activation", "batchnorm", "container", "conv", "dropout", "flatten", "instancenorm", "linear", "normalization"),
    *("padding", "pooling", "upsampling"),
}
_NOT_ROW_BY_ROW = (nn.MultiheadAttention, nn.Bilinear)  # called with several inputs


def call(network: nn.Module, x: NetworkInput) -> Tensor:
    """Output of a network.

    Args:
        network: The network.
        x: Its input.

    Returns:
        Shape [B, ...].

    Raises:
        TypeError: If the output is no tensor and it is unclear which one is meant, see `selected_output`.
    """
    return selected_output(call_part(network, x))


def call_part(part: nn.Module, x: NetworkInput) -> Any:
    """Output of a part of a network, of any type.

    Args:
        part: The part, such as the first module of a chain.
        x: Its input.

    Returns:
        Whatever the part returns.
    """
    if isinstance(x, Tensor):
        return part(x)
    if isinstance(x, Mapping):
        return part(**x) if _takes_keywords(part, x) else part(x)
    return part(*x)


def call_with(network: nn.Module, weights: Mapping[str, Tensor], x: NetworkInput) -> Tensor:
    """Output of a network with other weights. Its own stay as they are, also if the pass fails.

    Args:
        network: The network.
        weights: Parameters and buffers by name; missing ones are the network's. Buffers that the network changes in
            training mode are changed here.
        x: Its input.

    Returns:
        Shape [B, ...].
    """
    named = {f"network.{name}": value for name, value in weights.items()}
    return cast(Tensor, functional_call(_OneInput(network), named, (x,)))


class _OneInput(nn.Module):
    """Takes any network input as one argument, for `functional_call`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: NetworkInput) -> Tensor:
        if not self.network.training:
            return call(self.network, x)
        given = dict(self.network.named_buffers())
        output = call(self.network, x)
        for name, buffer in self.network.named_buffers():
            if name in given and buffer is not given[name]:  # `functional_call` would drop a new tensor
                given[name].copy_(buffer)
        return output


def _takes_keywords(network: nn.Module, x: Mapping[str, Any]) -> bool:
    while isinstance(network, SelectOutput):
        network = network.network
    try:
        inspect.signature(network.forward).bind(**x)
    except TypeError:
        return False
    return True


def map_tensors(function: Callable[[Tensor], Tensor], x: NetworkInput) -> NetworkInput:
    """Replaces each tensor of an input.

    Args:
        function: Makes the new tensor.
        x: Any input.

    Returns:
        An input of the same structure.
    """
    return function(x) if isinstance(x, Tensor) else cast(NetworkInput, apply_to_collection(x, Tensor, function))


def tensors(x: NetworkInput) -> list[Tensor]:
    """The tensors of an input.

    Args:
        x: Any input.

    Returns:
        At least one.

    Raises:
        TypeError: If there is none.
    """
    if isinstance(x, Tensor):
        return [x]
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, x)  # type: ignore[func-returns-value]
    if not found:
        raise InputTypeError(f"the input of a network must hold a tensor, got a {type(x).__name__} without one")
    return found


def batch_size(x: NetworkInput) -> int:
    """The number of rows B of an input.

    Args:
        x: Any input.

    Returns:
        The length of the first dimension of its first tensor.

    Raises:
        TypeError: If the input holds no tensor.
    """
    tensor = tensors(x)[0]
    return tensor.shape[0] if tensor.dim() else 1


def rows_first(x: NetworkInput) -> bool:
    """Returns True if all tensors of an input have one first dimension, so that rows can be taken out of it.

    Args:
        x: Any input.

    Returns:
        False for the nodes and edges of a graph, for example.

    Raises:
        TypeError: If the input holds no tensor.
    """
    first, *others = (tensor.shape[:1] for tensor in tensors(x))
    return len(first) == 1 and all(shape == first for shape in others)


def few_rows(x: NetworkInput, most: int) -> NetworkInput:
    """First rows of an input.

    Args:
        x: Any input.
        most: Maximum number of rows.

    Returns:
        The rows, or the input itself if it has no more, or rows cannot be taken out of it.
    """
    return map_tensors(lambda tensor: tensor[:most], x) if rows_first(x) and batch_size(x) > most else x


def device_of(x: NetworkInput) -> torch.device:
    """Device of an input.

    Args:
        x: Any input.

    Returns:
        The device of its first tensor.

    Raises:
        TypeError: If the input holds no tensor.
    """
    return tensors(x)[0].device


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Runs its body with every module in evaluation mode, and restores each mode, also after an exception.

    Methods among the modules are locked, so that no other thread sees these modes or predicts meanwhile.

    Args:
        module: The modes of this module and of all below it.
    """
    parts = all_modules(module)
    with holding(parts):
        training = [part for part in parts if part.training]
        try:
            for part in training:
                part.training = False
            yield
        finally:
            for part in training:
                part.training = True


def unroll(network: nn.Module) -> list[nn.Module]:
    """The modules of nested plain `nn.Sequential` containers in a row; other networks as they are.

    Args:
        network: Any network.

    Returns:
        Modules that make up the network when one is called on the output of the one before.
    """
    is_plain = isinstance(network, nn.Sequential) and type(network).forward is nn.Sequential.forward
    if not is_plain or is_hooked(network):
        return [network]
    return [part for child in cast(nn.Sequential, network) for part in unroll(child)]


def is_hooked(module: nn.Module) -> bool:
    """Returns True if a module has hooks, which may observe or change what it computes.

    Args:
        module: Any module.

    Returns:
        True if it has a forward or backward hook, not counting hooks of its children.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def is_random(module: nn.Module, but: nn.Module | None = None, *, dropout: bool = True) -> bool:
    """Returns True if a module's output differs between samples: stochastic weights, or active dropout.

    Args:
        module: The module.
        but: A part of it that does not count.
        dropout: Whether dropout counts.

    Returns:
        True if any part is random.
    """
    return any(
        part is not but and (stochastic_parameters(part) is not None or (dropout and _drops(part)))
        for part in module.modules()
    )


def _drops(module: nn.Module) -> bool:
    if not module.training:
        return False
    if isinstance(module, _DropoutNd | nn.RReLU):
        return not isinstance(module, _DropoutNd) or module.p > 0
    probability = getattr(module, "dropout", 0.0) if isinstance(module, nn.RNNBase | nn.MultiheadAttention) else 0.0
    return probability > 0


def treats_rows_alike(module: nn.Module) -> bool:
    """Returns True for torch modules that are known to compute each row of the batch from that row alone.

    Args:
        module: Any module; batch normalization counts as in evaluation mode.

    Returns:
        False for all other modules, such as those that are not torch's.
    """
    return all(_is_row_by_row(part) for part in module.modules())


def _is_row_by_row(module: nn.Module) -> bool:
    torch_class: Any = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch."))
    if type(module).forward is not torch_class.forward and stochastic_parameters(module) is None:
        return False
    if isinstance(module, _BatchNorm):
        return module.track_running_stats
    if isinstance(module, nn.Flatten):
        return module.start_dim > 0
    dim = getattr(module, "dim", 1)
    if dim is None or dim == 0 or dim < -1:  # counted from the end, it may be that of the rows
        return False
    return torch_class.__module__.rpartition(".")[2] in _ROW_BY_ROW and not isinstance(module, _NOT_ROW_BY_ROW)


def has_fast_path(network: nn.Module) -> bool:
    """Returns True if a module would now take its fused path for evaluation mode without gradients.

    Args:
        network: Any network.

    Returns:
        True if there is one and gradients are disabled.
    """
    return not torch.is_grad_enabled() and any(
        isinstance(module, nn.MultiheadAttention | nn.TransformerEncoderLayer | nn.TransformerEncoder)
        and not module.training
        for module in network.modules()
    )


def no_slow_fallback(refused: bool = True) -> AbstractContextManager[None]:
    """Turns the warning that `torch.vmap` runs an operation in a loop into an error.

    Args:
        refused: False to change nothing.

    Returns:
        A context manager.
    """
    if not refused:
        return nullcontext()
    return filtered_warnings("error", "There is a performance drop because we have not yet implemented")
