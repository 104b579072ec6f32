"""Fits that are resumed from every kind of checkpoint equal an unbroken fit bit for bit."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import copy_of_state, quiet_trainer, same_state
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from method_cases import METHODS, Case

from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.methods import UQMethod

EPOCHS = 4  # of 4 steps each
LIKELIHOODS = ("Gaussian, learned", "heteroscedastic", "quantiles")
ALL = [Case(name, problem) for name, method in METHODS.items() for problem in LIKELIHOODS if problem in method.problems]
CHOSEN = [case for case in ALL if case.method_name in ("MeanFieldVI", "IVON", "DeepEnsemble", "SWAG", "Laplace")]
CHOSEN = [
    case
    for case in CHOSEN
    if (case.method_name in ("SWAG", "DeepEnsemble")) == (case.problem_name == "heteroscedastic")
]
OTHERS = [case for case in ALL if case not in CHOSEN]


def parts(case: Case) -> tuple[UQMethod, ArrayDataModule]:
    torch.manual_seed(11)
    x, y = case.problem.data()
    rows = (x, y)
    optimizer = {} if case.method_name in ("IVON", "SGHMC") else {"optimizer": partial(torch.optim.Adam, lr=0.02)}
    method = case.method.make(case.backbone(), case.problem.likelihood(), **optimizer)
    classes = {"num_classes": int(y.max()) + 1} if not y.is_floating_point() else {}
    return method, ArrayDataModule(train=rows, val=rows, test=rows, batch_size=3, **classes)


def savers(folder: Path) -> list[ModelCheckpoint]:
    """Callbacks that write a checkpoint after each step, and at each end of an epoch before and after validation."""
    keep = {"dirpath": folder, "save_top_k": -1}
    return [
        ModelCheckpoint(filename="step-{step}", every_n_train_steps=1, **keep),  # type: ignore[arg-type]
        ModelCheckpoint(filename="time-{step}", train_time_interval=timedelta(0), **keep),  # type: ignore[arg-type]
        ModelCheckpoint(filename="validation-{step}", save_on_train_epoch_end=False, **keep),  # type: ignore[arg-type]
        ModelCheckpoint(filename="epoch-{step}", save_on_train_epoch_end=True, every_n_epochs=2, **keep),  # type: ignore[arg-type]
    ]


def count_right(case: Case, folder: Path, names: list[str], callbacks: Sequence[Callback]) -> int:
    """Resumes a fit from several checkpoints, and counts the ones after which the method is that of an unbroken fit."""
    unbroken, data = parts(case)
    quiet_trainer(max_epochs=EPOCHS, callbacks=list(callbacks), enable_checkpointing=True).fit(unbroken, data)
    expected, num_right = copy_of_state(unbroken), 0
    for name in names:
        resumed, data = parts(case)
        torch.manual_seed(99)
        quiet_trainer(max_epochs=EPOCHS).fit(resumed, data, ckpt_path=folder / f"{name}.ckpt")
        num_right += same_state(copy_of_state(resumed), expected)
    return num_right


@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_a_resumed_fit_equals_an_unbroken_one(case: Case, tmp_path: Path, tally: Callable[..., None]) -> None:
    """From within an epoch, and from the last step of an epoch before the hooks of the method have run."""
    names = ["step-step=6", "step-step=12"]
    saver = ModelCheckpoint(tmp_path, "step-{step}", save_top_k=-1, every_n_train_steps=6)
    num_right = count_right(case, tmp_path, names, [saver])
    tally("resumed fits", case.method_name, tried=len(names), right=num_right)
    assert num_right == len(names)


@pytest.mark.thorough
@pytest.mark.parametrize("case", [*CHOSEN, *OTHERS], ids=str)
def test_a_fit_resumed_anywhere_equals_an_unbroken_one(case: Case, tmp_path: Path, tally: Callable[..., None]) -> None:
    names = [f"{kind}-step={step}" for kind in ("step", "time") for step in range(1, 17)]
    names += [f"validation-step={step}" for step in (4, 8, 12)] + ["epoch-step=8"]
    num_right = count_right(case, tmp_path, names, savers(tmp_path))
    tally("resumed fits", case.method_name, tried=len(names), right=num_right)
    assert num_right == len(names)
