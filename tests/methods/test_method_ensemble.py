"""Ensembles that train methods together, against the methods trained one by one."""

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.testing import assert_close

from lightning_vi import IVON, SWAG, Deterministic, Ensemble, Laplace, MeanFieldVI, MethodEnsemble, RankOneVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.optim import cosine_decay
from lightning_vi.testing import check_method

X, Y = normal(22, 3), 40 + 7 * normal(22, 1)
MEMBERS: dict[str, Any] = {
    "MeanFieldVI": partial(MeanFieldVI, num_mc_samples_train=2, num_mc_samples_test=4),
    "MeanFieldVI, burn-in": partial(MeanFieldVI, burnin_epochs=1, kl_warmup_epochs=1, num_mc_samples_train=2),
    "RankOneVI": partial(RankOneVI, num_mc_samples_train=2),
    "IVON": IVON,
    "SWAG": partial(SWAG, start_epoch=1, averaging_lr=(0.01, 0.001), lr_scheduler=cosine_decay),
    "Laplace": Laplace,
}


def make(member: Any, likelihood: Any = Gaussian, num_members: int = 3) -> MethodEnsemble:
    torch.manual_seed(1)
    width = 2 if likelihood is HeteroscedasticGaussian else 1
    return MethodEnsemble(MLP(3, [5], width), likelihood(), member=member, num_members=num_members)


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_training_together_equals_training_one_by_one(member: Any) -> None:
    method = make(member)
    alone = copy.deepcopy(method.members)
    assert len({single.noise.seed for single in alone}) == 3
    epochs = 10  # more than 20 steps, so that the learning rate warms up
    logged = fit(method, loader(X, Y), max_epochs=epochs)
    losses = []
    for single, trained in zip(alone, method.members, strict=True):
        losses.append(fit(single, loader(X, Y), max_epochs=epochs)["train_loss"])
        assert trained.num_data == 22
        first, second = copy_of_state(trained), copy_of_state(single)
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert_close(value, second[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert_close(torch.tensor(logged["train_loss"]), torch.tensor(losses).mean(0), rtol=1e-5, atol=1e-6)
    mean = torch.stack([single.predict(X).mean for single in alone]).mean(0)
    assert_close(method.predict(X, num_samples=3 * alone[0].num_mc_samples_test).mean, mean, rtol=1e-3, atol=1e-3)


def test_members_differ_and_see_the_data_in_orders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(Deterministic)
    seen: list[list[float]] = [[], [], []]
    for rows, member in zip(seen, method.members, strict=True):
        step = member.training_step

        def watched(batch: Any, index: int, rows: list[float] = rows, step: Any = step) -> Any:
            rows.extend(batch[1].flatten().tolist())
            return step(batch, index)

        monkeypatch.setattr(member, "training_step", watched)
    fit(method, loader(X, Y, shuffle=True), max_epochs=1)
    assert [sorted(rows) for rows in seen] == [sorted(Y.flatten().tolist())] * 3
    assert seen[0] != seen[1] != seen[2] != seen[0]
    weights = [member.backbone[0].weight for member in method.members]
    assert (weights[0] - weights[1]).abs().min() > 1e-3
    assert method.predict(X).epistemic_var.min() > 0


@pytest.mark.parametrize("member", [partial(MeanFieldVI, num_mc_samples_train=2), partial(SWAG, start_epoch=1)])
def test_a_resumed_fit_equals_an_unbroken_one(member: Any, tmp_path: Path) -> None:
    whole = make(member, HeteroscedasticGaussian)
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
    fit(whole, loader(X, Y), max_epochs=4, callbacks=[saver], enable_checkpointing=True)
    resumed = make(member, HeteroscedasticGaussian)
    fit(resumed, loader(X, Y), max_epochs=4, ckpt_path=tmp_path / "step=6.ckpt")
    first, second = copy_of_state(whole), copy_of_state(resumed)
    for name, value in first.items():
        assert_close(value, second[name], rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    loaded = MethodEnsemble.load_from_checkpoint(
        tmp_path / "step=12.ckpt",
        backbone=MLP(3, [5], 2), likelihood=HeteroscedasticGaussian(), member=member,
    )  # fmt: skip
    assert_close(loaded.predict(X).mean, whole.predict(X).mean)
    pickle.loads(pickle.dumps(whole))


def test_validation_scores_the_mixture_and_unfitted_members_provisionally() -> None:
    method = make(partial(SWAG, start_epoch=1))
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, loader(X, Y), loader(X, Y))
    (scores,) = trainer.validate(method, loader(X, Y), verbose=False)
    densities = Ensemble(method.members)
    for own, member in zip(densities.members, method.members, strict=True):
        own.noise.seed = member.noise.seed
    densities.noise.seed = method.noise.seed
    (expected,) = quiet_trainer().validate(densities, loader(X, Y), verbose=False)
    assert scores["val_nll"] == pytest.approx(expected["val_nll"], rel=1e-4)


def test_a_loop_of_your_own_trains_all_members() -> None:
    method = make(MeanFieldVI)
    optimizer = method.make_optimizer()
    alone = copy.deepcopy(method.members)
    loss, _, kl = method.elbo(X, Y, num_data=22)
    assert_close(loss, torch.stack([member.elbo(X, Y, num_data=22).loss for member in alone]).sum())
    assert kl > 0
    before = copy_of_state(method)
    loss.backward()
    optimizer.step()
    after = copy_of_state(method)
    assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith("_mu"))


def test_a_found_learning_rate_reaches_all_members() -> None:
    method = make(Deterministic)
    method.lr = 0.02
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(method, loader(X, Y))
    assert [group["lr"] for group in trainer.optimizers[0].param_groups] == pytest.approx([0.02, 0.2] * 3)
    assert method.lr == 0.02


def test_an_ensemble_keeps_the_contract() -> None:
    method = MethodEnsemble(MLP(2, [8], 3), Categorical(num_classes=3), member=MeanFieldVI, num_members=2)
    check_method(method, x=normal(6, 2), y=torch.tensor([0, 1, 2, 0, 1, 2]))


def test_wrong_members_are_refused() -> None:
    network = nn.Linear(3, 1)
    with pytest.raises(TypeError, match="member must be a class of methods or a function that returns one, got str"):
        MethodEnsemble(network, Gaussian(), member="MeanFieldVI")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="member must return a trainable method, got a Linear"):
        MethodEnsemble(network, Gaussian(), member=lambda backbone, likelihood: backbone)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="num_members must be an integer of at least 1, got 0"):
        MethodEnsemble(network, Gaussian(), member=MeanFieldVI, num_members=0)
