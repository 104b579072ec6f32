"""The tables of the reference have every logged name, every key of a prediction and every option."""

import re
from pathlib import Path

import pytest
import torch
from helpers import REFERENCE, loader, quiet_trainer, reference_names
from lightning import Trainer
from lightning.pytorch.loggers import CSVLogger
from method_cases import PROBLEMS

from lightning_vi import (
    AdaptivePredictionSets,
    DeepEnsemble,
    Deterministic,
    MeanFieldVI,
    QuantileRegression,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.cli.parser import KEYS
from lightning_vi.core import Predictor
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.likelihoods import Categorical, Gaussian, Prediction, Quantiles


def data(task: str) -> ArrayDataModule:
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    y = x[:, :1] if task == "regression" else (x[:, 0] > 0).long()
    num_classes = None if task == "regression" else 2
    return ArrayDataModule(train=(x, y), val=(x, y), test=(x, y), num_classes=num_classes, batch_size=20)


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ("regression", lambda: MeanFieldVI(MLP(2, [4], 1), Gaussian(), burnin_epochs=1)),
        ("classification", lambda: DeepEnsemble(MLP(2, [4], 2), Categorical(2), num_members=2)),
    ],
)
def test_every_logged_name_is_in_the_table(task: str, method, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = Trainer(
        max_epochs=2, logger=logger, log_every_n_steps=1, enable_progress_bar=False, enable_checkpointing=False
    )
    fitted = method()
    trainer.fit(fitted, data(task))
    trainer.test(fitted, data(task), verbose=False)
    wrappers = {
        "regression": (VarianceScaling, SplitConformal),
        "classification": (TemperatureScaling, AdaptivePredictionSets),
    }
    logged = set((tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")) - {"epoch", "step"}
    for wrapper in wrappers[task]:
        calibrated = wrapper(fitted)
        calibrated.calibrate(data(task).val_dataloader())
        logged |= set(calibrated.logged_calibration())
        logged |= set(trainer.test(calibrated, data(task), verbose=False)[0])
    known = reference_names("logged.md")
    assert {name for name in logged if name.replace("test_", "val_") not in known and name not in known} == set()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_score_of_every_likelihood_is_in_the_table(problem: str) -> None:
    given = PROBLEMS[problem]
    method = Deterministic(given.backbone(), given.likelihood())
    (logged,) = quiet_trainer().test(method, loader(*given.data()), verbose=False)
    known = reference_names("logged.md")
    assert {f"val_{name.removeprefix('test_')}" for name in logged} - known == set()
    assert set(method.train_metrics) - known == set()


def test_every_key_of_a_prediction_is_in_the_table() -> None:
    known = reference_names("predictions.md")
    x, y = torch.randn(30, 2), torch.randint(2, (30,))
    classifier = MeanFieldVI(MLP(2, [4], 2), Categorical(2))
    classifier.is_trained = True
    sets = AdaptivePredictionSets(classifier)
    sets.calibrate([(x, y)])
    quantiles = QuantileRegression(MLP(2, [4], 3), Quantiles())
    keys = set(sets.predict_step(x)) | set(classifier.predict(x, return_samples=True).as_dict())
    assert keys | set(quantiles.predict_step(x)) <= known
    columns = " ".join(re.findall(r"`(\w+)`", (REFERENCE / "predictions.md").read_text()))
    assert {field for field in Prediction.__dataclass_fields__ if field not in columns} == set()


def test_every_key_of_a_configuration_is_in_the_table() -> None:
    known = reference_names("configuration.md")
    assert {key for key in KEYS if key not in known} - {"config", "print_config"} == set()


def test_every_public_room_has_a_page() -> None:
    pages = "".join(path.read_text() for path in REFERENCE.glob("*.md"))
    rooms = [path.parent.name for path in Path(Predictor.__module__.replace(".", "/")).parents[1].glob("*/__init__.py")]
    hidden = {"cli", "curvature", "demo", "methods", "core", "calibration"}
    assert {room for room in rooms if f"lightning_vi.{room}" not in pages} <= hidden
