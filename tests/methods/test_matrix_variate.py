"""Matrix-variate posteriors against Kronecker products, conjugate regression and large samples."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from linear_regression import LinearRegression, random_features
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from lightning_vi import MatrixVariateVI, MeanFieldVI
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.priors import GaussianPrior
from lightning_vi.testing import Check, checks

NUM_DATA = 24
VECTORIZATIONS = ("repeat", "vmap", "loop")


class Transposed(nn.Module):
    """A linear layer whose weight is [inputs, outputs]."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_inputs, num_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def randomize(method: MatrixVariateVI) -> MatrixVariateVI:
    """Means, stds and factors that are far from the initial ones, in float64."""
    randomize_posteriors(method.backbone)
    for factor in method.coupling.parameters():  # type: ignore[union-attr]
        nn.init.normal_(factor, std=0.5)
    return method.double()


def unit_lower(factor: Tensor) -> np.ndarray:
    return np.tril(factor.detach().numpy(), -1) + np.eye(len(factor))


def kronecker(rows: Tensor, columns: Tensor, std: Tensor) -> Tensor:
    """Covariance of a flattened matrix by brute force."""
    a, b = unit_lower(rows), unit_lower(columns)
    scale = np.diag(std.detach().numpy().flatten())
    return torch.from_numpy(scale @ np.kron(a @ a.T, b @ b.T) @ scale)


