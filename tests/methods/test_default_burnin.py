"""The burn-in of fits whose noise is an output of the network, which nobody asked for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.tuner import Tuner
from torch import nn

from lightning_vi import (
    IVON,
    AlphaDivergenceVI,
    Deterministic,
    FullRankVI,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    LowRankWeightsVI,
    MatrixVariateVI,
    MeanFieldVI,
    MethodEnsemble,
    RadialVI,
    RankOneVI,
)
from lightning_vi.backbones import MLP
from lightning_vi.core import UQMethod
from lightning_vi.likelihoods import Categorical, ChannelsFirst, Gaussian, HeteroscedasticGaussian, StudentT

X, Y = normal(24, 3), normal(24, 1)
LABELS = torch.arange(24) % 3
WHOLE = (MeanFieldVI, LowRankVI, MatrixVariateVI, RadialVI, AlphaDivergenceVI, LatentVariableVI)


class Stages(Callback):
    """Notes for each epoch whether it is burn-in."""

    def __init__(self) -> None:
        self.burnin: list[bool] = []

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.burnin.append(bool(module.in_burnin))


def num_burnin(method: Any, data: Any = None, **options: Any) -> int:
    """Number of burn-in epochs of a fit, of 9 epochs by default; they come first."""
    stages = Stages()
    options = {"max_epochs": 9, **options}
    callbacks = [stages, *options.pop("callbacks", [])]
    fit(method, loader(X, Y) if data is None else data, callbacks=callbacks, **options)
    count = sum(stages.burnin)
    assert stages.burnin == [True] * count + [False] * (len(stages.burnin) - count)
    return count


def mean_field(**options: Any) -> MeanFieldVI:
    torch.manual_seed(1)
    return MeanFieldVI(MLP(3, [4], 2), HeteroscedasticGaussian(), **options)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_quarter_of_a_fit_is_burn_in(kind: Callable[..., UQMethod]) -> None:
    assert num_burnin(kind(MLP(3, [4], 2), HeteroscedasticGaussian())) == 2


def test_low_rank_weights_have_it_too() -> None:
    method = LowRankWeightsVI(MLP(3, [40, 40], 2), HeteroscedasticGaussian(), rank=2)
    assert num_burnin(method) == 2


OTHERS: dict[str, tuple[Callable[[], UQMethod], Any]] = {
    "noise with a std of its own": (lambda: MeanFieldVI(MLP(3, [4], 1), Gaussian()), Y),
    "heavy tails": (lambda: MeanFieldVI(MLP(3, [4], 1), StudentT()), Y),
    "classes": (lambda: MeanFieldVI(MLP(3, [4], 3), Categorical(3)), LABELS),
    "last layer": (lambda: LastLayerVI(MLP(3, [4], 2), HeteroscedasticGaussian()), Y),
    "some layers": (
        lambda: MeanFieldVI(MLP(3, [4], 2), HeteroscedasticGaussian(), stochastic_module_names=[-1]),
        Y,
    ),
    "rank-one factors": (lambda: RankOneVI(MLP(3, [4], 2), HeteroscedasticGaussian()), Y),
    "full covariance": (lambda: FullRankVI(MLP(3, [4], 2), HeteroscedasticGaussian()), Y),
    "IVON": (lambda: IVON(MLP(3, [4], 2), HeteroscedasticGaussian()), Y),
    "plain network": (lambda: Deterministic(MLP(3, [4], 2), HeteroscedasticGaussian()), Y),
    "pretrained": (lambda: MeanFieldVI.from_pretrained(MLP(3, [4], 2), HeteroscedasticGaussian()), Y),
    "none wanted": (lambda: mean_field(burnin_epochs=0), Y),
}


@pytest.mark.parametrize(("make", "target"), OTHERS.values(), ids=OTHERS)
def test_other_fits_have_none(make: Callable[[], UQMethod], target: Any) -> None:
    assert num_burnin(make(), loader(X, target)) == 0


def test_what_the_user_gives_wins() -> None:
    assert num_burnin(mean_field(burnin_epochs=5)) == 5


def test_images_have_it_too() -> None:
    method = MeanFieldVI(nn.Conv2d(1, 2, 1), ChannelsFirst(HeteroscedasticGaussian()))
    assert num_burnin(method, loader(normal(24, 1, 3, 3), normal(24, 1, 3, 3))) == 2


def test_it_is_the_same_as_that_many_epochs() -> None:
    default, given = mean_field(), mean_field(burnin_epochs=2)
    logged, expected = fit(default, loader(X, Y), max_epochs=9), fit(given, loader(X, Y), max_epochs=9)
    assert same_state(copy_of_state(default), copy_of_state(given))
    assert logged["train_burnin"] == [1.0, 1.0, *[0.0] * 7]
    assert logged["train_kl_weight"] == expected["train_kl_weight"]


LENGTHS: dict[str, tuple[dict[str, Any], int]] = {
    "max_epochs": ({"max_epochs": 4}, 1),
    "too short": ({"max_epochs": 3}, 0),
    "max_steps": ({"max_epochs": -1, "max_steps": 24}, 2),
    "max_steps of accumulated batches": ({"max_epochs": -1, "max_steps": 12, "accumulate_grad_batches": 3}, 3),
    "the shorter of both": ({"max_epochs": 100, "max_steps": 24}, 2),
    "may stop early": ({"callbacks": [EarlyStopping("train_loss", patience=99)]}, 0),
    "max_time": ({"max_time": "00:01:00:00"}, 0),
}


@pytest.mark.parametrize(("options", "expected"), LENGTHS.values(), ids=LENGTHS)
def test_it_follows_the_length_of_the_fit(options: dict[str, Any], expected: int) -> None:
    assert num_burnin(mean_field(), **options) == expected


def test_a_second_fit_has_none() -> None:
    method = mean_field()
    assert num_burnin(method) == 2
    assert num_burnin(method) == 0


def test_a_search_for_a_learning_rate_judges_the_objective_and_leaves_the_burn_in_of_the_fit(tmp_path: Path) -> None:
    method, stages = mean_field(), Stages()
    seen: list[bool] = []
    objective = method.objective
    method.objective = lambda *a, **k: (seen.append(True), objective(*a, **k))[1]  # type: ignore[method-assign]
    trainer = quiet_trainer(max_epochs=9, callbacks=[stages], default_root_dir=tmp_path)
    Tuner(trainer).lr_find(method, loader(X, Y), num_training=12)
    assert len(seen) == 12
    stages.burnin.clear()
    trainer.fit(method, loader(X, Y))
    assert stages.burnin == [True, True, *[False] * 7]


def ensemble() -> MethodEnsemble:
    torch.manual_seed(1)
    return MethodEnsemble(MLP(3, [4], 2), HeteroscedasticGaussian(), member=MeanFieldVI, num_members=2)


@pytest.mark.parametrize("make", [mean_field, ensemble])
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_resumed_fit_keeps_its_burn_in(make: Callable[[], Any], stop: int, tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
            if trainer.current_epoch + 1 == stop:
                trainer.save_checkpoint(tmp_path / "stop.ckpt")

    unbroken = make()
    expected = fit(unbroken, loader(X, Y), max_epochs=9, callbacks=[Save()])
    resumed = make()
    logged = fit(resumed, loader(X, Y), max_epochs=9, ckpt_path=tmp_path / "stop.ckpt")
    assert logged["train_loss"] == expected["train_loss"][-len(logged["train_loss"]) :]
    assert same_state(copy_of_state(resumed), copy_of_state(unbroken))


@pytest.mark.parametrize("make", [mean_field, ensemble])
def test_a_fit_that_is_made_longer_does_not_burn_in_again(make: Callable[[], Any], tmp_path: Path) -> None:
    trainer = quiet_trainer(max_epochs=9)
    trainer.fit(make(), loader(X, Y))
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed = make()
    burnin = fit(resumed, loader(X, Y), max_epochs=80, ckpt_path=tmp_path / "end.ckpt")["train_burnin"]
    assert not any(burnin)


def test_members_of_an_ensemble_burn_in() -> None:
    given = MethodEnsemble(
        MLP(3, [4], 2), HeteroscedasticGaussian(), member=partial(MeanFieldVI, burnin_epochs=2), num_members=2
    )
    given.load_state_dict(ensemble().state_dict())
    default = ensemble()
    for one, other in zip(given.members, default.members, strict=True):
        one.noise.load_state_dict(other.noise.state_dict())
    fit(default, loader(X, Y), max_epochs=9)
    fit(given, loader(X, Y), max_epochs=9)
    assert [member.num_burnin_epochs for member in default.members] == [2, 2]
    assert same_state(copy_of_state(default), copy_of_state(given))


@pytest.mark.parametrize("kind", [MeanFieldVI, LastLayerVI])
def test_a_fit_that_ends_in_its_burn_in_says_so(kind: Callable[..., UQMethod]) -> None:
    method = kind(MLP(3, [4], 2), HeteroscedasticGaussian(), burnin_epochs=3)
    with pytest.warns(UserWarning, match=r"ended in its burn-in of 3 epochs: the noise and the posterior standard"):
        fit(method, loader(X, Y), max_epochs=3)


def test_a_fit_that_ends_in_the_middle_of_the_epoch_behind_its_burn_in_does_not() -> None:
    fit(mean_field(burnin_epochs=1), loader(X, Y), max_epochs=-1, max_steps=4)
