"""IVON against an exact posterior, and with Lightning's trainer."""

import math
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from linear_regression import LinearRegression, random_features
from network_cases import Example, each_example
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi import IVON
from lightning_vi.backbones import MLP
from lightning_vi.functional import gaussian_kl
from lightning_vi.likelihoods import Bernoulli, Gaussian, HeteroscedasticGaussian
from lightning_vi.noise import private_random_state
from lightning_vi.optim import DeferredScales, deferred, trained_stds

X, Y = normal(24, 3), normal(24, 1)
GIVEN: dict[str, Any] = {"lr": 0.05, "betas": (0.9, 0.99), "hess_init": 0.7, "clip_radius": 1.0}
QUICK = GIVEN | {"lr_scheduler": None}


def test_conjugate_regression_converges_to_the_exact_mean_field_posterior() -> None:
    features = random_features(60, orthogonal=False)
    noise = np.random.default_rng(1).normal(size=60)
    prior_std = (60 * 0.01) ** -0.5
    problem = LinearRegression(features, features @ np.array([1.5, -2.0, 1.0, 3.0]) + noise, 1.0, 0.0, prior_std)
    x, y = torch.from_numpy(features[:, :-1]).float(), torch.from_numpy(problem.target[:, None]).float()
    method = IVON(
        nn.Linear(3, 1), Gaussian(1.0), lr=0.2, betas=(0.9, 0.99), hess_init=0.2, clip_radius=1.0, weight_decay=0.01,
        num_mc_samples_train=16, antithetic=True,
        lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=600),
    )  # fmt: skip
    fit(method, loader(x, y, batch_size=60), max_epochs=600)
    layer: Any = method.backbone
    means = torch.cat([layer.weight_mu[0], layer.bias_mu])
    stds = F.softplus(torch.cat([layer.weight_rho[0], layer.bias_rho]))
    assert_close(means.detach().numpy(), problem.posterior_mean.astype("f4"), rtol=0, atol=0.01)
    assert_close(stds.detach().numpy(), problem.mean_field_std.astype("f4"), rtol=0.1, atol=0)


def test_loss_has_the_value_of_the_elbo_and_the_gradient_of_the_nll() -> None:
    method = IVON(nn.Linear(3, 1), Gaussian(0.5), num_data=200, weight_decay=0.03, kl_weight=0.5)
    layer: Any = method.backbone
    loss, nll, kl = method.elbo(X, Y)
    stds = [F.softplus(rho) for rho in (layer.weight_rho, layer.bias_rho)]
    prior_std = (200 / 0.5 * 0.03) ** -0.5
    expected = sum(
        gaussian_kl(m, s, 0.0, prior_std) for m, s in zip((layer.weight_mu, layer.bias_mu), stds, strict=True)
    )
    assert_close(kl, torch.as_tensor(expected).detach())
    assert_close(loss, nll + 0.5 * kl / 200)
    (first,) = torch.autograd.grad(loss, layer.weight_mu, retain_graph=True)
    (second,) = torch.autograd.grad(nll, layer.weight_mu)
    assert_close(first, second)


def test_initial_stds_follow_from_hess_init_and_the_number_of_data() -> None:
    options: dict[str, Any] = {"betas": (0.9, 0.99999), "lr": 0.0}
    method = IVON(MLP(3, [4], 1), Gaussian(), hess_init=0.25, weight_decay=0.01, **options)
    fit(method, loader(X, Y), max_epochs=1, limit_train_batches=1)
    std = F.softplus(method.backbone[0].weight_rho)
    assert_close(std, torch.full_like(std, (24 * 0.26) ** -0.5), rtol=0.02, atol=0)
    given = IVON(MLP(3, [4], 1), Gaussian(), hess_init=0.25, weight_decay=0.01, num_data=96)
    std = F.softplus(given.backbone[0].weight_rho)
    assert_close(std, torch.full_like(std, (96 * 0.26) ** -0.5))


