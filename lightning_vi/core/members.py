"""Members of an ensemble whose weights are stacked: their networks, likelihoods and gradients."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_vi.likelihoods import Likelihood
from lightning_vi.sampling import stack_networks, stacked_tensors, unstack_network


def make_networks(backbone: nn.Module | Callable[[], nn.Module], num_networks: int) -> list[nn.Module]:
    """Makes networks with different initial values.

    Args:
        backbone: The first one, of which the others are copies with new initial values; or a function that makes one.
        num_networks: M.

    Returns:
        M networks, the first of which is `backbone` itself if that is a network.

    Raises:
        TypeError: If `backbone` is neither a network nor makes networks.
        ValueError: If a module with parameters cannot make new ones.
    """
    if isinstance(backbone, nn.Module):
        return [backbone, *(reinitialized(backbone) for _ in range(num_networks - 1))]
    if not callable(backbone):
        raise TypeError(f"backbone must be a network or a function that makes one, got a {type(backbone).__name__}")
    networks = [backbone() for _ in range(num_networks)]
    for network in networks:
        if not isinstance(network, nn.Module):
            raise TypeError(f"backbone must make networks, got a {type(network).__name__}")
    return networks


def reinitialized(network: nn.Module) -> nn.Module:
    """Returns a copy of a network with new initial values.

    Args:
        network: Any network. Parts are reset before the modules that hold them, which may override their values.

    Returns:
        The copy.

    Raises:
        ValueError: If a module with parameters has no `reset_parameters`.
    """
    twin = copy.deepcopy(network)
    for name, module in reversed(list(twin.named_modules())):
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ValueError(
                f"{name or 'the network'!r}, a {type(module).__name__}, has parameters and no reset_parameters(): give "
                "a function that makes a network as backbone"
            )
    return twin


def stack_likelihood(likelihood: Likelihood, num_members: int) -> Likelihood:
    """Returns a likelihood whose parameters, if it has any, are stacked, one set for each member.

    Args:
        likelihood: Holds the initial values of every member.
        num_members: M.

    Returns:
        A likelihood for `call_members`.
    """
    return stack_networks([likelihood] * num_members) if _learns(likelihood) else likelihood  # type: ignore[return-value]


def unstack_likelihood(likelihood: Likelihood, index: int) -> Likelihood:
    """Returns a copy of one member's likelihood.

    Args:
        likelihood: A stacked likelihood, see `stack_likelihood`.
        index: The member.

    Returns:
        A likelihood that can be used alone.
    """
    return unstack_network(likelihood, index) if _learns(likelihood) else copy.deepcopy(likelihood)  # type: ignore[return-value]


def call_members(likelihood: Likelihood, method: str, outputs: Tensor, *targets: Tensor) -> Any:
    """Calls a method of every member's likelihood on that member's outputs, in one pass.

    Args:
        likelihood: A stacked likelihood, see `stack_likelihood`.
        method: The method's name.
        outputs: Network outputs of the first m members, shape [m, B, ...].
        *targets: Further arguments, of shapes [m, B, ...].

    Returns:
        A tensor or a tuple of tensors of shape [m, B, ...]. A scalar result becomes a tensor [m], or one scalar for
        all members if the likelihood has no parameters.
    """
    if not _learns(likelihood):
        rows = [target.flatten(0, 1) for target in targets]
        result = getattr(likelihood, method)(outputs.flatten(0, 1).unsqueeze(0), *rows)
        return _map(result, lambda part: part.view(*outputs.shape[:2], *part.shape[2:]) if part.dim() else part)
    module = _MethodCall(likelihood, method)
    parameters = {name: value[: len(outputs)] for name, value in _named(likelihood).items()}

    def call(own: dict[str, Tensor], own_outputs: Tensor, *own_targets: Tensor) -> Any:
        result = functional_call(module, own, (own_outputs.unsqueeze(0), *own_targets))
        return _map(result, lambda part: part.squeeze(0) if part.dim() else part)

    return torch.vmap(call)(parameters, outputs, *targets)


def call_member(likelihood: Likelihood, index: int, method: str, *arguments: Tensor) -> Any:
    """Calls a method of one member's likelihood, without a copy of it.

    Args:
        likelihood: A stacked likelihood, see `stack_likelihood`.
        index: The member.
        method: The method's name.
        *arguments: The method's arguments.

    Returns:
        The method's result.
    """
    if not _learns(likelihood):
        return getattr(likelihood, method)(*arguments)
    parameters = {name: value[index] for name, value in _named(likelihood).items()}
    return functional_call(_MethodCall(likelihood, method), parameters, arguments)


def _learns(likelihood: Likelihood) -> bool:
    return any(True for _ in likelihood.parameters())


def _named(likelihood: Likelihood) -> dict[str, Tensor]:
    return {f"likelihood.{name}": value for name, value in stacked_tensors(likelihood).items()}


def _map(result: Tensor | tuple[Tensor, ...], function: Callable[[Tensor], Tensor]) -> Any:
    return function(result) if isinstance(result, Tensor) else tuple(map(function, result))


class _MethodCall(nn.Module):
    """Makes a method of a likelihood the forward pass that `functional_call` runs."""

    def __init__(self, likelihood: Likelihood, method: str) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.method = method

    def forward(self, *arguments: Tensor) -> Any:
        return getattr(self.likelihood, self.method)(*arguments)


def clip_members(gradients: Sequence[Tensor], largest: float, *, by_value: bool) -> None:
    """Clips each member's gradients as if it were trained alone.

    Args:
        gradients: Stacked gradients, each of shape [M, ...]; changed in place.
        largest: The largest absolute value, or norm of all of a member's gradients together.
        by_value: Whether `largest` bounds values rather than the norm.
    """
    if by_value:
        for gradient in gradients:
            gradient.clamp_(-largest, largest)
        return
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
    factors = (largest / (squares.sum(0).sqrt() + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
