"""Statistics of SWAG against stacked snapshots, and samples against their covariance."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import loader, normal, quiet_trainer
from lightning import Callback
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import SWAG
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import swag
from lightning_vi.sampling import memory

X, Y = normal(24, 3), normal(24, 1)


def collected(snapshots: Tensor, **options: Any) -> SWAG:
    """Returns a linear network after snapshots at each of these weights [T, P]."""
    method = SWAG(nn.Linear(snapshots.shape[1], 1, bias=False).to(snapshots.dtype), Gaussian(0.5), **options)
    for weights in snapshots:
        with torch.no_grad():
            method.backbone.weight.copy_(weights)  # type: ignore[operator, union-attr]
        method.collect()
    return method


def deviations(snapshots: Tensor) -> Tensor:
    """Computes the deviation of each snapshot from the running mean."""
    return torch.stack([snapshots[i] - snapshots[: i + 1].mean(0) for i in range(len(snapshots))])


def covariance(snapshots: Tensor, max_rank: int, scale: float) -> Tensor:
    variance = torch.diag(snapshots.var(0, correction=0))
    if max_rank == 0:
        return scale**2 * variance
    kept = deviations(snapshots)[-max_rank:]
    return scale**2 * (variance / 2 + kept.T @ kept / (2 * (len(kept) - 1)))


@pytest.mark.parametrize("max_rank", [0, 2, 4, 20])
def test_statistics_match_stacked_snapshots(max_rank: int) -> None:
    snapshots = normal(7, 5) + torch.arange(7.0).unsqueeze(1)
    method = collected(snapshots, max_rank=max_rank)
    assert_close(method.weight_mean, snapshots.mean(0))
    assert_close(method.weight_variance, snapshots.var(0, correction=0))
    assert method.deviations.shape == (max_rank, 5)
    kept = deviations(snapshots)[-max_rank:] if max_rank else snapshots[:0]
    order = torch.arange(7 - len(kept), 7) % max(max_rank, 1)
    assert_close(method.deviations[order], kept)


def test_variance_of_large_weights_is_accurate() -> None:
    """E[w^2] - E[w]^2 has no correct digit for these weights."""
    snapshots = 1000.0 + 1e-2 * normal(50, 4)
    exact = snapshots.double().var(0, correction=0)
    naive = snapshots.square().mean(0) - snapshots.mean(0).square()
    assert ((naive - exact).abs() > exact).any()
    assert_close(collected(snapshots).weight_variance.double(), exact, rtol=0.02, atol=0.0)


@pytest.mark.parametrize(("max_rank", "scale"), [(0, 1.0), (0, 0.6), (3, 1.0), (3, 1.7), (20, 0.8)])
def test_samples_have_the_covariance_of_the_paper(max_rank: int, scale: float) -> None:
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-1.0, 0.3, 2.0]])
    snapshots = (normal(6, 3) @ mixing.T + torch.tensor([3.0, -1.0, 0.0])).double()
    method, size = collected(snapshots, max_rank=max_rank, scale=scale), 40_000
    draws = method.sample_parameters(size, seed=5)["weight"][:, 0]
    expected = covariance(snapshots, max_rank, scale)
    assert ((draws.mean(0) - snapshots.mean(0)).abs() < 4.5 * (expected.diag() / size).sqrt()).all()
    error = ((torch.outer(expected.diag(), expected.diag()) + expected.square()) / size).sqrt()
    assert ((torch.cov(draws.T) - expected).abs() < 4.5 * error).all()
    if max_rank:
        assert (expected[0, 1].abs() > 20 * error[0, 1]).all()


def test_prediction_of_a_linear_network_has_the_covariance_of_its_weights() -> None:
    snapshots, size = normal(6, 3), 20_000
    prediction = collected(snapshots, max_rank=4).predict(X, num_samples=size)
    expected = torch.einsum("bi,ij,bj->b", X, covariance(snapshots, 4, 1.0), X).unsqueeze(1)
    assert_close(prediction.epistemic_var, expected, rtol=4.5 * math.sqrt(2 / size), atol=0.0)
    assert ((prediction.mean[:, 0] - X @ snapshots.mean(0)).abs() < 4.5 * (expected[:, 0] / size).sqrt()).all()


@pytest.mark.parametrize("max_rank", [0, 20])
def test_one_snapshot_has_no_variance(max_rank: int) -> None:
    method = collected(normal(1, 4), max_rank=max_rank)
    assert torch.equal(method.sample_parameters(3)["weight"], normal(1, 4).expand(3, 1, 4))


def test_covariance_of_two_snapshots() -> None:
    snapshots = torch.tensor([[0.0, 0.0], [2.0, 4.0]]).double()
    draws = collected(snapshots).sample_parameters(40_000)["weight"][:, 0]
    expected = torch.tensor([[1.0, 1.0], [1.0, 4.0]]).double()
    assert_close(torch.cov(draws.T), expected, rtol=0.05, atol=0.05)


def test_sample_parameters_returns_the_weights_of_predictions() -> None:
    method = collected(normal(6, 3))
    samples = method.predict(X, num_samples=4, seed=8, return_samples=True).samples
    weights = method.sample_parameters(4, seed=8)["weight"]
    assert_close(samples, torch.einsum("bi,sdi->sbd", X, weights))
    assert_close(method.sample_parameters(2)["weight"], method.sample_parameters(5)["weight"][:2])
    assert not torch.allclose(method.sample_parameters(4, seed=9)["weight"], weights)


def test_samples_are_cached_within_the_memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    method, drawn = collected(normal(6, 3), num_mc_samples_test=4), []
    original = swag.sample_noise
    monkeypatch.setattr(swag, "sample_noise", lambda *args: drawn.append(args) or original(*args))
    expected = [method.predict(part) for part in X.split(6)]
    assert len(drawn) == 1
    method.predict(X, seed=1)
    method.predict(X, seed=1, num_samples=3)
    assert len(drawn) == 3
    monkeypatch.setattr(memory, "MAX_KEPT_NUMBERS", 20)
    drawn.clear()
    again = [method.predict(part) for part in X.split(6)]
    assert len(drawn) == 4
    for first, second in zip(expected, again, strict=True):
        assert_close(first.mean, second.mean)


def test_changed_statistics_invalidate_the_cache() -> None:
    """Changes through `.data` do not increment a tensor's version."""
    method = collected(normal(6, 3))
    for name in ("weight_mean", "weight_variance", "deviations"):
        before = method.predict(X, return_samples=True).samples
        method.get_buffer(name).data.mul_(1.5)
        assert not torch.allclose(method.predict(X, return_samples=True).samples, before), name


