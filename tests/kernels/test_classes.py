"""Classification as regression with known noise, against moments, scikit-learn and densities of torch."""

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import one_hot
from torch.testing import assert_close

from lightning_vi import FunctionSpaceVI
from lightning_vi.backbones import MLP
from lightning_vi.kernels import RBF, concentration_scores, dirichlet_targets, fit_class_kernel, log_marginal_likelihood
from lightning_vi.kernels.classes import CONCENTRATIONS, leave_one_out
from lightning_vi.likelihoods import Categorical

SCALE, STD = 0.9, 1.4


def inputs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regression(x: Tensor, y: Tensor, variances: Tensor) -> GaussianProcessRegressor:
    kernel = sk.ConstantKernel(STD**2) * sk.RBF(SCALE)
    return GaussianProcessRegressor(kernel, alpha=variances.numpy(), optimizer=None).fit(x.numpy(), y.numpy())


def test_the_targets_match_the_moments_of_gamma_variables() -> None:
    labels = torch.eye(3, dtype=torch.float64)[[0, 2]]
    targets, variances = dirichlet_targets(labels, 0.1)
    raw = (labels + 0.1).log() - variances / 2
    assert_close((raw + variances / 2).exp(), labels + 0.1)
    assert_close(torch.expm1(variances) * (2 * raw + variances).exp(), labels + 0.1)
    assert_close(targets.diff(), raw.diff())
    assert_close(targets.sum(1), torch.zeros(2, dtype=torch.float64))


def test_rows_are_predicted_from_the_others() -> None:
    x, y, variances = inputs(9, 2), inputs(9, 2, seed=1), 0.1 + inputs(9, 2, seed=2).square()
    means, rest = leave_one_out(RBF(SCALE, STD).double(), x, y, variances)
    for row in range(9):
        others = torch.arange(9) != row
        for column in range(2):
            process = regression(x[others], y[others, column], variances[others, column])
            mean, std = process.predict(x[[row]].numpy(), return_std=True)
            assert means[row, column].item() == pytest.approx(mean[0], rel=1e-5, abs=1e-7)
            assert rest[row, column].sqrt().item() == pytest.approx(std[0], rel=1e-5)


def test_the_evidence_with_a_noise_for_each_target_is_the_density_of_the_targets() -> None:
    x, y, std = inputs(8, 2), inputs(8, 3, seed=1), 0.2 + inputs(8, 3, seed=2).square()
    kernel, zeros = RBF(SCALE, STD).double(), torch.zeros(8).double()
    expected = sum(
        MultivariateNormal(zeros, kernel(x, x) + torch.diag(std[:, column] ** 2)).log_prob(y[:, column])
        for column in range(3)
    )
    assert_close(log_marginal_likelihood(kernel, x, y, std), expected)


def test_the_function_of_a_class_is_the_network_and_the_process_of_its_residuals() -> None:
    x, new, label = 2 * inputs(30, 2), inputs(7, 2, seed=1), torch.arange(30) % 3
    torch.manual_seed(0)
    method = FunctionSpaceVI(MLP(2, [8], 3), Categorical(3), kernel=RBF(SCALE, STD)).double()
    method.fit_posterior([(x[:11], label[:11]), (x[11:], label[11:])])
    labels, logits = one_hot(label).double(), method.point_outputs(x).detach()
    best = int(concentration_scores(method.kernel, x, labels, logits).argmin())
    targets, variances = dirichlet_targets(labels, CONCENTRATIONS[best])
    residuals = targets - logits + logits.mean(1, keepdim=True)
    means, stds = method.output_moments(new)
    samples = torch.cat(list(method.sampled_outputs(new, 4000, seed=0))).detach()
    for column in range(3):
        process = regression(x, residuals[:, column], variances[:, column])
        mean, std = process.predict(new.numpy(), return_std=True)
        expected = method.point_outputs(new)[:, column] + torch.from_numpy(mean)
        assert_close(means[:, column], expected, rtol=1e-3, atol=1e-3)
        assert_close(stds[:, column], torch.from_numpy(std), rtol=1e-3, atol=1e-3)
        assert_close(samples[:, :, column].mean(0), expected, rtol=0.0, atol=4.5 * STD / 4000**0.5)


def test_missing_labels_give_no_information() -> None:
    x, label = inputs(24, 2), torch.arange(24) % 2
    holes = torch.where(torch.arange(24) < 16, label, -1)
    torch.manual_seed(0)
    whole, part = (
        FunctionSpaceVI(MLP(2, [4], 2), Categorical(2, ignore_index=-1), kernel=RBF()).double() for _ in range(2)
    )
    part.load_state_dict(whole.state_dict())
    whole.fit_posterior([(x, holes)])
    part.fit_posterior([(x[:16], label[:16])])
    assert_close(whole.kernel.length_scale, part.kernel.length_scale)
    for found, expected in zip(whole.output_moments(x), part.output_moments(x), strict=True):
        assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("flipped", "best"), [(0.0, 0.0001), (0.3, 0.1)])
def test_noisy_labels_take_the_larger_concentration(flipped: float, best: float) -> None:
    x = 2 * inputs(200, 2)
    label = (x[:, 0] > 0) ^ torch.from_numpy(np.random.default_rng(0).random(200) < flipped)
    labels, kernel = one_hot(label.long()).double(), RBF()
    fit_class_kernel(kernel, x, labels)
    scores = concentration_scores(kernel, x, labels, torch.zeros_like(labels))
    assert CONCENTRATIONS[int(scores.argmin())] == best
    assert scores.min() / 200 < (0.1 if flipped == 0 else 0.7)
