"""Checkpoints and resumed runs."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from lightning import Callback, LightningModule, Trainer
from method_cases import Case, each_case
from torch import Tensor, nn

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.core.hyperparameters import is_plain
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import UQMethod
from lightning_vi.priors import GaussianPrior

X, Y = normal(24, 3), normal(24, 1)


def assert_same_predictions(first: UQMethod, second: UQMethod, x: Tensor) -> None:
    ours, theirs = first.predict_step(x), second.predict_step(x)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    ours, theirs = first.predict(x, seed=3).as_dict(), second.predict(x, seed=3).as_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@each_case
def test_a_checkpoint_gives_the_same_predictions(case: Case, tmp_path: Path) -> None:
    """It loads with weights_only=True into fresh parts, under another global seed."""
    method, (x, target) = case.build(), case.problem.data()
    trainer = quiet_trainer()
    trainer.fit(method, loader(x, target, batch_size=6))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    torch.manual_seed(555)
    loaded = type(method).load_from_checkpoint(
        tmp_path / "method.ckpt",
        backbone=case.backbone(),
        likelihood=case.problem.likelihood(),
        weights_only=True,
        map_location="cpu",
    )
    assert_same_predictions(method, loaded, x)
    assert loaded.num_data == method.num_data == len(x)
    assert loaded.num_mc_samples_test == method.num_mc_samples_test
    for name, value in getattr(case.method.make, "keywords", {}).items():
        assert loaded.hparams[name] == (value if is_plain(value) else method.hparams[name])


@each_case
def test_a_state_dictionary_loads_with_weights_only(case: Case, tmp_path: Path) -> None:
    method, (x, _) = case.build(), case.problem.data()
    torch.save(method.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(555)
    other = case.build()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert_same_predictions(method, other, x)


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
def test_options_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "stochastic_module_names": ["2"], "kl_weight": 0.3, "kl_warmup_epochs": 4, "burnin_epochs": 1, "num_data": 99,
        "num_mc_samples_train": 2, "num_mc_samples_test": 5, "estimator": "flipout", "init_std": 0.2,
    }  # fmt: skip
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian(), **options)
    trainer = quiet_trainer()
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    loaded = MeanFieldVI.load_from_checkpoint(
        tmp_path / "method.ckpt", backbone=MLP(3, [4], 1), likelihood=Gaussian(), weights_only=True
    )
    assert {name: getattr(loaded, name, loaded.hparams[name]) for name in options} == options
    assert loaded.conversion == method.conversion


def test_a_prior_of_tensors_survives_a_checkpoint(tmp_path: Path) -> None:
    backbone = nn.Linear(3, 1, bias=False)
    prior = GaussianPrior(backbone.weight.detach().clone(), torch.rand(1, 3) + 0.5)
    method = MeanFieldVI(backbone, Gaussian(0.5), prior=prior)
    expected = method.elbo(X, Y, num_data=24).kl
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = MeanFieldVI(
        nn.Linear(3, 1, bias=False), Gaussian(0.5), prior=GaussianPrior(torch.zeros(1, 3), torch.ones(1, 3))
    )
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.elbo(X, Y, num_data=24).kl, expected)


def method(kind: Any = MeanFieldVI, **options: Any) -> Any:
    torch.manual_seed(7)
    defaults: dict[str, Any] = {
        "num_mc_samples_train": 3,
        "optimizer": partial(torch.optim.Adam, lr=0.05),
        "lr_scheduler": None,
        "kl_warmup_epochs": 0,
        "burnin_epochs": 0,
    }
    return kind(MLP(3, [4], 2), HeteroscedasticGaussian(), **(defaults | options))


RUNS: dict[str, dict[str, Any]] = {
    "local reparameterization": {},
    "reparameterization": {"estimator": "reparameterization"},
    "flipout": {"estimator": "flipout"},
    "last layer": {"kind": LastLayerVI},
    "stopped in burn-in": {"burnin_epochs": 4},
    "stopped in warm-up": {"burnin_epochs": 1, "kl_warmup_epochs": 6},
}


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    data, path = loader(X, Y), tmp_path / "last.ckpt"
    unbroken = method(**options)
    expected = fit(unbroken, data, max_epochs=6)
    stopped = quiet_trainer(max_epochs=3)
    stopped.fit(method(**options), data)
    stopped.save_checkpoint(path)
    resumed = method(**options)
    torch.manual_seed(999)
    logged = fit(resumed, data, max_epochs=6, ckpt_path=path)
    assert same_state(copy_of_state(resumed), copy_of_state(unbroken))
    assert logged["train_loss"] == expected["train_loss"][3:]
    assert_same_predictions(unbroken, resumed, X)


def test_validation_and_prediction_do_not_change_training() -> None:
    plain, watched = method(), method()
    fit(plain, loader(X, Y), max_epochs=4)

    class Look(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            module.predict_step(X)  # type: ignore[operator]

    trainer = quiet_trainer(max_epochs=4, num_sanity_val_steps=2, callbacks=[Look()])
    trainer.fit(watched, loader(X, Y), loader(X, Y))
    assert same_state(copy_of_state(watched), copy_of_state(plain))


def test_two_runs_with_one_seed_agree_and_with_another_differ() -> None:
    first, second = method(), method()
    other = method()
    other.noise.seed += 1
    for run in (first, second, other):
        fit(run, loader(X, Y), max_epochs=2)
    assert same_state(copy_of_state(first), copy_of_state(second))
    assert not torch.equal(first.backbone[0].weight_mu, other.backbone[0].weight_mu)


def test_ranks_draw_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """And predict with the same networks."""
    losses, predictions = [], []
    for rank in range(3):
        run = method()
        monkeypatch.setattr(type(run), "global_rank", rank)
        losses.append(run.elbo(X, Y, num_data=24).nll.item())
        predictions.append(run.predict(X).mean)
        monkeypatch.undo()
    assert len(set(losses)) == 3
    assert torch.equal(predictions[0], predictions[1])
    assert torch.equal(predictions[0], predictions[2])
