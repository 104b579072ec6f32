"""Detection of foreign data by methods."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer, randomize_posteriors
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.methods import UQMethod


@pytest.fixture(scope="module")
def sine() -> UQMethod:
    """A network fitted to a sine between -2 and 2."""
    torch.manual_seed(0)
    x = torch.linspace(-2, 2, 80).unsqueeze(1)
    method = LastLayerVI(MLP(1, [30, 30], 1), Gaussian(0.1), optimizer=partial(torch.optim.Adam, lr=1e-2))
    fit(method, loader(x, torch.sin(2 * x) + 0.1 * normal(80, 1), batch_size=20, shuffle=True), max_epochs=60)
    return method


def test_points_far_away_are_found_by_epistemic_uncertainty(sine: UQMethod) -> None:
    near = loader(torch.linspace(-1.9, 1.9, 50).unsqueeze(1))
    far = loader(torch.cat([torch.linspace(-8, -5, 20), torch.linspace(5, 8, 20)]).unsqueeze(1))
    result = ood_detection(sine, near, far, score="epistemic_uct")
    assert result.auroc > 0.9
    assert result.fpr95 < 0.2
    swapped = ood_detection(sine, far, near, score="epistemic_uct")
    assert swapped.auroc == pytest.approx(1 - result.auroc, abs=1e-6)


def test_noise_that_is_everywhere_the_same_finds_nothing(sine: UQMethod) -> None:
    near, far = loader(torch.zeros(9, 1)), loader(torch.full((5, 1), 8.0))
    result = ood_detection(sine, near, far, score="aleatoric_uct")
    assert (result.auroc, result.fpr95) == (0.5, 1.0)


def classifier() -> MeanFieldVI:
    torch.manual_seed(1)
    method = MeanFieldVI(MLP(2, [5], 3), Categorical(3), num_mc_samples_test=7)
    randomize_posteriors(method.backbone)
    return method


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "inputs alone": lambda x: [x[:7], x[7:]],
    "with targets": lambda x: loader(x, torch.zeros(len(x)), batch_size=5),
    "dictionaries": lambda x: [{"input": x}],
    "lists of one": lambda x: loader(x, batch_size=5),
}


@pytest.mark.parametrize("with_trainer", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("score", ["pred_uct", "epistemic_uct", lambda prediction: 1 - prediction["pred"].amax(1)])
def test_equals_scikit_learn_on_predictions_by_hand(score: Any, form: str, with_trainer: bool) -> None:
    method, near, far = classifier(), normal(31, 2), 2 * normal(17, 2) + 1
    labels = np.repeat([0, 1], [31, 17])
    predictions = [method.predict_step(x) for x in (near, far)]
    scores = torch.cat([p[score] if isinstance(score, str) else score(p) for p in predictions])
    result = ood_detection(
        method,
        FORMS[form](near),
        FORMS["inputs alone"](far),
        score=score,
        trainer=quiet_trainer() if with_trainer else None,
    )
    torch.testing.assert_close(torch.cat([result.scores_in, result.scores_out]), scores)
    assert result.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert result.fpr95 == pytest.approx(false_positives[np.argmax(true_positives >= 0.95)], abs=1e-6)


def test_prints_its_numbers_alone() -> None:
    assert str(ood_detection(classifier(), [normal(4, 2)], [normal(5, 2)])).count(",") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"score": "mutual_information"}, ValueError,
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
    fine = {"method": classifier(), "in_distribution": [normal(4, 2)], "out_of_distribution": [normal(5, 2)]}
    with pytest.raises(error, match=message):
        ood_detection(**fine | arguments)
