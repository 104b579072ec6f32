"""Burn-in on posterior means, and KL annealing."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi import LastLayerVI, MeanFieldVI, MeanVarianceEstimation
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import VariationalMethod
from lightning_vi.priors import GaussianPrior

X, Y = normal(24, 3), normal(24, 1)
SGD = partial(torch.optim.SGD, lr=0.05)


class Watch(Callback):
    """Keeps a copy of all parameters, and of all gradients, as they are at each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor | None]] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        parameters = dict(module.named_parameters())
        self.steps.append({name: value.detach().clone() for name, value in parameters.items()})
        self.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()})


def watched(method: VariationalMethod, data: Any, **options: Any) -> tuple[Watch, dict[str, list[float]]]:
    watch = Watch()
    return watch, fit(method, data, callbacks=[watch], **options)


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
@pytest.mark.parametrize("kind", [MeanFieldVI, LastLayerVI])
def test_burn_in_is_plain_training_of_the_means_on_the_squared_error(kind: type[VariationalMethod]) -> None:
    """It equals a loop in plain PyTorch step by step, although the posterior is wide."""
    backbone = MLP(3, [4], 1)
    method = kind(backbone, Gaussian(), burnin_epochs=3, optimizer=SGD, lr_scheduler=None, init_std=0.8)
    optimizer = SGD(backbone.parameters())
    losses = []
    for _ in range(3):
        epoch = []
        for x, y in zip(X.split(8), Y.split(8), strict=True):
            optimizer.zero_grad()
            loss = (backbone(x) - y).square().mean()
            loss.backward()
            optimizer.step()
            epoch.append(loss.item())
        losses.append(np.mean(epoch))
    logged = fit(method, loader(X, Y), max_epochs=3, gradient_clip_val=0)
    np.testing.assert_allclose(logged["train_loss"], losses, rtol=1e-4)
    torch.testing.assert_close(method(X), backbone(X), rtol=1e-4, atol=1e-5)


