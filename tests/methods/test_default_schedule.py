"""Default schedules of the variational methods: learning rate, weight of the KL divergence, limit of the gradient."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from helpers import fit, loader, quiet_trainer
from lightning import Callback, Trainer
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_vi import FullRankVI, LastLayerVI, LowRankVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Bernoulli, Gaussian
from lightning_vi.methods.variational.base import feature_learning_rate

X, Y = torch.linspace(-1, 1, 16).unsqueeze(1), torch.linspace(1, -1, 16).unsqueeze(1)
DATA = partial(loader, X, Y, batch_size=4)  # four steps an epoch


class StopAfterOneStep(Callback):
    """Ends a fit whose length the Trainer knows."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = True


class Recorded(MeanFieldVI):
    """Keeps the weight of the KL divergence and the learning rates of each step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nn.Linear(1, 1), Gaussian(0.5), **options)
        self.weights: list[float] = []
        self.rates: list[float] = []

    def objective(self, *args: Any, kl_weight: float, **options: Any) -> Any:
        self.weights.append(kl_weight)
        self.rates.append(self.optimizers(use_pl_optimizer=False).param_groups[-1]["lr"])  # type: ignore[union-attr]
        return super().objective(*args, kl_weight=kl_weight, **options)


def test_kl_weight_increases_in_each_step_over_nine_tenths_of_the_fit() -> None:
    method = Recorded(kl_weight=0.5)
    fit(method, DATA(), max_epochs=5)
    expected = [0.5 * min(1.0, step / (0.9 * 20)) for step in range(1, 21)]
    assert method.weights == pytest.approx(expected)


def test_kl_weight_increases_after_burn_in() -> None:
    method = Recorded(burnin_epochs=2)
    logged = fit(method, DATA(), max_epochs=5)
    assert method.weights == pytest.approx([min(1.0, step / (0.9 * 12)) for step in range(1, 13)])
    assert logged["train_kl_weight"] == pytest.approx([0, 0, 4 / 10.8, 8 / 10.8, 1])


@pytest.mark.parametrize(("options", "steps"), [({"max_epochs": -1, "max_steps": 10}, 10), ({"max_epochs": 2}, 8)])
def test_kl_weight_follows_the_limit_that_ends_the_fit(options: dict[str, int], steps: int) -> None:
    method = Recorded()
    fit(method, DATA(), **options)
    assert method.weights == pytest.approx([min(1.0, step / (0.9 * steps)) for step in range(1, steps + 1)])


def test_kl_weight_is_full_in_a_fit_of_unknown_length_and_outside_of_fits() -> None:
    method = Recorded()
    assert method.effective_kl_weight() == 1
    fit(method, DATA(), max_epochs=-1, max_time={"seconds": 0.05})
    assert set(method.weights) == {1.0}
    assert method.effective_kl_weight() == 1


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(zip(X, Y, strict=True))


def test_kl_weight_increases_by_epoch_where_the_number_of_batches_is_unknown() -> None:
    method = Recorded(num_data=16)
    fit(method, DataLoader(Stream(), batch_size=8), max_epochs=4)
    assert method.weights == pytest.approx([min(1.0, epoch / 3.6) for epoch in (1, 1, 2, 2, 3, 3, 4, 4)])


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    method = Recorded()
    fit(method, DATA(), max_epochs=10)
    rates = [min(1, (t + 1) / 2) * 1.7 / math.sqrt(1000) * (1 + math.cos(math.pi * t / 40)) / 2 for t in range(40)]
    assert method.rates == pytest.approx(rates)


def test_learning_rate_is_constant_in_a_fit_of_unknown_length() -> None:
    method = Recorded(num_data=16)
    fit(method, DataLoader(Stream(), batch_size=8), max_epochs=3)
    assert method.rates == pytest.approx([1.7 / math.sqrt(2000)] * 6)


def test_given_optimizer_and_schedule_are_used_as_they_are() -> None:
    method = Recorded(optimizer=partial(torch.optim.SGD, lr=0.7), lr_scheduler=None)
    fit(method, DATA(), max_epochs=1)
    assert method.rates == [0.7] * 4


def test_resumed_schedules_equal_unbroken_ones(tmp_path: Any) -> None:
    unbroken = Recorded()
    fit(unbroken, DATA(shuffle=False), max_epochs=4)
    first, second = Recorded(), Recorded()
    trainer = quiet_trainer(max_epochs=4)
    first.on_train_epoch_end = lambda: MeanFieldVI.on_train_epoch_end(first) or _stop(trainer)  # type: ignore[func-returns-value, method-assign]
    trainer.fit(first, DATA(shuffle=False))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(second, DATA(shuffle=False), ckpt_path=tmp_path / "half.ckpt", max_epochs=4)
    assert len(first.weights) == 4
    assert first.weights + second.weights == pytest.approx(unbroken.weights)
    assert first.rates + second.rates == pytest.approx(unbroken.rates)


def _stop(trainer: Any) -> None:
    trainer.should_stop = True


def test_posterior_has_a_higher_rate_than_deterministic_weights_by_default() -> None:
    method = LastLayerVI(MLP(1, [7, 50], 1), Gaussian())
    rates = {id(p): group["lr"] for group in method.make_optimizer().param_groups for p in group["params"]}
    assert [rates[id(p)] for p in method.engine.parameters()] == pytest.approx([1.7 / math.sqrt(2000)] * 4)
    assert rates[id(next(method.backbone.parameters()))] == 0.003


@pytest.mark.parametrize(("kind", "factor"), [(MeanFieldVI, 1.0), (LowRankVI, 1.0), (FullRankVI, 0.5)])
def test_the_size_of_a_covariance_does_not_lower_the_rate(kind: Any, factor: float) -> None:
    method = kind(MLP(1, [100], 1), Gaussian())
    rates = {id(p): group["lr"] for group in method.make_optimizer().param_groups for p in group["params"]}
    coupling = set() if method.coupling is None else set(method.coupling.parameters())
    for parameter in method.engine.parameters():
        share = factor * (0.1 if parameter in coupling else 1.0)
        assert rates[id(parameter)] == pytest.approx(share * 1.7 / math.sqrt(2000))


@pytest.mark.parametrize(
    ("width", "steps", "num_data", "rate"),
    [
        (50, 400, 400, 0.006),
        (50, 400, 4000, 0.012),
        (50, 2500, 10000, 0.008),
        (50, 40000, 10**6, 0.003),
        (500, 2500, 10**6, 0.004),
        (50, 400, 100, 0.003),
        (50, math.inf, 4000, 0.003),
        (50, 400, None, 0.003),
    ],
)
def test_rate_of_deterministic_weights_depends_on_the_fit(width: int, steps: float, num_data: Any, rate: float) -> None:
    assert feature_learning_rate(width, steps, num_data) == pytest.approx(rate)


def test_fit_gives_deterministic_weights_their_rate() -> None:
    method = LastLayerVI(MLP(1, [7], 1), Gaussian())
    fit(method, loader(X, Y, batch_size=len(X)), max_epochs=2)
    groups = method.optimizers(use_pl_optimizer=False).param_groups  # type: ignore[union-attr]
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert rates[id(next(method.backbone.parameters()))] == pytest.approx(0.012)


def test_deterministic_weights_have_the_rate_of_a_given_optimizer() -> None:
    method = LastLayerVI(MLP(1, [7, 50], 1), Gaussian(), optimizer=partial(torch.optim.Adam, lr=0.1))
    rates = {id(p): group["lr"] for group in method.make_optimizer().param_groups for p in group["params"]}
    assert {rates[id(p)] for p in method.backbone.parameters()} == {0.1}


@pytest.mark.parametrize(
    ("hidden", "likelihood", "rate"),
    [
        ([50], Gaussian(), 1.7 / math.sqrt(1000)),
        ([50], Bernoulli(), 0.2),
        ([600], Gaussian(), 0.5 / math.sqrt(1000)),
        ([600], Bernoulli(), 0.5 / math.sqrt(100)),
        ([50] * 9, Gaussian(), 0.51 / math.sqrt(1000)),
        ([50] * 7, Bernoulli(), 0.2 / 16),
        ([600] * 7, Bernoulli(), 0.2 / 16),
    ],
)
def test_posterior_rate_depends_on_length_width_depth_and_likelihood(
    hidden: list[int], likelihood: Any, rate: float
) -> None:
    method = MeanFieldVI(MLP(1, hidden, 1), likelihood)
    targets = Y if isinstance(likelihood, Gaussian) else (Y > 0).long().squeeze(1)
    options = {"max_epochs": -1, "max_steps": 100, "limit_train_batches": 1, "callbacks": [StopAfterOneStep()]}
    fit(method, loader(X, targets, batch_size=4), **options)
    (group,) = [group for group in method.optimizers(use_pl_optimizer=False).param_groups if len(group["params"]) > 1]  # type: ignore[union-attr]
    assert group["initial_lr"] == pytest.approx(rate)


def test_default_prior_finds_the_scale_of_each_tensor() -> None:
    layer = MeanFieldVI(MLP(1, [5], 1), Gaussian()).backbone[0]
    assert "prior=EmpiricalBayesPrior(" in repr(layer)


@pytest.mark.parametrize(("options", "limit"), [({}, 1.0), ({"gradient_clip_val": 0.3}, 0.3)])
def test_gradient_is_clipped_in_a_trainer(options: Any, limit: float) -> None:
    norms = []

    class Recording(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            loss = closure()
            grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(torch.cat([grad.flatten() for grad in grads]).norm().item())
            super().step()
            return loss

    method = MeanFieldVI(nn.Linear(1, 1), Gaussian(0.01), optimizer=lambda p: Recording(p, lr=1e-3))
    quiet_trainer(max_epochs=1, **options).fit(method, DATA())
    assert norms == pytest.approx([limit] * 4, rel=1e-3)
