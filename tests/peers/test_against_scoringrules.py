"""CRPS against the closed forms of scoringrules."""

import numpy as np
import pytest
import torch

from lightning_vi.functional.mixture import Mixture, mixture_crps
from lightning_vi.functional.scoring import gaussian_mixture_crps
from lightning_vi.likelihoods import NegativeBinomial, Poisson, StudentT

scoringrules = pytest.importorskip("scoringrules")

TARGET = torch.tensor([[0.0], [1.0], [4.0], [11.0], [60.0]])


def test_gaussian() -> None:
    score = gaussian_mixture_crps(torch.full((1, 5, 1), 2.0), torch.full((1, 5, 1), 3.0), TARGET)
    np.testing.assert_allclose(score, scoringrules.crps_normal(TARGET.numpy(), 2.0, 3.0), rtol=1e-5)


@pytest.mark.parametrize("df", [2.1, 5.0, 40.0])
def test_student_t(df: float) -> None:
    likelihood = StudentT(df=df, noise_scale=0.7)
    score = mixture_crps(likelihood.mixture(torch.full((1, 5, 1), 2.0)), TARGET)
    np.testing.assert_allclose(score, scoringrules.crps_t(TARGET.numpy(), df, 2.0, 0.7), rtol=2e-4)


def compare(score: torch.Tensor, expected: np.ndarray) -> None:
    """Compares where scoringrules has a number: far in a tail it has NaN."""
    finite = np.isfinite(expected)
    assert finite.sum() >= 3
    np.testing.assert_allclose(score.numpy()[finite], expected[finite], rtol=2e-4)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # in scoringrules, far in a tail
@pytest.mark.parametrize("mean", [0.2, 5.0, 80.0])
def test_counts(mean: float) -> None:
    outputs = torch.full((1, 5, 1), mean).log()
    score = mixture_crps(Poisson().mixture(outputs), TARGET)
    compare(score, scoringrules.crps_poisson(TARGET.numpy(), mean))
    for dispersion in (0.3, 5.0, 50.0):
        score = mixture_crps(NegativeBinomial(dispersion=dispersion).mixture(outputs), TARGET)
        expected = scoringrules.crps_negbinom(TARGET.numpy(), 1 / dispersion, 1 / (1 + dispersion * mean))
        compare(score, expected)


def test_mixture_of_gaussians() -> None:
    means, stds = torch.randn(6, 5, 1), torch.rand(6, 5, 1) + 0.1
    expected = scoringrules.crps_mixnorm(
        TARGET[:, 0].double().numpy(), means[..., 0].T.double().numpy(), stds[..., 0].T.double().numpy()
    )
    np.testing.assert_allclose(gaussian_mixture_crps(means, stds, TARGET)[:, 0], expected, rtol=1e-4)
    numeric = mixture_crps(Mixture(torch.distributions.Normal(means, stds).cdf, means, stds), TARGET)
    np.testing.assert_allclose(numeric[:, 0], expected, rtol=1e-4)
