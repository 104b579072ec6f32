"""Networks, likelihoods and gradients of the members of an ensemble with stacked weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.sampling import stack_networks, stacked_tensors, unstack_network


def make_networks(backbone: nn.Module | Callable[[], nn.Module], num_networks: int) -> list[nn.Module]:
    """Makes networks with different initial values.

    Args:
        backbone: The first network, of which the others are reinitialized copies; or a function that returns a network.
        num_networks: M.

    Returns:
        M networks. The first one is `backbone` itself if that is a network.

    Raises:
        TypeError: If `backbone` is neither a network nor a function that returns one.
        ValueError: If a module with parameters has no `reset_parameters`.
    """
    if isinstance(backbone, nn.Module):
        return [backbone, *(reinitialized(backbone) for _ in range(num_networks - 1))]
    if not callable(backbone):
        raise InputTypeError(
            f"backbone must be a network or a function that returns one, got a {type(backbone).__name__}"
        )
    networks = [backbone() for _ in range(num_networks)]
    for network in networks:
        if not isinstance(network, nn.Module):
            raise InputTypeError(f"backbone must return networks, got a {type(network).__name__}")
    return networks


def reinitialized(network: nn.Module) -> nn.Module:
    """Returns a copy of a network with new initial values.

    Args:
        network: Any network. Submodules are reset before their parents, which may override the values. Frozen
            parameters keep their values.

    Returns:
        The copy.

    Raises:
        ValueError: If a module with parameters has no `reset_parameters`.
    """
    fresh = copy.deepcopy(network)
    for name, module in reversed(list(fresh.named_modules())):
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            raise InputValueError(
                f"{name or 'the network'!r}, a {type(module).__name__}, has parameters and no reset_parameters(): give "
                "a function that returns a network as backbone"
            )
    with torch.no_grad():
        for new, given in zip(fresh.parameters(), network.parameters(), strict=True):
            if not given.requires_grad:
                new.copy_(given)
    return fresh


def stack_likelihood(likelihood: Likelihood, num_members: int) -> Likelihood:
    """Returns a likelihood with one set of parameters for each member.

    Args:
        likelihood: Has the initial values of all members. Without parameters it is returned as it is.
        num_members: M.

    Returns:
        A likelihood with parameters of shape [M, ...], for `call_members`.
    """
    return stack_networks([likelihood] * num_members) if _has_parameters(likelihood) else likelihood  # type: ignore[return-value]


def unstack_likelihood(likelihood: Likelihood, index: int) -> Likelihood:
    """Returns a copy of one member's likelihood.

    Args:
        likelihood: A stacked likelihood, see `stack_likelihood`.
        index: The member.

    Returns:
        A likelihood with the member's parameters.
    """
    return unstack_network(likelihood, index) if _has_parameters(likelihood) else copy.deepcopy(likelihood)  # type: ignore[return-value]


def call_members(
    likelihood: Likelihood,
    method: str,
    outputs: Tensor,
    *targets: Tensor,
    parameters: Mapping[str, Tensor] | None = None,
) -> Any:
    """Calls a method of each member's likelihood on the member's outputs, in one pass.

    Args:
        likelihood: A stacked likelihood, see `stack_likelihood`; or that of one member, with `parameters`.
        method: The method's name.
        outputs: Network outputs of the first m members, shape [m, B, ...].
        *targets: Further arguments, each of shape [m, B, ...].
        parameters: Parameters of all members by name, each of shape [M, ...]; by default those of `likelihood`.

    Returns:
        A tensor or a tuple of tensors of shape [m, B, ...]. A scalar result becomes a tensor [m], or one scalar for
        all members if the likelihood has no parameters.
    """
    if not _has_parameters(likelihood):
        rows = [target.flatten(0, 1) for target in targets]
        result = getattr(likelihood, method)(outputs.flatten(0, 1).unsqueeze(0), *rows)
        return _map_result(result, lambda part: part.view(*outputs.shape[:2], *part.shape[2:]) if part.dim() else part)
    module = _MethodCall(likelihood, method)
    stacked = stacked_tensors(likelihood) if parameters is None else parameters
    named = {f"likelihood.{name}": value[: len(outputs)] for name, value in stacked.items()}

    def call_one(parameters: dict[str, Tensor], outputs: Tensor, *targets: Tensor) -> Any:
        result = functional_call(module, parameters, (outputs.unsqueeze(0), *targets))
        return _map_result(result, lambda part: part.squeeze(0) if part.dim() else part)

    return torch.vmap(call_one)(named, outputs, *targets)


def call_member(likelihood: Likelihood, index: int, method: str, *arguments: Tensor) -> Any:
    """Calls a method of one member's likelihood without copying it.

    Args:
        likelihood: A stacked likelihood, see `stack_likelihood`.
        index: The member.
        method: The method's name.
        *arguments: The method's arguments.

    Returns:
        The method's result.
    """
    if not _has_parameters(likelihood):
        return getattr(likelihood, method)(*arguments)
    parameters = {f"likelihood.{name}": value[index] for name, value in stacked_tensors(likelihood).items()}
    return functional_call(_MethodCall(likelihood, method), parameters, arguments)


def _has_parameters(likelihood: Likelihood) -> bool:
    return any(True for _ in likelihood.parameters())


def _map_result(result: Tensor | tuple[Tensor, ...], function: Callable[[Tensor], Tensor]) -> Any:
    return function(result) if isinstance(result, Tensor) else tuple(map(function, result))


class _MethodCall(nn.Module):
    """Module whose forward pass is a method of a likelihood, for `functional_call`."""

    def __init__(self, likelihood: Likelihood, method: str) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.method = method

    def forward(self, *arguments: Tensor) -> Any:
        return getattr(self.likelihood, self.method)(*arguments)


def clip_members(gradients: Sequence[Tensor], largest: float, *, by_value: bool) -> None:
    """Clips the gradients of each member separately.

    Args:
        gradients: Stacked gradients, each of shape [M, ...]; changed in place.
        largest: Maximum absolute value of an element, or maximum norm of all gradients of a member.
        by_value: Whether to clip by value instead of by norm.
    """
    if by_value:
        for gradient in gradients:
            gradient.clamp_(-largest, largest)
        return
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
    factors = (largest / (squares.sum(0).sqrt() + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))


def clip_norms(gradients: Sequence[list[Tensor]], largest: float) -> None:
    """Clips the norm of the gradients of each member, as `torch.nn.utils.clip_grad_norm_` does one by one.

    Args:
        gradients: Those of each member, changed in place. Members have the same number of them.
        largest: Maximum norm of all gradients of a member.
    """
    norms = torch.stack(torch._foreach_norm([gradient for own in gradients for gradient in own]))
    factors = (largest / (norms.view(len(gradients), -1).norm(dim=1) + 1e-6)).clamp_max(1.0)
    for own, factor in zip(gradients, factors.unbind(), strict=True):
        torch._foreach_mul_(own, factor)
