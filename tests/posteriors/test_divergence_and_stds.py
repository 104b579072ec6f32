"""Divergence and standard deviations in one node against the formulas in separate steps."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from lightning_vi.posteriors import divergence_and_stds
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, LaplacePrior, Prior

SHAPES = [(2, 3), (4,), (), (1, 2, 2)]
PRIORS = [GaussianPrior(std=0.7), EmpiricalBayesPrior(alpha=2.0, beta=3.0)]


def parameters() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in 2 * SHAPES]


def together(prior: Prior, *tensors: Tensor) -> tuple[Tensor, ...]:
    means, scales = tensors[: len(SHAPES)], tensors[len(SHAPES) :]
    of_moments = prior.of_moments([mean.numel() for mean in means])
    assert of_moments is not None
    kl, stds = divergence_and_stds(means, scales, of_moments)
    return kl, *stds


def apart(prior: Prior, *tensors: Tensor) -> tuple[Tensor, ...]:
    means, stds = tensors[: len(SHAPES)], [F.softplus(scale) for scale in tensors[len(SHAPES) :]]
    terms = [
        prior.for_parameter("weight", mean, num_inputs=1).kl_from_gaussian(mean, std)
        for mean, std in zip(means, stds, strict=True)
    ]
    return torch.stack(terms).sum(), *stds


def mixed(outputs: Sequence[Tensor]) -> Tensor:
    """A number that depends on all outputs."""
    return torch.stack([output.sin().sum() for output in outputs]).prod()


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("used", [slice(None), slice(1), slice(1, None), slice(2, 3)], ids=["all", "kl", "stds", "one"])
def test_values_and_gradients(prior: Prior, used: slice) -> None:
    tensors = parameters()
    outputs, expected = together(prior, *tensors)[used], apart(prior, *tensors)[used]
    torch.testing.assert_close(outputs, expected)
    found = torch.autograd.grad(mixed(outputs), tensors, allow_unused=True, materialize_grads=True)
    right = torch.autograd.grad(mixed(expected), tensors, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("prior", PRIORS)
def test_derivatives_are_those_of_finite_differences(prior: Prior) -> None:
    assert gradcheck(lambda *tensors: together(prior, *tensors), parameters(), fast_mode=True)
    assert gradgradcheck(lambda *tensors: together(prior, *tensors), parameters(), fast_mode=True)


def test_frozen_parameters_have_no_gradient() -> None:
    mean, *others = parameters()
    kl, *_ = together(PRIORS[1], mean, *(other.detach() for other in others))
    assert torch.autograd.grad(kl, mean)[0].isfinite().all()


def test_only_centered_gaussian_priors_depend_on_second_moments_alone() -> None:
    others = [
        LaplacePrior(),
        GaussianPrior(mean=0.5),
        GaussianPrior(std=torch.tensor(0.5)),
        EmpiricalBayesPrior(per="unit"),
    ]
    assert [prior.of_moments([3]) for prior in others] == [None] * len(others)
