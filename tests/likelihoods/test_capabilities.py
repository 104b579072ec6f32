"""The declared capabilities of each likelihood, and the errors for those that it lacks."""

from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Quantiles,
    StudentT,
)

# likelihood, support, softmax dimension
LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], str, int | None]] = {
    "Gaussian": (Gaussian, "real", None),
    "heteroscedastic": (HeteroscedasticGaussian, "real", None),
    "Student's t": (StudentT, "real", None),
    "quantiles": (Quantiles, "real", None),
    "Poisson": (Poisson, "counts", None),
    "negative binomial": (NegativeBinomial, "counts", None),
    "categorical": (lambda: Categorical(3), "classes", 1),
    "categorical, classes last": (lambda: Categorical(3, class_dim=-1), "classes", -1),
    "Bernoulli": (Bernoulli, "classes", None),
    "ordinal": (lambda: Ordinal(3), "classes", None),
}
each_likelihood = pytest.mark.parametrize(("make", "support", "softmax_dim"), LIKELIHOODS.values(), ids=LIKELIHOODS)


@each_likelihood
def test_support_belongs_to_the_task(make: Callable[[], Likelihood], support: str, softmax_dim: int | None) -> None:
    likelihood = make()
    assert likelihood.support == support
    assert likelihood.task == ("classification" if support == "classes" else "regression")
    for value, supports in ((-1.0, {"real"}), (0.5, {"real"}), (2.0, {"real", "counts"})):
        if support == "classes":
            continue
        if support in supports:
            likelihood.check_values(torch.tensor([[value]]))
        else:
            with pytest.raises(ValueError, match="needs counts"):
                likelihood.check_values(torch.tensor([[value]]))


@each_likelihood
def test_adding_a_constant_in_the_softmax_dimension_changes_nothing(
    make: Callable[[], Likelihood], support: str, softmax_dim: int | None
) -> None:
    likelihood = make()
    assert likelihood.softmax_dim == softmax_dim
    outputs = torch.randn(2, 4, likelihood.num_outputs)
    target = torch.tensor([0, 1, 1, 0]) if support == "classes" else torch.ones(4, 1)
    shifted = likelihood.log_prob(outputs + 3.0, target)
    if softmax_dim is None:
        assert (shifted - likelihood.log_prob(outputs, target)).abs().max() > 0.1
    else:
        assert_close(shifted, likelihood.log_prob(outputs, target))


@each_likelihood
def test_prediction_for_gaussian_outputs_agrees_with_samples(
    make: Callable[[], Likelihood], support: str, softmax_dim: int | None
) -> None:
    likelihood = make()
    mean, std = torch.randn(4, likelihood.num_outputs), torch.rand(4, likelihood.num_outputs) + 0.2
    assert likelihood.has_gaussian_noise == (type(likelihood) is Gaussian)
    samples = mean + std * torch.randn(50_000, *mean.shape)
    means, variances = likelihood.predictive_moments(samples)
    prediction = likelihood.gaussian_prediction(mean, std)
    scale = prediction.total_var.sqrt().mean().item()
    assert_close(prediction.mean, means.mean(0), rtol=0.02, atol=0.02 * scale)
    assert_close(prediction.epistemic_var, means.var(0), rtol=0.1, atol=0.01 * scale**2)
    if support != "classes":
        assert_close(prediction.total_var, means.var(0) + variances.mean(0), rtol=0.1, atol=0)
    else:
        assert_close(likelihood.gaussian_log_probs(mean, std).exp(), prediction.mean)


@each_likelihood
def test_log_probs_of_classes_or_an_error(
    make: Callable[[], Likelihood], support: str, softmax_dim: int | None
) -> None:
    likelihood = make()
    outputs = torch.randn(2, 4, likelihood.num_outputs)
    if support == "classes":
        assert_close(likelihood.log_probs(outputs).exp(), likelihood.predictive_moments(outputs)[0])
    else:
        with pytest.raises(TypeError, match=f"{type(likelihood).__name__} has no classes"):
            likelihood.log_probs(outputs)


@each_likelihood
def test_target_scaling_of_classes_does_nothing(
    make: Callable[[], Likelihood], support: str, softmax_dim: int | None
) -> None:
    likelihood = make()
    scaling = torch.tensor([3.0]), torch.tensor([2.0])
    state = {name: value.clone() for name, value in likelihood.state_dict().items()}
    if support == "counts":
        with pytest.raises(ValueError, match="needs counts that are not standardized"):
            likelihood.set_target_scaling(*scaling)
    else:
        likelihood.set_target_scaling(*scaling)
    changed = {name for name, value in likelihood.state_dict().items() if not torch.equal(value, state[name])}
    assert changed == ({"target_mean", "target_std"} if support == "real" else set())
