"""Fits that start, grow or go wrong in the ways that Lightning allows: N, the loss and the weights stay right."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.tuner import Tuner
from method_cases import DEFAULT, METHODS, PROBLEMS, Case, params
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_vi import IVON, SNGP, SWA, SWAG, Deterministic, Laplace, MeanFieldVI
from lightning_vi.core import DEFAULT_LEARNING_RATE
from lightning_vi.errors import DivergenceError
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.optim import PerStep

Tally = Callable[..., None]
NUM_ROWS = 120
TUNED = [case for case in DEFAULT if case.problem_name in ("Gaussian, learned", "categorical", "quantiles")]
QUICK = [case for case in TUNED if case.method_name in ("MeanFieldVI", "VBLL", "Laplace, full", "DeepEnsemble", "IVON")]
each_tuned = pytest.mark.parametrize("case", params(TUNED, default=QUICK))


class Losses(Callback):
    """Keeps the losses of all steps; a fit may stop after the first."""

    def __init__(self, stops: bool = False) -> None:
        self.values: list[float] = []
        self.stops = stops

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))
        trainer.should_stop = self.stops


def rows(case: Case, num_rows: int = NUM_ROWS) -> tuple[Tensor, Tensor]:
    """Rows of a problem, with targets far from zero in regression."""
    parts = [case.problem.data() for _ in range(-(-num_rows // 12))]
    x, y = (torch.cat(tensors)[:num_rows] for tensors in zip(*parts, strict=True))
    return x, 28 + 5 * y if case.problem.is_regression else y


def new(case: Case, **options: Any) -> Any:
    torch.manual_seed(1)
    return case.method.make(case.backbone(), case.problem.likelihood(), **options)


def searched(method: Any, data: Any, folder: Path) -> tuple[Any, list[float]]:
    """The result of the search for a learning rate, and the losses of its steps."""
    trainer, losses = quiet_trainer(default_root_dir=folder, max_epochs=50), Losses()
    start = method.training_step

    def record(*args: Any) -> Any:
        loss = start(*args)
        losses.values.append(loss.item())
        return loss

    method.training_step = record
    found = Tuner(trainer).lr_find(method, data, num_training=25)
    del method.training_step
    return found, losses.values


@pytest.mark.filterwarnings("ignore:S.* has no (snapshot|draws)")
@each_tuned
def test_search_for_a_learning_rate_sees_the_loss_of_the_fit(case: Case, tmp_path: Path, tally: Tally) -> None:
    method, data = new(case), loader(*rows(case), batch_size=24)
    before, epoch = copy_of_state(method), method._record.means()
    found, losses = searched(method, data, tmp_path)
    assert same_state(copy_of_state(method), before)
    assert method._record.means() == epoch
    assert method.num_data == new(case).num_data

    fitted, in_fit = new(case), Losses(stops=True)
    trainer = quiet_trainer(callbacks=[in_fit], max_epochs=50)
    fitted.lr = found.suggestion() or 1e-3
    trainer.fit(fitted, data)
    assert losses[0] == pytest.approx(in_fit.values[0], rel=1e-6)
    rates = [float(group.get("initial_lr", group["lr"])) for group in trainer.optimizers[0].param_groups]
    assert any(rate == pytest.approx(fitted.lr) for rate in rates)
    assert rates == pytest.approx([fitted.lr * factor for factor in fitted._rate_factors])
    tally("learning rate searches", case.method_name, tried=1, right=1)


def test_callback_gives_each_group_its_multiple_of_the_rate_it_finds(tmp_path: Path) -> None:
    method = MeanFieldVI(nn.Linear(2, 1), Gaussian())
    finder = LearningRateFinder(num_training_steps=20)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[finder], max_epochs=2)
    trainer.fit(method, loader(normal(NUM_ROWS, 2), 28 + normal(NUM_ROWS, 1)))
    rate = finder.optimal_lr.suggestion()
    rates = {len(group["params"]): group["initial_lr"] for group in trainer.optimizers[0].param_groups}
    assert (rates[4], rates[1]) == pytest.approx((rate, 10 * rate * DEFAULT_LEARNING_RATE * 1000**0.5 / 1.7))
    assert method.num_data == NUM_ROWS


class Rows(LightningDataModule):
    """Rows in batches of a size that a search may change, and that may grow with each epoch."""

    def __init__(self, sizes: tuple[int, ...] = (NUM_ROWS,)) -> None:
        super().__init__()
        self.batch_size = 8
        self.sizes = sizes

    def train_dataloader(self) -> DataLoader[Any]:
        num_rows = self.sizes[min(self.trainer.current_epoch, len(self.sizes) - 1)]
        return loader(normal(num_rows, 2), 28 + normal(num_rows, 1), batch_size=self.batch_size)

    def val_dataloader(self) -> list[Any]:
        return []


@pytest.mark.parametrize("method", [MeanFieldVI(nn.Linear(2, 1), Gaussian()), IVON(nn.Linear(2, 1), Gaussian())])
def test_search_for_a_batch_size(method: Any, tmp_path: Path) -> None:
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=1)
    trainer = quiet_trainer(default_root_dir=tmp_path, callbacks=[finder], max_epochs=1)
    trainer.fit(method, datamodule=Rows())
    assert finder.optimal_batch_size == 4
    assert method.num_data == NUM_ROWS
    assert method.likelihood.target_mean.item() == pytest.approx(28, abs=0.5)


class WeightOfKL(Callback):
    """Keeps N as the objective sees it, and the effective sample size of IVON."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            group = trainer.optimizers[0].param_groups[0]
            self.sizes.append((pl_module.num_data, group.get("ess", 0.0) * pl_module.effective_kl_weight()))


