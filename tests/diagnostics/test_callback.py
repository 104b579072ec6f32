"""The warning at the end of a fit, and its absence."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import History, copy_of_state, loader, quiet_trainer, same_state
from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_vi import IVON, SWAG, VBLL, Deterministic, LastLayerVI, MatrixVariateVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import VariationalDiagnostics
from lightning_vi.datamodules import DiabetesDataModule, DigitsDataModule, ToyHeteroscedasticDataModule
from lightning_vi.diagnostics.callback import read_findings
from lightning_vi.diagnostics.reference import compare_with_constant
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior

WARNING = "Diagnostics of the fit of"
pytestmark = pytest.mark.filterwarnings("error:Diagnostics of the fit")


def adam(lr: float) -> Any:
    return partial(torch.optim.Adam, lr=lr)


def lines(num_rows: int = 64) -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, 2, generator=generator)
    y = x @ torch.tensor([[1.0], [-0.5]]) + 0.1 * torch.randn(num_rows, 1, generator=generator)
    return loader(x, y, batch_size=16)


def linear(lr: float = 0.05, **options: Any) -> MeanFieldVI:
    options = {"num_mc_samples_train": 2, "init_std": 0.1} | options
    return MeanFieldVI(nn.Linear(2, 1), Gaussian(noise_std=0.1), optimizer=adam(lr), **options)


def diagnostics_of(trainer: Trainer) -> VariationalDiagnostics:
    (found,) = (callback for callback in trainer.callbacks if isinstance(callback, VariationalDiagnostics))
    return found


def fitted(method: Any, data: Any, **options: Any) -> VariationalDiagnostics:
    trainer = quiet_trainer(**({"max_epochs": 60} | options))
    trainer.fit(method, data)
    return diagnostics_of(trainer)


def test_a_fit_that_does_not_learn_warns_once_and_says_what_helps() -> None:
    with pytest.warns(UserWarning, match=WARNING) as caught:
        found = fitted(linear(lr=1e-5), lines())
    (text,) = (str(warning.message) for warning in caught if WARNING in str(warning.message))
    assert {finding.kind for finding in found.result.findings} >= {"constant", "std"}
    assert "leave out optimizer" in text
    assert "kl_warmup_epochs" not in text  # the default
    assert "VariationalDiagnostics(warn=False)" in text
    assert "best constant" in str(found.result)


@pytest.mark.parametrize("lr", [1e-5, None])
def test_findings_are_written_beside_the_log(lr: float | None, tmp_path: Path) -> None:
    logger, options = CSVLogger(tmp_path), {} if lr is None else {"lr": lr}
    diagnostics = VariationalDiagnostics(warn=False)
    found = fitted(linear(**options), lines(), logger=logger, callbacks=[diagnostics], log_every_n_steps=1)
    assert read_findings(logger.log_dir) == found.result.findings
    assert bool(found.result.findings) == (lr is not None)
    assert read_findings(tmp_path) is None


@pytest.mark.parametrize(
    "make",
    [
        linear,
        partial(linear, burnin_epochs=5),
        partial(LastLayerVI, nn.Linear(2, 1), Gaussian(noise_std=0.1), optimizer=adam(0.05), init_std=0.1),
    ],
    ids=["mean field", "burn-in", "last layer"],
)
def test_a_fit_that_learns_does_not_warn(make: Callable[[], Any]) -> None:
    found = fitted(make(), lines())
    assert found.result.findings == ()
    assert found.result.reference.gain > 1
    assert found.result.reference.num_rows == 64


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"from_pretrained", "correlations"}),
        ({"prior": EmpiricalBayesPrior(beta=10.0), "init_std": 0.001}, {"from_pretrained", "correlations"}),
        (
            {"prior": GaussianPrior(), "init_std": 0.05, "optimizer": adam(1e-3), "lr_scheduler": None},
            {"from_pretrained", "correlations", "prior", "init_std", "optimizer", "lr_scheduler"},
        ),
        ({"kl_warmup_epochs": 30}, {"from_pretrained", "correlations", "fewer_kl_warmup_epochs"}),
        ({"kl_warmup_epochs": 0}, {"from_pretrained", "correlations", "kl_warmup_epochs"}),
    ],
)
def test_remedies_are_those_that_would_change_something(options: dict[str, Any], expected: set[str]) -> None:
    method = MeanFieldVI(nn.Linear(2, 1), Gaussian(noise_std=0.1), **options)
    fitted(method, lines(), max_epochs=6)
    assert method.open_remedies() == expected


def test_remedies_of_other_methods() -> None:
    assert MeanFieldVI.from_pretrained(nn.Linear(2, 1), Gaussian()).open_remedies() == {"correlations"}
    assert IVON(nn.Linear(2, 1), Gaussian()).open_remedies() == {"correlations"}
    assert MatrixVariateVI(nn.Linear(2, 1), Gaussian()).open_remedies() == {"from_pretrained"}
    assert VBLL(nn.Linear(2, 1), Gaussian()).open_remedies() == set()


@pytest.mark.parametrize(
    ("cls", "problem"),
    [
        (MeanFieldVI, "diabetes"),
        (IVON, "digits"),
        pytest.param(MeanFieldVI, "digits", marks=pytest.mark.thorough),
        pytest.param(IVON, "diabetes", marks=pytest.mark.thorough),
    ],
)
def test_default_fits_of_reference_problems_do_not_warn(cls: Any, problem: str) -> None:
    """On diabetes the best of all methods prunes 94% of its hidden units."""
    torch.manual_seed(0)
    if problem == "diabetes":
        method, data = cls(MLP(10, [50], 2), HeteroscedasticGaussian()), DiabetesDataModule(batch_size=32)
    else:
        method, data = cls(MLP(64, [64], 10), Categorical(10)), DigitsDataModule(batch_size=64)
    found = fitted(method, data, max_epochs=40 if problem == "diabetes" else 15)
    assert found.result.findings == ()
    assert found.result.reference.gain > 0.2


def test_losses_of_a_constant_are_those_of_the_target_alone() -> None:
    found = fitted(linear(), lines())
    y = torch.cat([y for _, y in lines()])
    expected = -torch.distributions.Normal(y.mean(), 0.1).log_prob(y).mean()
    assert found.result.reference.constant_nll == pytest.approx(expected.item(), rel=1e-4)


def test_losses_of_a_constant_are_the_entropy_of_the_classes() -> None:
    x, y = torch.randn(60, 2), torch.arange(60) % 3 // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = fitted(
            MeanFieldVI(nn.Linear(2, 2), Categorical(2), num_mc_samples_train=1), loader(x, y, batch_size=15)
        )
    third = torch.tensor([2 / 3, 1 / 3])
    entropy = -(third * third.log()).sum().item()
    assert found.result.reference.constant_nll == pytest.approx(entropy, rel=1e-4)


def test_the_users_callback_takes_the_place_of_the_default_one() -> None:
    mine = VariationalDiagnostics(warn=False)
    assert fitted(linear(lr=1e-5), lines(), callbacks=[mine]) is mine
    assert mine.result.findings
    mine = VariationalDiagnostics(log_every_n_epochs=2)
    history = History()
    fitted(linear(), lines(), callbacks=[mine], max_epochs=4, logger=history)
    assert len(history.values["diagnostics/root/kl"]) == 2
    assert list(mine.history["epoch"]) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="log_every_n_epochs"):
        VariationalDiagnostics(log_every_n_epochs=-1)


def test_a_second_fit_has_a_history_of_its_own() -> None:
    trainer = quiet_trainer(max_epochs=2)
    method = linear()
    trainer.fit(method, lines())
    first = diagnostics_of(trainer)
    trainer.fit_loop.max_epochs = 5
    trainer.fit(method, lines())
    assert diagnostics_of(trainer) is first
    assert list(first.history["epoch"]) == [2, 3, 4]


def test_history_is_that_of_the_logged_values() -> None:
    history = History()
    found = fitted(linear(burnin_epochs=1, kl_warmup_epochs=1), lines(), max_epochs=4, logger=history).history
    assert list(found["loss"]) == pytest.approx(history.values["train_loss"])
    assert list(found["nll"][1:]) == pytest.approx(history.values["train_nll"])
    assert list(found["kl"][1:]) == pytest.approx(history.values["train_kl"])
    assert list(found["kl_weight"]) == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert list(found["is_burnin"]) == [True, False, False, False]


def test_a_resumed_fit_is_judged_as_a_whole(tmp_path: Path) -> None:
    saving = {"enable_checkpointing": True, "default_root_dir": tmp_path}
    checkpoint = ModelCheckpoint(tmp_path, filename="half")
    whole = fitted(linear(), lines(), max_epochs=6)
    fitted(linear(), lines(), max_epochs=3, callbacks=[checkpoint], **saving)
    trainer = quiet_trainer(max_epochs=6)
    trainer.fit(linear(), lines(), ckpt_path=checkpoint.best_model_path)
    resumed = diagnostics_of(trainer)
    assert list(resumed.history["epoch"]) == list(range(6))
    assert list(resumed.history["num_steps"]) == list(whole.history["num_steps"])
    assert resumed._initial_stds == pytest.approx(whole._initial_stds)


@pytest.mark.parametrize("options", [{"max_epochs": 9}, {"max_steps": 100}, {"fast_dev_run": True}])
def test_a_short_fit_does_not_warn(options: dict[str, Any]) -> None:
    fitted(linear(lr=1e-5), lines(), **options)


@pytest.mark.parametrize("cls", [Deterministic, SWAG])
def test_methods_without_a_variational_posterior_are_left_alone(cls: Any) -> None:
    mine = VariationalDiagnostics()
    quiet_trainer(max_epochs=2, callbacks=[mine]).fit(cls(nn.Linear(2, 1), Gaussian()), lines())
    assert mine.result is None


def test_the_comparison_changes_neither_the_method_nor_the_random_state() -> None:
    method = linear()
    fitted(method, lines(), max_epochs=1)
    method.train()
    before, state = copy_of_state(method), torch.get_rng_state()
    assert compare_with_constant(method, lines()) is not None
    assert same_state(copy_of_state(method), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert method.training


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("cls", "arguments", "kinds"),
    [
        (MeanFieldVI, {}, set()),
        (IVON, {}, set()),
        (MeanFieldVI, {"init_std": 0.05, "optimizer": adam(1e-4), "lr_scheduler": None}, {"still_falling"}),
        (
            MeanFieldVI,
            {"prior": GaussianPrior(std=0.05), "init_std": 0.05, "optimizer": adam(1e-2), "kl_warmup_epochs": 0},
            {"constant", "pruned"},
        ),
    ],
    ids=["mean field", "IVON", "slow", "narrow prior"],
)
def test_fits_of_the_toy_problem(cls: Any, arguments: dict[str, Any], kinds: set[str]) -> None:
    method = cls(MLP(1, [50, 50], 2), HeteroscedasticGaussian(), **arguments)
    mine = VariationalDiagnostics(warn=False)
    data = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
    found = fitted(method, data, max_epochs=150, callbacks=[mine]).result
    assert {finding.kind for finding in found.findings} >= kinds
    assert kinds or not found.findings


def test_a_fit_that_a_validation_score_stopped_has_had_enough_epochs() -> None:
    stop = EarlyStopping("val_nll", patience=24, min_delta=1e9)
    trainer = quiet_trainer(max_epochs=160, callbacks=[stop, VariationalDiagnostics(warn=False)])
    trainer.fit(linear(), lines(), lines())
    found = diagnostics_of(trainer)
    assert found.result is not None
    assert stop.stopped_epoch == len(found.history) - 1
    assert found.history["kl_weight"].iloc[-1] < 0.5
    assert found.result.findings == ()
