"""Metrics of validation and test, recomputed by hand from the sampled networks."""

from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from helpers import History, loader, normal, quiet_trainer, randomize_posteriors
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import Deterministic, MeanFieldVI, MeanVarianceEstimation
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import UQMethod

S, B = 8, 20
MEAN, STD = torch.tensor([100.0, -3.0]), torch.tensor([25.0, 0.2])
X = normal(B, 3)
Y = MEAN + STD * normal(B, 2)
LABELS = torch.arange(B) % 4


class Standardized(LightningDataModule):
    """Targets in their original units, with the scaling of the network's targets."""

    target_mean, target_std = MEAN, STD

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(X, Y)

    val_dataloader = test_dataloader = train_dataloader


def networks_outputs(method: MeanFieldVI) -> Tensor:
    """Outputs [S, B, width] of the sampled networks that validation uses."""
    return torch.cat(list(method.sampled_outputs(X, S, method.noise.seed))).detach()


def mixture_nll(log_prob: np.ndarray) -> float:
    """From log densities [S, B]."""
    return float(-(scipy.special.logsumexp(log_prob, axis=0) - np.log(len(log_prob))).mean())


def validated(method: UQMethod, data: Any) -> dict[str, float]:
    trainer = quiet_trainer()
    (val,) = trainer.validate(method, data, verbose=False)
    (test,) = trainer.test(method, data, verbose=False)
    assert {name.removeprefix("test_"): v for name, v in test.items()} == pytest.approx(
        {name.removeprefix("val_"): v for name, v in val.items()}
    )
    return {name.removeprefix("val_"): value for name, value in val.items()}


def regression_method() -> MeanFieldVI:
    method = MeanFieldVI(MLP(3, [4], 4), HeteroscedasticGaussian(2), num_mc_samples_test=S)
    randomize_posteriors(method)
    method.likelihood.set_target_scaling(MEAN, STD)
    return method.eval()


def test_regression_scores_the_mixture_in_target_units() -> None:
    method = regression_method()
    outputs = networks_outputs(method).double().numpy()
    units, shift = STD.double().numpy(), MEAN.double().numpy()
    means = outputs[..., :2] * units + shift
    stds = (np.logaddexp(0, outputs[..., 2:]) + 1e-3) * units
    target = Y.double().numpy()
    logged = validated(method, loader(X, Y))
    densities = scipy.stats.norm(means, stds).logpdf(target).sum(-1)
    assert logged["nll"] == pytest.approx(mixture_nll(densities), rel=1e-4)
    assert logged["nll"] < -densities.mean()
    assert logged["rmse"] == pytest.approx(np.sqrt(((means.mean(0) - target) ** 2).mean()), rel=1e-4)
    assert logged["mae"] == pytest.approx(np.abs(means.mean(0) - target).mean(), rel=1e-4)
    level = scipy.stats.norm(means, stds).cdf(target).mean(0)
    assert logged["coverage"] == pytest.approx(((level >= 0.025) & (level <= 0.975)).mean(), abs=1e-6)


def test_predictions_are_in_target_units_too() -> None:
    method = regression_method()
    outputs = networks_outputs(method)
    means = outputs[..., :2] * STD + MEAN
    variances = ((torch.nn.functional.softplus(outputs[..., 2:]) + 1e-3) * STD).square()
    result = method.predict_step(X)
    assert_close(result["pred"], means.mean(0), rtol=1e-4, atol=1e-4)
    assert_close(result["epistemic_uct"], means.std(0, correction=0), rtol=1e-3, atol=1e-5)
    assert_close(result["aleatoric_uct"], variances.mean(0).sqrt(), rtol=1e-4, atol=1e-5)
    total = (means.square() + variances).double().mean(0) - means.double().mean(0).square()
    assert_close(result["pred_uct"].double().square(), total, rtol=1e-2, atol=1e-2)


