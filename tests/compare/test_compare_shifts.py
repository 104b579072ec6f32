"""Shifted images and out-of-distribution scores in comparisons: values by hand, checkpoints, failures and refusals."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import quiet_trainer, reference_names
from matplotlib.figure import Figure
from torch import nn

from lightning_vi import Deterministic
from lightning_vi.backbones import MLP
from lightning_vi.compare import Comparison, ShiftProtocol, compare
from lightning_vi.datamodules import (
    ArrayDataModule,
    DigitsDataModule,
    PhotoPatchesDataModule,
    ToyHeteroscedasticDataModule,
    shifted_test_sets,
)
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.evaluation import OOD_SCORES, ood_detection, selective_prediction
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian
from lightning_vi.methods import UQMethod

DIGITS = DigitsDataModule(as_images=True)
PROTOCOL = ShiftProtocol(["contrast", "rotation"], [5, 1], num_neighbors=5)
TIMES = ["train_seconds", "seconds_per_1000", "passes"]


def images() -> ArrayDataModule:
    return ArrayDataModule(
        train=(DIGITS.X_train[:120], DIGITS.Y_train[:120]),
        test=(DIGITS.X_test[:50], DIGITS.Y_test[:50]),
        num_classes=10,
        batch_size=40,
    )


def network(_: Any) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def photos(_: Any) -> Any:
    return PhotoPatchesDataModule(8, num_test=30, batch_size=20).test_dataloader()


def run(methods: Any = ("Deterministic", "MeanFieldVI"), **options: Any) -> Comparison:
    given: dict[str, Any] = {
        "data": images(),
        "backbone": network,
        "likelihood": Categorical(10),
        "max_epochs": 2,
        "trainer": {"accelerator": "cpu", "devices": 1},
        "seeds": 1,
        "common_options": {"num_mc_samples_test": 3},
        "ood_sets": {"photographs": photos},
        "shifts": PROTOCOL,
        "progress": False,
    }
    return compare(methods, **(given | options))


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves empty files, which takes less time; the figures have tests of their own."""
    monkeypatch.setattr(Figure, "savefig", lambda _, path, dpi: path.touch())


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
def comparison(fitted: dict[str, Any]) -> Comparison:
    return run(visit=lambda name, seed, method, data: fitted.update({name: method}))


def scores_of(comparison: Comparison) -> pd.DataFrame:
    return comparison.frame.drop(columns=TIMES)


def test_scores_on_shifted_images_are_those_by_hand(comparison: Comparison, fitted: dict[str, Any]) -> None:
    table = comparison.shifts()
    assert len(table) == 2 * 2 * 3
    for name, method in fitted.items():
        sets = {"test": images().test_dataloader(), **shifted_test_sets(images(), PROTOCOL.shifts, PROTOCOL.severities)}
        for row in table[table["method"] == name].itertuples():
            loader = sets["test" if row.severity == 0 else f"{row.shift}_{row.severity}"]
            (expected,) = quiet_trainer().test(method, loader, verbose=False)
            for metric in ("accuracy", "nll", "ece"):
                assert getattr(row, metric) == pytest.approx(expected[f"test_{metric}"], rel=1e-5)
            assert row.aurc == pytest.approx(selective_prediction(method, loader).aurc, rel=1e-4)


def test_detection_is_that_by_hand(comparison: Comparison, fitted: dict[str, Any]) -> None:
    table = comparison.detection().set_index(["method", "score"])
    assert len(table) == 2 * len(OOD_SCORES)
    data = images()
    for name, method in fitted.items():
        for score in OOD_SCORES:
            if score == "nearest_neighbors":
                continue  # another number of neighbors
            expected = ood_detection(
                method, data.test_dataloader(), photos(None), score=score, training_data=data.train_dataloader()
            )
            for metric in ("auroc", "aupr", "fpr95"):
                assert table.loc[(name, score), metric] == pytest.approx(getattr(expected, metric), abs=2e-3)
    assert table.loc[("Deterministic", "mutual_information"), "auroc"] == 0.5


def test_every_column_is_in_the_reference(comparison: Comparison) -> None:
    known = reference_names("logged.md")
    scores = {name.removeprefix("val_") for name in known}
    assert set(comparison.frame.columns) - known - scores == set()


def test_files_and_tables(comparison: Comparison, tmp_path: Path) -> None:
    comparison.save(tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "shifts.csv").drop(columns="data"),
                                  comparison.shifts().drop(columns="data"))  # fmt: skip
    assert len(pd.read_csv(tmp_path / "detection.csv")) == len(comparison.detection())
    written = {path.stem for path in tmp_path.glob("*.png")}
    assert {"shift_accuracy", "shift_nll", "shift_ece", "shift_aurc", "detection_auroc", "accuracy"} <= written
    text = (tmp_path / "comparison.md").read_text()
    assert "**Accuracy by severity, mean over contrast, rotation**" in text
    assert "**AUROC of photographs**" in text
    assert "rotation_1" not in text
    assert comparison.higher_is_better["ood_fpr95_energy"] is comparison.higher_is_better["aurc"] is False


