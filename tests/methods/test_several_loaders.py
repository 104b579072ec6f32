"""One result for each validation and test dataloader, against scores of each dataloader alone."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import loader, quiet_trainer
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lightning_vi import Deterministic, MeanFieldVI, SplitConformal, TemperatureScaling
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.methods import Ensemble

X = torch.linspace(-1, 1, 24).view(24, 1)
GOOD, BAD = X + 0.1, X + 10.0


def identity() -> Deterministic:
    return Deterministic(nn.Identity(), Gaussian(noise_std=0.5))


def conformal() -> SplitConformal:
    method = SplitConformal(identity())
    method.calibrate([(X, GOOD)])
    return method


def classifier() -> TemperatureScaling:
    method = TemperatureScaling(Deterministic(nn.Identity(), Categorical(3)))
    method.calibrate([(torch.randn(30, 3), torch.arange(30) % 3)])
    return method


REGRESSIONS: dict[str, Any] = {
    "method": identity,
    "sampled method": lambda: MeanFieldVI(nn.Linear(1, 1), Gaussian(0.5), num_mc_samples_test=3),
    "calibration": conformal,
    "ensemble": lambda: Ensemble([identity(), identity()]),
    "calibration of an ensemble": lambda: SplitConformal(Ensemble([identity()])),
}


def results(method: LightningModule, stage: str, *data: tuple[Tensor, Tensor]) -> list[dict[str, float]]:
    loaders = [loader(x, y, batch_size=5) for x, y in data]
    run = getattr(quiet_trainer(), stage)
    return [dict(result) for result in run(method, loaders if len(loaders) > 1 else loaders[0], verbose=False)]


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("name", REGRESSIONS)
def test_each_loader_has_the_result_that_it_has_alone(name: str, stage: str) -> None:
    method = REGRESSIONS[name]()
    if name == "calibration of an ensemble":
        method.calibrate([(X, GOOD)])
    data = [(X, GOOD), (X[:7], BAD[:7]), (X, GOOD)]
    alone = [results(method, stage, each)[0] for each in data]
    together = results(method, stage, *data)
    for index, (result, expected) in enumerate(zip(together, alone, strict=True)):
        assert result == {f"{key}/dataloader_idx_{index}": pytest.approx(value) for key, value in expected.items()}
    assert alone == [results(method, stage, each)[0] for each in data]


def test_good_and_bad_data_are_not_pooled() -> None:
    good, bad = results(identity(), "test", (X, GOOD), (X, BAD))
    assert good["test_rmse/dataloader_idx_0"] == pytest.approx(0.1)
    assert bad["test_rmse/dataloader_idx_1"] == pytest.approx(10.0)


def test_classification_results_are_separate() -> None:
    x, y = torch.randn(20, 3), torch.arange(20) % 3
    method = classifier()
    (first,), (second,) = results(method, "test", (x, y)), results(method, "test", (x, (y + 1) % 3))
    both = results(method, "test", (x, y), (x, (y + 1) % 3))
    assert list(both[0].values()) == pytest.approx(list(first.values()))
    assert list(both[1].values()) == pytest.approx(list(second.values()))


def test_one_loader_can_be_monitored_and_each_of_several(tmp_path: Path) -> None:
    for names, loaders in (
        (["val_nll"], loader(X, GOOD)),
        (["val_nll/dataloader_idx_0", "val_nll/dataloader_idx_1"], [loader(X, GOOD), loader(X, BAD)]),
    ):
        for name in names:
            method = MeanFieldVI(nn.Linear(1, 1), Gaussian(0.5))
            best = ModelCheckpoint(tmp_path / name.replace("/", "_"), monitor=name)
            trainer = quiet_trainer(max_epochs=2, callbacks=[best], enable_checkpointing=True, num_sanity_val_steps=2)
            trainer.fit(method, loader(X, GOOD), loaders)
            assert float(best.best_model_score) == pytest.approx(min_of(trainer, name, method), rel=0.5)
            assert set(method.state_dict()) == set(MeanFieldVI(nn.Linear(1, 1), Gaussian(0.5)).state_dict())


def min_of(trainer: Any, name: str, method: Any) -> float:
    assert name in trainer.callback_metrics
    return float(trainer.callback_metrics[name])


def test_a_method_is_copied_after_several_loaders() -> None:
    method = identity()
    before = results(method, "test", (X, GOOD), (X, BAD))
    assert results(copy.deepcopy(method), "test", (X, GOOD), (X, BAD)) == before
