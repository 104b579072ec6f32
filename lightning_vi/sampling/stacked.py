"""Runs one network with several sets of weights: ensembles, and weights drawn outside the network."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter, itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_vi.errors import InputValueError
from lightning_vi.layers.stacked_linear import stacked_linear
from lightning_vi.sampling import memory
from lightning_vi.sampling.network import (
    NetworkInput,
    call_with,
    device_of,
    has_fast_path,
    is_hooked,
    map_tensors,
    unroll,
)
from lightning_vi.sampling.vmap import NetworkVmap
from lightning_vi.tracing import is_exporting

StackedVectorization = Literal["auto", "vmap", "loop"]

_ELEMENTWISE = ("activation", "dropout")


class StackedRunner:
    """Runs a network with S sets of weights. Its own weights stay as they are, also if a pass fails.

    Args:
        network: Any network.
        vectorization: ``"vmap"``: `torch.vmap` over the sets. ``"loop"``: one pass for each set. ``"auto"``: batched
            matrix products for plain chains of linear layers and activations; a loop for convolutions on a CPU,
            passes with gradients through chains with wide layers on a CPU, recurrent layers, batch normalization in
            training mode, fused attention, and modules that vmap cannot trace; vmap otherwise.

    Raises:
        ValueError: If `vectorization` is none of these.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> weights = {"weight": torch.ones(3, 1, 2), "bias": torch.zeros(3, 1)}
        >>> StackedRunner(network)(weights, torch.ones(4, 2)).shape
        torch.Size([3, 4, 1])
    """

    def __init__(self, network: nn.Module, vectorization: StackedVectorization = "auto") -> None:
        if vectorization not in ("auto", "vmap", "loop"):
            raise InputValueError(f"vectorization must be 'auto', 'vmap' or 'loop', got {vectorization!r}")
        self.network = network
        self.vectorization: StackedVectorization = vectorization
        names = {id(module): name for name, module in network.named_modules()}
        chain = unroll(network)
        self._chain = [(names[id(part)], part) for part in chain] if all(map(is_plain, chain)) else []
        sizes = [part.in_features * part.out_features for part in chain if isinstance(part, nn.Linear)]
        self._is_wide = max(sizes, default=0) >= memory.MIN_WIDE_WEIGHTS
        self._first_names = _first_names(network)
        self._vmap = NetworkVmap(network, is_required=vectorization == "vmap")

    def __call__(self, weights: Mapping[str, Tensor], x: NetworkInput, *, own_inputs: bool = False) -> Tensor:
        """S passes.

        Args:
            weights: Parameters and buffers by their names in the network, each with a leading dimension S. Missing
                ones are the network's. Buffers that the network changes in training mode are changed here.
            x: Input, each tensor of shape [B, ...], or [S, B, ...] with `own_inputs`.
            own_inputs: Whether each set of weights has a separate input.

        Returns:
            Shape [S, B, ...].
        """
        mode = self._mode(device_of(x))
        if mode == "chain" and isinstance(x, Tensor):
            return self._run_chain(weights, x, own_inputs)
        loop = partial(self._loop, weights, x, own_inputs)
        if mode == "loop":
            return loop()
        if not self._vmap.is_tried and self.network.training:
            loop = partial(self._loop_after_failure, weights, self._copy_buffers(weights), x, own_inputs)
        return self._vmap(self._run, (0, 0 if own_inputs else None), dict(weights), x, otherwise=loop)

    def runs_at_once(self, device: torch.device) -> bool:
        """Returns True if all sets of weights are run in one pass, False if in a loop.

        Args:
            device: That of the weights.
        """
        return self._mode(device) != "loop"

    def num_sets_per_pass(self, weights_per_set: int, num_rows: int) -> int:
        """Number of sets of weights to run at once, which bounds the memory.

        Args:
            weights_per_set: The number of weights.
            num_rows: B.

        Returns:
            At least 1.
        """
        return min(
            memory.num_fitting(memory.MAX_ROWS_PER_PASS, num_rows),
            memory.num_fitting(memory.MAX_WEIGHTS_PER_PASS, weights_per_set),
        )

    def _mode(self, device: torch.device) -> Literal["chain", "vmap", "loop"]:
        if self.vectorization != "auto":
            return self.vectorization
        if self._chain and not any(is_hooked(part) for _, part in self._chain):
            return "loop" if self._is_wide and device.type == "cpu" and torch.is_grad_enabled() else "chain"
        parts = list(self.network.modules())
        convolves = device.type == "cpu" and any(isinstance(part, _ConvNd) for part in parts)
        normalizes = any(isinstance(part, _BatchNorm) and (part.training or is_exporting()) for part in parts)
        slow = convolves or normalizes or has_fast_path(self.network)
        return "vmap" if self._vmap.works and not slow else "loop"

    def _run(self, weights: Mapping[str, Tensor], x: NetworkInput) -> Tensor:
        return call_with(self.network, weights, x)

    def _loop(self, weights: Mapping[str, Tensor], x: NetworkInput, own_inputs: bool) -> Tensor:
        outputs = []
        for index, values in enumerate(zip(*map(torch.unbind, weights.values()), strict=True)):
            own = map_tensors(itemgetter(index), x) if own_inputs else x
            outputs.append(self._run(dict(zip(weights, values, strict=True)), own))
        return torch.stack(outputs)

    def _copy_buffers(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: weights[name].clone() for name, _ in self.network.named_buffers() if name in weights}

    def _loop_after_failure(
        self, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: NetworkInput, own_inputs: bool
    ) -> Tensor:
        """A loop after a pass that has failed, and may have changed buffers before."""
        for name, value in buffers.items():
            weights[name].copy_(value)
        return self._loop(weights, x, own_inputs)

    def _run_chain(self, weights: Mapping[str, Tensor], x: Tensor, own_inputs: bool) -> Tensor:
        num_sets = len(next(iter(weights.values())))
        hidden = x if own_inputs else x.expand(num_sets, *x.shape)
        for name, part in self._chain:
            if not isinstance(part, nn.Linear):
                hidden = part(hidden)
                continue
            weight, bias = (self._find(weights, name, part, parameter) for parameter in ("weight", "bias"))
            own_bias = None if bias is None else bias.expand(num_sets, bias.shape[-1])
            hidden = stacked_linear(hidden, weight.expand(num_sets, *weight.shape[-2:]), own_bias)
        return hidden

    def _find(self, weights: Mapping[str, Tensor], name: str, part: nn.Module, parameter: str) -> Any:
        full_name = f"{name}.{parameter}" if name else parameter
        first_name = self._first_names.get(full_name, full_name)
        return weights.get(full_name, weights.get(first_name, getattr(part, parameter)))


def stack_networks(networks: Sequence[nn.Module]) -> nn.Module:
    """A copy of a network whose parameters and buffers hold those of several networks, stacked.

    It is a container of weights and the network of a `StackedRunner`; it cannot be called itself. Tied parameters
    stay tied.

    Args:
        networks: M networks of one architecture.

    Returns:
        The first one's copy, each tensor with a leading dimension M.

    Raises:
        ValueError: If the networks' parameters or buffers differ in name or shape.

    Example:
        >>> stacked = stack_networks([nn.Linear(2, 1), nn.Linear(2, 1)])
        >>> stacked.weight.shape
        torch.Size([2, 1, 2])
    """
    first = networks[0]
    shapes = [{name: tuple(value.shape) for name, value in network.state_dict().items()} for network in networks]
    if any(other != shapes[0] for other in shapes):
        raise InputValueError("the networks of an ensemble must have the same parameters: their names or shapes differ")
    return _with_tensors(
        first, lambda name, _: torch.stack([attrgetter(name)(network).detach() for network in networks])
    )


def stacked_tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of a stacked network.

    Args:
        network: Result of `stack_networks`.

    Returns:
        Each of shape [M, ...], by name.
    """
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def unstack_network(stacked: nn.Module, index: int) -> nn.Module:
    """One of the networks in a stacked network, which shares no memory with it.

    Args:
        stacked: Result of `stack_networks`.
        index: Index of the network.

    Returns:
        A network that can be called.
    """
    return _with_tensors(stacked, lambda _, tensor: tensor[index].clone())


