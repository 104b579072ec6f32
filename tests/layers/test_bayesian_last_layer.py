"""Bayesian last layers against multivariate normals, and expected log-likelihoods against sampling."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from lightning_vi.layers import BayesianLastLayer, DenseLastLayer, DiagonalLastLayer, LowRankLastLayer
from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Poisson,
)

KINDS: dict[str, Any] = {
    "dense": DenseLastLayer,
    "diagonal": DiagonalLastLayer,
    "low rank": partial(LowRankLastLayer, rank=2),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def head(kind: str, bias: bool = True) -> BayesianLastLayer:
    torch.manual_seed(0)
    layer: BayesianLastLayer = KINDS[kind](nn.Linear(3, 2, bias=bias), prior_std=0.7, init_std=0.5).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.6)
    return layer


@each_kind
def test_kl_matches_multivariate_normals(kind: str) -> None:
    layer = head(kind)
    covariance = layer.covariance()
    prior = MultivariateNormal(torch.zeros(4).double(), 0.49 * torch.eye(4).double())
    expected = sum(
        kl_divergence(MultivariateNormal(m, c), prior) for m, c in zip(layer.weight_mu, covariance, strict=True)
    )
    assert_close(layer.kl(), expected)


@each_kind
@pytest.mark.parametrize("bias", [True, False])
def test_moments_match_quadratic_forms(kind: str, bias: bool) -> None:
    layer, features = head(kind, bias), torch.randn(5, 2, 3).double()
    phi = torch.cat([features, torch.ones(5, 2, 1)], -1) if bias else features
    mean, variance = layer.moments(features)
    assert_close(mean, phi @ layer.weight_mu.T)
    assert_close(variance, torch.einsum("...f,kfg,...g->...k", phi, layer.covariance(), phi))
    assert_close(layer(features), mean)


@each_kind
def test_draws_have_the_posterior_moments_and_depend_on_their_index(kind: str) -> None:
    layer = head(kind)
    draws = layer.draw(0, 20_000, seed=3).detach()
    assert_close(draws.mean(0), layer.weight_mu.detach(), rtol=0, atol=0.05)
    for output in range(2):
        covariance = layer.covariance()[output].detach()
        assert_close(draws[:, output].T.cov(), covariance, rtol=0, atol=0.05 * covariance.diagonal().max().item())
    assert_close(layer.draw(7, 9, seed=3), layer.draw(0, 9, seed=3)[7:9])
    features = torch.randn(6, 3).double()
    outputs = layer.sampled_outputs(features, layer.draw(0, 4, seed=0))
    by_hand = torch.cat([features, torch.ones(6, 1)], -1) @ layer.draw(2, 3, seed=0)[0].T
    assert_close(outputs[2], by_hand)


def test_initialization_from_a_linear_layer() -> None:
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    for kind in KINDS.values():
        converted = kind(layer, prior_std=1.0, init_std=0.3)
        assert_close(converted(x), layer(x))
        assert_close(converted.covariance(), 0.09 * torch.eye(4).expand(2, 4, 4), rtol=0.05, atol=0.01)


EXPECTATIONS: list[tuple[Likelihood, int, Tensor, float]] = [
    (Gaussian([0.4, 1.5], 2), 2, torch.randn(6, 2), 0.0),
    (HeteroscedasticGaussian(), 2, torch.randn(6, 1), 0.0),
    (Poisson(2), 2, torch.randint(0, 5, (6, 2)).float(), 0.0),
    (Categorical(3), 3, torch.randint(0, 3, (6,)), 1.0),
    (Bernoulli(), 1, torch.randint(0, 2, (6,)), 1.0),
]


@pytest.mark.parametrize(("likelihood", "width", "target", "slack"), EXPECTATIONS)
def test_expected_log_prob_matches_or_bounds_the_sample_mean(
    likelihood: Likelihood, width: int, target: Tensor, slack: float
) -> None:
    torch.manual_seed(0)
    mean, variance = torch.randn(6, width), torch.rand(6, width) * 0.6 + 0.1
    log_prob = likelihood.log_prob(mean + variance.sqrt() * torch.randn(100_000, 6, width), target)
    error = 4 * log_prob.std(0) / 100_000**0.5
    value = likelihood.expected_log_prob(mean, variance, target)
    assert (value < log_prob.mean(0) + error).all()
    assert (value > log_prob.mean(0) - error - slack).all()
    if slack:
        assert (value < log_prob.mean(0) - error).any()
    at_point = likelihood.log_prob(mean.unsqueeze(0), target)[0]
    assert_close(likelihood.expected_log_prob(mean, 1e-10 * variance, target), at_point, rtol=1e-4, atol=1e-4)


def test_expected_log_prob_with_target_scaling() -> None:
    likelihood, target = HeteroscedasticGaussian(), torch.tensor([[7.0], [2.0]])
    likelihood.set_target_scaling(torch.tensor([5.0]), torch.tensor([2.0]))
    mean, variance = torch.randn(2, 2), torch.full((2, 2), 1e-12)
    assert_close(likelihood.expected_log_prob(mean, variance, target), likelihood.log_prob(mean[None], target)[0])


@pytest.mark.parametrize("std", [0.3, 1.0])
@pytest.mark.parametrize("raw_scale", [-3.0, 0.0, 1.0])
def test_quadrature_has_enough_nodes(std: float, raw_scale: float) -> None:
    coarse, fine = HeteroscedasticGaussian().double(), HeteroscedasticGaussian().double()
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.hermite_e.hermegauss(150))
    fine.nodes, fine.node_weights = nodes, weights / weights.sum()
    mean, variance = torch.tensor([[0.4, raw_scale]]).double(), torch.tensor([[0.1, std**2]]).double()
    target = torch.tensor([[1.0]]).double()
    values = [each.expected_log_prob(mean, variance, target) for each in (coarse, fine)]
    assert_close(*values, rtol=0, atol=1e-4)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"takes 3 features, got an input of shape \(4, 5\)"):
        head("dense")(torch.zeros(4, 5).double())
    with pytest.raises(ValueError, match=r"prior_std must be positive and finite, got 0.0"):
        DenseLastLayer(nn.Linear(1, 1), prior_std=0.0, init_std=0.1)
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        LowRankLastLayer(nn.Linear(1, 1), prior_std=1.0, init_std=0.1, rank=0)
