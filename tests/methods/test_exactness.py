"""Training and the objective against closed forms and finite differences."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader, randomize_posteriors
from linear_regression import Array, LinearRegression, random_features
from method_cases import ImageNet
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import VariationalMethod
from lightning_vi.priors import GaussianPrior

ESTIMATORS = ("reparameterization", "local_reparameterization", "flipout")
NUM_DATA = 96
NOISE = (0.4, 1.3)
PRIOR = {"mean": 0.4, "std": 1.7}
TRUE_WEIGHTS = np.array([[1.5, -2.0, 1.0, 3.0], [-1.2, 0.8, 2.5, -1.0]])


def conjugate_problem(orthogonal: bool) -> list[LinearRegression]:
    """Two targets with different noise, as two regressions on shared features."""
    features = random_features(NUM_DATA, orthogonal)
    noise = np.random.default_rng(1)
    return [
        LinearRegression(
            features, features @ weights + std * noise.normal(size=NUM_DATA), std, PRIOR["mean"], PRIOR["std"]
        )
        for weights, std in zip(TRUE_WEIGHTS, NOISE, strict=True)
    ]


def tensors(problem: list[LinearRegression]) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(problem[0].features[:, :-1]).float()
    return x, torch.from_numpy(np.column_stack([regression.target for regression in problem])).float()


def linear_method(kind: type[VariationalMethod] = MeanFieldVI, **options: Any) -> VariationalMethod:
    return kind(nn.Linear(3, 2), Gaussian(NOISE, 2), prior=GaussianPrior(**PRIOR), **options)


def weights_of(method: VariationalMethod) -> tuple[list[Array], list[Array]]:
    """Means and stds [features, then bias] for each target."""
    layer: Any = method.engine.modules[0]
    means = torch.cat([layer.weight_mu, layer.bias_mu[:, None]], dim=1)
    stds = F.softplus(torch.cat([layer.weight_rho, layer.bias_rho[:, None]], dim=1))
    return list(means.detach().double().numpy()), list(stds.detach().double().numpy())


def elbo_estimates(method: VariationalMethod, x: Tensor, y: Tensor, repeats: int) -> Array:
    with torch.no_grad():
        losses = [method.elbo(x, y, num_data=NUM_DATA).loss.item() for _ in range(repeats)]
    return -NUM_DATA * np.array(losses)


@pytest.mark.parametrize(
    ("kind", "estimator", "orthogonal"),
    [
        pytest.param(MeanFieldVI, "auto", False, marks=pytest.mark.thorough),
        (MeanFieldVI, "auto", True),
        (LastLayerVI, "reparameterization", False),
    ],
)
def test_training_reaches_the_optimal_mean_field_posterior(
    kind: type[VariationalMethod], estimator: str, orthogonal: bool
) -> None:
    problem = conjugate_problem(orthogonal)
    x, y = tensors(problem)
    epochs = 250
    method = linear_method(
        kind,
        estimator=estimator,
        num_mc_samples_train=16,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        lr_scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        init_std=0.05,
        kl_warmup_epochs=0,
    )
    fit(method, loader(x, y, batch_size=24, shuffle=True), max_epochs=epochs, gradient_clip_val=0)
    means, stds = weights_of(method)
    for regression, mean, std in zip(problem, means, stds, strict=True):
        np.testing.assert_allclose(mean, regression.posterior_mean, rtol=0.02)
        np.testing.assert_allclose(std, regression.mean_field_std, rtol=0.05)
    reached = sum(r.elbo(m, s) for r, m, s in zip(problem, means, stds, strict=True))
    best = sum(regression.best_elbo for regression in problem)
    assert reached <= best + 1e-6
    assert reached == pytest.approx(best, abs=0.05)
    if orthogonal:
        assert reached == pytest.approx(sum(regression.log_evidence for regression in problem), abs=0.05)
    estimates = elbo_estimates(method, x, y, repeats=200)
    assert abs(estimates.mean() - reached) < 5 * estimates.std() / 200**0.5 + 0.01


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_elbo_of_any_posterior_matches_its_closed_form(estimator: str) -> None:
    problem = conjugate_problem(orthogonal=False)
    x, y = tensors(problem)
    method = linear_method(estimator=estimator, num_mc_samples_train=50)
    randomize_posteriors(method)
    parts = list(zip(problem, *weights_of(method), strict=True))
    terms = [method.elbo(x, y, num_data=NUM_DATA) for _ in range(300)]
    kls, nlls = (np.array([getattr(term, name).item() for term in terms]) for name in ("kl", "nll"))
    np.testing.assert_allclose(kls, sum(r.kl(m, s) for r, m, s in parts), rtol=1e-5)
    exact = sum(r.expected_nll(m, s) for r, m, s in parts) / NUM_DATA
    assert abs(nlls.mean() - exact) < 5 * nlls.std() / 300**0.5
    assert terms[0].loss.item() == pytest.approx(nlls[0] + kls[0] / NUM_DATA, rel=1e-5)


def test_the_closed_form_itself() -> None:
    """At the optimum the factorized bound is the best ELBO, and no other Gaussian does better."""
    for regression in conjugate_problem(orthogonal=False):
        best = regression.elbo(regression.posterior_mean, regression.mean_field_std)
        assert best == pytest.approx(regression.best_elbo, rel=1e-9)
        assert best < regression.log_evidence
        assert regression.elbo(regression.posterior_mean + 0.01, regression.mean_field_std) < best
        assert regression.elbo(regression.posterior_mean, 1.05 * regression.mean_field_std) < best
    for regression in conjugate_problem(orthogonal=True):
        assert regression.best_elbo == pytest.approx(regression.log_evidence, rel=1e-9)


def convolutional_classifier() -> tuple[nn.Module, Any, Tensor, Tensor]:
    x, y = torch.randn(4, 2, 4, 4).double(), torch.randint(0, 3, (4, 4, 4))
    return ImageNet(3).double(), Categorical(3), x, y


def transposed_convolution() -> tuple[nn.Module, Any, Tensor, Tensor]:
    network = nn.Sequential(nn.ConvTranspose1d(2, 4, 3, stride=2, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(28, 2))
    return network.double(), HeteroscedasticGaussian(), torch.randn(4, 2, 3).double(), torch.randn(4, 1).double()


def learned_noise() -> tuple[nn.Module, Any, Tensor, Tensor]:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    return network, Gaussian(num_targets=2), torch.randn(6, 3).double(), torch.randn(6, 2).double()


@pytest.mark.parametrize("make", [convolutional_classifier, transposed_convolution, learned_noise])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("names", [None, [-1]], ids=["all layers", "last layer"])
def test_gradients_match_finite_differences_on_common_noise(make: Any, estimator: str, names: Any) -> None:
    backbone, likelihood, x, y = make()
    if names is None and estimator != "reparameterization":
        names = [lambda _, module: not isinstance(module, nn.BatchNorm1d | nn.Sequential)]
    method = MeanFieldVI(
        backbone,
        likelihood,
        estimator=estimator,
        stochastic_module_names=names,
        prior=GaussianPrior(0.3, 0.7),
        num_mc_samples_train=3,
        kl_weight=0.6,
    ).double()
    randomize_posteriors(method)

    def objective() -> Tensor:
        method.noise.count = 0
        return method.elbo(x, y, num_data=11).loss

    parameters = dict(method.named_parameters())
    gradients = torch.autograd.grad(objective(), list(parameters.values()))
    step = 1e-6
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(objective().item())
                parameter.sub_(sign * step * direction)
        numerical = (values[0] - values[1]) / (2 * step)
        assert (gradient * direction).sum().item() == pytest.approx(numerical, rel=1e-4, abs=1e-7), name


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_draw_of_the_objective_reaches_rho(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log-likelihood of each draw alone has a gradient of rho."""
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    method = linear_method(estimator=estimator, num_mc_samples_train=4, kl_weight=0.0)
    randomize_posteriors(method)
    layer: Any = method.engine.modules[0]
    whole = method.likelihood.log_prob
    gradients = []
    for draw in range(4):

        def one_draw(outputs: Tensor, target: Tensor, _: object, draw: int = draw) -> Tensor:
            return whole(outputs, target) * (torch.arange(4) == draw).float().unsqueeze(-1)

        monkeypatch.setattr(method.likelihood, "log_prob", one_draw)
        method.noise.count = 0
        loss = method.elbo(x, y, num_data=5).loss
        gradients.append(torch.autograd.grad(loss, [layer.weight_rho, layer.bias_rho]))
    monkeypatch.undo()
    method.noise.count = 0
    total = torch.autograd.grad(method.elbo(x, y, num_data=5).loss, [layer.weight_rho, layer.bias_rho])
    for position in range(2):
        rows = [gradient[position] for gradient in gradients]
        assert all(row.abs().min() > 0 for row in rows)
        assert len({tuple(row.flatten().tolist()) for row in rows}) == 4
        torch.testing.assert_close(sum(rows), total[position])


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
def test_more_draws_reduce_the_variance_of_the_gradient(estimator: str) -> None:
    """Sixteen independent draws have a quarter of the standard deviation of one."""
    problem = conjugate_problem(orthogonal=False)
    x, y = tensors(problem)
    spreads = []
    for num_samples in (1, 16):
        torch.manual_seed(0)
        method = linear_method(estimator=estimator, num_mc_samples_train=num_samples, init_std=0.3)
        rho = method.engine.modules[0].get_parameter("weight_rho")
        rows = [torch.autograd.grad(method.elbo(x, y, num_data=NUM_DATA).loss, rho)[0] for _ in range(150)]
        spreads.append(torch.stack(rows).std(0).mean().item())
    assert spreads[1] == pytest.approx(spreads[0] / 4, rel=0.3)
