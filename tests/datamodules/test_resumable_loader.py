"""The position of a training dataloader is part of checkpoints."""

import warnings
from typing import Any

import pytest
import torch
from helpers import quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_vi import Deterministic
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.likelihoods import Gaussian

X = torch.arange(20.0).unsqueeze(1)


def make_loader(num_workers: int = 0) -> Any:
    return ArrayDataModule(train=(X, X), test=(X, X), batch_size=6, num_workers=num_workers).train_dataloader()


def orders(loader: Any, epochs: int = 1) -> list[list[float]]:
    return [x.flatten().tolist() for _ in range(epochs) for x, _ in loader]


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("num_batches", [0, 1, 3, 4])
def test_a_restored_loader_goes_on(num_workers: int, epoch: int, num_batches: int) -> None:
    expected, loader = orders(make_loader(), epochs=5), make_loader(num_workers)
    orders(loader, epoch)
    passing = iter(loader)
    for _ in range(num_batches):
        next(passing)
    state, restored = loader.state_dict(), make_loader(num_workers)
    if num_batches == 0:
        state = {"epoch": epoch, "num_batches": 0}
    restored.load_state_dict(state)
    rest = orders(restored)
    start = 4 * epoch + num_batches
    assert rest == expected[start : start + 4 - num_batches % 4]
    assert orders(restored) == expected[start + len(rest) : start + len(rest) + 4]


def test_a_position_of_another_epoch_is_not_used() -> None:
    """As after an epoch that `limit_train_batches` has shortened."""
    expected, loader = orders(make_loader(), epochs=2), make_loader()
    loader.load_state_dict({"epoch": 0, "num_batches": 2})
    loader.sampler.set_epoch(1)
    assert orders(loader) == expected[4:]


def test_a_loaded_state_comes_back() -> None:
    loader = make_loader()
    loader.load_state_dict({"epoch": 3, "num_batches": 2})
    assert loader.state_dict() == {"epoch": 3, "num_batches": 2}


@pytest.mark.parametrize("limit", [1.0, 3])
def test_batches_of_a_resumed_fit(limit: float, tmp_path: Any) -> None:
    """From within an epoch, and from its end."""
    warnings.filterwarnings("ignore", ".*The dirpath has changed.*")

    class Recording(Deterministic):
        def training_step(self, batch: Any, batch_idx: int = 0) -> Any:
            seen.append(batch[0].flatten().tolist())
            return super().training_step(batch, batch_idx)

    def run(**options: Any) -> list[list[float]]:
        seen.clear()
        method = Recording(torch.nn.Linear(1, 1), Gaussian())
        folder = tmp_path / ("resumed" if options else "unbroken")
        saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
        trainer = quiet_trainer(max_epochs=3, limit_train_batches=limit, callbacks=[saver], enable_checkpointing=True)
        trainer.fit(method, ArrayDataModule(train=(X, X), test=(X, X), batch_size=6), **options)
        return list(seen)

    seen: list[list[float]] = []
    expected = run()
    for step in (1, 2, 3, 4, 5, 7):
        assert run(ckpt_path=tmp_path / "unbroken" / f"step={step}.ckpt") == expected[step:], step