def test_classification_scores_the_mixture() -> None:
    method = MeanFieldVI(MLP(3, [4], 4), Categorical(4), num_mc_samples_test=S)
    randomize_posteriors(method)
    log_probs = scipy.special.log_softmax(networks_outputs(method.eval()).double().numpy(), axis=-1)
    labels = LABELS.numpy()
    logged = validated(method, loader(X, LABELS))
    assert logged["nll"] == pytest.approx(mixture_nll(log_probs[:, np.arange(B), labels]), rel=1e-4)
    probs = np.exp(log_probs).mean(0)
    assert logged["accuracy"] == pytest.approx((probs.argmax(1) == labels).mean())
    assert logged["brier"] == pytest.approx(((probs - np.eye(4)[labels]) ** 2).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize("kind", [MeanFieldVI, MeanVarianceEstimation])
def test_fitting_takes_the_scaling_from_the_datamodule(kind: Any) -> None:
    """The network predicts in standardized units; everything that is logged is in target units."""
    method = kind(nn.Linear(3, 4), HeteroscedasticGaussian(2))
    history = History()
    trainer = quiet_trainer(logger=history, log_every_n_steps=1)
    trainer.fit(method, datamodule=Standardized())
    assert_close(method.likelihood.target_mean, MEAN)
    assert_close(method.likelihood.target_std, STD)
    for prefix in ("train", "val"):
        assert 1 < history.values[f"{prefix}_rmse"][0] < 100
    (tested,) = trainer.test(method, datamodule=Standardized(), verbose=False)
    result = method.predict_step(X)
    assert tested["test_rmse"] == pytest.approx((result["pred"] - Y).square().mean().sqrt().item(), rel=1e-4)
    assert (result["pred"].mean(0) - MEAN).abs().lt(3 * STD).all()


def test_the_training_loss_is_a_density_in_target_units() -> None:
    method = Deterministic(nn.Linear(3, 2), Gaussian([0.5, 2.0], 2), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    history = History()
    quiet_trainer(logger=history, log_every_n_steps=1).fit(method, datamodule=Standardized())
    outputs = method.backbone(X).detach().double().numpy()
    means, stds = outputs * STD.double().numpy() + MEAN.double().numpy(), np.array([0.5, 2.0]) * STD.double().numpy()
    expected = -scipy.stats.norm(means, stds).logpdf(Y.double().numpy()).sum(1)
    weights = np.repeat(1 / B, B)
    assert history.values["train_loss"][0] == pytest.approx((weights * expected).sum(), rel=1e-4)
    assert history.values["train_nll"] == history.values["train_loss"]
    rmse = np.sqrt(((means - Y.double().numpy()) ** 2).mean())
    assert history.values["train_rmse"][0] == pytest.approx(rmse, rel=1e-4)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scaled", [False, True], ids=["target units", "standardized"])
def test_beta_weights_the_loss_and_not_the_reported_nll(beta: float, scaled: bool) -> None:
    """Seitzer et al. (2022), equation 6: each term times the stopped variance to the power beta, in network units."""
    method = MeanVarianceEstimation(nn.Linear(3, 4), HeteroscedasticGaussian(2), beta=beta)
    target = (Y - MEAN) / STD
    if scaled:
        method.likelihood.set_target_scaling(MEAN, STD)
    loss, nll, _ = method.elbo(X, Y if scaled else target)
    mean, raw = method.backbone(X).chunk(2, dim=1)
    std = torch.nn.functional.softplus(raw) + 1e-3
    log_prob = torch.distributions.Normal(mean, std).log_prob(target)
    weighted = -(log_prob * std.detach() ** (2 * beta)).sum(1).mean()
    parameters = list(method.backbone.parameters())
    assert_close(torch.autograd.grad(loss, parameters), torch.autograd.grad(weighted, parameters), rtol=1e-3, atol=1e-4)
    offset = STD.log().sum() if scaled else 0.0
    assert_close(nll, offset - log_prob.sum(1).mean(), rtol=1e-4, atol=1e-4)
