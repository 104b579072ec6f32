"""Expected log probabilities by quadrature against Monte Carlo estimates, fine grids and closed forms."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    Quantiles,
    StudentT,
)

COUNTS = torch.tensor([[0.0, 3.0], [12.0, 1.0], [5.0, 0.0], [40.0, 2.0]])
REALS = torch.tensor([[0.3, -1.0], [2.0, 0.1], [-4.0, 0.0], [0.5, 1.5]])
LABELS = torch.tensor([0, 1, 1, 0])


@dataclass(frozen=True)
class Case:
    """A likelihood with targets, and means of its outputs."""

    make: Callable[[], Likelihood]
    target: Tensor
    centers: Tensor = torch.zeros(1)  # noqa: RUF009
    spread: float = 1.0
    tolerance: float = 1e-5

    def moments(self, max_std: float = 1.0) -> tuple[Tensor, Tensor]:
        """Means and variances for four data."""
        noise = torch.randn(4, self.make().num_outputs, dtype=torch.float64)
        std = self.spread * max_std * (0.2 + 0.8 * torch.rand_like(noise))
        return self.centers + self.spread * noise, std.square()


ONE_OUTPUT = {
    "Student's t": Case(lambda: StudentT(df=[3.0, 8.0], noise_scale=[0.5, 1.0], num_targets=2), REALS, tolerance=2e-2),
    "negative binomial": Case(lambda: NegativeBinomial([0.3, 2.0], 2), COUNTS),
    "negative binomial, softplus": Case(lambda: NegativeBinomial(0.5, 2, link="softplus"), COUNTS),
    "Poisson": Case(lambda: Poisson(2), COUNTS),
    "Poisson, softplus": Case(lambda: Poisson(2, link="softplus"), COUNTS),
    "Gaussian": Case(lambda: Gaussian([0.3, 2.0], 2), REALS),
    "Bernoulli": Case(lambda: Bernoulli(), LABELS),
}
SEPARATED = torch.tensor([-2.0, 0.0, 2.0]).repeat_interleave(2)
SEVERAL_OUTPUTS = {
    "quantiles": Case(lambda: Quantiles((0.1, 0.5, 0.9), 2), REALS, SEPARATED, spread=0.2),
    "categorical": Case(lambda: Categorical(4), LABELS),
}
one_output = pytest.mark.parametrize("case", ONE_OUTPUT.values(), ids=ONE_OUTPUT)
all_likelihoods = pytest.mark.parametrize(
    "case", (ONE_OUTPUT | SEVERAL_OUTPUTS).values(), ids=ONE_OUTPUT | SEVERAL_OUTPUTS
)


def by_quadrature(likelihood: Likelihood, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """The default of the base class, also for a likelihood that overrides it."""
    elements = Likelihood.elementwise_expected_log_prob(likelihood, mean, variance, target)
    return elements.flatten(1).sum(-1) if elements.dim() > 1 else elements


@all_likelihoods
def test_expectation_agrees_with_monte_carlo(case: Case) -> None:
    likelihood = case.make().double()
    mean, variance = case.moments()
    num_samples = 40_000
    samples = mean + variance.sqrt() * torch.randn(num_samples, *mean.shape, dtype=torch.float64)
    with torch.no_grad():
        log_prob = likelihood.log_prob(samples, case.target)
        value = by_quadrature(likelihood, mean, variance, case.target)
    standard_error = log_prob.std(0) / num_samples**0.5
    assert value.shape == (4,)
    assert ((value - log_prob.mean(0)).abs() < 4 * standard_error + 2e-3).all()
    assert (standard_error < 0.03 * (1 + value.abs())).all()


@one_output
@pytest.mark.parametrize("max_std", [0.1, 2.0])
def test_one_output_agrees_with_a_fine_grid(case: Case, max_std: float) -> None:
    """The documented accuracy for Student's t, at up to four noise scales, and for everything else."""
    likelihood = case.make().double()
    mean, variance = case.moments(max_std)
    grid = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    weights = torch.exp(-0.5 * grid.square())
    with torch.no_grad():
        log_prob = likelihood.log_prob(mean + variance.sqrt() * grid.view(-1, 1, 1), case.target)
        value = by_quadrature(likelihood, mean, variance, case.target)
    assert_close(value, (weights / weights.sum()) @ log_prob, rtol=0, atol=case.tolerance)


