"""Members of an ensemble whose weights are stacked: how they begin, and each one's own likelihood."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_vi.likelihoods import Likelihood
from lightning_vi.sampling import stack_networks, stacked_tensors, unstack_network


def make_networks(backbone: nn.Module | Callable[[], nn.Module], num_networks: int) -> list[nn.Module]:
    """Networks with initial values of their own.

    Args:
        backbone: The first one, of which the others are copies with new initial values; or what makes each of them.
        num_networks: M.

    Returns:
        M networks, the first of which is `backbone` itself where that is a network.

    Raises:
        TypeError: If `backbone` is neither a network nor makes networks.
        ValueError: If a module with parameters cannot make new ones.
    """
    if isinstance(backbone, nn.Module):
        return [backbone, *(reinitialised(backbone) for _ in range(num_networks - 1))]
    if not callable(backbone):
        raise TypeError(f"backbone must be a network or a function that makes one, got a {type(backbone).__name__}")
    networks = [backbone() for _ in range(num_networks)]
    for network in networks:
        if not isinstance(network, nn.Module):
            raise TypeError(f"backbone must make networks, got a {type(network).__name__}")
    return networks


def reinitialised(network: nn.Module) -> nn.Module:
    """A copy of a network with new initial values.

    Args:
        network: Any network; parts come before the modules that hold them, so that these have the last word.

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


def own_likelihoods(likelihood: Likelihood, num_members: int) -> Likelihood:
    """A likelihood whose parameters, if it has any, are stacked, one set for each member.

    Args:
        likelihood: Where each of them starts.
        num_members: M.

    Returns:
        A likelihood for `ask_each`.
    """
    return stack_networks([likelihood] * num_members) if _learns(likelihood) else likelihood  # type: ignore[return-value]


def member_likelihood(likelihood: Likelihood, index: int) -> Likelihood:
    """One member's likelihood.

    Args:
        likelihood: What `own_likelihoods` returned.
        index: Which member.

    Returns:
        A copy.
    """
    return unstack_network(likelihood, index) if _learns(likelihood) else copy.deepcopy(likelihood)  # type: ignore[return-value]


def ask_each(likelihood: Likelihood, question: str, outputs: Tensor, *targets: Tensor) -> Any:
    """What each member's likelihood answers about the member's outputs.

    Args:
        likelihood: What `own_likelihoods` returned.
        question: The name of a method of the likelihood.
        outputs: Network outputs, shape [M, B, ...].
        *targets: Its further arguments, of shapes [M, B, ...].

    Returns:
        The answers, a tensor or a tuple of tensors of shape [M, B, ...]. A scalar answer becomes a tensor [M], or one
        scalar for all members where they do not learn.
    """
    if not _learns(likelihood):
        rows = [targets_of_all.flatten(0, 1) for targets_of_all in targets]
        answer = getattr(likelihood, question)(outputs.flatten(0, 1).unsqueeze(0), *rows)
        return _each(answer, lambda part: part.view(*outputs.shape[:2], *part.shape[2:]) if part.dim() else part)
    asked = _Question(likelihood, question)
    named = {f"likelihood.{name}": value for name, value in stacked_tensors(likelihood).items()}

    def ask(own: dict[str, Tensor], own_outputs: Tensor, *own_targets: Tensor) -> Any:
        answer = functional_call(asked, own, (own_outputs.unsqueeze(0), *own_targets))
        return _each(answer, lambda part: part.squeeze(0) if part.dim() else part)

    return torch.vmap(ask)(named, outputs, *targets)


def _learns(likelihood: Likelihood) -> bool:
    return any(True for _ in likelihood.parameters())


def _each(answer: Tensor | tuple[Tensor, ...], function: Callable[[Tensor], Tensor]) -> Any:
    return function(answer) if isinstance(answer, Tensor) else tuple(map(function, answer))


class _Question(nn.Module):
    """Calls a method of a likelihood as if it were its forward pass."""

    def __init__(self, likelihood: Likelihood, question: str) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.question = question

    def forward(self, *arguments: Tensor) -> Any:
        return getattr(self.likelihood, self.question)(*arguments)


def clip_each(gradients: Sequence[Tensor], largest: float, *, by_value: bool) -> None:
    """Clips the gradients of each member as if it were trained alone.

    Args:
        gradients: Stacked gradients, each of shape [M, ...]; changed in place.
        largest: The largest absolute value, or norm of all of a member's gradients together.
        by_value: Which of the two.
    """
    if by_value:
        for gradient in gradients:
            gradient.clamp_(-largest, largest)
        return
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients])
    factors = (largest / (squares.sum(0).sqrt() + 1e-6)).clamp_max(1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.dim() - 1)))
