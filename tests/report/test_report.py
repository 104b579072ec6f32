"""Reports: contents, numbers, escaping and refusals."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import loader, normal, quiet_trainer
from lightning import LightningDataModule
from report.pages import Page, classifier, regressor, table, tabular, trained, written

from lightning_vi import (
    AdaptivePredictionSets,
    DeepEnsemble,
    Deterministic,
    Ensemble,
    MeanFieldVI,
    QuantileRegression,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule, NewTableDataModule, ToyHeteroscedasticDataModule
from lightning_vi.errors import InputTypeError, InputValueError, NotFittedError
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian, Poisson, Quantiles
from lightning_vi.report import write_report

EVERYTHING = ["data", "scores", "calibration", "selective", "extremes", "method", "posterior"]


def arrays(targets: torch.Tensor, width: int = 2, **options: Any) -> ArrayDataModule:
    x = normal(len(targets), width)
    parts = {name: (x[a:b], targets[a:b]) for name, a, b in (("train", 0, 40), ("calib", 40, 80), ("test", 80, 120))}
    return ArrayDataModule(**parts, **options)


def labels(count: int = 120, classes: int = 3) -> torch.Tensor:
    return torch.arange(count) % classes


def test_the_numbers_are_those_of_a_test(tmp_path: Path) -> None:
    data = tabular()
    method = regressor(data)
    (scores,) = quiet_trainer().test(method, data, verbose=False)
    page = written(method, data, tmp_path)
    assert page.tiles.keys() == {name.removeprefix("test_") for name in scores}
    for name, value in scores.items():
        shown, low, high = page.tiles[name.removeprefix("test_")]
        assert shown == pytest.approx(value, rel=1e-6)
        assert low <= shown <= high
    assert page.sections == EVERYTHING


def test_nothing_comes_from_elsewhere_and_values_are_escaped(tmp_path: Path) -> None:
    data = tabular()
    page = written(regressor(data), data, tmp_path, title="<script>a title</script>")
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "b i"} & set(page.tags)
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "<script>alert(1)</script>" in page.words
    assert "<b>blue</b>" in page.words
    assert "<script>a title</script>" in page.words


def test_the_extreme_rows_are_right(tmp_path: Path) -> None:
    data = tabular()
    method = regressor(data)
    page = written(method, data, tmp_path)
    std = method.predict_step(data.X_test)["pred_uct"][:, 0]
    frame, numbers = table(), data.row_indices["test"]
    least, most = page.tables_with("true value")
    for shown, order in ((least, std.argsort(descending=True)), (most, std.argsort())):
        rows = [frame.iloc[int(numbers[place])] for place in order[:5]]
        assert [row[0] for row in shown[1:]] == [row["id"] for row in rows]
        assert shown[0][1:3] == ["<script>alert(1)</script>", "color"]
        assert [float(row[1]) for row in shown[1:]] == pytest.approx([row.iloc[0] for row in rows], rel=1e-3)
        assert [float(row[3]) for row in shown[1:]] == pytest.approx([row["y"] for row in rows], rel=1e-3)


def test_missing_values_are_counted(tmp_path: Path) -> None:
    data = tabular()
    (columns,) = written(regressor(data), data, tmp_path).tables_with("missing")
    assert [row[3] for row in columns[1:]] == ["0", "40", "0"]


def test_the_calibration_uses_no_test_row(tmp_path: Path) -> None:
    data = arrays(2 * normal(120, 1))
    method = regressor(data)
    expected = VarianceScaling(method)
    expected.calibrate(data.calibration_dataloader())
    (scores,) = quiet_trainer().test(expected, data, verbose=False)
    page = written(method, data, tmp_path)
    (compared,) = page.tables_with("after")
    after = {row[0]: float(row[3]) for row in compared[1:]}
    assert after["Negative log-likelihood"] == pytest.approx(scores["test_nll"], rel=1e-3)
    assert "fitted on the calibration rows" in page.words
    assert "SplitConformal" in page.words


def test_validation_rows_serve_where_there_are_no_others(tmp_path: Path) -> None:
    data = tabular(calib_fraction=0.0)
    assert "the validation rows, since there are no calibration rows" in written(regressor(data), data, tmp_path).words
    none = tabular(calib_fraction=0.0, val_fraction=0.0)
    page = written(regressor(none), none, tmp_path)
    assert "VarianceScaling" not in page.words
    assert "calibration" in page.sections


def test_a_new_table_is_not_calibrated_on(tmp_path: Path) -> None:
    data = tabular()
    method = regressor(data)
    method.data_state = data.data_state
    page = written(method, NewTableDataModule(table().iloc[:30], data.state_dict()), tmp_path)
    assert "VarianceScaling" not in page.words
    assert page.sections == EVERYTHING


@pytest.mark.parametrize("kind", [TemperatureScaling, AdaptivePredictionSets])
def test_a_calibrated_method_is_shown_before_and_after(kind: Any, tmp_path: Path) -> None:
    data = arrays(labels(), num_classes=3)
    method = kind(classifier(data))
    method.calibrate(data.calibration_dataloader())
    page = written(method, data, tmp_path)
    assert page.sections == EVERYTHING
    assert f"{kind.__name__} of MeanFieldVI" in page.words
    assert "the calibration rows of its fit" in page.words
    (scores,) = quiet_trainer().test(method, data, verbose=False)
    assert page.tiles["nll"][0] == pytest.approx(scores["test_nll"], rel=1e-6)


CASES: dict[str, Any] = {
    "ensemble": lambda: (Ensemble([regressor(toy()), regressor(toy())]), toy()),
    "deep ensemble": lambda: (trained(DeepEnsemble(MLP(1, [8], 2), HeteroscedasticGaussian(), num_members=2)), toy()),
    "quantiles": lambda: (trained(QuantileRegression(MLP(1, [8], 3), Quantiles([0.1, 0.5, 0.9]))), toy()),
    "several targets": lambda: (regressor(arrays(normal(120, 2)), 2), arrays(normal(120, 2))),
    "counts": lambda: (trained(Deterministic(MLP(2, [8], 1), Poisson())), arrays(labels().float().unsqueeze(1))),
    "fields": lambda: (
        trained(Deterministic(torch.nn.Linear(3, 2), Gaussian(noise_std=1.0, num_targets=2))),
        fields(),
    ),
    "images": lambda: (classifier(images()), images()),
}


def toy() -> ToyHeteroscedasticDataModule:
    return ToyHeteroscedasticDataModule(n_points=120)


def fields() -> ArrayDataModule:
    x, y = normal(30, 5, 6, 3), normal(30, 5, 6, 2)
    return ArrayDataModule(train=(x[:10], y[:10]), calib=(x[10:20], y[10:20]), test=(x[20:], y[20:]))


def images() -> ArrayDataModule:
    x = normal(120, 16)
    data = arrays(labels(), 16, num_classes=3)
    data.X_train = x[:40]
    data.image_shape = (1, 4, 4)
    return data


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_data_and_method_has_a_page(case: str, tmp_path: Path, tally: Any) -> None:
    method, data = CASES[case]()
    page = written(method, data, tmp_path)
    assert set(page.sections) >= {"data", "scores", "calibration", "extremes", "method"}
    assert "nan" not in page.words.lower().split()
    assert all(row for part in page.tables for row in part)


def test_images_are_shown(tmp_path: Path) -> None:
    data = images()
    page = written(classifier(data), data, tmp_path)
    assert page.source.count('class="thumb"') == 20 + 2 * 5
    assert page.source.count("data:image/png") >= 30


def test_several_test_sets_are_scored(tmp_path: Path) -> None:
    y = 2 * normal(120, 1)
    data = arrays(y, ood=(5 + normal(30, 2), y[:30]))
    page = written(regressor(data), data, tmp_path)
    assert "Test set: ood" in page.words
    assert len(page.tables_with("direction")) == 2


class MissingTargets(LightningDataModule):
    """Test data of which every seventh value of the first target is missing."""

    def test_dataloader(self) -> Any:
        y = 2 * normal(60, 2)
        y[::7, 0] = torch.nan
        return loader(normal(60, 2), y)


def test_missing_targets_are_left_out(tmp_path: Path) -> None:
    method = trained(Deterministic(MLP(2, [8], 2), Gaussian(noise_std=1.0, num_targets=2, missing="ignore")))
    page = written(method, MissingTargets(), tmp_path)
    assert page.tiles["rmse"][1] < page.tiles["rmse"][0] < page.tiles["rmse"][2]
    assert page.sections == [name for name in EVERYTHING if name != "posterior"]


def test_training_curves_need_a_log(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    data, logger = toy(), CSVLogger(tmp_path)
    method = regressor(data)
    quiet_trainer(logger=logger, max_epochs=3, log_every_n_steps=1).fit(method, data)
    assert "training" in written(method, data, tmp_path, log_folder=logger.log_dir).sections
    assert "training" not in written(method, data, tmp_path, log_folder=tmp_path / "elsewhere").sections


@pytest.mark.parametrize("texts", [(), ("The KL <weight> is high.",)], ids=["none", "one"])
def test_findings_of_the_fit_are_shown(texts: tuple[str, ...], tmp_path: Path) -> None:
    data = toy()
    method = MeanFieldVI(MLP(1, [4], 2), HeteroscedasticGaussian())
    method.is_trained = True
    findings = [{"kind": "noise", "text": text, "advice": "Train for longer."} for text in texts]
    (tmp_path / "diagnostics.json").write_text(json.dumps(findings))
    shown = written(method, data, tmp_path, log_folder=tmp_path).source
    assert ("The KL &lt;weight&gt; is high. Train for longer." in shown) == bool(texts)
    assert ("found nothing that speaks against it" in shown) == (not texts)
    assert "speaks against" not in written(method, data, tmp_path, log_folder=tmp_path / "elsewhere").source


def test_the_method_and_the_random_state_stay_as_they_were(tmp_path: Path) -> None:
    data = toy()
    method = regressor(data).train()
    before, state = method.predict_step(data.X_test)["pred"], torch.random.get_rng_state()
    written(method, data, tmp_path)
    assert method.training
    assert torch.equal(method.predict_step(data.X_test)["pred"], before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_wrong_arguments_are_refused_first(tmp_path: Path) -> None:
    data = toy()
    method = regressor(data)
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_report(method, data, tmp_path / "missing" / "report.html")
    with pytest.raises(InputValueError, match="is a folder"):
        write_report(method, data, tmp_path)
    with pytest.raises(InputTypeError, match="method must be"):
        write_report(torch.nn.Linear(1, 1), data, tmp_path / "a.html")  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="datamodule must be"):
        write_report(method, [data], tmp_path / "a.html")  # type: ignore[arg-type]
    fresh = Deterministic(MLP(1, [4], 2), HeteroscedasticGaussian())
    with pytest.raises(NotFittedError, match="fit it first"):
        write_report(fresh, data, tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = toy()
    path = write_report(regressor(data), data, tmp_path / "report.html")
    assert "scoring test" in capsys.readouterr().err
    assert Page(path).sections
    assert sys.stderr
