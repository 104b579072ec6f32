"""Distances between predictive distributions, against SciPy and closed forms."""

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from helpers import normal
from torch import Tensor

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.evaluation import agreement, total_variation, wasserstein_2
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian


def probabilities(*shape: int) -> Tensor:
    return normal(*shape).softmax(1)


def transport_cost(ours: np.ndarray, theirs: np.ndarray, power: int) -> float:
    """Cost of the optimal coupling of two empirical distributions, as a linear program."""
    cost = np.abs(ours[:, None] - theirs[None]) ** power
    num_ours, num_theirs = cost.shape
    rows = np.kron(np.eye(num_ours), np.ones(num_theirs))
    columns = np.kron(np.ones(num_ours), np.eye(num_theirs))
    masses = np.concatenate([np.full(num_ours, 1 / num_ours), np.full(num_theirs, 1 / num_theirs)])
    result = scipy.optimize.linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=masses)
    return float(result.fun)


@pytest.mark.parametrize("shape", [(9, 4), (9, 4, 3)])
def test_agreement_and_total_variation_by_hand(shape: tuple[int, ...]) -> None:
    ours, theirs = probabilities(*shape).double(), probabilities(*shape).double().flip(0)
    p, q = ours.numpy(), theirs.numpy()
    same = [np.argmax(a) == np.argmax(b) for a, b in zip(_rows(p), _rows(q), strict=True)]
    assert 0 < np.mean(same) < 1
    assert agreement(ours, theirs) == pytest.approx(np.mean(same))
    # The largest difference of the probabilities of an event, a set of classes.
    largest = [np.maximum(a - b, 0).sum() for a, b in zip(_rows(p), _rows(q), strict=True)]
    assert total_variation(p, q) == pytest.approx(np.mean(largest))
    assert (agreement(ours, ours), total_variation(ours, ours)) == (1.0, 0.0)


def _rows(probs: np.ndarray) -> np.ndarray:
    return np.moveaxis(probs, 1, -1).reshape(-1, probs.shape[1])


@pytest.mark.parametrize(("num_ours", "num_theirs"), [(6, 6), (6, 4), (5, 7), (1, 3)])
def test_the_distance_of_samples_is_that_of_the_optimal_coupling(num_ours: int, num_theirs: int) -> None:
    ours, theirs = normal(num_ours, 3, 2).double(), 2 * normal(num_theirs, 3, 2).double() + 1
    pairs = list(zip(ours.flatten(1).T.numpy(), theirs.flatten(1).T.numpy(), strict=True))
    for a, b in pairs:  # the linear program is right, because SciPy has the same distance of first order
        assert transport_cost(a, b, 1) == pytest.approx(scipy.stats.wasserstein_distance(a, b))
    expected = np.mean([transport_cost(a, b, 2) ** 0.5 for a, b in pairs])
    assert wasserstein_2(ours, theirs) == pytest.approx(expected)
    assert wasserstein_2(theirs.numpy(), ours.tolist()) == pytest.approx(expected)


def test_samples_of_gaussians_approach_the_closed_form() -> None:
    levels = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    standard = torch.special.ndtri(levels).unsqueeze(1)
    means, stds = torch.tensor([[0.3, -1.0], [1.5, 2.0]]), torch.tensor([[0.5, 1.0], [2.0, 0.2]])
    samples = [mean + std * standard for mean, std in zip(means.double(), stds.double(), strict=True)]
    closed = wasserstein_2((means[0], stds[0]), (means[1], stds[1]))
    assert closed == pytest.approx(np.mean([(1.2**2 + 1.5**2) ** 0.5, (3**2 + 0.8**2) ** 0.5]))
    assert wasserstein_2(*samples) == pytest.approx(closed, rel=1e-3)


def test_predictions_are_compared() -> None:
    regression = [MeanFieldVI(MLP(2, [5], 2), HeteroscedasticGaussian()).predict(normal(8, 2)) for _ in range(2)]
    gaussians = [(each.mean, each.total_var.sqrt()) for each in regression]
    assert wasserstein_2(*regression) == wasserstein_2(*gaussians) > 0
    classifiers = [MeanFieldVI(MLP(2, [5], 3), Categorical(3)).predict(normal(8, 2)) for _ in range(2)]
    assert total_variation(*classifiers) == total_variation(*[each.mean for each in classifiers]) > 0
    assert agreement(classifiers[0], classifiers[0].mean) == 1.0
    with pytest.raises(TypeError, match="reference must be that of a classifier, got one of a regression"):
        agreement(classifiers[0], regression[0])
    with pytest.raises(TypeError, match="prediction must be that of a regression, got one of a classifier"):
        wasserstein_2(classifiers[0], regression[0])
    with pytest.raises(TypeError, match="must both be samples, or both be predictions"):
        wasserstein_2(regression[0], normal(5, 8, 1))


def test_wrong_values_are_refused() -> None:
    probs = probabilities(4, 3)
    with pytest.raises(ValueError, match=r"the shape of the reference, \[4, 3\], got \[3, 3\]"):
        agreement(probs[:3], probs)
    with pytest.raises(ValueError, match="must hold class probabilities, which sum to 1"):
        total_variation(probs, 2 * probs)
    with pytest.raises(ValueError, match=r"class probabilities of shape \[B, C, ...\], got \[4\]"):
        agreement(probs[:, 0], probs)
    with pytest.raises(ValueError, match="reference must hold finite numbers"):
        wasserstein_2(probs, probs / 0)
    with pytest.raises(ValueError, match=r"samples of shape \[S, B, ...\], got shape \[3\]"):
        wasserstein_2(probs[0], probs[0])
    with pytest.raises(ValueError, match="standard deviations of at least 0, got -1"):
        wasserstein_2((probs, probs * 0 - 1), (probs, probs))
    with pytest.raises(TypeError, match="prediction must hold numbers, got a list"):
        agreement(["a"], probs)
    with pytest.raises(TypeError, match="a pair of means and standard deviations, got 3 values"):
        wasserstein_2((probs, probs, probs), (probs, probs))  # type: ignore[arg-type]
