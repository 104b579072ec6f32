"""Running moments and entropies against numpy and scipy."""

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_vi.functional import RunningMoments, decompose_entropy, entropy


def moments_of(samples: torch.Tensor, sizes: list[int]) -> RunningMoments:
    moments = RunningMoments()
    for chunk in samples.split(sizes):
        moments.update(chunk)
    return moments


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_chunks_give_the_moments_of_all_samples(sizes: list[int], seed: int) -> None:
    samples = np.random.default_rng(seed).normal(3.0, 2.0, (sum(sizes), 2, 3))
    moments = moments_of(torch.from_numpy(samples), sizes)
    assert moments.count == sum(sizes)
    np.testing.assert_allclose(moments.mean, samples.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, samples.var(0), rtol=1e-9, atol=1e-12)


def test_variance_is_accurate_for_a_mean_far_from_zero() -> None:
    samples = 4096.0 + torch.randn(64, 5).double().mul(1 / 64).float()
    exact = samples.double().var(0, correction=0)
    torch.testing.assert_close(moments_of(samples, [10, 54]).variance.double(), exact, rtol=0.02, atol=0)


def test_one_sample_has_variance_zero() -> None:
    moments = moments_of(torch.randn(1, 4), [1])
    assert torch.equal(moments.variance, torch.zeros(4))


def test_law_of_total_variance_of_a_gaussian_mixture() -> None:
    """Components N(m_s, v_s) with equal weights, against draws from the mixture and their exact moments."""
    noise = np.random.default_rng(1)
    means, variances = noise.normal(1.0, 2.0, 7), noise.uniform(0.1, 3.0, 7)
    moments = moments_of(torch.from_numpy(means), [3, 4])
    total = moments.variance + torch.from_numpy(variances).mean()
    component = noise.integers(0, 7, 400_000)
    draws = noise.normal(means[component], np.sqrt(variances[component]))
    standard_error = np.std((draws - draws.mean()) ** 2) / np.sqrt(len(draws))
    assert abs(draws.var() - total) < 5 * standard_error
    second_moment = np.mean(means**2 + variances)
    np.testing.assert_allclose(total, second_moment - means.mean() ** 2, rtol=1e-12)


@pytest.mark.parametrize("dim", [-1, 1])
def test_entropy_matches_scipy(dim: int) -> None:
    probs = torch.rand(4, 3, 5).double()
    probs = probs / probs.sum(dim, keepdim=True)
    np.testing.assert_allclose(entropy(probs, dim), scipy.stats.entropy(probs.numpy(), axis=dim))


def test_entropy_of_certainty_is_zero() -> None:
    assert entropy(torch.tensor([1.0, 0.0, 0.0])) == 0


def test_decomposition_matches_scipy() -> None:
    probs = torch.rand(6, 4, 3, 2).double().pow(3)  # [S, B, C, positions]
    probs = probs / probs.sum(2, keepdim=True)
    parts = decompose_entropy(probs.mean(0), entropy(probs, dim=2).mean(0), dim=1)
    expected = scipy.stats.entropy(probs.numpy(), axis=2).mean(0)
    total = scipy.stats.entropy(probs.mean(0).numpy(), axis=1)
    divergences = scipy.stats.entropy(probs.numpy(), probs.mean(0, keepdim=True).numpy(), axis=2).mean(0)
    np.testing.assert_allclose(parts.expected_entropy, expected)
    np.testing.assert_allclose(parts.predictive_entropy, total)
    np.testing.assert_allclose(parts.mutual_information, divergences, atol=1e-12)


def test_mutual_information_is_never_negative() -> None:
    probs = torch.full((1000, 7), 1 / 7) + 1e-9
    parts = decompose_entropy(probs, entropy(probs) + 1e-6)
    assert (parts.mutual_information == 0).all()
    assert torch.equal(parts.predictive_entropy, parts.mutual_information + parts.expected_entropy)


def test_merged_moments_are_those_of_all_samples() -> None:
    samples = torch.randn(9, 4, dtype=torch.float64) * 3 + 100
    moments = RunningMoments()
    for part in samples.split([2, 1, 6]):
        moments.merge(len(part), part.mean(0), part.var(0, correction=0))
    assert moments.count == 9
    torch.testing.assert_close(moments.mean, samples.mean(0))
    torch.testing.assert_close(moments.variance, samples.var(0, correction=0))