CLASSIFIERS = {
    "categorical": (Categorical(3), 3, torch.arange(24) % 3),
    "Bernoulli": (Bernoulli(), 1, torch.arange(24) % 2),
}


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
@pytest.mark.parametrize(("likelihood", "width", "labels"), CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_burn_in_of_a_classifier_is_on_the_cross_entropy(likelihood: Any, width: int, labels: Tensor) -> None:
    backbone = nn.Linear(3, width)
    method = MeanFieldVI(backbone, likelihood, burnin_epochs=1, optimizer=partial(SGD, lr=0.0), init_std=0.8)
    logits = backbone(X)
    expected = (
        F.cross_entropy(logits, labels)
        if width > 1
        else F.binary_cross_entropy_with_logits(logits.squeeze(1), labels.float())
    )
    assert fit(method, loader(X, labels))["train_loss"][0] == pytest.approx(expected.item(), rel=1e-5)


def test_burn_in_has_no_noise_no_kl_and_no_gradient_of_rho() -> None:
    def method() -> MeanFieldVI:
        torch.manual_seed(1)
        return MeanFieldVI(
            MLP(3, [4], 2),
            HeteroscedasticGaussian(),
            burnin_epochs=2,
            kl_warmup_epochs=0,
            init_std=0.5,
            prior=GaussianPrior(9.0, 0.01),
        )

    first, logged = watched(method(), loader(X, Y), max_epochs=4)
    other = method()
    other.noise.seed += 1
    second, _ = watched(other, loader(X, Y), max_epochs=4)
    burnin = 2 * 3
    for step, gradient in enumerate(first.gradients):
        rho = [value for name, value in gradient.items() if name.endswith("rho")]
        if step < burnin:
            assert all(value is None or not value.any() for value in rho)
        else:
            assert all(value is not None and value.any() for value in rho)
    for step in range(burnin + 1):
        for name, value in first.steps[step].items():
            assert torch.equal(value, second.steps[step][name])
            if name.endswith("rho"):
                assert torch.equal(value, first.steps[0][name])
    assert not torch.equal(first.steps[-1]["backbone.0.weight_mu"], second.steps[-1]["backbone.0.weight_mu"])
    assert logged["train_burnin"] == [1.0, 1.0, 0.0, 0.0]
    assert logged["train_kl_weight"] == [0.0, 0.0, 1.0, 1.0]
    assert len(logged["train_kl"]) == len(logged["train_elbo"]) == 2
    assert logged["train_loss"][2] > 100 * logged["train_loss"][1]


def test_burn_in_leaves_a_learned_noise_std_alone() -> None:
    method = MeanFieldVI(nn.Linear(3, 1), Gaussian(), burnin_epochs=1)
    watch, _ = watched(method, loader(X, Y), max_epochs=2)
    noise = [step["likelihood.noise_rho"] for step in watch.steps]
    assert torch.equal(noise[0], noise[3])
    assert not torch.equal(noise[0], noise[-1])


@pytest.mark.parametrize("kind", [MeanFieldVI, LastLayerVI])
def test_the_kl_weight_grows_linearly_after_burn_in(kind: type[VariationalMethod]) -> None:
    method = kind(
        nn.Linear(3, 1),
        Gaussian(0.5),
        burnin_epochs=2,
        kl_weight=0.6,
        kl_warmup_epochs=4,
        init_std=1e-7,
        optimizer=partial(SGD, lr=0.0),
        num_mc_samples_train=1,
    )
    logged = fit(method, loader(X, Y), max_epochs=9)
    weights = np.array(logged["train_kl_weight"])
    np.testing.assert_allclose(weights[:2], 0.0)
    np.testing.assert_allclose(weights[6:], 0.6)
    np.testing.assert_allclose(np.diff(weights[2:7]), 0.6 / 5, rtol=1e-5)
    assert weights[2] > 0
    kl, nll = np.array(logged["train_kl"]), np.array(logged["train_nll"])
    np.testing.assert_allclose(logged["train_loss"][2:], nll + weights[2:] * kl / 24, rtol=1e-5)
    np.testing.assert_allclose(logged["train_elbo"], -nll - kl / 24, rtol=1e-5)


def test_elbo_never_burns_in_and_uses_the_full_weight() -> None:
    method = MeanFieldVI(nn.Linear(3, 1), Gaussian(0.5), burnin_epochs=5, kl_weight=0.6, kl_warmup_epochs=9)
    loss, nll, kl = method.elbo(X, Y, num_data=24)
    torch.testing.assert_close(loss, nll + 0.6 * kl / 24)


@pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
def test_validation_samples_also_during_burn_in() -> None:
    """Validation scores the predictive mixture in every stage."""
    method = MeanFieldVI(nn.Linear(3, 1), Gaussian(0.5), burnin_epochs=1, init_std=0.9, optimizer=partial(SGD, lr=0.0))
    trainer = quiet_trainer()
    trainer.fit(method, loader(X, Y), loader(X, Y))
    during = trainer.callback_metrics["val_nll"].item()
    (after,) = quiet_trainer().validate(method, loader(X, Y), verbose=False)
    assert during == pytest.approx(after["val_nll"])


def test_mean_variance_estimation_burns_in_on_the_squared_error() -> None:
    backbone = MLP(3, [4], 2)
    method = MeanVarianceEstimation(
        backbone, HeteroscedasticGaussian(), burnin_epochs=1, optimizer=partial(SGD, lr=0.0)
    )
    logged = fit(method, loader(X, Y), max_epochs=2)
    with torch.no_grad():
        mean, raw = backbone(X).chunk(2, dim=1)
    std = F.softplus(raw) + 1e-3
    nll = -torch.distributions.Normal(mean, std).log_prob(Y).mean()
    assert logged["train_loss"] == pytest.approx([(mean - Y).square().mean().item(), nll.item()], rel=1e-4)
    assert logged["train_burnin"] == [1.0, 0.0]
