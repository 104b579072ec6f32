"""Student's t and counts against torch.distributions, samples and simulated data."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers import fit, loader, quiet_trainer
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.testing import assert_close

from lightning_vi import Deterministic, LastLayerVI
from lightning_vi.likelihoods import Gaussian, NegativeBinomial, Poisson, RegressionLikelihood, StudentT

OUTPUTS = torch.tensor([[[0.3, -1.2], [2.0, 0.1]], [[-0.5, 1.0], [1.4, -2.0]]])  # [S, B, D]
COUNTS = torch.tensor([[0.0, 3.0], [12.0, 1.0]])


def student_t(likelihood: Any, outputs: Tensor) -> Distribution:
    return torch.distributions.StudentT(likelihood.df, outputs, likelihood.noise_scale)


def poisson(likelihood: Any, outputs: Tensor) -> Distribution:
    return torch.distributions.Poisson(mean_of_counts(likelihood, outputs))


def negative_binomial(likelihood: Any, outputs: Tensor) -> Distribution:
    dispersion, mean = likelihood.dispersion, mean_of_counts(likelihood, outputs)
    return torch.distributions.NegativeBinomial(1 / dispersion, logits=(dispersion * mean).log())


def mean_of_counts(likelihood: Any, outputs: Tensor) -> Tensor:
    return nn.functional.softplus(outputs) if likelihood.link == "softplus" else outputs.exp()


Oracle = Callable[[RegressionLikelihood, Tensor], Distribution]

LIKELIHOODS: list[tuple[RegressionLikelihood, Oracle]] = [
    (StudentT(df=[3.0, 8.0], noise_scale=[0.4, 2.0], num_targets=2), student_t),
    (StudentT(num_targets=2), student_t),
    (Poisson(2), poisson),
    (Poisson(2, link="softplus"), poisson),
    (NegativeBinomial([0.3, 2.0], 2), negative_binomial),
    (NegativeBinomial(num_targets=2, link="softplus"), negative_binomial),
]
each_likelihood = pytest.mark.parametrize(
    ("likelihood", "oracle"), LIKELIHOODS, ids=[type(likelihood).__name__ for likelihood, _ in LIKELIHOODS]
)


@each_likelihood
def test_log_prob_and_moments(likelihood: RegressionLikelihood, oracle: Oracle) -> None:
    exact = oracle(likelihood, OUTPUTS)
    assert_close(likelihood.log_prob(OUTPUTS, COUNTS), exact.log_prob(COUNTS).sum(-1), rtol=1e-4, atol=1e-5)
    mean, variance = likelihood.predictive_moments(OUTPUTS)
    assert_close(mean, exact.mean)
    assert_close(variance, exact.variance)


@each_likelihood
def test_mixture_has_the_distribution_of_samples(likelihood: RegressionLikelihood, oracle: Oracle) -> None:
    torch.manual_seed(0)
    samples = oracle(likelihood, OUTPUTS).sample((50_000,)).flatten(0, 1)
    mixture = likelihood.mixture(OUTPUTS)
    assert mixture is not None
    values = torch.tensor([-1.0, 0.0, 1.0, 4.0]).view(-1, 1, 1).expand(-1, 2, 2)
    expected = torch.stack([(samples <= value).float().mean(0) for value in (-1.0, 0.0, 1.0, 4.0)])
    assert_close(mixture.cdf(values), expected, rtol=0, atol=0.006)


@each_likelihood
def test_gradients_reach_outputs_and_parameters(likelihood: RegressionLikelihood, oracle: Oracle) -> None:
    outputs = OUTPUTS.clone().requires_grad_()
    likelihood.log_prob(outputs, COUNTS).sum().backward()
    for tensor in (outputs, *likelihood.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert (tensor.grad != 0).all()


def test_student_t_in_the_units_of_the_targets() -> None:
    likelihood = StudentT(df=4.0, noise_scale=0.5)
    target = torch.tensor([[7.0], [-3.0]])
    likelihood.set_target_scaling(torch.tensor([5.0]), torch.tensor([2.5]))
    outputs = torch.tensor([[[0.2], [-1.0]]])
    exact = torch.distributions.StudentT(4.0, outputs * 2.5 + 5.0, 0.5 * 2.5)
    assert_close(likelihood.log_prob(outputs, target), exact.log_prob(target).sum(-1))
    mean, variance = likelihood.predictive_moments(outputs)
    assert_close(mean, exact.mean)
    assert_close(variance, exact.variance)


def test_heavy_tails_are_recovered_and_fit_better_than_a_gaussian() -> None:
    torch.manual_seed(0)
    noise = torch.distributions.StudentT(3.0).sample((4000, 1))
    x = torch.linspace(-1, 1, 4000)[:, None]
    y = 2 * x + 0.3 * noise
    scores, fitted = {}, {}
    for likelihood in (StudentT(), Gaussian()):
        method = Deterministic(nn.Linear(1, 1), likelihood, optimizer=partial(torch.optim.Adam, lr=0.1))
        fit(method, loader(x[::2], y[::2], batch_size=500, shuffle=True), max_epochs=50)
        (result,) = quiet_trainer().test(method, loader(x[1::2], y[1::2], batch_size=2000), verbose=False)
        name = type(likelihood).__name__
        scores[name], fitted[name] = result, method.likelihood
    assert 2.4 < fitted["StudentT"].df.item() < 4.0
    assert fitted["StudentT"].noise_scale.item() == pytest.approx(0.3, rel=0.1)
    assert scores["StudentT"]["test_nll"] < scores["Gaussian"]["test_nll"] - 0.05
    assert scores["StudentT"]["test_coverage"] == pytest.approx(0.95, abs=0.015)


@pytest.mark.thorough
def test_dispersion_is_recovered_and_fits_better_than_poisson() -> None:
    torch.manual_seed(0)
    x = torch.randn(4000, 2)
    mean = torch.exp(0.5 * x[:, :1] + 1.0)
    y = torch.distributions.NegativeBinomial(1 / 0.7, logits=(0.7 * mean).log()).sample()
    nll, fitted = {}, {}
    for likelihood in (NegativeBinomial(), Poisson()):
        method = LastLayerVI(nn.Linear(2, 1), likelihood, optimizer=partial(torch.optim.Adam, lr=0.1))
        fit(method, loader(x[::2], y[::2], batch_size=500, shuffle=True), max_epochs=30)
        (result,) = quiet_trainer().test(method, loader(x[1::2], y[1::2], batch_size=2000), verbose=False)
        name = type(likelihood).__name__
        nll[name], fitted[name] = result["test_nll"], method.likelihood
        assert result["test_coverage"] >= (0.94 if name == "NegativeBinomial" else 0)
    assert fitted["NegativeBinomial"].dispersion.item() == pytest.approx(0.7, abs=0.08)
    assert nll["NegativeBinomial"] < nll["Poisson"] - 0.1


@pytest.mark.parametrize("kind", [Poisson, NegativeBinomial])
def test_targets_that_are_not_counts_are_errors(kind: Any) -> None:
    likelihood = kind()
    for wrong in (-1.0, 1.5):
        with pytest.raises(ValueError, match=rf"{kind.__name__} needs counts 0, 1, 2, ..., got {wrong}"):
            likelihood.check_values(torch.tensor([[0.0], [wrong]]))
    with pytest.raises(ValueError, match="needs counts that are not standardized"):
        likelihood.set_target_scaling(torch.tensor([3.0]), torch.tensor([2.0]))
    with pytest.raises(TypeError, match=r"needs floating-point targets, got torch.int64"):
        likelihood.check(torch.zeros(1, 2, 1), torch.zeros(2, 1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(StudentT, df=2.0), "df must be larger than 2 and finite"),
        (partial(StudentT, noise_scale=-1.0), "noise_scale must be positive and finite"),
        (partial(StudentT, df=[3.0, 4.0]), "df must be one number or 1"),
        (partial(StudentT, initial_df=2.0), "initial_df must be larger than 2.01"),
        (partial(NegativeBinomial, 0.0), "dispersion must be positive and finite"),
        (partial(Poisson, link="identity"), "link must be one of"),
    ],
)
def test_arguments_out_of_range_are_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