def layer_moments(method: MatrixVariateVI) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the weight and the bias of a method on one layer."""
    layer: Any = method.backbone
    coupling: Any = method.coupling
    weight = kronecker(coupling.rows["0"], coupling.columns["0"], nn.functional.softplus(layer.weight_rho))
    bias = nn.functional.softplus(layer.bias_rho).square().diag()
    mean = torch.cat([layer.weight_mu.flatten(), layer.bias_mu]).detach()
    return mean, torch.block_diag(weight, bias.detach())


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv2d(2, 3, (1, 2))], ids=["linear", "convolution"])
def test_kl_equals_that_of_multivariate_gaussians(layer: nn.Module) -> None:
    prior = GaussianPrior(0.3, 1.7)
    method = randomize(MatrixVariateVI(layer, Gaussian(num_targets=2), prior=prior))
    mean, covariance = layer_moments(method)
    wide = MultivariateNormal(torch.full_like(mean, 0.3), 1.7**2 * torch.eye(len(mean)).double())
    assert_close(method.engine.kl(), kl_divergence(MultivariateNormal(mean, covariance), wide))


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("vectorization", VECTORIZATIONS)
def test_draws_have_the_mean_and_the_covariance(vectorization: Any, antithetic: bool) -> None:
    """The outputs at zero and at unit vectors are the bias and, beside it, each column of the weight."""
    method = randomize(
        MatrixVariateVI(nn.Linear(3, 2), Gaussian(num_targets=2), vectorization=vectorization, antithetic=antithetic)
    )
    mean, covariance = layer_moments(method)
    x = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    num_samples = 1000 if vectorization == "loop" else 20_000
    predicted = method.predict(x, num_samples, return_samples=True).samples
    assert predicted is not None
    trained = method.engine.training_samples(x, num_samples).detach()
    for outputs in (predicted, trained):
        bias = outputs[:, 0]
        weight = (outputs[:, 1:] - outputs[:, :1]).transpose(1, 2)
        draws = torch.cat([weight.flatten(1), bias], 1)
        if antithetic:
            assert_close(draws.mean(0), mean)
        variance = covariance.diagonal()
        num_free = num_samples / 2 if antithetic else num_samples
        assert ((draws.mean(0) - mean).abs() < 4.5 * (variance / num_free).sqrt()).all()
        error = ((torch.outer(variance, variance) + covariance.square()) / num_free).sqrt()
        assert ((draws.T.cov() - covariance).abs() < 4.5 * error).all()


def test_identity_factors_are_mean_field_and_have_gradients() -> None:
    backbone, x, y = MLP(3, [8], 1), torch.randn(16, 3), torch.randn(16, 1)
    reference = MeanFieldVI(backbone, Gaussian(), estimator="reparameterization", init_std=0.3, num_data=100)
    method = MatrixVariateVI(backbone, Gaussian(), init_std=0.3, num_data=100)
    method.noise.seed = reference.noise.seed
    assert_close(method.predict(x, 30, seed=1).as_dict(), reference.predict(x, 30, seed=1).as_dict())
    terms = method.elbo(x, y)
    assert_close(terms, reference.elbo(x, y))
    terms.loss.backward()
    for name, factor in method.coupling.named_parameters():  # type: ignore[union-attr]
        assert factor.grad.tril(-1).abs().sum() > 0, name
        assert (factor.grad.triu() == 0).all()


def regression(noise_stds: tuple[float, float, float]) -> tuple[list[LinearRegression], Tensor, Tensor]:
    """Independent targets on the same correlated features, one of which is constant."""
    features = random_features(NUM_DATA, orthogonal=False)
    generator = np.random.default_rng(1)
    weights = np.array([[1.5, -2.0, 1.0, 3.0], [0.0, 1.0, 0.5, -1.0], [-1.0, 0.2, 0.0, 2.0]])
    problems = [
        LinearRegression(features, features @ w + s * generator.normal(size=NUM_DATA), s, prior_mean=0.4, prior_std=1.7)
        for w, s in zip(weights, noise_stds, strict=True)
    ]
    return problems, torch.from_numpy(features), torch.from_numpy(np.stack([p.target for p in problems], 1))


def moments_of_map(method: MatrixVariateVI) -> tuple[Tensor, Tensor]:
    """Moments of the weight as [outputs, inputs], from what the coupling makes of unit vectors."""
    coupling: Any = method.coupling
    layer: Any = method.backbone
    root = coupling(torch.eye(12).double()) * nn.functional.softplus(layer.weight_rho).flatten()
    mean, root = layer.weight_mu, root.view(12, *layer.weight_mu.shape)
    if isinstance(layer, Transposed):
        mean, root = mean.T, root.transpose(1, 2)
    return mean, root.flatten(1).T @ root.flatten(1)


def exact_elbo(method: MatrixVariateVI, x: Tensor, y: Tensor, noise_stds: Tensor) -> Tensor:
    mean, covariance = moments_of_map(method)
    spread = torch.einsum("bi,didj,bj->bd", x, covariance.view(3, 4, 3, 4), x)
    squares = ((y - x @ mean.T).square() + spread) / noise_stds.square()
    nll = 0.5 * squares + noise_stds.log() + 0.5 * np.log(2 * np.pi)
    return -nll.sum() - method.engine.kl()


@pytest.mark.parametrize("layer", [nn.Linear(4, 3, bias=False), Transposed(4, 3)], ids=["columns", "rows"])
@pytest.mark.parametrize("noise_stds", [(0.8, 0.8, 0.8), (0.3, 0.8, 12.0)], ids=["equal", "unequal"])
def test_the_best_elbo_is_the_log_evidence_where_the_posterior_is_matrix_normal(
    layer: nn.Module, noise_stds: tuple[float, float, float]
) -> None:
    problems, x, y = regression(noise_stds)
    method = MatrixVariateVI(
        layer,
        Gaussian(list(noise_stds), 3),
        prior=GaussianPrior(0.4, 1.7),
        num_data=NUM_DATA,
        num_mc_samples_train=256,
        antithetic=True,
    ).double()
    stds = torch.tensor(noise_stds).double()
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -exact_elbo(method, x, y, stds)
        loss.backward()
        return loss

    optimizer.step(closure)
    best = exact_elbo(method, x, y, stds).item()
    with torch.no_grad():
        estimates = torch.stack([-NUM_DATA * method.elbo(x, y).loss for _ in range(100)])
    assert abs(estimates.mean() - best) < 4 * estimates.std() / len(estimates) ** 0.5
    evidence = sum(problem.log_evidence for problem in problems)
    mean_field = sum(problem.best_elbo for problem in problems)
    assert mean_field + 0.4 < best < evidence + 1e-8
    if noise_stds[0] == noise_stds[1]:
        assert best > evidence - 1e-5
        mean, covariance = moments_of_map(method)
        exact = torch.from_numpy(np.kron(np.eye(3), np.linalg.inv(problems[0].precision)))
        assert_close(covariance, exact, rtol=0.0, atol=1e-3 * exact.max().item())
        assert_close(mean, torch.from_numpy(np.stack([p.posterior_mean for p in problems])), rtol=0.0, atol=1e-3)
    else:
        assert best < evidence - 0.01


def test_kernels_are_matrices_of_flattened_filters() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, (3, 2), padding=1), nn.BatchNorm2d(4), nn.Embedding(5, 3))
    coupling: Any = randomize(MatrixVariateVI(network, Gaussian())).coupling
    assert [len(factor) for factor in coupling.rows.values()] == [4, 5]
    assert [len(factor) for factor in coupling.columns.values()] == [12, 3]
    noise = torch.randn(7, coupling.num_noise).double()
    kernel, vectors, table = coupling(noise).detach().split([48, 4 + 4 + 4, 15], 1)
    a, b = (torch.from_numpy(unit_lower(factor["0"])) for factor in (coupling.rows, coupling.columns))
    assert_close(kernel, torch.einsum("ok,skl,il->soi", a, noise[:, :48].view(7, 4, 12), b).flatten(1))
    assert_close(vectors, noise[:, 48:60])
    assert (table != noise[:, 60:]).any()


def test_vectors_alone_are_independent() -> None:
    backbone = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    method = MatrixVariateVI(backbone, Gaussian(num_targets=2), stochastic_module_names=[1])
    noise = torch.randn(5, 4)
    assert_close(method.coupling(noise), noise)  # type: ignore[misc]
    assert list(method.coupling.parameters()) == []  # type: ignore[union-attr]
    assert torch.isfinite(method.elbo(torch.ones(4, 3), torch.ones(4, 2), num_data=9).loss)


def test_a_matrix_with_one_row_or_column_has_one_factor() -> None:
    coupling: Any = MatrixVariateVI(MLP(1, [4], 1), Gaussian()).coupling
    assert {name: len(factor) for name, factor in coupling.named_parameters()} == {"rows.0": 4, "columns.2": 4}


def test_tied_weights_are_drawn_once() -> None:
    shared = nn.Linear(3, 3)
    method = MatrixVariateVI(nn.Sequential(shared, nn.Tanh(), shared), Gaussian(num_targets=3))
    coupling: Any = method.coupling
    assert coupling.num_noise == 12
    assert len(coupling.rows) == 1


def test_a_checkpoint_gives_the_same_predictions(tmp_path: Path) -> None:
    x, y = torch.randn(12, 3), torch.randn(12, 1)
    method = MatrixVariateVI(MLP(3, [4], 1), Gaussian(), max_mebibytes=3.0)
    trainer = quiet_trainer()
    trainer.fit(method, loader(x, y))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    loaded = MatrixVariateVI.load_from_checkpoint(
        tmp_path / "method.ckpt", backbone=MLP(3, [4], 1), likelihood=Gaussian(), weights_only=True
    )
    assert loaded.max_mebibytes == 3.0
    for key, value in method.predict_step(x).items():
        assert torch.equal(loaded.predict_step(x)[key], value)


def test_factors_learn_slowly_and_take_no_weight_decay() -> None:
    optimizer = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    method = MatrixVariateVI(MLP(3, [4], 1), Gaussian(), optimizer=optimizer)
    factors = {id(factor) for factor in method.coupling.parameters()}  # type: ignore[union-attr]
    (group,) = (g for g in method.make_optimizer().param_groups if factors & set(map(id, g["params"])))
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.001), 0.0)
    assert {id(parameter) for parameter in group["params"]} == factors


def test_factors_beyond_the_budget_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 2 weight matrices, the widest of shape \[600, 2\], need 3 MiB, but max"):
        MatrixVariateVI(MLP(2, [600], 1), Gaussian(), max_mebibytes=2.0)


def test_estimators_that_draw_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"estimator must be 'auto' or 'reparameterization'.*got 'flipout'"):
        MatrixVariateVI(nn.Linear(1, 1), Gaussian(), estimator="flipout")


PROBLEMS: dict[str, tuple[Any, Any, Tensor, Tensor]] = {
    "regression": (lambda: MLP(3, [5], 2), HeteroscedasticGaussian, normal(12, 3), normal(12, 1)),
    "images": (lambda: LeNet(1, 3, 12), lambda: Categorical(3), normal(6, 1, 12, 12), torch.arange(6) % 3),
}


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_passes_each_shipped_check(problem: str, check: Check) -> None:
    backbone, likelihood, x, y = PROBLEMS[problem]
    method = MatrixVariateVI(backbone(), likelihood(), num_mc_samples_train=3, num_mc_samples_test=7)
    check(randomize(method).float(), x, y)