@pytest.mark.parametrize("kind", [MeanFieldVI, IVON])
def test_size_follows_reloaded_data(kind: Any, tmp_path: Path, tally: Tally) -> None:
    sizes, seen = (100, 200, 400, 800), WeightOfKL()
    method = kind(nn.Linear(2, 1), Gaussian(), kl_warmup_epochs=3)
    options = {"reload_dataloaders_every_n_epochs": 1, "default_root_dir": tmp_path, "enable_checkpointing": True}
    trainer = quiet_trainer(callbacks=[seen, ModelCheckpoint(tmp_path, save_last=True)], max_epochs=2, **options)
    trainer.fit(method, datamodule=Rows(sizes))
    resumed = kind(nn.Linear(2, 1), Gaussian(), kl_warmup_epochs=3)
    again = quiet_trainer(callbacks=[seen], max_epochs=4, **(options | {"enable_checkpointing": False}))
    again.fit(resumed, datamodule=Rows(sizes), ckpt_path=tmp_path / "last.ckpt")
    assert [size for size, _ in seen.sizes] == list(sizes)
    if kind is IVON:
        assert [ess for _, ess in seen.sizes] == pytest.approx(sizes)
    tally("growing training data", kind.__name__, tried=4, right=4)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Rows one after the other."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(normal(NUM_ROWS, 2), normal(NUM_ROWS, 1), strict=True)


class SizedStream(Stream):
    def __len__(self) -> int:
        return NUM_ROWS


FITTED = [
    MeanFieldVI(nn.Linear(2, 1), Gaussian()),
    Laplace(nn.Linear(2, 1), Gaussian(), prior_std=1.0),
    SNGP(nn.Linear(2, 1), Gaussian(), num_random_features=8),
]


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.parametrize("method", FITTED, ids=lambda method: type(method).__name__)
def test_stream_with_a_length(method: Any) -> None:
    fit(method, DataLoader(SizedStream(), batch_size=10))
    assert method.num_data == NUM_ROWS


@pytest.mark.parametrize("method", FITTED, ids=lambda method: type(method).__name__)
def test_stream_without_a_length_names_a_remedy_that_there_is(method: Any) -> None:
    data = DataLoader(Stream(), batch_size=10)
    with pytest.raises(ValueError, match=r"the training data have no length, so give num_data=..., or the dataset"):
        fit(method, data)
    given = copy.deepcopy(method)
    given._num_data_given = NUM_ROWS
    fit(given, data)
    assert given.num_data == NUM_ROWS


