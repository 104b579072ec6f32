"""Distributed training and calibration in two processes on the CPU."""

import copy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from helpers import loader, quiet_trainer
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_vi import SNGP, FunctionSpaceVI, Laplace, MeanFieldVI, MethodEnsemble, VarianceScaling
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
    """Writes the results of each rank to a file, because spawned processes return nothing."""

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
def test_two_ranks_train_the_same_posterior_with_different_noise(tmp_path: Path) -> None:
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
    """Writes the calibration and the logged values of each rank to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        report = {"std_factor": module.std_factor, "is_calibrated": module.is_calibrated, "logged": logged}
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_ranks_use_each_calibration_datum_once(tmp_path: Path) -> None:
    """The number of data is odd, so the sampler repeats one."""
    x, y = (part[:-1] for part in data())
    trained = method()
    trained.is_trained = True
    alone, shared = (VarianceScaling(trained) for _ in range(2))
    alone.calibrate([(x, y)])
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=2, callbacks=[ReportCalibration(tmp_path)])
    trainer.fit(shared, loader(x, y, batch_size=6, shuffle=True), loader(x, y, batch_size=6))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["is_calibrated"]
    assert torch.equal(first["std_factor"], second["std_factor"])
    torch.testing.assert_close(first["std_factor"], alone.std_factor, rtol=1e-5, atol=0.0)
    assert first["logged"] == pytest.approx(second["logged"])
    assert {"val_nll", "calibration_std_factor_0"} <= set(first["logged"])


class ReportPosterior(Callback):
    """Writes the fitted posterior of each rank to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, module: Any) -> None:
        report = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        variance = module.predict(data()[0]).epistemic_var
        logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val")}
        torch.save({"state": report, "variance": variance, "logged": logged}, self.folder / f"{trainer.global_rank}.pt")


def no_steps(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["laplace", *(pytest.param(kind, marks=pytest.mark.thorough) for kind in ("sngp", "function space"))]
)
def test_two_ranks_compute_the_curvature_of_all_data(kind: str, tmp_path: Path) -> None:
    """The number of data is odd, so the sampler repeats one."""
    x, y = (part[:-1] for part in data())
    torch.manual_seed(3)
    made: Any = {
        "laplace": lambda: Laplace(MLP(3, [4], 1), Gaussian(0.5), prior_std=0.7, optimizer=no_steps),
        "function space": lambda: FunctionSpaceVI(MLP(3, [4], 1), Gaussian(0.5), optimizer=no_steps),
        "sngp": lambda: SNGP(
            MLP(3, [4], 1), Gaussian(0.5), num_random_features=16, spectral_norm_bound=None, optimizer=no_steps
        ),
    }[kind]()
    alone = copy.deepcopy(made)
    alone.fit_posterior([(x, y)])
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=1, callbacks=[ReportPosterior(tmp_path)])
    trainer.fit(made, loader(x, y, batch_size=6, shuffle=True), loader(x, y, batch_size=4))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), name
    if kind != "function space":
        torch.testing.assert_close(first["state"]["log_likelihood"], alone.log_likelihood, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first["variance"], alone.predict(data()[0]).epistemic_var, rtol=1e-3, atol=1e-6)
    (expected,) = quiet_trainer().validate(alone, loader(x, y, batch_size=35), verbose=False)
    assert first["logged"] == pytest.approx(expected, rel=1e-3)
    assert second["logged"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_two_ranks_score_each_row_once() -> None:
    """The rows of the last batches, of whole batches, and of a data set smaller than a batch are repeated."""
    x, y = data()
    y[0] += 40.0  # the row that is repeated
    made = method()
    loaders = [loader(x[:rows], y[:rows], batch_size=size) for rows, size in ((36, 5), (35, 6), (33, 16), (3, 8))]
    alone = [quiet_trainer().test(made, each, verbose=False)[0] for each in loaders]
    shared = quiet_trainer(devices=2, strategy="ddp_spawn").test(made, loaders, verbose=False)
    for index, (result, expected) in enumerate(zip(shared, alone, strict=True)):
        named = {f"{name}/dataloader_idx_{index}": value for name, value in expected.items()}
        assert result == pytest.approx(named, rel=1e-4, abs=1e-5)


class ReportState(Callback):
    """Writes the state of each rank, and how its members were trained, to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.at_once = False

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.at_once |= module._at_once is not None

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        state = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        report = {"state": state, "logged": logged, "at_once": self.at_once}
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.thorough
def test_two_ranks_train_members_at_once(tmp_path: Path) -> None:
    reports = []
    modes: tuple[Literal["auto", "loop"], ...] = ("auto", "loop")
    for mode in modes:
        torch.manual_seed(3)
        member = partial(MeanFieldVI, num_mc_samples_train=2, burnin_epochs=1)
        ensemble = MethodEnsemble(MLP(3, [4], 1), Gaussian(), member=member, num_members=2, vectorization=mode)
        trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=2, callbacks=[ReportState(tmp_path)])
        trainer.fit(ensemble, loader(*data(), batch_size=6))
        reports.append([torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)])
    (first, second), (expected, _) = reports
    assert first["at_once"]
    assert not expected["at_once"]
    for name, value in expected["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        torch.testing.assert_close(first["state"][name], value, rtol=1e-4, atol=1e-5)
    assert first["logged"] == pytest.approx(expected["logged"], rel=1e-4)