def test_scales_that_nobody_reads_lead_to_the_same_steps() -> None:
    """The standard deviations that the optimizer keeps are those of the scales."""
    states = []
    for is_read in (False, True):
        torch.manual_seed(0)
        method = IVON(MLP(3, [200, 200], 1), Gaussian(), num_data=24, **QUICK)
        optimizer = method.make_optimizer()
        for _ in range(5):
            optimizer.zero_grad()
            terms = method.elbo(X, Y)
            terms.loss.backward()
            optimizer.step()
            scales = [parameter for name, parameter in method.named_parameters() if name.endswith("_rho")]
            assert all(isinstance(rho, DeferredScales) for rho in scales if rho.grad is not None and rho.dim() == 2)
            if is_read:
                method.state_dict()
                assert not any(isinstance(rho, DeferredScales) for rho in scales)
        states.append([terms.kl, *(value.detach() for value in method.parameters())])
    for first, second in zip(*states, strict=True):
        assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["steps", "epochs"])
def test_a_fit_computes_scales_once_an_epoch(mode: str, monkeypatch: Any) -> None:
    """Nothing in a training step reads them."""
    counted = list[Any]()
    monkeypatch.setattr(deferred, "_write", lambda rho, write=deferred._write: (counted.append(rho), write(rho)))
    method = IVON(MLP(3, [4], 1), Gaussian(), **QUICK)
    num_epochs, num_rows = (1, 4) if mode == "steps" else (3, 24)
    trainer = quiet_trainer(max_epochs=num_epochs, gradient_clip_val=1.0)
    trainer.fit(method, loader(X, Y, batch_size=num_rows))
    assert len(counted) <= 4 * (num_epochs + 1)


@each_example
def test_gradients_of_the_scales_are_those_of_the_standard_deviations(example: Example) -> None:
    """Of every tensor, also where a module reads it in a special way: the chain rule through the softplus agrees."""
    torch.manual_seed(0)
    engine = IVON(example.make(), Gaussian(0.5), num_data=24).engine
    x, scales = example.make_input(), engine.parameters()[1::2]
    engine.training_samples(x, 1)  # settles how samples are run
    gradients = []
    for stds in (trained_stds(scales), [F.softplus(rho) for rho in scales]):
        with private_random_state(5, torch.device("cpu")), engine.given_stds(stds):
            loss = engine.training_samples(x, 2).square().mean()
        gradients.append(torch.autograd.grad(loss, scales, allow_unused=True))
    for rho, slope, expected in zip(scales, *gradients, strict=True):
        assert (slope is None) == (expected is None)
        if slope is not None and expected is not None:
            assert_close(slope * torch.sigmoid(rho), expected, rtol=1e-4, atol=1e-8)


def test_defaults_follow_from_the_size_of_the_data_and_the_length_of_the_fit() -> None:
    method = IVON(MLP(3, [4], 1), Gaussian())
    trainer = quiet_trainer(max_epochs=20)
    trainer.fit(method, loader(X, Y, batch_size=8))  # 24 rows, 60 steps
    (optimizer,) = trainer.optimizers
    for group in optimizer.param_groups:
        assert group["ess"] == 24
        assert (group["ess"] * group["weight_decay"]) ** -0.5 == pytest.approx(1.0)
        assert (group["ess"] * group["hess_init"]) ** -0.5 == pytest.approx(0.0067)
        assert group["betas"] == (0.9, pytest.approx(1 - 4 / 60))
        step = method.lr * (group["hess_init"] + group["weight_decay"]) * group["clip_radius"]
        assert step == pytest.approx(0.02)
    assert optimizer.param_groups[0]["initial_lr"] == method.lr == pytest.approx(0.4 * 24 / 60)
    assert optimizer.param_groups[0]["lr"] < 0.1 * method.lr