def test_quasi_monte_carlo_agrees_with_the_quadrature_of_the_override() -> None:
    likelihood = HeteroscedasticGaussian(2).double()
    mean, target = 0.5 * torch.randn(50, 4).double(), torch.randn(50, 2).double()
    mean[:, 2:] += 1.5
    variance = torch.full_like(mean, 0.3**2)
    assert likelihood.outputs_per_element == 4
    exact = likelihood.expected_log_prob(mean, variance, target)
    assert_close(by_quadrature(likelihood, mean, variance, target), exact, rtol=5e-3, atol=0)


def test_each_target_of_quantiles_has_the_same_accuracy() -> None:
    """Two targets are two problems of one target, with the same points."""
    one, two = Quantiles().double(), Quantiles(num_targets=2).double()
    assert two.outputs_per_element == 3
    centers = torch.tensor([-2.0, 0.0, 2.0]).double()
    mean = centers + 0.2 * torch.randn(2, 5, 3).double()
    variance, target = torch.rand(2, 5, 3).double() * 0.05, torch.randn(2, 5, 1).double()
    expected = sum(one.expected_log_prob(mean[d], variance[d], target[d]) for d in range(2))
    interleaved = [torch.stack([each[0], each[1]], -1).flatten(1) for each in (mean, variance)]
    value = two.expected_log_prob(*interleaved, torch.cat([target[0], target[1]], -1))
    assert_close(value, expected)


def test_quantiles_reach_the_documented_accuracy() -> None:
    likelihood = Quantiles().double()
    target = torch.randn(20, 1).double()
    mean = torch.tensor([-1.0, 0.0, 1.0]).double().expand(20, 3)
    for std, tolerance in ((0.1, 1e-3), (1 / 3, 0.1)):
        variance = torch.full_like(mean, std**2)
        samples = mean + std * torch.randn(200_000, 20, 3)
        log_prob = likelihood.log_prob(samples, target)
        standard_error = log_prob.std(0) / 200_000**0.5
        value = likelihood.expected_log_prob(mean, variance, target)
        assert ((value - log_prob.mean(0)).abs() < tolerance + 4 * standard_error).all()


@pytest.mark.parametrize(
    ("likelihood", "flat", "shape"),
    [
        (Categorical(3, class_dim=1), Categorical(3), (5, 3, 2, 4)),
        (Categorical(3, class_dim=2), Categorical(3), (5, 2, 3, 4)),
        (Categorical(3, class_dim=-1), Categorical(3), (5, 2, 4, 3)),
        (Bernoulli(class_dim=2), Bernoulli(), (5, 2, 1, 4)),
        (StudentT(4.0, 0.5, 3), StudentT(4.0, 0.5, 3), (5, 2, 4, 3)),
    ],
    ids=["classes first", "classes in the middle", "classes last", "Bernoulli", "Student's t"],
)
def test_elements_of_a_datum_are_summed(likelihood: Likelihood, flat: Likelihood, shape: tuple[int, ...]) -> None:
    mean, variance = torch.randn(shape), torch.rand(shape)
    labels = torch.randint(likelihood.num_predictions, (5, 2, 4))
    target = labels if likelihood.support == "classes" else torch.randn(shape)
    rows = [moment.movedim(likelihood.output_dim, -1).flatten(0, 2) for moment in (mean, variance)]
    expected = by_quadrature(flat, *rows, target.flatten(0, 2)).view(5, 8).sum(1)
    assert_close(by_quadrature(likelihood, mean, variance, target), expected)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_softmax_reaches_the_documented_accuracy(num_classes: int) -> None:
    likelihood, labels = Categorical(num_classes), torch.tensor([0, 1, 1, 0])
    mean = torch.randn(4, num_classes).double()
    log_prob = likelihood.log_prob(mean + torch.randn(500_000, 4, num_classes), labels)
    standard_error = log_prob.std(0) / 500_000**0.5
    value = by_quadrature(likelihood, mean, torch.ones_like(mean), labels)
    assert ((value - log_prob.mean(0)).abs() < 2e-3 + 4 * standard_error).all()


