"""Out-of-distribution detection: values against scikit-learn and errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical, Gaussian


def test_epistemic_uncertainty_of_a_last_layer_grows_with_its_features() -> None:
    method = LastLayerVI(MLP(1, [30], 1), Gaussian(0.1))
    near, far = loader(torch.linspace(-1, 1, 50).unsqueeze(1)), loader(torch.linspace(20, 30, 40).unsqueeze(1))
    result = ood_detection(method, near, far, score="epistemic_uct")
    assert (result.auroc, result.fpr95) == (1.0, 0.0)
    swapped = ood_detection(method, far, near, score="epistemic_uct")
    assert (swapped.auroc, swapped.fpr95) == (0.0, 1.0)


def test_constant_noise_detects_nothing() -> None:
    method = LastLayerVI(MLP(1, [30], 1), Gaussian(0.1))
    near, far = loader(torch.zeros(9, 1)), loader(torch.full((5, 1), 8.0))
    result = ood_detection(method, near, far, score="aleatoric_uct")
    assert (result.auroc, result.fpr95) == (0.5, 1.0)


def classifier() -> MeanFieldVI:
    torch.manual_seed(1)
    method = MeanFieldVI(MLP(2, [5], 3), Categorical(3), num_mc_samples_test=7)
    randomize_posteriors(method.backbone)
    return method


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "inputs only": lambda x: [x[:7], x[7:]],
    "with targets": lambda x: loader(x, torch.zeros(len(x)), batch_size=5),
    "dictionaries": lambda x: [{"input": x}],
    "lists of one": lambda x: loader(x, batch_size=5),
}


@pytest.mark.parametrize(
    ("score", "form", "with_trainer"),
    [
        ("pred_uct", "inputs only", False),
        ("pred_uct", "inputs only", True),
        ("epistemic_uct", "with targets", True),
        ("epistemic_uct", "dictionaries", False),
        (lambda prediction: 1 - prediction["pred"].amax(1), "lists of one", True),
    ],
)
def test_equals_scikit_learn_on_predictions_by_hand(score: Any, form: str, with_trainer: bool) -> None:
    method, near, far = classifier(), normal(31, 2), 2 * normal(17, 2) + 1
    labels = np.repeat([0, 1], [31, 17])
    predictions = [method.predict_step(x) for x in (near, far)]
    scores = torch.cat([p[score] if isinstance(score, str) else score(p) for p in predictions])
    result = ood_detection(
        method,
        FORMS[form](near),
        FORMS["inputs only"](far),
        score=score,
        trainer=quiet_trainer() if with_trainer else None,
    )
    torch.testing.assert_close(torch.cat([result.scores_in, result.scores_out]), scores)
    assert result.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert result.fpr95 == pytest.approx(false_positives[np.argmax(true_positives >= 0.95)], abs=1e-6)


def test_repr_has_the_metrics_only() -> None:
    assert str(ood_detection(classifier(), [normal(4, 2)], [normal(5, 2)])).count(",") == 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"score": "mutual_informatoin"}, ValueError,
         r"score must be one of the keys .*'epistemic_uct'.*, or a function"),
        ({"score": None}, TypeError, "score must be a key of predict_step's dictionary or a function, got None"),
        ({"in_distribution": []}, ValueError, "in_distribution has no data"),
        ({"out_of_distribution": []}, ValueError, "out_of_distribution has no data"),
        ({"out_of_distribution": torch.zeros(3, 2)}, TypeError, "out_of_distribution must be a dataloader, .*a Tensor"),
        ({"in_distribution": [torch.full((3, 2), torch.nan)]}, ValueError,
         "score 'pred_uct' is NaN for 3 of the 3 data of in_distribution"),
        ({"out_of_distribution": [torch.full((3, 2), torch.nan)]}, ValueError,
         "score 'pred_uct' is NaN for 3 of the 3 data of out_of_distribution"),
        ({"in_distribution": ["text"]}, TypeError, r"a batch must be \(x, y\)"),
    ],
)  # fmt: skip
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    valid = {"method": classifier(), "in_distribution": [normal(4, 2)], "out_of_distribution": [normal(5, 2)]}
    with pytest.raises(error, match=message):
        ood_detection(**valid | arguments)