@pytest.mark.parametrize(
    "make",
    [lambda one: [one, one], lambda one: {"first": one, "second": one}, lambda one: (one, one)],
    ids=["list", "dictionary", "tuple"],
)
@pytest.mark.parametrize("kind", [MeanFieldVI, Laplace, SWA, SWAG, Deterministic])
def test_several_training_dataloaders_are_refused_at_the_start(kind: Any, make: Any, tally: Tally) -> None:
    one = loader(normal(NUM_ROWS, 2), normal(NUM_ROWS, 1))
    method = kind(nn.Linear(2, 1), Gaussian())
    before = copy_of_state(method)
    with pytest.raises(TypeError, match=r"train_dataloader must be one dataloader, got a .*ConcatDataset"):
        fit(method, make(one))
    assert same_state(copy_of_state(method), before)
    tally("several training dataloaders", kind.__name__, tried=1, right=1)


class PoisonedLater(Dataset[tuple[Tensor, Tensor]]):
    """Rows whose targets or inputs are NaN from the second epoch on."""

    def __init__(self, x: Tensor, y: Tensor, *, in_targets: bool) -> None:
        self.x, self.y, self.in_targets = x, y, in_targets
        self.num_reads = 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.num_reads += 1
        is_bad = self.num_reads > 1.5 * len(self) + 1200
        x, y = self.x[index], self.y[index]
        if is_bad and self.in_targets:
            y = torch.full_like(y, torch.nan) if y.is_floating_point() else torch.full_like(y, 77)
        return (x if self.in_targets or not is_bad else torch.full_like(x, torch.nan)), y


@pytest.mark.parametrize("in_targets", [True, False], ids=["targets", "inputs"])
@each_tuned
def test_bad_rows_of_a_later_epoch_stop_the_fit(case: Case, in_targets: bool, tmp_path: Path, tally: Tally) -> None:
    method = new(case)
    data = DataLoader(PoisonedLater(*rows(case), in_targets=in_targets), batch_size=24)
    keep = ModelCheckpoint(tmp_path, save_last=True, save_top_k=-1, every_n_epochs=1)
    with pytest.raises(ValueError, match=r"training inputs have NaN|NaN|labels must lie between"):
        fit(method, data, max_epochs=20, enable_checkpointing=True, callbacks=[keep])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in saved.values() if isinstance(value, Tensor))
    tally("bad rows in a later epoch", case.method_name, tried=1, right=1)


def explosive(case: Case) -> Any:
    """A method with a learning rate of a million."""
    if case.method_name in ("IVON", "SGHMC"):
        return new(case, lr=1e6)
    return new(case, optimizer=partial(torch.optim.Adam, lr=1e6))


@each_tuned
def test_fit_that_explodes_stops(case: Case, tmp_path: Path, tally: Tally) -> None:
    method, (x, y) = explosive(case), rows(case)
    keep = ModelCheckpoint(tmp_path, save_last=True)
    with pytest.raises(DivergenceError, match=r"at step \d+ \(epoch \d+\), learning rate .*smaller learning rate"):
        fit(method, loader(x, y, batch_size=24), max_epochs=40, enable_checkpointing=True, callbacks=[keep])
    tally("fits that explode", case.method_name, tried=1, right=1)


def test_loss_that_becomes_infinite_in_the_burn_in() -> None:
    method = MeanFieldVI(nn.Linear(2, 1), Gaussian(scale_targets=False), burnin_epochs=5)
    x, y = normal(NUM_ROWS, 2), normal(NUM_ROWS, 1) * 1e30
    with pytest.raises(DivergenceError, match="the training loss has become NaN or infinite at step 0"):
        fit(method, loader(x, y))


def test_weights_that_become_infinite_in_the_last_step_are_not_saved(tmp_path: Path) -> None:
    method = Deterministic(nn.Linear(2, 1), Gaussian(0.5), optimizer=partial(torch.optim.SGD, lr=1e38))
    keep = ModelCheckpoint(tmp_path, save_last=True)
    data = loader(normal(8, 2), 1e3 * normal(8, 1))
    with pytest.raises(DivergenceError, match="a weight has become NaN or infinite"):
        fit(method, data, max_epochs=1, enable_checkpointing=True, callbacks=[keep])
    assert not list(tmp_path.iterdir())


