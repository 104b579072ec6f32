"""Low-rank, full-rank and radial variational inference against exact posteriors."""

from functools import partial
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import randomize_posteriors
from linear_regression import LinearRegression, random_features
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import FullRankVI, LowRankVI, MeanFieldVI, RadialVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian
from lightning_vi.methods import VariationalMethod
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, LaplacePrior
from lightning_vi.sampling.agreement import compare_samples

NUM_DATA = 24
NOISE = 0.8


def conjugate_problem() -> tuple[LinearRegression, Tensor, Tensor]:
    """Returns few data with correlated features, for which the exact posterior is far from factorized."""
    features = random_features(NUM_DATA, orthogonal=False)
    noise = np.random.default_rng(1).normal(size=NUM_DATA)
    target = features @ np.array([1.5, -2.0, 1.0, 3.0]) + NOISE * noise
    problem = LinearRegression(features, target, NOISE, prior_mean=0.4, prior_std=1.7)
    return problem, torch.from_numpy(features[:, :-1]).float(), torch.from_numpy(target[:, None]).float()


def linear_method(kind: Any, **options: Any) -> VariationalMethod:
    method: VariationalMethod = kind(
        nn.Linear(3, 1), Gaussian(NOISE), prior=GaussianPrior(0.4, 1.7), num_data=NUM_DATA, **options
    )
    return method


def moments(method: VariationalMethod) -> tuple[Tensor, Tensor]:
    """Returns the posterior mean and covariance of the weights and the bias."""
    layer: Any = method.backbone
    coupling: Any = method.coupling
    std = nn.functional.softplus(torch.cat([layer.weight_rho[0], layer.bias_rho]))
    root = coupling(torch.eye(coupling.num_noise)) * std
    return torch.cat([layer.weight_mu[0], layer.bias_mu]).detach(), (root.T @ root).detach()


def train(method: VariationalMethod, x: Tensor, y: Tensor, steps: int = 1500) -> None:
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        method.elbo(x, y).loss.backward()
        optimizer.step()
        scheduler.step()


