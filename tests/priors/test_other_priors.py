"""Laplace, scale-mixture and empirical-Bayes priors against torch.distributions and quadrature."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader, normal
from torch import Tensor, nn
from torch.distributions import Categorical, InverseGamma, Laplace, MixtureSameFamily, Normal, kl_divergence

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.layers import VariationalLinear
from lightning_vi.likelihoods import Gaussian
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, LaplacePrior, Prior, ScaleMixturePrior
from lightning_vi.sampling import SamplingEngine

MEANS = torch.tensor([[-2.0, -0.3, 0.0], [0.4, 1.0, 30.0]], dtype=torch.float64)
STDS = torch.tensor([[0.01, 0.3, 1.0], [1e-4, 3.0, 0.5]], dtype=torch.float64)


def by_quadrature(prior: Prior, mean: Tensor, std: Tensor, num_nodes: int = 20_001) -> Tensor:
    """E[ln q - ln p] by the trapezoidal rule over 12 standard deviations on each side, summed over elements."""
    nodes = torch.linspace(-12, 12, num_nodes, dtype=torch.float64).unsqueeze(-1)
    weights = Normal(0.0, 1.0).log_prob(nodes).exp() * (24 / (num_nodes - 1))
    total = torch.zeros((), dtype=torch.float64)
    for mu, sigma in zip(mean.flatten(), std.flatten(), strict=True):
        w = mu + sigma * nodes
        total = total + (weights * (Normal(mu, sigma).log_prob(w) - prior.log_prob(w))).sum()
    return total


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.2), (-1.0, 4.0)])
def test_laplace_log_prob_and_kl(mean: float, std: float) -> None:
    prior = LaplacePrior(mean, std)
    oracle = Laplace(torch.tensor(mean, dtype=torch.float64), std / math.sqrt(2))
    assert oracle.stddev.item() == pytest.approx(std)
    torch.testing.assert_close(prior.log_prob(MEANS), oracle.log_prob(MEANS))
    expected = by_quadrature(prior, MEANS, STDS)
    torch.testing.assert_close(prior.kl_from_gaussian(MEANS, STDS), expected, rtol=1e-5, atol=1e-5)


def test_laplace_kl_has_finite_gradients_at_the_prior_mean() -> None:
    mean, std = torch.zeros(3, requires_grad=True), torch.full((3,), 1e-6, requires_grad=True)
    LaplacePrior().kl_from_gaussian(mean, std).backward()
    assert mean.grad is not None
    assert torch.equal(mean.grad, torch.zeros(3))
    assert std.grad is not None
    assert std.grad.isfinite().all()


@pytest.mark.parametrize("arguments", [(0.5, 1.0, 0.1), (0.2, 3.0, 0.01)])
def test_mixture_log_prob_and_kl(arguments: tuple[float, float, float]) -> None:
    prior = ScaleMixturePrior(*arguments)
    weight, wide, narrow = (torch.tensor(number, dtype=torch.float64) for number in arguments)
    parts = Normal(torch.zeros(2, dtype=torch.float64), torch.stack([wide, narrow]))
    oracle = MixtureSameFamily(Categorical(probs=torch.stack([weight, 1 - weight])), parts)
    torch.testing.assert_close(prior.log_prob(MEANS), oracle.log_prob(MEANS))
    draws = torch.stack([prior.kl_from_gaussian(MEANS, STDS) for _ in range(2000)])
    standard_error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - by_quadrature(prior, MEANS, STDS)) < 4 * standard_error
    many = ScaleMixturePrior(*arguments, num_pairs=50)
    assert torch.stack([many.kl_from_gaussian(MEANS, STDS) for _ in range(100)]).std() < 0.3 * draws.std()


def test_mixture_of_equal_components_is_a_gaussian() -> None:
    prior, gaussian = ScaleMixturePrior(0.3, 0.7, 0.7, num_pairs=20_000), GaussianPrior(0.0, 0.7)
    mean, std = torch.randn(4), torch.rand(4) + 0.1
    torch.testing.assert_close(prior.log_prob(mean), gaussian.log_prob(mean))
    torch.testing.assert_close(
        prior.kl_from_gaussian(mean, std), gaussian.kl_from_gaussian(mean, std), rtol=0.02, atol=0.02
    )


def objective_at(variance: Tensor, mean: Tensor, std: Tensor, alpha: float, beta: float) -> Tensor:
    """KL divergence minus log hyperprior at given variances, by torch.distributions."""
    prior = Normal(torch.zeros_like(mean), variance.sqrt().expand_as(mean))
    hyperprior = InverseGamma(torch.tensor(alpha, dtype=mean.dtype), torch.tensor(beta, dtype=mean.dtype))
    return kl_divergence(Normal(mean, std), prior).sum() - hyperprior.log_prob(variance).sum()


@pytest.mark.parametrize(("per", "shape"), [("tensor", (1, 1, 1)), ("unit", (1, 3, 1))])
def test_empirical_bayes_variances_are_optimal(per: Any, shape: tuple[int, ...]) -> None:
    mean, std = torch.randn(4, 3, 2, dtype=torch.float64), torch.rand(4, 3, 2, dtype=torch.float64) + 0.1
    prior = EmpiricalBayesPrior(1.5, 2.0, per).for_parameter("weight", mean, num_inputs=6)
    variance = prior.variance(mean, std).view(shape)
    value = prior.kl_from_gaussian(mean, std)
    torch.testing.assert_close(value, objective_at(variance, mean, std, 1.5, 2.0))
    for factor in np.linspace(0.5, 1.5, 11):
        assert objective_at(variance * factor, mean, std, 1.5, 2.0) >= value - 1e-9


def test_empirical_bayes_gradient_matches_that_at_fixed_variances() -> None:
    """The optimal variances are stationary, so their gradient does not contribute."""
    mean = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    std = (torch.rand(4, 3, dtype=torch.float64) + 0.1).requires_grad_()
    prior = EmpiricalBayesPrior().for_parameter("weight", mean, num_inputs=3)
    gradients = torch.autograd.grad(prior.kl_from_gaussian(mean, std), (mean, std))
    fixed = prior.variance(mean, std).detach().view(1, 1)
    expected = torch.autograd.grad(objective_at(fixed, mean, std, 1.0, 10.0), (mean, std))
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("per", ["tensor", "unit"])
def test_empirical_bayes_log_prob_with_leading_dimensions(per: Any) -> None:
    prior = EmpiricalBayesPrior(per=per).for_parameter("weight", torch.zeros(4, 3), num_inputs=3)
    values = torch.randn(5, 4, 3)
    for value, density in zip(values, prior.log_prob(values), strict=True):
        variance = prior.variance(value, torch.zeros_like(value))
        torch.testing.assert_close(density, Normal(0.0, variance.sqrt().expand(4, 3)).log_prob(value))


PRIORS: dict[str, Prior] = {
    "Laplace": LaplacePrior(0.1, 0.8),
    "mixture": ScaleMixturePrior(),
    "empirical Bayes": EmpiricalBayesPrior(),
    "empirical Bayes, per unit": EmpiricalBayesPrior(per="unit"),
}


@pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)
def test_method_trains_and_loads_with_each_prior(prior: Prior) -> None:
    torch.manual_seed(0)
    x = normal(32, 3)
    method = MeanFieldVI(MLP(3, [8], 1), Gaussian(), prior=prior, num_mc_samples_train=4)
    history = fit(method, loader(x, x[:, :1]), max_epochs=20)
    assert history["train_elbo"][-1] > history["train_elbo"][0]
    fresh = MeanFieldVI(MLP(3, [8], 1), Gaussian(), prior=prior)
    fresh.load_state_dict(method.state_dict())
    torch.testing.assert_close(fresh.predict(x).epistemic_var, method.predict(x).epistemic_var)
    assert type(prior).__name__ in repr(fresh.backbone[0])


@pytest.mark.parametrize("prior", [LaplacePrior(0.1, 0.8), EmpiricalBayesPrior(), EmpiricalBayesPrior(per="unit")])
def test_kl_of_concatenated_parameters(prior: Prior) -> None:
    network = nn.Sequential(VariationalLinear(3, 4, prior=prior), VariationalLinear(4, 2, prior=prior))
    expected = sum(
        layer.prior(name).kl_from_gaussian(layer.posterior(name).mean, layer.posterior(name).std)
        for layer in network
        for name in ("weight", "bias")
    )
    torch.testing.assert_close(SamplingEngine(network).kl(), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LaplacePrior(std=0.0), "std must be positive and finite, got 0.0"),
        (lambda: LaplacePrior(mean=math.nan), "mean must be finite, got nan"),
        (lambda: ScaleMixturePrior(1.0), "mixing_weight must lie strictly between 0 and 1, got 1.0"),
        (lambda: ScaleMixturePrior(0.0), "mixing_weight must be positive"),
        (lambda: ScaleMixturePrior(wide_std=-1.0), "wide_std must be positive and finite, got -1.0"),
        (lambda: ScaleMixturePrior(num_pairs=0), "num_pairs must be positive, got 0"),
        (lambda: EmpiricalBayesPrior(alpha=0.0), "alpha must be positive and finite, got 0.0"),
        (lambda: EmpiricalBayesPrior(beta=math.inf), "beta must be positive and finite, got inf"),
        (lambda: EmpiricalBayesPrior(per="layer"), "per must be 'tensor' or 'unit', got 'layer'"),
    ],
)
def test_invalid_arguments_raise(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("prior", [EmpiricalBayesPrior(1.5, 4.0), GaussianPrior(0.3, 0.7), LaplacePrior(std=0.4)])
def test_joint_divergence_is_the_sum_of_the_parameters(prior: Prior) -> None:
    """Also its gradient, although a variance is shared within each parameter alone."""
    sizes = (1, 6, 3)
    means = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    stds = [(torch.rand(size, dtype=torch.float64) + 0.1).requires_grad_() for size in sizes]
    apart = torch.stack([prior.kl_from_gaussian(mean, std) for mean, std in zip(means, stds, strict=True)]).sum()
    joint = prior.joint_kl(torch.cat(means), torch.cat(stds), sizes)
    torch.testing.assert_close(joint, apart)
    expected, found = (torch.autograd.grad(kl, [*means, *stds]) for kl in (apart, joint))
    torch.testing.assert_close(found, expected)


def test_priors_with_other_hyperparameters_are_not_joined() -> None:
    keys = {EmpiricalBayesPrior(1.0, beta).joint_key for beta in (3.0, 4.0)}
    assert len(keys) == 2
    assert EmpiricalBayesPrior(per="unit").joint_key is None
