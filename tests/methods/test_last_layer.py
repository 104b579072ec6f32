"""Closed-form predictions of last-layer variational inference, and reuse of the features."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from method_cases import ImageNet
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import VariationalMethod

X, Y = normal(10, 3), normal(10, 2)
NOISE = np.array([0.3, 1.7])


class Branching(nn.Module):
    """A network that is not an nn.Sequential, with the last layer `head`."""

    def __init__(self, num_outputs: int = 2) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(3, 4)
        self.head = nn.Linear(4, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.features(x))
        return output

    def features(self, x: Tensor) -> Tensor:
        return self.left(x).tanh() * self.right(x)


def method(backbone: nn.Module, likelihood: Any = None, **options: Any) -> LastLayerVI:
    made = LastLayerVI(backbone, Gaussian(NOISE.tolist(), 2) if likelihood is None else likelihood, **options)
    randomize_posteriors(made)
    return made


def by_hand(features: Tensor, head: Any) -> tuple[np.ndarray, np.ndarray]:
    """Computes mean and variance of the output in numpy."""
    phi = features.detach().double().numpy()
    weight, bias = head.weight_mu.detach().double().numpy(), head.bias_mu.detach().double().numpy()
    weight_var = np.logaddexp(0, head.weight_rho.detach().double().numpy()) ** 2
    bias_var = np.logaddexp(0, head.bias_rho.detach().double().numpy()) ** 2
    return phi @ weight.T + bias, phi**2 @ weight_var.T + bias_var


@pytest.mark.parametrize("scaled", [False, True], ids=["target units", "standardized"])
def test_prediction_matches_the_closed_form(scaled: bool) -> None:
    last = method(Branching())
    units, shift = np.ones(2), np.zeros(2)
    if scaled:
        units, shift = np.array([25.0, 0.2]), np.array([100.0, -3.0])
        last.likelihood.set_target_scaling(torch.tensor(shift).float(), torch.tensor(units).float())
    mean, variance = by_hand(last.backbone.features(X), last.backbone.head)
    prediction = last.predict(X)
    np.testing.assert_allclose(prediction.mean, mean * units + shift, rtol=1e-4)
    np.testing.assert_allclose(prediction.epistemic_var, variance * units**2, rtol=1e-4)
    np.testing.assert_allclose(prediction.aleatoric_var, np.broadcast_to((NOISE * units) ** 2, (10, 2)), rtol=1e-4)
    np.testing.assert_allclose(prediction.total_var, (variance + NOISE**2) * units**2, rtol=1e-4)


def test_closed_form_is_the_limit_of_many_samples() -> None:
    last = method(Branching())
    exact, size = last.predict(X), 20_000
    sampled = last.predict(X, num_samples=size, seed=1, return_samples=True)
    error = (sampled.mean - exact.mean).abs() / (exact.epistemic_var / size).sqrt()
    assert error.max() < 5
    error = (sampled.epistemic_var - exact.epistemic_var).abs() / (exact.epistemic_var * math.sqrt(2 / size))
    assert error.max() < 5
    torch.testing.assert_close(sampled.aleatoric_var, exact.aleatoric_var)


def test_leading_dimensions_are_kept() -> None:
    x = torch.randn(6, 4, 5, 3)
    last = method(Branching())
    mean, variance = by_hand(last.backbone.features(x), last.backbone.head)
    prediction = last.predict(x)
    np.testing.assert_allclose(prediction.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.epistemic_var, variance, rtol=1e-4)


def test_logged_nll_is_that_of_the_exact_gaussian() -> None:
    last = method(Branching())
    mean, variance = by_hand(last.backbone.features(X), last.backbone.head)
    densities = scipy.stats.norm(mean, np.sqrt(variance + NOISE**2)).logpdf(Y.numpy())
    (tested,) = quiet_trainer().test(last, loader(X, Y, batch_size=4), verbose=False)
    assert tested["test_nll"] == pytest.approx(-densities.sum(1).mean(), rel=1e-4)
    assert tested["test_rmse"] == pytest.approx(np.sqrt(((mean - Y.numpy()) ** 2).mean()), rel=1e-4)


def test_spatial_dimensions_of_a_classifier_are_kept() -> None:
    last = method(ImageNet(3), Categorical(3))
    assert [row.name for row in last.conversion.modules if row.stochastic] == ["head"]
    result = last.predict_step(torch.randn(5, 2, 4, 4))
    assert result["pred"].shape == (5, 3, 4, 4)
    assert result["pred_uct"].shape == (5, 4, 4)


class Dropping(Branching):
    """The same with dropout of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def features(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.drop(super().features(x))
        return dropped


def sequential() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 2))


