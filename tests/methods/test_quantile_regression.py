"""Quantile regression on data with known quantiles."""

from functools import partial
from typing import Any

import pytest
import scipy.stats
import torch
from helpers import fit, loader, normal
from lightning import LightningDataModule
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import QuantileRegression
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian, Quantiles

LEVELS = (0.1, 0.5, 0.9)
MEAN, STD = torch.tensor([50.0]), torch.tensor([4.0])


N = 4000


def data(size: int = N) -> tuple[Tensor, Tensor]:
    """Draws y = 1 + 2 x + (0.5 + x) e for x in [0, 1], whose quantiles are linear in x."""
    x = torch.rand(size, 1)
    return x, 1 + 2 * x + (0.5 + x) * torch.randn(size, 1)


def true_quantile(x: Tensor, level: float) -> Tensor:
    return 1 + 2 * x + (0.5 + x) * scipy.stats.norm.ppf(level)


def batches(x: Tensor, y: Tensor) -> DataLoader[Any]:
    """Returns a dataloader that yields all data as one batch, eighty times."""
    whole: Any = [(x, y)] * 80
    return DataLoader(whole, batch_size=None)


class Scaled(LightningDataModule):
    """The same targets in other units, with mean and standard deviation for standardization."""

    target_mean, target_std = MEAN, STD

    def train_dataloader(self) -> DataLoader[Any]:
        x, y = data()
        return batches(x, y * STD + MEAN)


@pytest.mark.parametrize("scaled", [False, True], ids=["target units", "standardized"])
@pytest.mark.thorough
def test_quantiles_of_linear_heteroscedastic_data_are_recovered(scaled: bool) -> None:
    method = QuantileRegression(
        nn.Linear(1, 3),
        Quantiles(LEVELS),
        optimizer=partial(torch.optim.Adam, lr=0.1),
        lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=8),
    )
    fit(method, Scaled() if scaled else batches(*data()), max_epochs=8)
    new = torch.linspace(0, 1, 11).unsqueeze(1)
    prediction = method.predict(new)
    shift, scale = (MEAN, STD) if scaled else (0.0, 1.0)
    for found, level in zip((prediction.lower, prediction.mean, prediction.upper), LEVELS, strict=True):
        assert found is not None
        # The standard error at the ends of the line is about twice that at its center, sqrt(p (1 - p) / n) / density.
        density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(level)) / 1.5
        error = 2 * (level * (1 - level) / N) ** 0.5 / density
        assert ((found - shift) / scale - true_quantile(new, level)).abs().max() < 4 * error
    assert_close(prediction.total_var.sqrt() / scale, 0.5 + new, rtol=0.05, atol=0.0)
    assert (prediction.epistemic_var == 0).all()


def test_loss_is_the_pinball_loss_and_nll_is_gaussian() -> None:
    method = QuantileRegression(MLP(3, [4], 6), Quantiles(LEVELS, num_targets=2))
    x, y = normal(20, 3), normal(20, 2)
    loss, nll, kl = method.elbo(x, y)
    outputs = method(x).unsqueeze(0)
    assert_close(loss, method.likelihood.point_loss(outputs, y))
    prediction = method.predict(x)
    law = torch.distributions.Normal(prediction.mean, prediction.total_var.sqrt())
    assert_close(nll, -law.log_prob(y).sum(1).mean())
    assert kl == 0
    logged = fit(method, loader(x, y, batch_size=20))
    assert logged["train_loss"][0] == pytest.approx(loss.item(), rel=1e-5)


def test_intervals_contain_the_median() -> None:
    method = QuantileRegression(MLP(3, [8], 6), Quantiles(LEVELS, num_targets=2))
    x = 10 * normal(50, 3)
    prediction = method.predict(x, return_samples=True)
    assert (method(x).view(50, 3, 2).diff(dim=1) < 0).any()
    assert ((prediction.lower <= prediction.mean) & (prediction.mean <= prediction.upper)).all()  # type: ignore[operator]
    assert torch.equal(prediction.samples[0], prediction.mean)  # type: ignore[index]


def test_other_likelihoods_are_rejected() -> None:
    with pytest.raises(TypeError, match="likelihood must be Quantiles, got Gaussian"):
        QuantileRegression(MLP(1, [4], 3), Gaussian())  # type: ignore[arg-type]
