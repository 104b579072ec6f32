"""Optimizers, weight decay and learning rate schedules."""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_vi import Deterministic, LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian
from lightning_vi.methods import UQMethod

X, Y = normal(16, 2), normal(16, 1)


def decayed(method: UQMethod) -> set[str]:
    """Returns the names of the parameters that a step with zero gradients shrinks."""
    optimizer: Any = method.make_optimizer()
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    for parameter in method.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name for name, parameter in method.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize(
    "optimizer", [partial(AdamW, lr=0.1, weight_decay=0.5), partial(SGD, lr=0.1, weight_decay=0.5)]
)
def test_variational_and_likelihood_parameters_have_no_weight_decay(optimizer: Any) -> None:
    assert decayed(MeanFieldVI(MLP(2, [3], 1), Gaussian(), optimizer=optimizer)) == set()
    deterministic_part = {"backbone.0.weight", "backbone.0.bias"}
    assert decayed(LastLayerVI(MLP(2, [3], 1), Gaussian(), optimizer=optimizer)) == deterministic_part
    rest = {"backbone.2.weight", "backbone.2.bias"}
    assert decayed(Deterministic(MLP(2, [3], 1), Gaussian(), optimizer=optimizer)) == deterministic_part | rest


def test_each_trainable_parameter_is_in_exactly_one_group() -> None:
    method = LastLayerVI(MLP(2, [3], 1), Gaussian(), optimizer=partial(AdamW, lr=0.1))
    method.backbone[0].bias.requires_grad_(False)
    optimizer: Any = method.make_optimizer()
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01, 0.0}


def test_tied_parameters_are_optimized_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.Linear(2, 1))
    network[2].weight = network[0].weight
    method = MeanFieldVI(network, Gaussian(), estimator="reparameterization", optimizer=partial(AdamW, lr=0.1))
    optimizer: Any = method.make_optimizer()
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped)) == len(list(method.parameters()))


def test_training_with_weight_decay_raises_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method = MeanFieldVI(MLP(2, [3], 1), Gaussian(), optimizer=partial(AdamW, lr=0.01, weight_decay=0.1))
        fit(method, loader(X, Y), max_epochs=2)


def test_scheduler_steps_once_per_epoch() -> None:
    method = MeanFieldVI(
        nn.Linear(2, 1),
        Gaussian(),
        optimizer=partial(SGD, lr=0.1),
        lr_scheduler=partial(StepLR, step_size=1, gamma=0.5),
    )
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(method, loader(X, Y))
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_plateau_scheduler_monitors_the_training_loss() -> None:
    method = Deterministic(
        nn.Linear(2, 1),
        Gaussian(),
        optimizer=partial(SGD, lr=0.0),
        lr_scheduler=partial(ReduceLROnPlateau, patience=0, factor=0.5),
    )
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(method, loader(X, Y))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.0
    assert trainer.lr_scheduler_configs[0].monitor == "train_loss"


def test_gradient_clipping_ignores_frozen_layers() -> None:
    backbone = MLP(2, [3], 1)
    backbone[0].weight.requires_grad_(False)
    method = MeanFieldVI(backbone, Gaussian())
    before = method.backbone[0].weight.detach().clone()
    fit(method, loader(X, Y), max_epochs=2, gradient_clip_val=0.1)
    assert torch.equal(method.backbone[0].weight, before)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (partial(torch.optim.Adam, lr=0.1), True),
        (partial(AdamW, lr=0.1), True),
        (partial(SGD, lr=0.1, momentum=0.9), True),
        (partial(AdamW, lr=0.1, fused=False), False),
        (partial(AdamW, lr=0.1, foreach=True), None),
        (partial(AdamW, lr=0.1, capturable=True), None),
        (partial(AdamW, lr=torch.tensor(0.1)), None),
        (partial(torch.optim.RMSprop, lr=0.1), None),
    ],
)
def test_fused_implementation_is_the_default(optimizer: Any, expected: bool | None) -> None:
    built: Any = LastLayerVI(MLP(2, [3], 1), Gaussian(), optimizer=optimizer).make_optimizer()
    assert [group.get("fused") for group in built.param_groups] == [expected] * len(built.param_groups)


@pytest.mark.parametrize("kind", [torch.optim.Adam, AdamW, SGD])
def test_fused_optimizer_takes_the_same_steps(kind: Any) -> None:
    ends = []
    for options in ({}, {"foreach": False, "fused": False}):
        torch.manual_seed(5)
        method = MeanFieldVI(MLP(2, [3], 1), Gaussian(), optimizer=partial(kind, lr=0.01, **options))
        fit(method, loader(X, Y), max_epochs=4, gradient_clip_val=1.0)
        ends.append(torch.cat([parameter.flatten() for parameter in method.parameters()]))
    torch.testing.assert_close(ends[1], ends[0])