@all_likelihoods
def test_variance_zero_gives_the_log_probability_and_finite_gradients(case: Case) -> None:
    likelihood = case.make()
    mean, _ = case.moments()
    mean, variance = mean.float().requires_grad_(), torch.zeros(mean.shape, requires_grad=True)
    value = by_quadrature(likelihood, mean, variance, case.target)
    assert_close(value, likelihood.log_prob(mean.unsqueeze(0), case.target)[0], rtol=1e-4, atol=1e-4)
    by_mean, by_variance = torch.autograd.grad(value.sum(), (mean, variance))
    assert by_variance.isfinite().all()
    (expected,) = torch.autograd.grad(likelihood.log_prob(mean.unsqueeze(0), case.target).sum(), mean)
    assert_close(by_mean, expected, rtol=1e-3, atol=1e-3)


@one_output
def test_gradients_match_finite_differences(case: Case) -> None:
    likelihood = case.make().double()
    mean, variance = case.moments(max_std=0.5)
    for parameter in likelihood.parameters():
        parameter.requires_grad_(False)
    inputs = mean.requires_grad_(), variance.requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: by_quadrature(likelihood, m, v, case.target), inputs)


@pytest.mark.parametrize("std", [1e-5, 1e-3, 0.1])
def test_gradient_of_a_small_variance_is_half_the_second_derivative(std: float) -> None:
    """d/dv E[g(m + sqrt(v) z)] = E[g''] / 2, which is -p (1 - p) / 2 at the logit m."""
    for likelihood in (Bernoulli(), Categorical(2)):
        mean = torch.tensor([[0.7, -0.2]])[:, : likelihood.num_outputs].double()
        variance = torch.full_like(mean, std**2).requires_grad_()
        by_quadrature(likelihood, mean, variance, torch.tensor([1])).sum().backward()
        p = torch.sigmoid(mean[0, 0] - mean[0, 1] if likelihood.num_outputs == 2 else mean[0, 0])
        assert variance.grad is not None
        assert_close(variance.grad, (-p * (1 - p) / 2).expand_as(mean), rtol=5e-3, atol=1e-6)


def test_learned_parameters_of_the_noise_have_gradients() -> None:
    for likelihood, target in ((StudentT(), torch.randn(4, 1)), (NegativeBinomial(), torch.ones(4, 1))):
        likelihood.expected_log_prob(torch.randn(4, 1), torch.rand(4, 1), target).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in likelihood.parameters())


def test_expectation_is_in_the_units_of_the_targets() -> None:
    plain, scaled = StudentT(df=4.0, noise_scale=0.5), StudentT(df=4.0, noise_scale=0.5)
    scaled.set_target_scaling(torch.tensor([5.0]), torch.tensor([2.0]))
    mean, variance, target = torch.randn(6, 1), torch.rand(6, 1), torch.randn(6, 1)
    expected = plain.expected_log_prob(mean, variance, target) - torch.tensor(2.0).log()
    assert_close(scaled.expected_log_prob(mean, variance, 2 * target + 5), expected)


def test_expectation_is_deterministic_and_leaves_the_random_state() -> None:
    likelihood, state = Quantiles(), torch.get_rng_state()
    moments = torch.tensor([[-1.0, 0.0, 1.0]]), torch.full((1, 3), 0.1)
    values = [likelihood.expected_log_prob(*moments, torch.zeros(1, 1)) for _ in range(2)]
    assert torch.equal(*values)
    assert torch.equal(torch.get_rng_state(), state)


def test_bfloat16_outputs_are_computed_in_float32() -> None:
    likelihood, target = StudentT(df=4.0, noise_scale=0.5), torch.zeros(3, 1)
    mean, variance = torch.tensor([[0.5], [1.0], [-2.0]]), torch.full((3, 1), 0.25)
    value = likelihood.expected_log_prob(mean.bfloat16(), variance.bfloat16(), target)
    assert_close(value, likelihood.expected_log_prob(mean, variance, target))