@pytest.mark.thorough
def test_shifts_are_added_to_a_finished_comparison_from_its_checkpoints(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ["Deterministic", "MeanFieldVI"]
    plain = run(methods, shifts=False, keep_checkpoints=True, output_dir=tmp_path)
    assert plain.shifts().empty
    assert len(list((tmp_path / "checkpoints").glob("*.ckpt"))) == 2
    with monkeypatch.context() as patched:
        patched.setattr(UQMethod, "training_step", None)  # no fit
        added = run(methods, output_dir=tmp_path)
    pd.testing.assert_frame_equal(scores_of(added), scores_of(comparison), check_like=True, atol=1e-6)
    monkeypatch.setattr(UQMethod, "predict_step", None)  # nothing is left to do
    pd.testing.assert_frame_equal(run(methods, output_dir=tmp_path).frame, added.frame)


def test_without_a_checkpoint_the_method_is_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"methods": ["Deterministic"], "output_dir": tmp_path, "ood_sets": {}}
    run(**one, shifts=False, keep_checkpoints=True)
    run(**one, shifts=False, overwrite=True)
    assert not list((tmp_path / "checkpoints").iterdir())  # it would not be that of the run
    fits: list[int] = []
    step = UQMethod.training_step
    monkeypatch.setattr(UQMethod, "training_step", lambda *args: fits.append(1) or step(*args))
    assert len(run(**one).shifts()) == 6
    assert fits
    with pytest.raises(InputValueError, match=r"another configuration .*shifts\.seed: 0, now 1"):
        run(**one, shifts=ShiftProtocol(PROTOCOL.shifts, PROTOCOL.severities, num_neighbors=5, seed=1))


def test_a_calibration_is_loaded_with_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = images()
    data.X_calib, data.Y_calib = data.X_test, data.Y_test
    both = {"methods": ["Deterministic + TemperatureScaling"], "data": data}
    at_once = run(**both).shifts()
    run(**both, shifts=False, keep_checkpoints=True, output_dir=tmp_path)
    monkeypatch.setattr(UQMethod, "training_step", None)
    pd.testing.assert_frame_equal(run(**both, output_dir=tmp_path).shifts(), at_once, atol=1e-6)


def test_a_failure_on_shifted_images_leaves_the_scores(tmp_path: Path) -> None:
    protocol = ShiftProtocol(["contrast"], [1], num_neighbors=121)
    failed = run(["Deterministic"], shifts=protocol, output_dir=tmp_path)
    (failure,) = failed.failures
    assert "num_neighbors=121 needs as many training data, but there are 120" in failure.error
    assert failed.frame["nll"].notna().any()
    assert failed.shifts().empty
    assert "Failed:" in failed.to_markdown()


def table_data() -> ArrayDataModule:
    x, y = torch.randn(20, 4), torch.arange(20) % 10
    return ArrayDataModule(train=(x, y), test=(x, y), num_classes=10)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"data": table_data()}, InputValueError, r"images \[C, H, W\], but inputs have the shape \[4\]"),
        ({"data": ToyHeteroscedasticDataModule(n_points=60), "likelihood": HeteroscedasticGaussian()}, InputTypeError,
         "shifts need class labels: likelihood must be one for classes, got HeteroscedasticGaussian"),
        ({"shifts": "rotation"}, InputTypeError, "shifts must be True, False or a ShiftProtocol, got a str"),
        ({"keep_checkpoints": True}, InputValueError, "keep_checkpoints=True needs an output_dir"),
    ],
)  # fmt: skip
def test_what_cannot_be_shifted_is_refused_before_a_fit(
    arguments: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Deterministic, "training_step", None)
    with pytest.raises(error, match=said):
        run(["Deterministic"], **arguments, **({} if "data" not in arguments else {"backbone": MLP(4, [4], 10)}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shifts": ["rotatoin"]}, "no shift 'rotatoin': did you mean rotation?"),
        ({"severities": [0, 1]}, "severity must be an integer from 1 to 5, got 0"),
        ({"severities": [6]}, "severity must be an integer from 1 to 5, got 6"),
        ({"severities": []}, "severities must have at least one value"),
        ({"scores": ["enery"]}, "there is no score 'enery': did you mean energy?"),
        ({"num_neighbors": 0}, "num_neighbors must be an integer of at least 1, got 0"),
    ],
)
def test_a_wrong_protocol_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputValueError) as refused:
        ShiftProtocol(**options)
    assert said in str(refused.value)
