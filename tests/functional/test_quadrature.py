"""Rules for Gaussian expectations against exact moments."""

import pytest
import torch
from torch.testing import assert_close

from lightning_vi.functional import gauss_hermite
from lightning_vi.functional.quadrature import at_nodes, gaussian_nodes, sobol_gaussian


def test_gauss_hermite_is_exact_for_polynomials() -> None:
    nodes, weights = gauss_hermite(6)
    for power, moment in ((0, 1.0), (2, 1.0), (4, 3.0), (10, 945.0), (3, 0.0)):
        assert_close((weights * nodes**power).sum().item(), moment, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [1, 2, 7, 100])
def test_sobol_points_are_exact_for_quadratic_functions(dim: int) -> None:
    points = sobol_gaussian(512, dim).double()
    assert points.shape == (512, dim)
    assert_close(points.mean(0), torch.zeros(dim).double(), rtol=0, atol=1e-6)
    assert_close(points.T @ points / 512, torch.eye(dim).double(), rtol=0, atol=1e-5)


def test_many_dimensions_have_finite_points_of_about_unit_variance() -> None:
    points = sobol_gaussian(512, 400)
    assert points.isfinite().all()
    assert_close(points.var(0), torch.ones(400), rtol=0.01, atol=0)


@pytest.mark.parametrize("dim", [2, 5])
def test_sobol_points_integrate_better_than_random_ones(dim: int) -> None:
    """E[exp(a z)] = exp(a^2 / 2) for the mean of the variables times sqrt(K); the error is in standard errors."""
    points = sobol_gaussian(512, dim).double()
    values = (0.5 * points.sum(1) / dim**0.5).exp()
    exact = torch.tensor(0.125).double().exp()
    standard_error = values.std() / 512**0.5
    assert (values.mean() - exact).abs() < 0.25 * standard_error


def test_nodes_have_the_device_and_at_least_the_precision_of_a_tensor() -> None:
    for dim in (1, 3):
        for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
            nodes, weights = gaussian_nodes(dim, torch.zeros(2, dtype=dtype))
            assert nodes.dtype == weights.dtype == expected
            assert nodes.shape == (len(weights), dim)
            assert_close(weights.sum().item(), 1.0)
            assert_close(weights @ nodes[:, 0] ** 4, torch.tensor(3.0, dtype=expected), rtol=0.05, atol=0)


@pytest.mark.parametrize("dim", [-1, 1, 2])
def test_groups_of_variables_have_the_same_nodes(dim: int) -> None:
    torch.manual_seed(0)
    nodes, mean, std = torch.randn(3, 2), torch.randn(5, 6, 4), torch.rand(5, 6, 4)
    values, size = at_nodes(nodes, mean, std, dim), mean.shape[dim]
    assert values.shape == (3, *mean.shape)
    for node in range(3):
        for variable in range(size):
            row = (each.select(dim, variable) for each in (mean, std))
            expected = torch.add(*row, alpha=nodes[node, variable // (size // 2)].item())
            assert_close(values[node].select(dim, variable), expected)


def test_the_caller_cannot_change_later_nodes() -> None:
    nodes, _ = gaussian_nodes(2, torch.zeros(()))
    expected = nodes.clone()
    nodes.zero_()
    assert_close(gaussian_nodes(2, torch.zeros(()))[0], expected)


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="num_nodes must be positive, got 0"):
        gauss_hermite(0)
    with pytest.raises(ValueError, match="num_points must be a power of two, got 100"):
        sobol_gaussian(100, 2)
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        sobol_gaussian(64, 0)
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        gaussian_nodes(0, torch.zeros(()))
