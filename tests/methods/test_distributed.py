"""Two processes on the CPU, through Lightning."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import loader, quiet_trainer
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_vi import MeanFieldVI, VarianceScaling
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian

ROWS = 36


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 3, generator=generator)
    return x, x.sum(1, keepdim=True) + torch.randn(ROWS, 1, generator=generator)


def method() -> MeanFieldVI:
    torch.manual_seed(3)
    return MeanFieldVI(
        MLP(3, [4], 1), Gaussian(), burnin_epochs=1, init_std=0.3, num_mc_samples_train=2, num_mc_samples_test=5
    )


class Report(Callback):
    """Writes what each rank saw to a file; a spawned process hands nothing else back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.draws: list[float] = []
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(len(batch[0]))
        with module.noise.fresh(module.global_rank, module.device):
            self.draws.append(torch.randn(()).item())

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        report = {
            "state": {n: v.clone() for n, v in module.state_dict().items() if isinstance(v, Tensor)},
            "pred": module.predict_step(data()[0])["pred"],
            "num_data": module.num_data,
            "draws": self.draws,
            "rows": sum(self.seen),
            "logged": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_ranks_train_one_posterior_with_noise_of_their_own(tmp_path: Path) -> None:
    x, y = data()
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=3, callbacks=[Report(tmp_path)])
    trainer.fit(method(), loader(x, y, batch_size=6, shuffle=True), loader(x, y, batch_size=6))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["num_data"] == second["num_data"] == ROWS
    assert first["rows"] == second["rows"] == 3 * ROWS // 2
    assert set(first["draws"]).isdisjoint(second["draws"])
    assert first["state"].keys() == second["state"].keys()
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    untrained = method().state_dict()
    assert all(not torch.equal(first["state"][name], untrained[name]) for name in untrained if name.endswith("rho"))
    assert torch.equal(first["pred"], second["pred"])
    assert first["logged"] == pytest.approx(second["logged"])
    assert {"train_loss", "train_elbo", "train_rmse", "val_nll"} <= set(first["logged"])


class ReportCalibration(Callback):
    """Writes each rank's calibration to a file, and what it logged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        report = {"std_factor": module.std_factor, "is_calibrated": module.is_calibrated, "logged": logged}
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_ranks_calibrate_on_all_data_each_once(tmp_path: Path) -> None:
    """Of an odd number, one is dealt out twice for both to get as many."""
    x, y = (part[:-1] for part in data())
    alone, shared = (VarianceScaling(method()) for _ in range(2))
    alone.calibrate([(x, y)])
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=2, callbacks=[ReportCalibration(tmp_path)])
    trainer.fit(shared, loader(x, y, batch_size=6, shuffle=True), loader(x, y, batch_size=6))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["is_calibrated"]
    assert torch.equal(first["std_factor"], second["std_factor"])
    torch.testing.assert_close(first["std_factor"], alone.std_factor, rtol=1e-5, atol=0.0)
    assert first["logged"] == pytest.approx(second["logged"])
    assert {"val_nll", "calibration_std_factor_0"} <= set(first["logged"])