@pytest.mark.parametrize(
    ("num_inputs", "num_steps", "largest"),
    [(3, 60, 0.02), (100, math.inf, 0.01), (100, 1000, 0.01), (1000, 10_000, 0.001), (1000, 250, 0.005)],
)
def test_a_step_moves_a_weight_less_where_units_have_many_inputs(
    num_inputs: int, num_steps: float, largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs that are far from large targets ask for larger steps."""
    monkeypatch.setattr(IVON, "num_steps", num_steps)
    method = IVON(nn.Sequential(nn.Linear(num_inputs, 2)), Gaussian(num_targets=2), num_data=24)
    optimizer, before = method.make_optimizer(), method.backbone[0].weight_mu.detach().clone()
    method.elbo(normal(24, num_inputs), 1e4 * normal(24, 2)).loss.backward()
    optimizer.step()
    moved = (method.backbone[0].weight_mu - before).abs().max().item()
    assert moved == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("num_data", [None, 24])
@pytest.mark.parametrize(("likelihood", "epochs", "rate"), [(Gaussian(), 2, 0.3), (Bernoulli(), 20, 1.0)])
def test_default_learning_rate(likelihood: Any, epochs: int, rate: float, num_data: int | None) -> None:
    method = IVON(MLP(3, [4], 1), likelihood, num_data=num_data)
    targets = Y if isinstance(likelihood, Gaussian) else (Y > 0).long().squeeze(1)
    trainer = quiet_trainer(max_epochs=epochs)
    trainer.fit(method, loader(X, targets, batch_size=8))
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == rate


def test_default_learning_rate_of_a_fit_of_other_data_follows_from_them() -> None:
    method = IVON(MLP(3, [4], 1), Gaussian())
    for num_rows in (24, 12):
        trainer = quiet_trainer(max_epochs=20)
        trainer.fit(method, loader(X[:num_rows], Y[:num_rows], batch_size=num_rows))
        expected = min(0.3, 0.4 * num_rows / 20)
        assert trainer.optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(expected)


def test_given_options_win_and_a_loop_without_a_length_has_constant_rates() -> None:
    given = IVON(nn.Linear(3, 1), Gaussian(), num_data=24, weight_decay=0.03, **QUICK)
    (group,) = given.make_optimizer().param_groups[:1]
    assert {key: group[key] for key in GIVEN} == GIVEN
    assert group["weight_decay"] == 0.03
    (group,) = IVON(nn.Linear(3, 1), Gaussian(), num_data=400).make_optimizer().param_groups[:1]
    assert group["betas"] == (0.9, 0.99999)
    assert group["hess_init"] == pytest.approx(0.0067**-2 / 400)
    assert group["lr"] == 0.3


@contextmanager
def same_noise_within_a_step(method: IVON, parts: int) -> Any:
    """Makes all micro-batches of a step sample the same weights."""
    calls = 0

    @contextmanager
    def fresh(rank: int, device: torch.device) -> Any:
        nonlocal calls
        with private_random_state(100 + calls // parts, device):
            yield
        calls += 1

    method.noise.fresh = fresh  # type: ignore[method-assign]
    yield
    del method.noise.fresh


def test_gradient_accumulation_equals_large_batches() -> None:
    states = []
    for parts in (1, 4):
        torch.manual_seed(0)
        method = IVON(MLP(3, [4], 1), Gaussian(), **QUICK)
        with same_noise_within_a_step(method, parts):
            fit(method, loader(X, Y, batch_size=8 // parts), max_epochs=4, accumulate_grad_batches=parts)
        states.append({name: value.detach() for name, value in method.named_parameters()})
    for name, value in states[0].items():
        assert_close(states[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_applies_to_gradients_but_not_to_curvature(algorithm: str) -> None:
    hessians, means = [], []
    for value in (None, 1e-4):
        torch.manual_seed(0)
        method = IVON(MLP(3, [4], 1), Gaussian(), **QUICK)
        trainer = quiet_trainer(gradient_clip_val=value, gradient_clip_algorithm=algorithm, limit_train_batches=1)
        trainer.fit(method, loader(X, Y))
        (optimizer,) = trainer.optimizers
        hessians.append(
            torch.cat([state["hessian"].flatten() for state in optimizer.state.values() if "hessian" in state])
        )
        means.append(method.backbone[0].weight_mu.detach())
    assert_close(*hessians)
    assert not torch.allclose(*means)


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
@pytest.mark.parametrize("options", [{}, {"burnin_epochs": 4}, {"burnin_epochs": 1, "kl_warmup_epochs": 5}])
def test_resumed_run_equals_uninterrupted_run(options: dict[str, Any], tmp_path: Any) -> None:
    def make() -> IVON:
        torch.manual_seed(0)
        return IVON(MLP(3, [4], 2), HeteroscedasticGaussian(), **QUICK, **options)

    data, path = loader(X, Y), tmp_path / "last.ckpt"
    unbroken = make()
    fit(unbroken, data, max_epochs=6)
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(make(), data)
    trainer.save_checkpoint(path)
    resumed = make()
    fit(resumed, data, max_epochs=6, ckpt_path=path)
    assert same_state(copy_of_state(resumed), copy_of_state(unbroken))


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
def test_burn_in_does_not_change_the_posterior_stds() -> None:
    method = IVON(MLP(3, [4], 1), Gaussian(), burnin_epochs=2, num_data=24, **QUICK)
    before = method.backbone[0].weight_rho.detach().clone()
    fit(method, loader(X, Y), max_epochs=2)
    assert torch.equal(method.backbone[0].weight_rho, before)


def test_exception_in_a_step_restores_the_means() -> None:
    method = IVON(MLP(3, [4], 1), Gaussian(), num_data=24, **QUICK)
    before = copy_of_state(method.backbone)
    method.likelihood.log_prob = lambda *_: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    with pytest.raises(ZeroDivisionError):
        fit(method, loader(X, Y))
    assert same_state(copy_of_state(method.backbone), before)


def test_custom_training_loop() -> None:
    method = IVON(MLP(3, [8], 1), Gaussian(), num_data=24, **QUICK)
    optimizer = method.make_optimizer()
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = method.elbo(X, Y).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < np.mean(losses[:20])


def test_parameters_without_a_posterior_are_trained_by_adam() -> None:
    method = IVON(MLP(3, [4], 1), Gaussian(), stochastic_module_names=[-1], num_data=24, point_lr=0.02)
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = method.make_optimizer()
    method.elbo(X, Y).loss.backward()
    optimizer.step()
    for name in ("backbone.0.weight", "likelihood.noise_rho"):
        change = (method.get_parameter(name) - before[name]).abs()
        assert_close(change, torch.full_like(change, 0.02), rtol=0.01, atol=1e-4)


def test_bf16_mixed_precision() -> None:
    method = IVON(MLP(3, [4], 1), Gaussian(), **QUICK)
    fit(method, loader(X, Y), max_epochs=2, precision="bf16-mixed")
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in method.parameters())


@pytest.mark.parametrize(
    ("option", "value"),
    [("weight_decay", 0.0), ("kl_weight", 0.0), ("lr", -1.0), ("hess_init", 0.0), ("point_lr", 0.0)],
)
def test_arguments_out_of_range(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        IVON(nn.Linear(1, 1), Gaussian(), **{option: value})


def test_from_pretrained_raises() -> None:
    with pytest.raises(TypeError, match="give the trained network as backbone"):
        IVON.from_pretrained(nn.Linear(1, 1), Gaussian())


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
@pytest.mark.parametrize("num_data", [None, 24])
def test_first_step_of_burn_in_uses_the_learning_rate(num_data: int | None) -> None:
    """With the initial Hessian it is a gradient descent step on the point loss plus the penalty of the prior."""
    method = IVON(nn.Linear(3, 1), Gaussian(), burnin_epochs=2, num_data=num_data, weight_decay=0.03, **QUICK)
    layer: Any = method.backbone
    before = layer.weight_mu.detach().clone()
    loss = method.likelihood.point_loss(F.linear(X, layer.weight_mu, layer.bias_mu).unsqueeze(0), Y)
    (gradient,) = torch.autograd.grad(loss, layer.weight_mu)
    fit(method, loader(X, Y, batch_size=24))
    move = ((gradient + 0.03 * before) / (QUICK["hess_init"] + 0.03)).clamp(-1.0, 1.0)
    assert_close(layer.weight_mu.detach(), before - 0.05 * (QUICK["hess_init"] + 0.03) * move, rtol=1e-4, atol=1e-6)
