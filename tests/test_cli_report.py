"""The command `report`."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import run_command_line, write_config

from lightning_vi import Deterministic, MeanFieldVI
from lightning_vi.report import markup

Output = Callable[..., str]


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "_figure_uri", lambda figure, transparent: "data:image/svg+xml;base64,")


def test_report_writes_a_page_on_the_last_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    run_command_line(monkeypatch, "fit", "--config", config)
    monkeypatch.setattr(
        "lightning_vi.core.Predictor.test_step", lambda *_: pytest.fail("a second pass over the test data")
    )
    run_command_line(monkeypatch, "report", "--config", config)
    page = tmp_path / "run" / "version_0" / "report.html"
    assert f"{page}\n" in capsys.readouterr().out
    source = page.read_text()
    assert 'id="training"' in source
    assert "epoch=1" in source
    elsewhere = tmp_path / "elsewhere.html"
    checkpoint = str(next((tmp_path / "run").rglob("*.ckpt")))
    run_command_line(
        monkeypatch, "report", "--config", config, "--ckpt_path", checkpoint, "--output", str(elsewhere), "--title", "A"
    )
    assert "<title>A</title>" in elsewhere.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--ckpt_path must name the checkpoint of a fit"),
        (("--ckpt_path", "missing.ckpt"), "missing.ckpt"),
        (("--output", "missing/report.html"), "create it first"),
        (("--output", "."), "is a folder"),
        (("--outptu", "a.html"), "did you mean --output?"),
    ],
)
def test_wrong_input_is_answered_in_one_line(
    options: tuple[str, ...], message: str, printed: Output, tmp_path: Path
) -> None:
    said = printed("report", "--config", write_config(tmp_path), *options, status=2)
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.html"))


def test_a_configuration_of_another_method_is_refused(
    monkeypatch: pytest.MonkeyPatch, printed: Output, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    run_command_line(monkeypatch, "fit", "--config", write_config(tmp_path / "one", MeanFieldVI))
    checkpoint = str(next(tmp_path.rglob("*.ckpt")))
    other = write_config(tmp_path, Deterministic)
    said = printed("report", "--config", other, "--ckpt_path", checkpoint, status=2)
    assert said.splitlines()[-1].startswith("lightning-vi report: error: ")