SCRIPT = """
import sys, torch
from torch import nn
from lightning_vi import SWAG
from lightning_vi.likelihoods import HeteroscedasticGaussian
network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
method = SWAG.load_from_checkpoint(
    sys.argv[1], backbone=network, likelihood=HeteroscedasticGaussian(), weights_only=True
)
torch.save(method.predict_step(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


@pytest.mark.thorough
def test_checkpoint_gives_the_same_predictions_in_a_new_process(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    method = SWAG(
        network, HeteroscedasticGaussian(), max_rank=3, scale=0.9, averaging_lr=(0.01, 0.001), snapshot_every=2,
        start_epoch=2, batch_norm_rows=9,
    )  # fmt: skip
    trainer = quiet_trainer(max_epochs=8)
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "swag.ckpt")
    torch.save(X, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("swag.ckpt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    expected = method.predict_step(X)
    for key, value in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert_close(value, expected[key])


class Report(Callback):
    """Writes the statistics of each rank to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        state = {"rows": pl_module.kept_rows.rows, "mean": pl_module.weight_mean, "count": pl_module.num_snapshots}
        state["pred"] = pl_module.predict(X).mean
        torch.save(state, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")
@pytest.mark.thorough
def test_all_ranks_have_the_same_rows_and_predictions(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    method = SWAG(network, Gaussian(), start_epoch=1, batch_norm_rows=7, num_mc_samples_test=5)
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=3, callbacks=[Report(tmp_path)])
    trainer.fit(method, loader(X, Y, batch_size=4, shuffle=True))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["rows"].shape == (7, 3)
    assert first["count"] == 2
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_rank": -1}, "max_rank must be an integer of at least 0, got -1"),
        ({"max_rank": 1}, "max_rank must be 0 or at least 2, because one deviation has no covariance, got 1"),
        ({"scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"scale": math.inf}, "scale must be positive and finite, got inf"),
        ({"num_mc_samples_test": 0}, "num_mc_samples_test must be an integer of at least 1, got 0"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SWAG(MLP(3, [4], 1), Gaussian(), **options)
    with pytest.raises(ValueError, match="num_samples must be an integer of at least 1, got 0"):
        collected(normal(2, 3)).sample_parameters(0)