def _with_tensors(network: nn.Module, make: Callable[[str, Tensor], Tensor]) -> nn.Module:
    """Copies a network with new parameters and buffers, made from the name and value of each, tied ones once."""
    twin = copy.deepcopy(network)
    made: dict[Tensor, Tensor] = {}
    for prefix, module in twin.named_modules():
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                if tensor is None:
                    continue
                if tensor not in made:
                    value = make(f"{prefix}.{name}".removeprefix("."), tensor.detach())
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[tensor] = nn.Parameter(value, tensor.requires_grad) if is_parameter else value
                slots[name] = made[tensor]
    return twin


def _first_names(network: nn.Module) -> dict[str, str]:
    """Maps each name of a parameter to the name under which `named_parameters` lists it."""
    listed = {parameter: name for name, parameter in network.named_parameters()}
    return {name: listed[parameter] for name, parameter in network.named_parameters(remove_duplicate=False)}


def is_plain(module: nn.Module) -> bool:
    """Returns True for linear layers and for elementwise modules, other than their subclasses.

    Args:
        module: Any module.
    """
    if type(module) is nn.Linear:
        return True
    package, _, name = type(module).__module__.rpartition(".")
    has_axes = hasattr(module, "dim") or next(module.parameters(), None) is not None
    return (
        package == "torch.nn.modules"
        and name in _ELEMENTWISE
        and not has_axes
        and not isinstance(module, _WITH_CHANNELS)
    )


_WITH_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout, nn.MultiheadAttention)
