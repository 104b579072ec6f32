"""The command `compare` of the console script."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from command_line import run_command_line, write_config

Output = Callable[..., str]
TIGHT = {"init_std": 0.01, "num_mc_samples_train": 2}


def compare(monkeypatch: pytest.MonkeyPatch, config: str, folder: Path, *args: str) -> pd.DataFrame:
    run_command_line(monkeypatch, "compare", "--config", config, "--output_dir", str(folder), *args)
    return pd.read_csv(folder / "comparison.csv")


def test_compare_runs_two_methods_with_two_seeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, num_mc_samples_train=3, kl_weight=0.5)
    table = compare(monkeypatch, config, tmp_path / "out", "--methods", "MeanFieldVI", "Deterministic", "--seeds", "2")
    assert table["method"].tolist() == ["MeanFieldVI"] * 2 + ["Deterministic"] * 2
    assert table["nll"].notna().all()
    said = capsys.readouterr().out
    assert "| Deterministic |" in said
    assert "Wall time of 4 runs: 0:00:" in said
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"comparison.csv", "summary.csv", "comparison.md", "nll.png", "runs"} <= written
    run = json.loads((tmp_path / "out" / "runs" / "MeanFieldVI 1.json").read_text())
    assert run["config"]["options"]["kl_weight"] == 0.5
    assert run["config"]["options"]["num_mc_samples_train"] == 3
    again = compare(monkeypatch, config, tmp_path / "out", "--methods", "MeanFieldVI", "Deterministic", "--seeds", "2")
    pd.testing.assert_frame_equal(again, table)


def test_a_comparison_has_a_file_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toy = {"class_path": "ToyHeteroscedasticDataModule", "init_args": {"n_points": 60}}
    content = {
        "data": toy,
        "split_argument": "shuffle_seed",
        "backbone": {"class_path": "MLP", "init_args": {"n_inputs": 1, "n_hidden": [8], "n_outputs": 2}},
        "likelihood": "HeteroscedasticGaussian",
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "methods": {
            "plain": {"class_path": "Deterministic"},
            "tight": {"class_path": "MeanFieldVI", "init_args": TIGHT},
        },
        "common_options": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.01}}},
        "test_sets": {"more": toy},
        "seeds": 1,
        "reference": "plain",
    }
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(content))
    for _ in range(2):
        table = compare(monkeypatch, str(path), tmp_path / "out")
    assert table[["method", "test_set"]].to_numpy().tolist() == [
        [method, test_set] for method in ("plain", "tight") for test_set in ("test", "more")
    ]
    same = table.query("method == 'plain'")
    assert same["nll"].iloc[0] == same["nll"].iloc[1]  # the second test set is a copy of the first one


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--methods", "Deterministc"], "there is no method 'Deterministc': did you mean Deterministic?"),
        (["--all", "--methods", "IVON"], "--all and --methods exclude each other"),
        (["--seeds", "0"], "seeds must be an integer of at least 1, got 0"),
        (["--reference", "IVON"], "reference='IVON' is none of the methods ['MeanFieldVI']"),
    ],
)
def test_a_wrong_comparison_is_explained(args: list[str], said: str, printed: Output, tmp_path: Path) -> None:
    message = printed("compare", "--config", write_config(tmp_path), *args, status=2)
    assert message == f"lightning-vi compare: error: {said}\n"


def test_a_comparison_of_failures_is_an_error(printed: Output, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    args = ("--methods", "MeanFieldVI + TemperatureScaling", "--seeds", "1", "--output_dir", str(tmp_path / "out"))
    assert "all runs failed, the first one with: InputTypeError" in printed(
        "compare", "--config", config, *args, status=2
    )


def test_a_comparison_file_with_an_unknown_key_is_explained(printed: Output, tmp_path: Path) -> None:
    (tmp_path / "comparison.yaml").write_text("backbon: MLP\n")
    message = printed("compare", "--config", str(tmp_path / "comparison.yaml"), status=2)
    assert "has the unknown key 'backbon': did you mean backbone?" in message


def image_comparison(tmp_path: Path, **changes: object) -> str:
    digits = {"class_path": "DigitsDataModule", "init_args": {"test_fraction": 0.05}}
    content = {
        "data": digits,
        "backbone": {"class_path": "MLP", "init_args": {"n_inputs": 64, "n_hidden": [8], "n_outputs": 10}},
        "likelihood": {"class_path": "Categorical", "init_args": {"num_classes": 10}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 4},
        "methods": ["Deterministic"],
        "seeds": 1,
        "ood_sets": {
            "photographs": {
                "class_path": "PhotoPatchesDataModule",
                "init_args": {"image_size": 8, "num_test": 10, "as_images": False},
            }
        },
    }
    path = tmp_path / "images.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return str(path)


def test_one_flag_scores_shifted_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lightning_vi.compare.result.shift_figures", lambda _: {})
    plain = compare(monkeypatch, image_comparison(tmp_path), tmp_path / "out", "--keep_checkpoints")
    assert plain["test_set"].tolist() == ["test", "photographs"]
    assert (tmp_path / "out" / "checkpoints" / "Deterministic 0.ckpt").exists()
    some = {"shifts": {"shifts": ["rotation"], "severities": [2], "scores": ["energy"]}}
    chosen = compare(monkeypatch, image_comparison(tmp_path, **some), tmp_path / "some", "--shifts")
    assert chosen["test_set"].tolist() == ["test", "photographs", "rotation_2"]
    assert chosen["ood_auroc_energy"].notna().sum() == 1
    every = compare(monkeypatch, image_comparison(tmp_path), tmp_path / "out", "--shifts")
    assert len(every) == 2 + 35
    assert len(pd.read_csv(tmp_path / "out" / "shifts.csv")) == 7 * 6
    assert len(pd.read_csv(tmp_path / "out" / "detection.csv")) == 6


@pytest.mark.parametrize(
    ("shifts", "said"),
    [
        ({"severitys": [1]}, "shifts has the unknown option 'severitys': did you mean severities?"),
        ({"shifts": ["rotatoin"]}, "there is no shift 'rotatoin': did you mean rotation?"),
        ("rotation", "shifts must be true, false or options of a ShiftProtocol"),
    ],
)
def test_wrong_shifts_of_a_file_are_explained(shifts: object, said: str, printed: Output, tmp_path: Path) -> None:
    config = image_comparison(tmp_path, shifts=shifts)
    assert said in printed("compare", "--config", config, "--output_dir", str(tmp_path / "out"), status=2)


def test_data_that_are_no_images_are_explained(printed: Output, tmp_path: Path) -> None:
    message = printed(
        "compare", "--config", write_config(tmp_path), "--shifts", "--output_dir", str(tmp_path / "out"), status=2
    )
    assert "shifts need class labels: likelihood must be one for classes" in message
