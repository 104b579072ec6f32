"""The objective does not depend on batch size, order, accumulation or the kind of dataloader."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader
from lightning import LightningDataModule
from linear_regression import LinearRegression, random_features
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset

from lightning_vi import MeanFieldVI
from lightning_vi.likelihoods import Gaussian
from lightning_vi.priors import GaussianPrior

N = 64
NOISE, PRIOR_MEAN, PRIOR_STD = 0.7, 0.4, 1.6
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0])
SGD = torch.optim.SGD


def regression(rows: int = N) -> LinearRegression:
    features = random_features(N, orthogonal=False)
    target = features @ WEIGHTS + np.random.default_rng(2).normal(0, 1.0, N)
    return LinearRegression(features[:rows], target[:rows], NOISE, PRIOR_MEAN, PRIOR_STD)


def data(rows: int = N) -> tuple[Tensor, Tensor]:
    problem = regression(rows)
    return torch.from_numpy(problem.features[:, :-1]).float(), torch.from_numpy(problem.target).float()[:, None]


def method(std: float = 1e-7, **options: Any) -> MeanFieldVI:
    """At fixed weights; with a vanishing std the objective has no noise in it."""
    backbone = nn.Linear(3, 1)
    with torch.no_grad():
        backbone.weight.copy_(torch.tensor([[0.5, -1.0, 1.5]]))
        backbone.bias.fill_(2.0)
    defaults: dict[str, Any] = {
        "num_mc_samples_train": 2,
        "optimizer": partial(SGD, lr=0.0),
        "lr_scheduler": None,
        "kl_warmup_epochs": 0,
    }
    return MeanFieldVI(
        backbone, Gaussian(NOISE), prior=GaussianPrior(PRIOR_MEAN, PRIOR_STD), init_std=std, **(defaults | options)
    )


def exact(std: float, rows: int = N) -> dict[str, float]:
    """Returns the exact values of the logged terms, per datum."""
    mean = np.array([0.5, -1.0, 1.5, 2.0])
    problem, spread = regression(rows), np.full(4, std)
    nll, kl = problem.expected_nll(mean, spread) / rows, problem.kl(mean, spread)
    return {"train_nll": nll, "train_kl": kl, "train_loss": nll + kl / rows, "train_elbo": -nll - kl / rows}


class PlainDataModule(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return loader(*data(), batch_size=8)


def whole() -> TensorDataset:
    return TensorDataset(*data())


SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "batches of 8": (lambda: loader(*data(), batch_size=8), {}),
    "batches of 64": (lambda: loader(*data(), batch_size=64), {}),
    "shuffled": (lambda: loader(*data(), batch_size=8, shuffle=True), {}),
    "ragged last batch": (lambda: loader(*data(), batch_size=24), {}),
    "accumulated": (lambda: loader(*data(), batch_size=8), {"accumulate_grad_batches": 4}),
    "accumulated, ragged": (lambda: loader(*data(), batch_size=24), {"accumulate_grad_batches": 2}),
    "datamodule": (PlainDataModule, {}),
}


@pytest.mark.parametrize(("make", "options"), SETTINGS.values(), ids=SETTINGS)
def test_the_objective_does_not_depend_on_the_batches(make: Any, options: dict[str, Any]) -> None:
    logged = fit(method(), make(), **options)
    for name, value in exact(1e-7).items():
        assert logged[name][0] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(("make", "options"), SETTINGS.values(), ids=SETTINGS)
def test_the_expected_objective_does_not_depend_on_the_batches(make: Any, options: dict[str, Any]) -> None:
    """At a wide posterior, over epochs of independent noise."""
    logged = fit(method(0.6, num_mc_samples_train=40), make(), max_epochs=25, **options)
    for name, value in exact(0.6).items():
        estimates = np.array(logged[name])
        assert abs(estimates.mean() - value) < 5 * estimates.std() / 5 + 1e-3, name


PARTS: dict[str, Any] = {
    "Subset": lambda: DataLoader(Subset(whole(), range(40)), batch_size=8, shuffle=True),
    "SubsetRandomSampler": lambda: DataLoader(whole(), sampler=SubsetRandomSampler(range(40)), batch_size=8),
}


@pytest.mark.parametrize("make", PARTS.values(), ids=PARTS)
def test_num_data_is_the_size_of_the_subset(make: Any) -> None:
    part = method()
    logged = fit(part, make())
    assert part.num_data == 40
    for name, value in exact(1e-7, rows=40).items():
        assert logged[name][0] == pytest.approx(value, rel=1e-4), name


def test_limit_train_batches_does_not_change_num_data() -> None:
    limited = method()
    logged = fit(limited, loader(*data(), batch_size=8), limit_train_batches=3)
    assert limited.num_data == N
    nll, kl = exact(1e-7, rows=24)["train_nll"], exact(1e-7)["train_kl"]
    assert logged["train_loss"][0] == pytest.approx(nll + kl / N, rel=1e-4)


def test_a_given_num_data_takes_precedence() -> None:
    logged = fit(method(num_data=1000), loader(*data(), batch_size=8))
    nll, kl = exact(1e-7)["train_nll"], exact(1e-7)["train_kl"]
    assert logged["train_loss"][0] == pytest.approx(nll + kl / 1000, rel=1e-4)
    assert logged["train_elbo"][0] == pytest.approx(-nll - kl / 1000, rel=1e-4)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(whole())


def test_data_without_a_length_need_num_data() -> None:
    unknown = method()
    with pytest.raises(ValueError, match="num_data is unknown"):
        fit(unknown, DataLoader(Stream(), batch_size=8))
    logged = fit(method(num_data=N), DataLoader(Stream(), batch_size=8))
    for name, value in exact(1e-7).items():
        assert logged[name][0] == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(("batch_size", "accumulated"), [(64, 1), (8, 8), (16, 4)])
def test_one_step_does_not_depend_on_gradient_accumulation(batch_size: int, accumulated: int) -> None:
    """A step of gradient descent from the exact gradient: data term averaged, prior term divided by N once."""
    stepped = method(optimizer=partial(SGD, lr=0.1))
    batches = loader(*data(), batch_size=batch_size)
    fit(stepped, batches, accumulate_grad_batches=accumulated, gradient_clip_val=0)
    problem, mean = regression(), np.array([0.5, -1.0, 1.5, 2.0])
    residual = problem.features @ mean - problem.target
    gradient = problem.features.T @ residual / NOISE**2 / N + (mean - PRIOR_MEAN) / PRIOR_STD**2 / N
    layer: Any = stepped.engine.modules[0]
    reached = torch.cat([layer.weight_mu.flatten(), layer.bias_mu]).detach().numpy()
    np.testing.assert_allclose(reached, mean - 0.1 * gradient, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_the_gradient_of_rho_has_the_same_expectation(batch_size: int) -> None:
    """N d/d sigma of the expected loss is sigma (sum x^2 / noise^2 + 1 / s^2) - 1 / sigma, times dsigma/drho."""
    std = 0.3
    wide = method(std, num_mc_samples_train=20)
    x, y = data()
    layer: Any = wide.engine.modules[0]
    rows = []
    for _ in range(150):
        losses = [
            wide.elbo(a, b, num_data=N).loss * len(a) / N
            for a, b in zip(x.split(batch_size), y.split(batch_size), strict=True)
        ]
        gradients = torch.autograd.grad(sum(losses), [layer.weight_rho, layer.bias_rho])
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    estimates = torch.stack(rows)
    precision = (regression().features ** 2).sum(0) / NOISE**2 + PRIOR_STD**-2
    expected = torch.from_numpy(std * precision - 1 / std) / N * torch.sigmoid(layer.bias_rho).item()
    assert F.softplus(layer.bias_rho).item() == pytest.approx(std)
    error = (estimates.mean(0) - expected).abs() / (estimates.std(0) / 150**0.5)
    assert error.max() < 5
