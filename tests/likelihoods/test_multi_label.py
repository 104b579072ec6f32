"""Several labels against torch.distributions, torchmetrics and plain sums."""

import math
from typing import Any

import pytest
import torch
from helpers import fit, loader, quiet_trainer
from torch import Tensor
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.nn import functional as F

from lightning_vi import Deterministic, MeanFieldVI, TemperatureScaling
from lightning_vi.likelihoods import MultiLabel

LABELS = torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_log_probability_is_that_of_independent_bernoulli_variables(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    likelihood, outputs, target = MultiLabel(3), 3 * torch.randn(6, *shape), torch.randint(2, shape).to(dtype)
    likelihood.check(outputs, target)
    likelihood.check_values(target)
    expected = BernoulliDistribution(logits=outputs).log_prob(target.float()).flatten(2).sum(-1)
    torch.testing.assert_close(likelihood.log_prob(outputs, target), expected)
    assert likelihood.log_probs(outputs).shape == (6, 4, 2, *shape[1:])
    torch.testing.assert_close(likelihood.log_probs(outputs)[:, :, 1], F.logsigmoid(outputs))


def test_mutual_information_is_that_of_each_label() -> None:
    method = MeanFieldVI(torch.nn.Linear(2, 3), MultiLabel(3), num_mc_samples_test=40)
    prediction = method.predict(torch.randn(5, 2), return_samples=True)
    samples: Any = prediction.samples
    entropy = BernoulliDistribution(probs=samples[:, :, 1]).entropy()
    total = BernoulliDistribution(probs=samples[:, :, 1].mean(0)).entropy()
    torch.testing.assert_close(prediction.predictive_entropy, total)
    torch.testing.assert_close(prediction.mutual_information, total - entropy.mean(0), rtol=1e-3, atol=1e-6)
    assert prediction.as_dict()["epistemic_uct"].shape == (5, 3)


@pytest.mark.parametrize("missing", [math.nan, -1.0])
def test_missing_labels_have_no_part(missing: float) -> None:
    likelihood = MultiLabel(3, missing="ignore", ignore_index=-1)
    target = LABELS.float()
    target[0, 1] = target[3] = missing
    outputs = torch.randn(5, 4, 3)
    elements = BernoulliDistribution(logits=outputs).log_prob(LABELS.float())
    elements[:, 0, 1] = elements[:, 3] = 0.0
    likelihood.check_values(target)
    torch.testing.assert_close(likelihood.log_prob(outputs, target), elements.sum(-1))


def test_weights_of_labels_and_rows() -> None:
    likelihood, outputs = MultiLabel(3, pos_weight=[1.0, 2.0, 5.0]), torch.randn(1, 4, 3)
    weight = torch.tensor([1.0, 0.0, 3.0, 1.0])
    expected = -F.binary_cross_entropy_with_logits(
        outputs[0], LABELS.float(), pos_weight=torch.tensor([1.0, 2.0, 5.0]), reduction="none"
    )
    weights = likelihood.element_weights(LABELS, weight)
    torch.testing.assert_close(likelihood.log_prob(outputs, LABELS, weights)[0], (expected * weight[:, None]).sum(1))


def test_information_is_diagonal() -> None:
    outputs = torch.randn(4, 3, dtype=torch.float64)
    factor = MultiLabel(3).information_factor(outputs)
    probs = outputs.sigmoid()
    torch.testing.assert_close(factor @ factor.mT, torch.diag_embed(probs * (1 - probs)))


def nan_at(target: Tensor, *place: int) -> Tensor:
    target = target.clone()
    target[place] = math.nan
    return target


def test_float_labels_with_gaps_through_a_fit_a_test_and_a_calibration() -> None:
    x = torch.randn(4, 2)
    method = Deterministic(torch.nn.Linear(2, 3), MultiLabel(3, missing="ignore"))
    batches = loader(x, nan_at(LABELS.float(), 0, 1))
    fit(method, batches, max_epochs=2)
    (logged,) = quiet_trainer().test(method, batches, verbose=False)
    probs = method.predict(x).mean[:, 1]
    right = (probs > 0.5) == LABELS
    right[0, 1] = True
    assert logged["test_accuracy"] == pytest.approx((right.sum().item() - 1) / 11)
    assert logged["test_exact_match"] == pytest.approx(right.all(1).float().mean().item())
    assert 0 <= logged["test_f1"] <= 1
    scaled = TemperatureScaling(method)
    scaled.calibrate(batches)
    assert scaled.predict_step(x)["pred"].shape == (4, 2, 3)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="num_labels must be positive, got 0"):
        MultiLabel(0)
    with pytest.raises(ValueError, match="missing must be one of"):
        MultiLabel(2, missing="skip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pos_weight must be one finite number that is not negative, or 3"):
        MultiLabel(3, pos_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"labels must be 0 or 1, or -1 if they are missing, got 2"):
        MultiLabel(3, ignore_index=-1).check_values(torch.tensor([[0, 2, -1]]))
    with pytest.raises(ValueError, match="got nan; MultiLabel\\(missing='ignore'\\) ignores NaN"):
        MultiLabel(3).check_values(torch.tensor([[0.0, math.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"needs labels of shape \(4, 3\), got \(4,\)"):
        MultiLabel(3).check(torch.zeros(1, 4, 3), torch.zeros(4).long())
    with pytest.raises(ValueError, match="width 3 in dimension 1"):
        MultiLabel(3).check_outputs(torch.zeros(1, 4, 2))
