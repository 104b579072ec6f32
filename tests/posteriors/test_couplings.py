"""Joint posteriors against multivariate Gaussians, numerical integration and large samples."""

import math

import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from lightning_vi.functional import gaussian_kl
from lightning_vi.posteriors import FullRankCoupling, LowRankCoupling, NoiseCoupling, RadialCoupling

SHAPES = [torch.Size([3]), torch.Size([2, 2])]
SIZES = [3, 4]


def gaussian(kind: str) -> NoiseCoupling:
    coupling = FullRankCoupling(SHAPES) if kind == "full" else LowRankCoupling(SHAPES, rank=2)
    for parameter in coupling.parameters():
        torch.nn.init.normal_(parameter)
    return coupling.double()


def covariance(coupling: NoiseCoupling) -> Tensor:
    """Of u, from the linear map that makes it."""
    root = coupling(torch.eye(coupling.num_noise, dtype=torch.float64))
    return root.T @ root


each_gaussian = pytest.mark.parametrize("kind", ["full", "low rank"])


@each_gaussian
def test_covariances_are_those_of_the_definition(kind: str) -> None:
    coupling = gaussian(kind)
    identity = torch.eye(7, dtype=torch.float64)
    if isinstance(coupling, LowRankCoupling):
        expected = identity + coupling.factor @ coupling.factor.T
    else:
        root = identity + torch.tril(coupling.lower, -1)
        expected = root @ root.T
    assert_close(covariance(coupling), expected)
    assert_close(coupling.marginals()[0], expected.diagonal().sqrt())


@each_gaussian
def test_kl_equals_that_of_multivariate_gaussians(kind: str) -> None:
    coupling = gaussian(kind)
    mean, std = torch.randn(7).double(), torch.rand(7).double() + 0.5
    joint = MultivariateNormal(mean, std.diag() @ covariance(coupling) @ std.diag())
    prior = MultivariateNormal(torch.full((7,), 0.3).double(), 4.0 * torch.eye(7).double())
    kl = gaussian_kl(mean, std * coupling.marginals()[0], 0.3, 2.0) + coupling.marginals()[1]
    assert_close(kl, kl_divergence(joint, prior))


def log_radial_density(radius: float, size: int) -> float:
    """Of a radius u / sqrt(D): half-normal, spread over the sphere."""
    log_half_normal = 0.5 * math.log(2 / math.pi) - 0.5 * radius**2
    log_surface = math.log(2) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)
    return log_half_normal - log_surface - (size - 1) * math.log(radius) - 0.5 * size * math.log(size)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_the_radial_divergence_is_an_integral_over_the_radius(size: int) -> None:
    def integrand(radius: float) -> float:
        half_normal = math.sqrt(2 / math.pi) * math.exp(-0.5 * radius**2)
        log_gaussian = -0.5 * size * radius**2 - 0.5 * size * math.log(2 * math.pi)
        return half_normal * (log_radial_density(radius, size) - log_gaussian)

    expected, _ = scipy.integrate.quad(integrand, 0, 1)
    beyond, _ = scipy.integrate.quad(integrand, 1, 20)
    assert_close(RadialCoupling([torch.Size([size])]).marginals()[1].item(), expected + beyond, rtol=1e-5, atol=1e-5)


def test_radial_draws_have_unit_variances_and_half_normal_radii_for_each_tensor() -> None:
    coupling = RadialCoupling(SHAPES)
    draws = coupling(torch.randn(100_000, coupling.num_noise, generator=torch.Generator().manual_seed(0)))
    assert_close(draws.T.cov(), torch.eye(7), rtol=0.0, atol=0.03)
    radii = torch.stack([part.norm(dim=1) for part in draws.split(SIZES, 1)], 1) / torch.tensor(SIZES).sqrt()
    levels = torch.tensor([0.1, 0.5, 0.9])
    half_normal = torch.distributions.HalfNormal(1.0).icdf(levels)
    assert_close(torch.quantile(radii, levels, dim=0), half_normal[:, None].expand(3, 2), rtol=0.02, atol=0.01)
    assert abs(torch.corrcoef(radii.T)[0, 1]) < 0.015


@pytest.mark.parametrize("coupling", [gaussian("full"), gaussian("low rank"), RadialCoupling(SHAPES)])
def test_negated_noise_gives_negated_deviations(coupling: NoiseCoupling) -> None:
    noise = torch.randn(5, coupling.num_noise)
    assert_close(coupling(-noise), -coupling(noise))


def test_one_dimension_is_gaussian() -> None:
    coupling = RadialCoupling([torch.Size([1])])
    assert_close(coupling.marginals()[1].item(), 0.0, rtol=0.0, atol=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match="rank must be an integer of at least 1, got 0"):
        LowRankCoupling(SHAPES, rank=0)
    with pytest.raises(ValueError, match="1000 stochastic weights needs 4 MiB, but max_mebibytes=1"):
        FullRankCoupling([torch.Size([30, 20]), torch.Size([400])], max_mebibytes=1)