BACKBONES: dict[str, Any] = {
    "Sequential": (sequential, lambda backbone: backbone[0]),
    "MLP": (lambda: MLP(3, [4], 2), lambda backbone: backbone[0]),
    "Module": (Branching, lambda backbone: backbone.left),
    "dropout": (lambda: MLP(3, [4], 2, dropout_p=0.3), lambda backbone: backbone[0]),
    "Module with dropout": (lambda: Dropping(), lambda backbone: backbone.left),
}
LIKELIHOODS: dict[str, Any] = {
    "Gaussian": (lambda: Gaussian(0.5, 2), Y),
    "heteroscedastic": (lambda: HeteroscedasticGaussian(1), Y[:, :1]),
    "categorical": (lambda: Categorical(2), torch.arange(10) % 2),
}


@pytest.mark.parametrize(("make", "first"), BACKBONES.values(), ids=BACKBONES)
@pytest.mark.parametrize(("likelihood", "target"), LIKELIHOODS.values(), ids=LIKELIHOODS)
@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
def test_features_are_computed_once_per_batch(
    make: Any, first: Any, likelihood: Any, target: Tensor, estimator: str
) -> None:
    last = method(make(), likelihood(), estimator=estimator, num_mc_samples_train=8, num_mc_samples_test=9)
    last.elbo(X, target, num_data=10)  # the engine inspects a network in its first pass
    rows: list[int] = []
    first(last.backbone).register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    last.elbo(X, target, num_data=10)
    assert rows == [10]
    last.predict(X)
    assert rows == [10, 10]
    last.predict(X, num_samples=30, return_samples=True)
    assert rows == [10, 10, 10]
    rows.clear()
    data = loader(X, target, batch_size=6)
    trainer = quiet_trainer()
    trainer.fit(last, data)
    trainer.test(last, data, verbose=False)
    trainer.predict(last, data)
    assert rows == [6, 4] * 3


@pytest.mark.parametrize("make", [Dropping, lambda: MLP(3, [4], 2, dropout_p=0.5)])
def test_samples_share_the_dropout_mask_of_a_step(make: Any) -> None:
    last = LastLayerVI(make(), Categorical(2), init_std=1e-7)
    last.engine.training_samples(X, 4)
    first, second = (last.engine.training_samples(X, 4) for _ in range(2))
    torch.testing.assert_close(first, first[:1].expand_as(first), rtol=0, atol=1e-5)
    assert (first[0] - second[0]).abs().max() > 1e-3


def test_gradients_reach_the_features() -> None:
    last = method(Branching())
    last.elbo(X, Y, num_data=10).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in last.backbone.parameters())


def test_layer_before_a_nonlinearity_is_sampled() -> None:
    """There is no closed form, and predictions are those of mean-field VI."""
    backbone = MLP(3, [4], 2)
    options: dict[str, Any] = {"stochastic_module_names": [0], "num_mc_samples_test": 40, "init_std": 0.5}
    methods: list[VariationalMethod] = [
        kind(backbone, Gaussian(0.5, 2), **options) for kind in (LastLayerVI, MeanFieldVI)
    ]
    first, second = (made.predict(X, seed=3) for made in methods)
    assert first.metadata["num_samples"] == 40
    torch.testing.assert_close(first.epistemic_var, second.epistemic_var)


def test_more_than_one_layer_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"must select one layer, the last, but selects 2"):
        LastLayerVI(MLP(3, [4], 2), Gaussian(num_targets=2), stochastic_module_names=["*"])


def test_wrong_number_of_features_raises() -> None:
    wrong = nn.Sequential(nn.Linear(3, 5), nn.Linear(4, 2))
    last = LastLayerVI(wrong, Gaussian(num_targets=2))
    with pytest.raises(ValueError, match="takes 4 and not 5 features"):
        last.elbo(X, Y, num_data=10)


def test_classification_averages_probabilities() -> None:
    """Against quadrature over the difference of the two logits."""
    head = nn.Linear(1, 2, bias=False)
    last = method(head, Categorical(2))
    x = torch.tensor([[1.3]])
    layer: Any = last.engine.modules[0]
    mean = (layer.weight_mu[1] - layer.weight_mu[0]).item() * 1.3
    std = 1.3 * F.softplus(layer.weight_rho).square().sum().sqrt().item()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    expected = (weights * scipy.stats.logistic.cdf(mean + std * nodes)).sum() / np.sqrt(2 * np.pi)
    prediction = last.predict(x, num_samples=20_000, seed=2)
    assert prediction.probs is not None
    assert prediction.probs_var is not None
    error = abs(prediction.probs[0, 1].item() - expected) / math.sqrt(prediction.probs_var[0, 1].item() / 20_000)
    assert error < 5
