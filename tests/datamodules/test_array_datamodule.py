"""ArrayDataModule: its dataloaders, their order, and the checks of the given tensors."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset

from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.datamodules._rows import RowBatch, RowDataset


def numbered(n_rows: int, start: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.arange(float(start), float(start + n_rows)).unsqueeze(-1)
    return x, -x


def datamodule(**options: Any) -> ArrayDataModule:
    options = {"batch_size": 4, "val": numbered(6, 100), "calib": numbered(5, 200), **options}
    return ArrayDataModule(numbered(20), numbered(9, 300), **options)


def order(loader: DataLoader[Any]) -> list[float]:
    return [value for x, _ in loader for value in x.flatten().tolist()]


class Recorder(LightningModule):
    """Records the rows of each training epoch, and those of validation and test batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.epochs: dict[int, list[float]] = {}
        self.evaluated: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.epochs.setdefault(self.current_epoch, []).extend(batch[0].flatten().tolist())
        return self.layer(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluated.extend(batch[0].flatten().tolist())

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch[1]


def test_order_depends_on_the_epoch_and_the_seed() -> None:
    loader, again = datamodule().train_dataloader(), datamodule().train_dataloader()
    epochs = [order(loader) for _ in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs == [order(again) for _ in range(4)]
    assert epochs[0] != order(datamodule(shuffle_seed=1).train_dataloader())


def test_every_row_is_equally_likely_to_come_first() -> None:
    loader = datamodule(batch_size=20).train_dataloader()
    first = torch.tensor([int(next(iter(loader))[0][0]) for _ in range(2000)])
    counts = torch.bincount(first, minlength=20).float()
    # Binomial(2000, 1/20): mean 100, standard deviation 9.75; tolerance of five standard deviations.
    assert ((counts - 100.0).abs() < 5 * 9.75).all()


def test_trainer_runs_every_loop_on_the_rows_of_its_split() -> None:
    dm, module = datamodule(), Recorder()
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(module, dm)
    assert [sorted(rows) for rows in module.epochs.values()] == [[float(i) for i in range(20)]] * 2
    assert set(module.evaluated) == set(dm.X_val.flatten().tolist())

    module.evaluated.clear()
    trainer.test(module, dm, verbose=False)
    assert module.evaluated == dm.X_test.flatten().tolist()
    assert torch.equal(torch.cat(trainer.predict(module, dm)), dm.Y_test)


@pytest.mark.parametrize("reload_every", [0, 1])
def test_order_in_a_trainer_equals_a_plain_loop_also_after_a_resume(tmp_path: Path, reload_every: int) -> None:
    loader = datamodule().train_dataloader()
    plain = {epoch: order(loader) for epoch in range(3)}

    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[Trainer, Recorder]:
        module = Recorder()
        trainer = quiet_trainer(max_epochs=epochs, reload_dataloaders_every_n_epochs=reload_every)
        trainer.fit(module, datamodule(), ckpt_path=checkpoint)
        return trainer, module

    assert fit(3)[1].epochs == plain
    trainer, _ = fit(1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert fit(3, tmp_path / "one.ckpt")[1].epochs == {epoch: plain[epoch] for epoch in (1, 2)}


def test_trainer_skips_validation_without_a_validation_split() -> None:
    module, dm = Recorder(), datamodule(val=None)
    assert dm.val_dataloader() == []
    quiet_trainer(limit_val_batches=0).fit(module, dm)
    assert sorted(module.epochs[0]) == [float(i) for i in range(20)]
    assert module.evaluated == []


@pytest.fixture
def process_group_of_one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_distributed_trainer_injects_a_shuffling_sampler(process_group_of_one: None) -> None:
    module = Recorder()
    trainer = quiet_trainer(max_epochs=2, strategy="ddp")
    trainer.fit(module, datamodule())
    sampler = trainer.train_dataloader.sampler
    assert isinstance(sampler, DistributedSampler)
    assert sampler.shuffle
    assert module.epochs[0] != module.epochs[1]
    assert [sorted(rows) for rows in module.epochs.values()] == [[float(i) for i in range(20)]] * 2


def test_two_ranks_share_the_rows_of_a_loader() -> None:
    loader = datamodule().train_dataloader()
    seen: list[float] = []
    for rank in range(2):
        sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank)
        seen += order(DataLoader(loader.dataset, 4, sampler=sampler, collate_fn=loader.collate_fn))
    assert sorted(seen) == [float(i) for i in range(20)]


@pytest.mark.parametrize("with_collate", [True, False])
def test_datasets_can_be_composed(with_collate: bool) -> None:
    loader = datamodule().test_dataloader()
    options = {"collate_fn": loader.collate_fn} if with_collate else {}
    for dataset, expected in [
        (loader.dataset, list(range(300, 309))),
        (Subset(loader.dataset, [5, 1]), [305, 301]),
        (Subset(Subset(loader.dataset, [5, 1, 8]), [2, 0]), [308, 305]),
        (ConcatDataset([loader.dataset, loader.dataset]), [*range(300, 309), *range(300, 309)]),
    ]:
        batches = list(DataLoader(dataset, batch_size=2, **options))
        assert [x.shape for x, _ in batches[:1]] == [(2, 1)]
        assert torch.cat([x for x, _ in batches]).flatten().tolist() == expected
        assert torch.cat([y for _, y in batches]).flatten().tolist() == [-value for value in expected]
    x, y = loader.dataset[3]
    assert (x.tolist(), y.tolist()) == ([303.0], [-303.0])


def test_batches_are_copies() -> None:
    dm = datamodule()
    for x, y in dm.test_dataloader():
        x.zero_()
        y.zero_()
    assert torch.equal(dm.X_test, numbered(9, 300)[0])
    assert torch.equal(dm.Y_test, numbered(9, 300)[1])


def test_worker_processes_return_the_same_batches_and_leave_the_global_random_state() -> None:
    dm, workers = datamodule(), datamodule(num_workers=1)
    state = torch.get_rng_state()
    assert order(workers.train_dataloader()) == order(dm.train_dataloader())
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_are_gathered_without_a_call_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a call per row")

    monkeypatch.setattr(RowDataset, "__getitem__", fail)
    monkeypatch.setattr(RowBatch, "__getitem__", fail)
    monkeypatch.setattr(RowBatch, "__iter__", fail)
    assert len(order(datamodule().train_dataloader())) == 20


def test_out_of_distribution_set_is_optional_and_checked() -> None:
    dm = datamodule()
    assert dm.X_ood is None
    assert list(dm.test_sets()) == ["test"]
    with pytest.raises(ValueError, match="no out-of-distribution set"):
        dm.ood_dataloader()
    with pytest.raises(ValueError, match=r"X_ood must have rows of the same shape as X_train, \[1\], got \[2\]"):
        datamodule(ood=(torch.zeros(3, 2), torch.zeros(3, 1)))
    with_ood = datamodule(ood=numbered(3, 400))
    assert order(with_ood.ood_dataloader()) == [400, 401, 402]
    assert {name: len(order(loader)) for name, loader in with_ood.test_sets().items()} == {"test": 9, "ood": 3}


def test_each_test_set_has_a_result_of_its_own() -> None:
    class Scorer(Recorder):
        def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("test_mean", batch[0].mean(), batch_size=len(batch[0]))

    dm = datamodule(ood=numbered(3, 400))
    results = quiet_trainer().test(Scorer(), list(dm.test_sets().values()), verbose=False)
    assert results == [{"test_mean/dataloader_idx_0": 304.0}, {"test_mean/dataloader_idx_1": 401.0}]


def test_calibration_dataloader_needs_a_calibration_split() -> None:
    dm = datamodule(calib=None)
    assert dm.X_calib is None
    with pytest.raises(ValueError, match="no calibration split"):
        dm.calibration_dataloader()


def test_new_tensors_and_a_new_batch_size_take_effect() -> None:
    dm = datamodule()
    dm.X_test, dm.Y_test = numbered(3, 50)
    dm.batch_size = 2
    assert [len(x) for x, _ in dm.test_dataloader()] == [2, 1]


FLOATS = torch.zeros(3, 1)
LABELS = torch.tensor([0, 1, 1])


def test_arrays_become_tensors() -> None:
    x, labels = np.array([[0.5, 1.0], [2.0, 3.0]], order="F"), np.array([1, 0], dtype=np.int32)
    datamodule = ArrayDataModule((x, labels), (x[::-1], labels[::-1]), num_classes=2)
    x[:] = 0.0
    labels[:] = 0
    assert datamodule.X_train.dtype == torch.float32
    assert datamodule.X_train.tolist() == [[0.5, 1.0], [2.0, 3.0]]
    assert datamodule.X_test.tolist() == [[2.0, 3.0], [0.5, 1.0]]
    assert datamodule.Y_train.dtype == torch.int64
    assert datamodule.Y_train.tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"X_test must have rows of the same shape as X_train, \[2\], got \[1\]"):
        ArrayDataModule((x, x), (x[:, :1], x))


@pytest.mark.parametrize(
    ("train", "num_classes", "message"),
    [
        ((np.array([["a"]]), FLOATS), None, r"pair of tensors or arrays .*got \['ndarray', 'Tensor'\]"),
        (([1.0], FLOATS), None, r"train must be a pair of tensors .*got \['list', 'Tensor'\]"),
        ((FLOATS, None), None, r"train must be a pair of tensors .*got \['Tensor', 'NoneType'\]"),
        ((FLOATS,), None, r"train must be a pair of tensors .*got \['Tensor'\]"),
        (None, None, "train must be a pair of tensors .*got NoneType"),
        (FLOATS, None, "train must be a pair of tensors .*got Tensor"),
        ((torch.zeros(3), FLOATS), None, r"X_train must be a floating-point .*shape \[3\]"),
        ((torch.zeros(3, 1, dtype=torch.int64), FLOATS), None, "X_train must be a floating-point .*int64"),
        ((FLOATS, torch.zeros(3)), None, r"Y_train must be a floating-point .*\[N, D\].*shape \[3\]"),
        ((FLOATS, LABELS), None, "Y_train must be a floating-point .*int64"),
        ((FLOATS, torch.zeros(4, 1)), None, "same number of rows.*got 3 and 4"),
        ((torch.zeros(0, 1), torch.zeros(0, 1)), None, "at least one, got 0 and 0"),
        ((FLOATS, LABELS.float()), 2, "Y_train must hold int64 class labels.*float32"),
        ((FLOATS, LABELS + 1), 2, "between 0 and num_classes - 1 = 1, got labels from 1 to 2"),
        ((FLOATS, LABELS - 1), 2, "got labels from -1 to 0"),
        ((FLOATS, LABELS), 1, "num_classes must be an integer >= 2, got 1"),
        ((FLOATS / 0.0, FLOATS), None, r"X_train must be finite, got 3 NaN .* leave these rows out\.$"),
        ((FLOATS, torch.tensor([[0.0], [torch.inf], [1.0]])), None, r"Y_train must be finite, got 1 .* rows out\.$"),
        ((FLOATS, FLOATS * torch.nan), None, "Y_train must be finite, got 3 .* DataLoader .* missing="),
    ],
)
def test_invalid_tensors_are_rejected(train: Any, num_classes: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataModule(train, train, num_classes=num_classes)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ((torch.zeros(3, 2), FLOATS), r"X_test must have rows of the same shape as X_train, \[1\], got \[2\]"),
        ((FLOATS, torch.zeros(3, 2)), r"Y_test must have rows of the same shape as Y_train, \[1\], got \[2\]"),
    ],
)
def test_splits_must_have_rows_of_the_same_shape(test: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArrayDataModule((FLOATS, FLOATS), test)


def test_a_datamodule_prints_its_splits_also_in_notebooks() -> None:
    x, y = torch.randn(20, 3, 4), torch.arange(20) % 2
    data = ArrayDataModule(train=(x[:12], y[:12]), test=(x[12:], y[12:]), num_classes=2, batch_size=5)
    assert str(data).splitlines() == [
        "ArrayDataModule: 2 classes, nothing standardized, batches of 5",
        "split        rows  inputs  targets",
        "training     12    3 x 4   label",
        "validation   0     -       -",
        "calibration  0     -       -",
        "test         8     3 x 4   label",
    ]
    assert repr(data) == str(data)
    assert '<td style="text-align: left">calibration</td>' in data._repr_html_()
    regression = ArrayDataModule(train=(x, x[..., 0]), test=(x, x[..., 0]))
    regression.target_mean = torch.zeros(3)
    assert str(regression).startswith("ArrayDataModule: regression of 3 targets, targets standardized, batches of 32")
