"""Variational layers against their torch counterparts."""

import copy
import pickle
from typing import Any

import pytest
import torch
from layer_cases import CASES, Case, each_case, each_estimator, parent_of
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from lightning_vi.layers import (
    VARIATIONAL_COUNTERPART,
    VariationalConv2d,
    VariationalConvTranspose2d,
    VariationalLinear,
)
from lightning_vi.posteriors import MeanFieldGaussian, inverse_softplus
from lightning_vi.priors import GaussianPrior


@each_case
def test_forward_without_sampling_matches_the_torch_layer(case: Case) -> None:
    layer, x = case.build(), case.input()
    torch.testing.assert_close(layer(x, sample=False), parent_of(layer, case)(x))


@each_case
@each_estimator
def test_samples_with_tiny_std_match_the_torch_layer(case: Case, estimator: str) -> None:
    layer, x = case.build(estimator=estimator, init_std=1e-12), case.input()
    for name in layer.stochastic_names:
        nn.init.constant_(layer.posterior(name).rho, inverse_softplus(1e-12))
    expected = parent_of(layer, case)(x)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-9)
    for num_samples in (1, 3):
        stacked = expected.expand(num_samples, *expected.shape)
        torch.testing.assert_close(layer(x, num_samples=num_samples), stacked, rtol=0, atol=1e-9)


@each_case
@pytest.mark.parametrize("prior", [GaussianPrior(0.7, 1.9), GaussianPrior(-0.3, "fan_in")], ids=["number", "fan_in"])
def test_kl_matches_torch_distributions(case: Case, prior: GaussianPrior) -> None:
    layer = case.build(prior=prior)
    expected = torch.zeros(())
    for name in layer.stochastic_names:
        mean, rho = layer.get_parameter(f"{name}_mu"), layer.get_parameter(f"{name}_rho")
        std = layer.prior(name).std
        expected = expected + kl_divergence(Normal(mean, F.softplus(rho)), Normal(float(prior.mean), std)).sum()
    torch.testing.assert_close(layer.kl(), expected.double())


@each_case
def test_initialization_matches_the_torch_layer(case: Case) -> None:
    torch.manual_seed(3)
    parent = case.parent(*case.sizes, **case.options)
    torch.manual_seed(3)
    layer = case.make(*case.sizes, init_std=0.03, **case.options)
    names = [name for name, _ in parent.named_parameters()]
    assert [name for name, _ in layer.named_parameters()] == [
        f"{name}_{kind}" for name in names for kind in ("mu", "rho")
    ]
    for name, parameter in parent.named_parameters():
        posterior = layer.posterior(name)
        assert torch.equal(posterior.mu, parameter)
        torch.testing.assert_close(posterior.std, torch.full_like(parameter, 0.03))
    torch.manual_seed(3)
    layer.reset_parameters()
    for name, parameter in parent.named_parameters():
        assert torch.equal(layer.posterior(name).mu, parameter)


@each_case
def test_copy_pickle_and_state_dict(case: Case) -> None:
    layer, x = case.build(), case.input()
    layer(x, num_samples=2)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(twin(x, sample=False), layer(x, sample=False))
        torch.testing.assert_close(twin.kl(), layer.kl())
    other = case.build()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x, sample=False), layer(x, sample=False))


def test_large_rho_is_finite() -> None:
    """softplus(200) is 200; log(1 + exp(200)) overflows in float32."""
    layer = VariationalLinear(3, 2)
    for rho in (layer.weight_rho, layer.bias_rho):
        nn.init.constant_(rho, 200.0)
    torch.testing.assert_close(layer.posterior("weight").std, torch.full((2, 3), 200.0))
    loss = layer(torch.ones(4, 3)).square().mean() + layer.kl()
    loss.backward()
    assert loss.isfinite()
    assert layer.weight_rho.grad.isfinite().all()


@pytest.mark.parametrize("std", [1e-8, 1e-3, 0.5, 1.0, 30.0, 500.0])
def test_inverse_softplus_inverts(std: float) -> None:
    rho = torch.tensor(inverse_softplus(std), dtype=torch.float64)
    posterior = MeanFieldGaussian(torch.zeros((), dtype=torch.float64), rho)
    assert posterior.std.item() == pytest.approx(std, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_inverse_softplus_raises(value: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        inverse_softplus(value)


def test_posterior_with_different_shapes_raises() -> None:
    with pytest.raises(ValueError, match="one shape"):
        MeanFieldGaussian(torch.zeros(2), torch.zeros(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init_std": 0.0}, "positive and finite"),
        ({"init_std": float("nan")}, "positive and finite"),
        ({"estimator": "bbb"}, "estimator must be .* got 'bbb'"),
        ({"prior": GaussianPrior(mean=torch.zeros(5))}, "has shape"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VariationalLinear(3, 2, **options)
    with pytest.raises(ValueError, match=message):
        VariationalConv2d(3, 2, 3, **options)


def test_wrong_number_of_features_raises() -> None:
    with pytest.raises(ValueError, match=r"takes 3 features, got an input of shape \(4, 5\)"):
        VariationalLinear(3, 2)(torch.ones(4, 5))


@pytest.mark.parametrize("kind", list(VARIATIONAL_COUNTERPART), ids=lambda kind: kind.__name__)
def test_device_and_dtype_are_kept(kind: type[nn.Module]) -> None:
    sizes = (2, 3) if kind is nn.Linear else (2, 3, 1)
    layer = VARIATIONAL_COUNTERPART[kind](*sizes, dtype=torch.float64, device="meta")
    assert all(parameter.dtype == torch.float64 and parameter.is_meta for parameter in layer.parameters())


def test_transposed_convolution_with_output_size() -> None:
    layer = VariationalConvTranspose2d(2, 3, 3, stride=2).double()
    parent = nn.ConvTranspose2d(2, 3, 3, stride=2).double()
    parent.load_state_dict({name: layer.posterior(name).mu for name in ("weight", "bias")})
    x = torch.randn(2, 2, 4, 4).double()
    size = [10, 10]
    torch.testing.assert_close(layer(x, output_size=size, sample=False), parent(x, output_size=size))
    assert layer(x, output_size=size, num_samples=5).shape == (5, 2, 3, 10, 10)


def test_input_as_keyword_argument() -> None:
    layer, x = VariationalLinear(3, 2), torch.ones(4, 3)
    assert torch.equal(layer(input=x, sample=False), layer(x, sample=False))


def test_training_recovers_the_exact_posterior() -> None:
    """With one weight the exact posterior is a mean-field Gaussian. Noise std 0.1, prior N(0, 3^2)."""
    x = torch.linspace(-1, 1, 20).view(-1, 1)
    y = 2 * x
    layer = VariationalLinear(1, 1, bias=False, prior=GaussianPrior(std=3.0))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    for _ in range(800):
        optimizer.zero_grad()
        nll = (layer(x, num_samples=16) - y).square().sum((1, 2)).mean() / (2 * 0.1**2)
        (nll + layer.kl()).backward()
        optimizer.step()
        scheduler.step()
    precision = x.square().sum().item() / 0.1**2 + 1 / 3.0**2
    posterior = layer.posterior("weight")
    assert posterior.mean.item() == pytest.approx((x * y).sum().item() / 0.1**2 / precision, rel=0.01)
    assert posterior.std.item() == pytest.approx(precision**-0.5, rel=0.05)


def test_repr() -> None:
    assert repr(CASES["linear, no bias"].build(estimator="flipout")) == (
        "VariationalLinear(in_features=3, out_features=2, bias=False, estimator='flipout', "
        "prior=GaussianPrior(mean=0.0, std=1.0))"
    )
