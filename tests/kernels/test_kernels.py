"""Kernels against scikit-learn, their spectra, and their scales."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.errors import InputValueError
from lightning_vi.kernels import (
    RBF,
    Kernel,
    Matern,
    Periodic,
    RationalQuadratic,
    fit_kernel,
    gap_score,
    log_marginal_likelihood,
)

STD, OFFSET = 1.7, 0.6
SCALES = [0.7, 2.0, 1.3]

CASES: dict[str, tuple[Kernel, Any, int]] = {
    "RBF": (RBF(SCALES, STD, OFFSET), sk.RBF(SCALES), 3),
    "Matern 1/2": (Matern(0.5, SCALES, STD, OFFSET), sk.Matern(SCALES, nu=0.5), 3),
    "Matern 3/2": (Matern(1.5, SCALES, STD, OFFSET), sk.Matern(SCALES, nu=1.5), 3),
    "Matern 5/2": (Matern(2.5, SCALES, STD, OFFSET), sk.Matern(SCALES, nu=2.5), 3),
    "rational quadratic": (RationalQuadratic(0.8, 1.4, STD, OFFSET), sk.RationalQuadratic(1.4, 0.8), 3),
    "periodic": (Periodic(2.3, 0.9, STD, OFFSET), sk.ExpSineSquared(0.9, 2.3), 1),
}
each_kernel = pytest.mark.parametrize(("kernel", "reference", "num_inputs"), CASES.values(), ids=CASES)


def inputs(num_rows: int, num_inputs: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@each_kernel
def test_covariances_are_those_of_scikit_learn(kernel: Kernel, reference: Any, num_inputs: int) -> None:
    x, z = inputs(9, num_inputs), inputs(5, num_inputs, seed=1)
    whole = sk.ConstantKernel(STD**2) * reference + sk.ConstantKernel(OFFSET**2)
    assert_close(kernel(x, z), torch.from_numpy(whole(x.numpy(), z.numpy())), rtol=1e-6, atol=1e-6)
    assert_close(kernel(x, x).diagonal(), kernel.variance.double().expand(9), rtol=1e-6, atol=1e-6)


@each_kernel
def test_the_spectrum_is_that_of_the_correlation(kernel: Kernel, reference: Any, num_inputs: int) -> None:
    size = 20_000
    x, z = inputs(9, num_inputs), inputs(5, num_inputs, seed=1)
    frequencies = kernel.sample_frequencies(size, num_inputs, torch.Generator().manual_seed(2))
    differences = kernel.scaled(x).unsqueeze(1) - kernel.scaled(z)
    cosines = torch.cos(differences @ frequencies.mT)
    expected = torch.from_numpy(reference(x.numpy(), z.numpy()))
    errors = (cosines.mean(-1) - expected) / (cosines.std(-1) / math.sqrt(size))
    assert errors.abs().max() < 4.5


def test_the_marginal_likelihood_is_that_of_scikit_learn() -> None:
    x, y = inputs(20, 3), inputs(20, 2, seed=1)
    kernel = sk.ConstantKernel(STD**2) * sk.Matern(SCALES, nu=1.5)
    reference = GaussianProcessRegressor(kernel, alpha=0.3**2, optimizer=None).fit(x.numpy(), y.numpy())
    actual = log_marginal_likelihood(Matern(1.5, SCALES, STD), x, y, 0.3)
    assert actual.item() == pytest.approx(reference.log_marginal_likelihood_value_, rel=1e-4)


def test_scales_maximize_the_marginal_likelihood() -> None:
    x = inputs(120, 2)
    y = 2 * torch.sin(2 * x[:, :1]) + 0.2 * inputs(120, 1, seed=3)
    kernel = RBF()
    fit_kernel(kernel, x.float(), y.float())
    wanted = sk.ConstantKernel(1.0) * sk.RBF([1.0, 1.0], (1e-2, 1e3)) + sk.WhiteKernel(0.1)
    reference = GaussianProcessRegressor(wanted, random_state=0).fit(x.numpy(), y.numpy())
    found = kernel.length_scale
    assert found[0].item() == pytest.approx(reference.kernel_.k1.k2.length_scale[0], rel=0.1)
    assert found[1] > 5 * found[0], "the second input has no effect"
    assert kernel.std.item() == pytest.approx(reference.kernel_.k1.k1.constant_value**0.5, rel=0.3)
    assert kernel.is_resolved


def test_given_scales_stay_and_the_standard_deviation_is_at_least_that_of_the_targets() -> None:
    x = torch.linspace(-1, 1, 40).unsqueeze(1)
    given, smooth = RBF(length_scale=0.123), Matern(0.5)
    fit_kernel(given, x, x)
    assert given.length_scale.item() == pytest.approx(0.123)
    fit_kernel(smooth, x, 0.01 * x)
    assert smooth.std >= 0.01 * x.std(correction=0) * (1 - 1e-6)


def test_the_score_of_gaps_is_the_density_of_the_middle_thirds() -> None:
    x, y = inputs(21, 2), inputs(21, 1, seed=1)
    expected = []
    for column in x.numpy().T:
        order = np.argsort(column)
        rest, gap = np.r_[order[:7], order[14:]], order[7:14]
        reference = GaussianProcessRegressor(sk.ConstantKernel(STD**2) * sk.RBF(0.8), alpha=0.3**2, optimizer=None).fit(
            x.numpy()[rest], y.numpy()[rest, 0]
        )
        mean, std = reference.predict(x.numpy()[gap], return_std=True)
        expected.append(norm.logpdf(y.numpy()[gap, 0], mean, np.sqrt(std**2 + 0.3**2)).mean())
    assert gap_score(RBF(0.8, STD), x, y, 0.3) == pytest.approx(np.mean(expected), rel=1e-4)


def test_an_open_smoothness_is_that_of_the_better_score_and_part_of_the_state() -> None:
    x = torch.linspace(-3, 3, 100).unsqueeze(1).double()
    smooth, rough = torch.sin(1.5 * x), inputs(100, 1).cumsum(0) / 5
    for y in (smooth, rough):
        kernel, twin = Matern(None), Matern(None)
        fit_kernel(kernel, x, y)
        scores = []
        for smoothness in (0.5, 1.5):
            own = Matern(smoothness)
            fit_kernel(own, x, y)
            scores.append(gap_score(own, x, y, 0.01))
        assert kernel.smoothness == (0.5, 1.5)[int(np.argmax(scores))]
        twin.load_state_dict(kernel.state_dict())
        assert twin.smoothness == kernel.smoothness
    assert not Matern(None, 1.0, 1.0).is_resolved


def test_unknown_scales_are_the_square_root_of_the_number_of_inputs() -> None:
    x = inputs(4, 3)
    assert_close(RBF()(x, x), RBF(3**0.5)(x, x), rtol=1e-6, atol=1e-6)


def test_a_state_dictionary_restores_scales_of_another_shape() -> None:
    fitted, fresh = Matern(), Matern()
    fit_kernel(fitted, inputs(30, 3), inputs(30, 1, seed=1))
    fresh.load_state_dict(fitted.state_dict())
    assert_close(fresh.length_scale, fitted.length_scale)
    assert repr(fresh) == repr(fitted)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RBF(length_scale=0.0), "length_scale must be positive and finite, got 0.0"),
        (lambda: RBF(length_scale=[1.0, np.inf]), "length_scale must be positive and finite"),
        (lambda: Matern(std=-1.0), "std must be positive and finite, got -1.0"),
        (lambda: Matern(2.0), "smoothness must be 0.5, 1.5 or 2.5, or None, got 2.0"),
        (lambda: RationalQuadratic(alpha=0.0), "alpha must be positive and finite, got 0.0"),
        (lambda: Periodic(period=-1.0), "period must be positive and finite, got -1.0"),
        (lambda: RBF(offset_std=-1.0), "offset_std must be nonnegative and finite, got -1.0"),
        (lambda: RBF([1.0, 2.0], 1.0)(torch.zeros(1, 3), torch.zeros(1, 3)), "has 2 numbers, but there are 3 inputs"),
    ],
)
def test_impossible_numbers_are_refused(make: Any, message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        make()
