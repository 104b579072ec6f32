"""Categorical and Bernoulli labels against torch.distributions, scipy and numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Categorical as CategoricalDistribution
from torch.nn import functional as F

from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods import Bernoulli, Categorical
from lightning_vi.likelihoods.classification import ClassificationLikelihood

# likelihood, shape of the outputs [S, B, ...], position of the classes in them
CASES: dict[str, tuple[Callable[[], ClassificationLikelihood], tuple[int, ...], int]] = {
    "categorical": (lambda: Categorical(3), (6, 5, 3), 2),
    "categorical, images": (lambda: Categorical(3), (6, 5, 3, 2, 4), 2),
    "categorical, channels last": (lambda: Categorical(3, class_dim=-1), (6, 5, 2, 4, 3), 4),
    "categorical, in the middle": (lambda: Categorical(3, class_dim=2), (6, 5, 2, 3, 4), 3),
    "bernoulli": (lambda: Bernoulli(), (6, 5, 1), 2),
    "bernoulli, images": (lambda: Bernoulli(), (6, 5, 1, 2, 4), 2),
    "bernoulli, channels last": (lambda: Bernoulli(class_dim=-1), (6, 5, 2, 4, 1), 4),
}

Problem = tuple[ClassificationLikelihood, Tensor, Tensor, Tensor]


@pytest.fixture(params=CASES.values(), ids=CASES)
def problem(request: pytest.FixtureRequest) -> Problem:
    """The likelihood, outputs, labels, and the probabilities with the classes last."""
    make, shape, dim = request.param
    likelihood: ClassificationLikelihood = make()
    outputs = 2 * torch.randn(shape)
    if likelihood.num_outputs == 1:
        positive = torch.from_numpy(scipy.special.expit(outputs.squeeze(dim).numpy()))
        probs = torch.stack([1 - positive, positive], dim=-1)
    else:
        probs = torch.from_numpy(scipy.special.softmax(outputs.movedim(dim, -1).numpy(), axis=-1))
    target = CategoricalDistribution(probs=probs[0]).sample()
    return likelihood, outputs, target, probs


def test_log_probability_is_summed_over_the_elements_of_a_datum(problem: Problem) -> None:
    likelihood, outputs, target, probs = problem
    likelihood.check(outputs, target)
    elements = CategoricalDistribution(probs=probs).log_prob(target)
    torch.testing.assert_close(likelihood.elementwise_log_prob(outputs, target), elements, rtol=1e-4, atol=1e-5)
    expected = elements.flatten(1).view(6, 5, -1).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(outputs, target), expected, rtol=1e-4, atol=1e-4)


def test_log_probs_have_the_classes_in_the_third_dimension(problem: Problem) -> None:
    likelihood, outputs, target, probs = problem
    log_probs = likelihood.log_probs(outputs)
    assert_close = torch.testing.assert_close
    assert_close(log_probs, probs.movedim(-1, 2).log(), rtol=1e-4, atol=1e-5)
    assert_close(log_probs.exp(), likelihood.predictive_moments(outputs)[0])
    chosen = log_probs.gather(2, target.expand(6, *target.shape).unsqueeze(2)).squeeze(2)
    assert_close(chosen, likelihood.elementwise_log_prob(outputs, target))


@pytest.mark.parametrize(
    ("likelihood", "logits"),
    [(Categorical(2), torch.tensor([[[0.0, -200.0]]])), (Bernoulli(), -torch.tensor([[[200.0]]]))],
)
def test_log_probs_of_probabilities_that_underflow(likelihood: ClassificationLikelihood, logits: Tensor) -> None:
    assert likelihood.log_probs(logits).tolist() == [[[0.0, -200.0]]]


def test_point_loss_is_the_cross_entropy(problem: Problem) -> None:
    likelihood, outputs, target, probs = problem
    per_datum = CategoricalDistribution(probs=probs[:1]).log_prob(target).reshape(5, -1).sum(-1)
    torch.testing.assert_close(likelihood.point_loss(outputs[:1], target), -per_datum.mean(), rtol=1e-4, atol=1e-4)


def test_prediction_splits_entropy_and_variance(problem: Problem) -> None:
    likelihood, outputs, _, probs = problem
    moments, spread = RunningMoments(), RunningMoments()
    for chunk in outputs.split([1, 5]):
        means, entropies = likelihood.predictive_moments(chunk)
        moments.update(means)
        spread.update(entropies)
    prediction = likelihood.prediction(moments, spread.mean)
    array = np.moveaxis(probs.numpy(), -1, 2)  # [S, B, C, ...]
    mean = array.mean(0)
    tolerance = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(prediction.mean, mean, **tolerance)
    np.testing.assert_allclose(prediction.probs, mean, **tolerance)
    np.testing.assert_allclose(prediction.probs_var, array.var(0), **tolerance)
    np.testing.assert_allclose(prediction.epistemic_var, array.var(0), **tolerance)
    np.testing.assert_allclose(prediction.aleatoric_var, (array * (1 - array)).mean(0), **tolerance)
    np.testing.assert_allclose(prediction.total_var, mean * (1 - mean), **tolerance)
    expected_entropy = scipy.stats.entropy(array, axis=2).mean(0)
    np.testing.assert_allclose(prediction.predictive_entropy, scipy.stats.entropy(mean, axis=1), **tolerance)
    np.testing.assert_allclose(prediction.expected_entropy, expected_entropy, **tolerance)
    divergence = scipy.stats.entropy(array, np.broadcast_to(mean, array.shape), axis=2).mean(0)
    np.testing.assert_allclose(prediction.mutual_information, divergence, rtol=1e-3, atol=1e-5)


def test_metric_inputs(problem: Problem) -> None:
    likelihood, outputs, target, probs = problem
    inputs = likelihood.metric_inputs(outputs, target)
    torch.testing.assert_close(inputs["preds"], probs.movedim(-1, 2).mean(0), rtol=1e-4, atol=1e-5)
    assert inputs["log_prob"].shape[:2] == (6, 5)
    assert torch.equal(inputs["target"], target)


def test_bernoulli_matches_torch_distributions_for_large_logits() -> None:
    logits, target = torch.tensor([[[-80.0], [80.0], [0.3]]]), torch.tensor([1, 0, 1])
    expected = BernoulliDistribution(logits=logits.squeeze(-1)).log_prob(target.float())
    torch.testing.assert_close(Bernoulli().log_prob(logits, target), expected)


def test_two_classes_match_bernoulli() -> None:
    logits, target = torch.randn(4, 5, 1), torch.randint(0, 2, (5,))
    two = torch.cat([torch.zeros_like(logits), logits], dim=-1)
    torch.testing.assert_close(Bernoulli().log_prob(logits, target), Categorical(2).log_prob(two, target))


def test_extreme_logits_give_no_nan() -> None:
    prediction = Categorical(2).predictive_moments(torch.tensor([[[500.0, -500.0]]]))
    assert prediction[0].tolist() == [[[1.0, 0.0]]]
    assert prediction[1].item() == 0.0


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8])
def test_labels_of_other_integer_types(kind: torch.dtype) -> None:
    logits, target = torch.randn(2, 5, 3), torch.randint(0, 3, (5,))
    likelihood = Categorical(3)
    likelihood.check(logits, target.to(kind))
    likelihood.check_values(target.to(kind))
    expected = -F.cross_entropy(logits.flatten(0, 1), target.repeat(2), reduction="none").view(2, 5)
    torch.testing.assert_close(likelihood.log_prob(logits, target.to(kind)), expected)
    inputs = likelihood.metric_inputs(logits, target.to(kind))
    assert inputs["target"].dtype == torch.int64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Categorical(1), "num_classes must be at least 2, got 1"),
        (lambda: Categorical(3, class_dim=0), "class_dim must not be 0"),
        (lambda: Bernoulli(class_dim=0), "class_dim must not be 0"),
    ],
)
def test_bad_arguments_are_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("outputs", "target", "error", "message"),
    [
        ((1, 5, 4), torch.zeros(5).long(), ValueError, r"width 3 in dimension 1, got the shape \(5, 4\)"),
        ((1, 5, 2, 3), torch.zeros(5, 2).long(), ValueError, "class_dim must be the dimension of the classes"),
        ((1, 5, 3), torch.zeros(5, 1).long(), ValueError, r"labels of shape \(5,\), got \(5, 1\)"),
        ((1, 5, 3), torch.zeros(4).long(), ValueError, r"labels of shape \(5,\), got \(4,\)"),
        ((1, 5, 3), torch.zeros(5), TypeError, "integer labels, got torch.float32"),
    ],
)
def test_wrong_shapes_and_types_are_errors(
    outputs: tuple[int, ...], target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Categorical(3).check(torch.zeros(outputs), target)


@pytest.mark.parametrize("class_dim", [-3, -2, 5])
def test_classes_cannot_be_in_the_batch_dimension(class_dim: int) -> None:
    with pytest.raises(ValueError, match="class_dim"):
        Categorical(5, class_dim=class_dim).check(torch.zeros(5, 5, 5), torch.zeros(5).long())


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_errors(label: int) -> None:
    with pytest.raises(ValueError, match="labels must lie between 0 and 2"):
        Categorical(3).check_values(torch.tensor([0, 1, label]))