def evidence_estimate(method: VariationalMethod, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Returns the mean and the standard error of the ELBO."""
    with torch.no_grad():
        values = torch.tensor([-NUM_DATA * method.elbo(x, y).loss for _ in range(200)])
    return values.mean().item(), values.std().item() / len(values) ** 0.5


@pytest.mark.parametrize("kind", [FullRankVI, pytest.param(partial(LowRankVI, rank=4), marks=pytest.mark.thorough)])
def test_training_converges_to_the_exact_posterior_and_log_evidence(kind: Any) -> None:
    problem, x, y = conjugate_problem()
    method = linear_method(kind, num_mc_samples_train=256, antithetic=True)
    train(method, x, y)
    mean, covariance = moments(method)
    exact = torch.from_numpy(np.linalg.inv(problem.precision)).float()
    exact_stds = exact.diagonal().sqrt()
    assert_close(mean, torch.from_numpy(problem.posterior_mean).float(), rtol=0.0, atol=0.03 * exact_stds.min().item())
    assert_close(covariance / exact_stds.outer(exact_stds), exact / exact_stds.outer(exact_stds), rtol=0.0, atol=0.03)
    elbo, error = evidence_estimate(method, x, y)
    assert abs(elbo - problem.log_evidence) < 4 * error + 0.005
    assert problem.best_elbo < problem.log_evidence - 0.4  # mean-field cannot reach the log evidence


def test_initial_full_rank_posterior_is_mean_field() -> None:
    torch.manual_seed(0)
    backbone, x, y = MLP(3, [8], 1), torch.randn(16, 3), torch.randn(16, 1)
    reference = MeanFieldVI(backbone, Gaussian(), estimator="reparameterization", num_data=100)
    full = FullRankVI(backbone, Gaussian(), num_data=100)
    full.noise.seed = reference.noise.seed
    assert_close(full.elbo(x, y).kl, reference.elbo(x, y).kl)
    assert_close(full.predict(x, 30).total_var, reference.predict(x, 30).total_var)


@pytest.mark.parametrize("kind", [LowRankVI, FullRankVI, RadialVI])
@pytest.mark.parametrize("prior", [GaussianPrior(0.2, 0.7), EmpiricalBayesPrior()])
def test_kl_is_the_expected_log_density_ratio(kind: Any, prior: Any) -> None:
    """Monte Carlo estimate with the density of the joint posterior by change of variables."""
    torch.manual_seed(0)
    method = kind(nn.Linear(3, 2), Gaussian(num_targets=2), prior=prior, num_data=10).double()
    randomize_posteriors(method.backbone)
    for parameter in () if method.coupling is None else method.coupling.parameters():
        nn.init.normal_(parameter, std=0.5)
    layer: Any = method.backbone
    kl = method.elbo(torch.zeros(1, 3).double(), torch.zeros(1, 2).double()).kl
    if isinstance(prior, EmpiricalBayesPrior):
        scale = method.coupling.marginals()[0].split([6, 2])
        stds = [nn.functional.softplus(rho) for rho in (layer.weight_rho, layer.bias_rho)]
        parts = [
            prior.for_parameter("", mu, 1).kl_from_gaussian(mu, std * each.view_as(mu))
            for mu, std, each in zip((layer.weight_mu, layer.bias_mu), stds, scale, strict=True)
        ]
        assert_close(kl, torch.stack(parts).sum() + method.coupling.marginals()[1])
        return
    deviations = method.coupling(torch.randn(200_000, method.coupling.num_noise).double())
    mean = torch.cat([layer.weight_mu.flatten(), layer.bias_mu])
    std = nn.functional.softplus(torch.cat([layer.weight_rho.flatten(), layer.bias_rho]))
    log_prior = torch.distributions.Normal(0.2, 0.7).log_prob(mean + std * deviations).sum(1)
    if kind is RadialVI:
        radii = [part.norm(dim=1) / part.shape[1] ** 0.5 for part in deviations.split([6, 2], 1)]
        log_q = -std.log().sum() + sum(radial_log_density(r, d) for r, d in zip(radii, (6, 2), strict=True))
    else:
        root = method.coupling(torch.eye(method.coupling.num_noise).double()) * std
        log_q = torch.distributions.MultivariateNormal(mean, root.T @ root).log_prob(mean + std * deviations)
    ratio = log_q - log_prior
    assert abs(kl - ratio.mean()) < 4 * ratio.std() / len(ratio) ** 0.5


def random_low_rank(network: nn.Module, **options: Any) -> VariationalMethod:
    """Returns a method with wide, strongly correlated posteriors."""
    likelihood = Gaussian(0.7, num_targets=2)
    method = LowRankVI(network, likelihood, rank=2, init_std=0.3, num_data=40, **options)
    nn.init.normal_(method.coupling.factor, std=0.6)  # type: ignore[union-attr, arg-type]
    return method


def test_low_rank_training_samples_share_only_the_low_rank_part_between_rows() -> None:
    """Mean and covariance of the outputs of one layer, in closed form from the covariance of the weights."""
    torch.manual_seed(0)
    method = random_low_rank(nn.Linear(3, 2))
    x = torch.randn(4, 3)
    layer, coupling = cast(Any, method.backbone), cast(Any, method.coupling)
    std = nn.functional.softplus(torch.cat([layer.weight_rho.flatten(), layer.bias_rho]))
    root = std[:, None] * coupling.factor
    shared, separate = root @ root.T, std.square().diag()
    maps = torch.zeros(4, 2, 8)  # row and output to weights
    for output in range(2):
        maps[:, output, 3 * output : 3 * output + 3] = x
        maps[:, output, 6 + output] = 1.0
    flat = maps.view(8, 8)
    same_row = torch.block_diag(*[torch.ones(2, 2)] * 4)
    expected = flat @ shared @ flat.T + same_row * (flat @ separate @ flat.T)
    with torch.no_grad():
        samples = method.engine.training_samples(x, 40_000).flatten(1)
        assert_close(samples.mean(0), layer(x, sample=False).flatten(), rtol=0.0, atol=0.05)
        scale = expected.diagonal().sqrt()
        assert_close(samples.T.cov() / scale.outer(scale), expected / scale.outer(scale), rtol=0.0, atol=0.03)


@pytest.mark.parametrize("vectorization", ["auto", "loop", "vmap"])
def test_low_rank_gradient_agrees_with_that_of_sampled_weights_and_has_less_variance(vectorization: Any) -> None:
    torch.manual_seed(0)
    network, x, y = MLP(3, [8], 2, activation_fn=nn.Tanh()), torch.randn(32, 3), torch.randn(32, 2)
    num_samples = 8 if vectorization == "loop" else 32
    means, variances = {}, {}
    for estimator in ("auto", "reparameterization"):
        torch.manual_seed(1)
        options: dict[str, Any] = {"estimator": estimator, "num_mc_samples_train": num_samples}
        method = random_low_rank(network, vectorization=vectorization, **options)
        gradients = []
        for _ in range(40):
            method.zero_grad()
            method.elbo(x, y).loss.backward()
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in method.engine.parameters()]))  # type: ignore[union-attr]
        found = torch.stack(gradients)
        means[estimator], variances[estimator] = found.mean(0), found.var(0) / len(found)
    errors = (variances["auto"] + variances["reparameterization"]).sqrt()
    z_scores = (means["auto"] - means["reparameterization"]) / errors
    assert z_scores.abs().max() < 5.0
    assert z_scores.square().mean() < 1.5
    assert variances["auto"].sum() < 0.7 * variances["reparameterization"].sum()


@pytest.mark.parametrize("vectorization", ["auto", "loop"])
def test_low_rank_training_agrees_with_prediction_beside_modules_that_draw_weights(vectorization: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv1d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(20, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2)
    )
    method = random_low_rank(network, vectorization=vectorization)
    agreement = compare_samples(method.engine, torch.randn(6, 1, 5))
    assert agreement.keeps_means
    assert 0.8 < agreement.ratio < 1.25
    layers = cast(Any, method.backbone)
    assert [layers[i].estimator for i in (0, 2, 5)] == ["reparameterization", *["local_reparameterization"] * 2]


def test_low_rank_antithetic_samples_of_a_linear_network_average_to_its_mean() -> None:
    torch.manual_seed(0)
    method = random_low_rank(
        nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), stochastic_module_names=[1], antithetic=True
    )
    x = torch.randn(5, 3)
    first, second = method.engine.training_samples(x, 2)
    assert (first - second).abs().min() > 0
    assert_close((first + second) / 2, method.engine.mean_output(x))


@pytest.mark.parametrize(("kind", "estimator"), [(LowRankVI, "flipout"), (FullRankVI, "local_reparameterization")])
def test_estimators_that_do_not_fit_a_joint_posterior_are_refused(kind: Any, estimator: str) -> None:
    with pytest.raises(ValueError, match=f"estimator must be 'auto' or .*, got '{estimator}'"):
        kind(nn.Linear(3, 1), Gaussian(), estimator=estimator)


def radial_log_density(radius: Tensor, size: int) -> Tensor:
    half_normal = torch.distributions.HalfNormal(1.0).log_prob(radius)
    log_surface = np.log(2) + 0.5 * size * np.log(np.pi) - torch.lgamma(torch.tensor(0.5 * size))
    return half_normal - log_surface - (size - 1) * radius.log() - 0.5 * size * np.log(size)


def test_predictions_use_correlated_weights() -> None:
    method = linear_method(FullRankVI)
    coupling: Any = method.coupling
    nn.init.normal_(coupling.lower)
    nn.init.constant_(method.backbone.weight_rho, 0.5)
    _, covariance = moments(method)
    x = torch.tensor([[1.0, 2.0, -1.0]])
    samples = method.predict(x, 20_000, return_samples=True).samples
    assert samples is not None
    direction = torch.tensor([1.0, 2.0, -1.0, 1.0])
    assert_close(samples.var(0).item(), (direction @ covariance @ direction).item(), rtol=0.05, atol=0.0)


def test_tied_weights_are_sampled_once() -> None:
    shared = nn.Linear(3, 3)
    method = FullRankVI(nn.Sequential(shared, nn.Tanh(), shared), Gaussian(num_targets=3), num_data=5)
    coupling: Any = method.coupling
    assert coupling.num_noise == 12
    method.elbo(torch.ones(4, 3), torch.ones(4, 3)).loss.backward()
    assert coupling.lower.grad.tril(-1).abs().sum() > 0


def test_couplings_have_a_smaller_learning_rate_and_no_weight_decay() -> None:
    method = LowRankVI(MLP(1, [3], 1), Gaussian(), optimizer=partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1))
    groups = method.make_optimizer().param_groups
    (factor,) = [g for g in groups if any(p is method.coupling.factor for p in g["params"])]  # type: ignore[union-attr]
    assert (factor["lr"], factor["weight_decay"]) == (pytest.approx(0.001), 0.0)
    assert sum(len(g["params"]) for g in groups) == sum(1 for _ in method.parameters())


@pytest.mark.parametrize("kind", [LowRankVI, FullRankVI, RadialVI])
def test_estimators_that_sample_outputs_are_rejected(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"estimator must be 'auto' or .*'reparameterization'.*got 'flipout'"):
        kind(nn.Linear(1, 1), Gaussian(), estimator="flipout")


def test_radial_posterior_rejects_prior_without_closed_form_kl() -> None:
    with pytest.raises(ValueError, match=r"prior of 'weight' must have a log density that is quadratic.*LaplacePrior"):
        RadialVI(nn.Linear(1, 1), Gaussian(), prior=LaplacePrior())


def test_covariance_beyond_the_memory_budget_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"20601 stochastic weights needs .* MiB, but max_mebibytes=256"):
        FullRankVI(MLP(1, [100, 200], 1), Gaussian())
