"""Checkpoint files: formats, damage, and objects that run code."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import STORED, X, Y, load, make_method, predictions, write_checkpoint
from helpers import copy_of_state, loader, quiet_trainer, same_state
from torch import nn

from lightning_vi import Deterministic, Ensemble, VarianceScaling
from lightning_vi.core.checkpoints import FORMAT_VERSION, KEY, digest, seal, verify
from lightning_vi.likelihoods import HeteroscedasticGaussian


def edited(path: Path, **entries: Any) -> Path:
    """Writes a checkpoint with other entries and the old digests."""
    checkpoint = torch.load(path, weights_only=True) | entries
    changed = path.with_name("changed.ckpt")
    torch.save({name: value for name, value in checkpoint.items() if value is not None}, changed)
    return changed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "method.ckpt")
    return tmp_path / "method.ckpt"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_stored_checkpoints_of_each_format_give_the_recorded_predictions(version: int) -> None:
    """Run ``python tests/checkpoint_files.py`` once for a new format."""
    file = STORED / f"format_{version}.pt"
    assert torch.load(file, weights_only=True)[KEY]["format_version"] == version
    recorded = json.loads(file.with_suffix(".json").read_text())
    found = predictions(load(file))
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert found[name] == pytest.approx(values, rel=1e-5), name
    resumed = make_method(optimizer=partial(torch.optim.Adam, lr=3e-3), lr_scheduler=None)  # the defaults of then
    quiet_trainer(max_epochs=3).fit(resumed, loader(X, Y, batch_size=3), ckpt_path=file)


def ways_to_load(path: Path) -> list[Any]:
    method = make_method()
    return [
        lambda: load(path),
        lambda: VarianceScaling(method, method_checkpoint=str(path)),
        lambda: Ensemble.from_checkpoints(
            type(method), [path], backbone=nn.Linear(2, 2), likelihood=HeteroscedasticGaussian()
        ),
        lambda: quiet_trainer().test(method, loader(X, Y), ckpt_path=path, verbose=False),
        lambda: quiet_trainer(max_epochs=3).fit(method, loader(X, Y), ckpt_path=path),
    ]


def test_damage_is_found_by_every_way_to_load(path: Path) -> None:
    state = torch.load(path, weights_only=True)["state_dict"]
    state["backbone.weight_mu"][0, 0] += 1e-6
    for call in ways_to_load(edited(path, state_dict=state)):
        with pytest.raises(ValueError, match="is damaged: 'state_dict' differ from what was saved"):
            call()


def test_a_newer_format_is_refused_by_every_way_to_load(path: Path) -> None:
    newer = torch.load(path, weights_only=True)[KEY] | {"format_version": FORMAT_VERSION + 1}
    for call in ways_to_load(edited(path, **{KEY: newer})):
        with pytest.raises(ValueError, match=r"has the format version 2, .* reads versions up to 1: update"):
            call()


def test_damaged_hyperparameters_optimizers_and_loops_are_found(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    wrong = checkpoint["hyper_parameters"] | {"num_mc_samples_test": 4}
    with pytest.raises(ValueError, match="'hyper_parameters'"):
        load(edited(path, hyper_parameters=wrong))
    checkpoint["optimizer_states"][0]["state"][0]["exp_avg"] *= 2
    checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"] = 0
    damaged = edited(path, loops=checkpoint["loops"], optimizer_states=checkpoint["optimizer_states"])
    with pytest.raises(ValueError, match="'loops', 'optimizer_states'"):
        quiet_trainer(max_epochs=3).fit(make_method(), loader(X, Y), ckpt_path=damaged)


def test_a_refused_checkpoint_leaves_the_method_as_it_was(path: Path) -> None:
    state = torch.load(path, weights_only=True)["state_dict"]
    state["backbone.weight_mu"][0, 0] += 1
    method = make_method()
    before = copy_of_state(method)
    with pytest.raises(ValueError, match="is damaged"):
        quiet_trainer().test(method, loader(X, Y), ckpt_path=edited(path, state_dict=state), verbose=False)
    assert same_state(copy_of_state(method), before)


def test_a_checkpoint_without_a_digest_loads_with_a_note(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = edited(path, **{KEY: None})
    with caplog.at_level("INFO"):
        assert predictions(load(old)) == predictions(load(path))
    assert "has no digest" in caplog.text


def test_entries_that_another_version_of_lightning_rewrites_are_not_compared() -> None:
    checkpoint: dict[str, Any] = {"state_dict": {"a": torch.ones(2)}, "loops": {"a": 1}}
    seal(checkpoint)
    migrated = checkpoint | {"loops": {"b": 1}, "legacy_pytorch-lightning_version": "2.6.6"}
    verify(migrated)
    with pytest.raises(ValueError, match="'loops'"):
        verify(checkpoint | {"loops": {"b": 1}})
    with pytest.raises(ValueError, match="'state_dict'"):
        verify(migrated | {"state_dict": {"a": torch.zeros(2)}})
    with pytest.raises(ValueError, match="'state_dict'"):
        verify({KEY: checkpoint[KEY], "loops": {"a": 1}})


DIFFERENT = [
    None, True, 1, 1.0, "1", b"1", [], [1], {}, {"1": 1}, {1: 1}, torch.ones(1), torch.ones(1, 1), torch.ones(2),
    torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bool), torch.ones(1, dtype=torch.complex64),
    torch.tensor(1), torch.tensor(1).expand(2), torch.device("cpu"), [[1], [2]], [[1, 2]], ["12"], ["1", "2"], {1, 2},
]  # fmt: skip


def test_digests_differ() -> None:
    digests = [digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)
    assert digest(torch.arange(6.0).view(2, 3).T) == digest(torch.arange(6.0).view(2, 3).T.contiguous())


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("foreign code has run",)


def hostile(path: Path) -> None:
    torch.save({"state_dict": {}, "other": Hostile()}, path)


FILES: dict[str, tuple[Any, str]] = {
    "hostile": (hostile, "is not a checkpoint .* it holds (builtins.)?print, which may run code"),
    "empty": (lambda path: path.write_bytes(b""), "is not a checkpoint that torch.load"),
    "text": (lambda path: path.write_text("no checkpoint"), "is not a checkpoint that torch.load"),
    "tensor": (lambda path: torch.save(torch.ones(2), path), "it has no 'state_dict'"),
}


@pytest.mark.parametrize(("write", "message"), FILES.values(), ids=FILES)
def test_other_files_are_refused(write: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.ckpt"
    write(path)
    for call in (lambda: load(path), lambda: VarianceScaling(make_method(), method_checkpoint=str(path))):
        with pytest.raises(ValueError, match=message):
            call()
    assert "foreign code" not in capsys.readouterr().out


def test_code_that_a_hyperparameter_names_does_not_run(path: Path) -> None:
    """CVE-2026-58659, which earlier versions of Lightning have."""
    named = edited(path, hyper_parameters={"_instantiator": "os.getcwd"}, **{KEY: None})
    with pytest.raises(ValueError, match="not in the allowlist of trusted instantiators"):
        Deterministic.load_from_checkpoint(named)
