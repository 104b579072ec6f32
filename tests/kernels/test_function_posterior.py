"""Posterior covariances of functions against exact and sparse Gaussian process regression."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.kernels import RBF, FunctionPosterior, Kernel, Matern, choose_inducing

SCALES, STD = [0.8, 1.5], 1.6


def inputs(num_rows: int, seed: int) -> Tensor:
    return torch.randn(num_rows, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(kernel: Kernel, x: Tensor, noise_std: Tensor, size: int, num_frequencies: int = 8) -> FunctionPosterior:
    posterior = FunctionPosterior(num_frequencies).double()
    posterior.place(kernel, choose_inducing(kernel, x, size))
    posterior.condition(posterior.information(kernel, x, noise_std**-2))
    return posterior


def test_with_all_data_as_inducing_inputs_it_is_gaussian_process_regression() -> None:
    x, new = inputs(30, 0), 2 * inputs(20, 1)
    kernel = Matern(1.5, SCALES, STD)
    noise_std = torch.stack([torch.full((30,), 0.3), torch.linspace(0.1, 1.0, 30)], 1).double()
    actual = fitted(kernel, x, noise_std, size=100).variances(kernel, new)
    for output in range(2):
        reference = GaussianProcessRegressor(
            sk.ConstantKernel(STD**2) * sk.Matern(SCALES, nu=1.5),
            alpha=noise_std[:, output].numpy() ** 2,
            optimizer=None,
        )
        _, std = reference.fit(x.numpy(), np.zeros(30)).predict(new.numpy(), return_std=True)
        assert_close(actual[:, output].sqrt(), torch.from_numpy(std), rtol=1e-3, atol=1e-3)


def test_with_fewer_inducing_inputs_it_is_the_optimal_sparse_covariance() -> None:
    x, new = inputs(60, 0), inputs(20, 1)
    kernel, noise_std = RBF(SCALES, STD), torch.full((60, 1), 0.4, dtype=torch.float64)
    posterior = fitted(kernel, x, noise_std, size=12)
    z = posterior.inducing
    prior = kernel(z, z).numpy()
    across = kernel(z, x).numpy()
    middle = np.linalg.inv(prior) - np.linalg.inv(prior + across @ across.T / 0.4**2)
    to_new = kernel(z, new).numpy()
    expected = STD**2 - np.einsum("mb,mn,nb->b", to_new, middle, to_new)
    actual = posterior.variances(kernel, new)[:, 0]
    assert len(z) == 12
    assert_close(actual, torch.from_numpy(expected), rtol=1e-3, atol=1e-4)
    assert (actual > fitted(kernel, x, noise_std, size=60).variances(kernel, new)[:, 0] - 1e-4).all()


def test_samples_have_the_posterior_covariance() -> None:
    x, new = inputs(15, 0), inputs(6, 1)
    kernel = Matern(2.5, SCALES, STD, offset_std=0.5)
    posterior = fitted(kernel, x, torch.full((15, 2), 0.3, dtype=torch.float64), size=15, num_frequencies=4000)
    size = 3000
    noise = torch.randn(size, posterior.noise_size, generator=torch.Generator().manual_seed(3))
    draws = posterior.draws(kernel, new, noise)
    reference = GaussianProcessRegressor(
        sk.ConstantKernel(STD**2) * sk.Matern(SCALES, nu=2.5) + sk.ConstantKernel(0.25), alpha=0.09, optimizer=None
    )
    _, expected = reference.fit(x.numpy(), np.zeros(15)).predict(new.numpy(), return_cov=True)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert draws.shape == (size, 6, 2)
    for output in range(2):
        actual = np.cov(draws[..., output].numpy().T)
        assert np.abs((actual - expected) / scale).max() < 0.13
    assert np.abs(np.corrcoef(draws[:, 0, 0], draws[:, 0, 1])[0, 1]) < 4 / np.sqrt(size)


def test_repeated_rows_are_chosen_once() -> None:
    x = inputs(5, 0).repeat(3, 1)
    chosen = choose_inducing(RBF(SCALES, STD), x, 15)
    assert len(chosen) == len(chosen.unique(dim=0)) == 5


def test_a_state_dictionary_restores_a_posterior() -> None:
    x, kernel = inputs(10, 0), RBF(SCALES, STD)
    posterior = fitted(kernel, x, torch.ones(10, 1, dtype=torch.float64), size=10)
    twin = FunctionPosterior(8).double()
    twin.load_state_dict(posterior.state_dict())
    noise = torch.randn(3, posterior.noise_size)
    assert torch.equal(twin.draws(kernel, x, noise), posterior.draws(kernel, x, noise))
    assert torch.equal(twin.variances(kernel, x), posterior.variances(kernel, x))


@pytest.mark.parametrize("distance", [30.0])
def test_far_from_the_data_the_variance_is_that_of_the_prior(distance: float) -> None:
    x, kernel = inputs(10, 0), Matern(0.5, SCALES, STD)
    posterior = fitted(kernel, x, torch.full((10, 1), 0.1, dtype=torch.float64), size=10)
    assert_close(posterior.variances(kernel, x[:1] + distance).sqrt().item(), STD, rtol=1e-3, atol=0.0)