def test_search_for_a_learning_rate_ends_where_the_loss_explodes(tmp_path: Path) -> None:
    method = Deterministic(nn.Linear(2, 1), Gaussian(0.1), optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = quiet_trainer(default_root_dir=tmp_path)
    found = Tuner(trainer).lr_find(
        method, loader(normal(NUM_ROWS, 2), normal(NUM_ROWS, 1)), max_lr=1e9, early_stop_threshold=None
    )
    assert 1 < len(found.results["loss"]) < 100
    assert all(parameter.isfinite().all() for parameter in method.parameters())


@pytest.mark.parametrize("options", [{"limit_train_batches": 2}, {}], ids=["limited", "last batch dropped"])
def test_curvature_is_that_of_all_rows(options: dict[str, Any]) -> None:
    """The posterior precision of a linear model under given noise is 1/s^2 + sum of x^2 over all N rows / noise^2."""
    x, y = normal(100, 1), normal(100, 1)
    method = Laplace(nn.Linear(1, 1, bias=False), Gaussian(0.5), prior_std=2.0)
    fit(method, loader(x, y, batch_size=40, drop_last=not options), **options)
    expected = 1 / (1 / 2.0**2 + x.square().sum() / 0.5**2)
    torch.testing.assert_close(method.predict(torch.ones(1, 1)).epistemic_var, expected.reshape(1, 1))


class Schedule(Callback):
    """Keeps the learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize("name", ["MeanFieldVI", "DeepEnsemble", "Laplace", "SWAG"])
def test_schedule_per_step_has_the_length_of_the_fit(name: str) -> None:
    problem = PROBLEMS["Gaussian, learned"]
    schedule = PerStep(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    method = METHODS[name].make(problem.backbone(), problem.likelihood(), lr_scheduler=schedule)
    seen = Schedule()
    quiet_trainer(max_epochs=4, callbacks=[seen]).fit(method, loader(*problem.data(), batch_size=4))
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=3e-3)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert seen.rates == pytest.approx(expected)


@pytest.mark.parametrize("length", [{"total_steps": 6}, {"epochs": 2, "steps_per_epoch": 3}, {}])
def test_one_cycle_schedule_is_stepped_after_each_batch_without_being_told(length: dict[str, int]) -> None:
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1, **length)
    method, seen = Deterministic(nn.Linear(2, 1), Gaussian(), lr_scheduler=one_cycle), Schedule()
    quiet_trainer(max_epochs=2, callbacks=[seen]).fit(method, loader(normal(24, 2), normal(24, 1)))
    assert max(seen.rates) > 0.09
    assert len(set(seen.rates)) == 6


def test_length_of_a_schedule_must_be_known() -> None:
    schedule = PerStep(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.1)
    method = Deterministic(nn.Linear(2, 1), Gaussian(), lr_scheduler=schedule)
    with pytest.raises(
        ValueError, match=r"number of steps of the fit is unknown: give PerStep\(..., total_steps=...\)"
    ):
        schedule(torch.optim.Adam(method.parameters()))


def test_batches_without_rows() -> None:
    method = MeanFieldVI(nn.Linear(2, 3), Categorical(3))
    x, y = normal(16, 2), torch.arange(16) % 3
    fit(method, loader(x, y))
    prediction = method.predict(x[:0])
    assert prediction.mean.shape == (0, 3)
    method = MeanFieldVI(nn.Linear(2, 3), Categorical(3), num_data=16)
    fit(method, loader(x, y))
    with_empty = [(x[:8], y[:8]), (x[:0], y[:0]), (x[8:], y[8:])]
    tested = quiet_trainer().test(method, DataLoader(with_empty, batch_size=None), verbose=False)[0]
    expected = quiet_trainer().test(method, loader(x, y), verbose=False)[0]
    assert tested == pytest.approx(expected)
    with pytest.raises(ValueError, match="a training batch has no rows"):
        fit(method, DataLoader(with_empty, batch_size=None))


def test_heteroscedastic_method_far_from_zero_reaches_the_noise() -> None:
    """Each part of the preparation is needed here: N, the scaling, and rates by group."""
    x = normal(400, 2)
    y = 28 + x[:, :1] + 0.1 * normal(400, 1)
    method = MeanFieldVI(nn.Linear(2, 2), HeteroscedasticGaussian(), optimizer=partial(torch.optim.Adam, lr=0.1))
    fit(method, loader(x, y, batch_size=40), max_epochs=10)
    assert (method.predict(x).mean - y).square().mean().sqrt() < 0.2
