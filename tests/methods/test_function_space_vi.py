"""FunctionSpaceVI against Gaussian processes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence
from torch.testing import assert_close

from lightning_vi import FunctionSpaceVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.kernels import RBF, Kernel, Matern, RationalQuadratic
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian

NOISE, SCALE, STD = 0.2, 0.9, 1.4
ADAM = partial(torch.optim.Adam, lr=0.03)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(kernel: Kernel | None = None, network: nn.Module | None = None, **options: Any) -> FunctionSpaceVI:
    kernel = Matern(1.5, SCALE, STD) if kernel is None else kernel
    network = MLP(2, [8], 1) if network is None else network
    return FunctionSpaceVI(network, Gaussian(NOISE), kernel=kernel, num_data=20, **options).double()


class OfLinearFunctions(RBF):
    """Covariance of x @ w with independent weights of standard deviation s."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.std.to(x).square() * x @ z.mT


def test_the_divergence_is_the_part_of_that_between_gaussians_that_depends_on_the_mean() -> None:
    points, values, gamma = numbers(7, 2), numbers(7, 2, seed=1), 0.05
    kernel = Matern(1.5, SCALE, STD)
    actual = make(kernel, gamma=gamma).divergence_at(points, values)
    root = numbers(7, 7, seed=2)
    covariance = root @ root.mT + torch.eye(7).double()
    prior = MultivariateNormal(torch.zeros(7).double(), kernel(points, points) + gamma * STD**2 * torch.eye(7).double())
    expected = sum(
        kl_divergence(MultivariateNormal(own, covariance), prior)
        - kl_divergence(MultivariateNormal(torch.zeros(7).double(), covariance), prior)
        for own in values.unbind(1)
    )
    assert_close(actual, expected, rtol=1e-6, atol=1e-8)


def test_for_linear_functions_it_is_the_divergence_of_the_weights() -> None:
    points, weights = numbers(12, 3), numbers(3, 2, seed=1)
    method = make(OfLinearFunctions(1.0, STD), gamma=1e-10)
    actual = method.divergence_at(points, points @ weights)
    assert_close(actual, 0.5 * weights.square().sum() / STD**2, rtol=1e-5, atol=1e-8)


def test_a_random_feature_network_has_the_posterior_of_gaussian_process_regression() -> None:
    x, new = 2 * numbers(20, 2), 2 * numbers(30, 2, seed=1)
    y = torch.sin(x[:, :1]) + x[:, 1:] + NOISE * numbers(20, 1, seed=2)
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(2, 200), nn.Tanh()).requires_grad_(False)
    method = make(network=nn.Sequential(features, nn.Linear(200, 1)), gamma=1e-8)
    optimizer = torch.optim.LBFGS(method.backbone[1].parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        outputs = method.point_outputs(x)
        energy = method.divergence_at(x, outputs) - method.likelihood.log_prob(outputs.unsqueeze(0), y).sum()
        energy.backward()
        return energy

    optimizer.step(loss)
    method.fit_posterior([(x, y)])
    kernel = sk.ConstantKernel(STD**2) * sk.Matern(SCALE, nu=1.5)
    reference = GaussianProcessRegressor(kernel, alpha=NOISE**2, optimizer=None).fit(x.numpy(), y.numpy()[:, 0])
    mean, _ = reference.predict(x.numpy(), return_std=True)
    _, std = reference.predict(new.numpy(), return_std=True)
    assert_close(method.predict(x).mean[:, 0], torch.from_numpy(mean), rtol=0.01, atol=0.01)
    assert_close(method.predict(new).epistemic_var[:, 0].sqrt(), torch.from_numpy(std), rtol=1e-3, atol=1e-3)


def test_the_noise_of_each_row_counts() -> None:
    x, y = numbers(15, 2), numbers(15, 1, seed=1)
    method = FunctionSpaceVI(MLP(2, [8], 2), HeteroscedasticGaussian(), kernel=RBF(SCALE, STD)).double()
    method.fit_posterior([(x[:9], y[:9]), (x[9:], y[9:])])
    _, std = method.likelihood.standardized_moments(method.point_outputs(x))
    reference = GaussianProcessRegressor(
        sk.ConstantKernel(STD**2) * sk.RBF(SCALE), alpha=std[:, 0].detach().numpy() ** 2, optimizer=None
    ).fit(x.numpy(), y.numpy()[:, 0])
    _, expected = reference.predict(x.numpy(), return_std=True)
    _, actual = method.output_moments(x)
    assert_close(actual[:, 0], torch.from_numpy(expected), rtol=1e-3, atol=1e-3)


def gap_problem() -> tuple[Tensor, Tensor]:
    noise = numbers(80, 2, seed=5)
    x = torch.linspace(-2.0, 2.0, 80, dtype=torch.float64).unsqueeze(1)
    x = torch.cat([x[:25], x[55:]]).float()
    return x, (torch.sin(2 * x) + 0.1 * noise[:50, :1]).float()


def test_in_a_gap_and_outside_of_the_data_the_standard_deviation_is_that_of_the_process() -> None:
    x, y = gap_problem()
    gap, outside = torch.linspace(-0.4, 0.4, 9).unsqueeze(1), torch.tensor([[-20.0], [20.0]])
    torch.manual_seed(0)
    method = FunctionSpaceVI(MLP(1, [50], 1), Gaussian(0.1), num_context=16, kernel=Matern(1.5), optimizer=ADAM)
    logged = fit(method, loader(x, y, batch_size=25), max_epochs=40)
    mean_field = MeanFieldVI(MLP(1, [50], 1), Gaussian(0.1), num_mc_samples_train=1)
    fit(mean_field, loader(x, y, batch_size=25), max_epochs=40)
    assert logged["train_kl"][-1] > 0
    scale, std = method.kernel.length_scale.item(), method.kernel.std.item()
    reference = GaussianProcessRegressor(
        sk.ConstantKernel(std**2) * sk.Matern(scale, nu=1.5), alpha=0.01, optimizer=None
    ).fit(x.double().numpy(), y.double().numpy()[:, 0])
    _, expected = reference.predict(gap.double().numpy(), return_std=True)
    actual = method.predict(gap).epistemic_var.sqrt()[:, 0]
    assert_close(actual.double(), torch.from_numpy(expected), rtol=0.02, atol=1e-3)
    assert (actual > 2 * mean_field.predict(gap).epistemic_var.sqrt()[:, 0]).all()
    assert_close(method.predict(outside).epistemic_var.sqrt()[:, 0], torch.full((2,), std), rtol=0.01, atol=0.0)
    assert method.predict(x).epistemic_var.sqrt().mean() < 0.1
    assert (method.predict(x).mean - y).square().mean().sqrt() < 0.3


def test_class_probabilities_are_uncertain_away_from_the_data() -> None:
    x = torch.cat([numbers(30, 2) - 2, numbers(30, 2, seed=1) + 2]).float()
    y = torch.arange(60) // 30
    torch.manual_seed(0)
    method = FunctionSpaceVI(MLP(2, [16], 2), Categorical(2), kernel=RationalQuadratic(), optimizer=ADAM)
    fit(method, loader(x, y, batch_size=20), max_epochs=30)
    inside, outside = method.predict(x), method.predict(torch.tensor([[8.0, -8.0], [-8.0, 8.0]]))
    assert (inside.mean.argmax(1) == y).float().mean() > 0.9
    assert (outside.mutual_information > 50 * inside.mutual_information.mean()).all()


def test_context_points_are_fresh_and_in_the_enlarged_range() -> None:
    x = torch.rand(40, 3)
    method = make(context_margin=0.25)
    first, second = (method._moved_rows(x, 500) for _ in range(2))
    assert not torch.equal(first, second)
    width = x.max(0).values - x.min(0).values
    assert (first >= x.min(0).values - 0.25 * width).all()
    assert (first <= x.max(0).values + 0.25 * width).all()
    assert (first > x.max(0).values).any()
    assert 0.3 < torch.isin(first, x).float().mean() < 0.7


def test_the_context_pass_leaves_batch_statistics_alone() -> None:
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    method, x = make(network=network).train(), numbers(12, 2)
    expected = method.backbone[0](x).mean(0)
    method.elbo(x, numbers(12, 1, seed=1))
    assert_close(method.backbone[1].running_mean, 0.1 * expected)
    assert method.backbone[1].training


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": 1.0}, InputTypeError, "kernel must be an instance of Kernel, got 1.0"),
        ({"kernel": RBF}, InputTypeError, "kernel must be an instance of Kernel, got the class RBF: write RBF"),
        ({"num_context": 0}, InputValueError, "num_context must be an integer of at least 1, got 0"),
        ({"num_inducing": 0}, InputValueError, "num_inducing must be an integer of at least 1, got 0"),
        ({"gamma": 0.0}, InputValueError, "gamma must be positive and finite, got 0.0"),
        ({"context_margin": -1.0}, InputValueError, "context_margin must be nonnegative and finite, got -1.0"),
    ],
)
def test_impossible_arguments_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FunctionSpaceVI(MLP(2, [8], 1), Gaussian(), **options)


class OfADictionary(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows[:, :1]


def test_inputs_without_distances_are_refused() -> None:
    method = FunctionSpaceVI(OfADictionary(), Gaussian(), num_data=4)
    with pytest.raises(InputTypeError, match="needs one floating-point tensor, got a dict"):
        method.elbo({"rows": torch.zeros(4, 2)}, torch.zeros(4, 1))
    tokens = FunctionSpaceVI(nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 1)), Gaussian(), num_data=4)
    with pytest.raises(InputTypeError, match=r"got a tensor of torch.int64"):
        tokens.elbo(torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 1))


def test_covariances_beyond_the_memory_are_refused() -> None:
    method = make(max_mebibytes=0.001)
    with pytest.raises(InputValueError, match=r"at 20 inducing inputs need 0 MiB, more than max_mebibytes=0\.001"):
        method.fit_posterior([(numbers(20, 2), numbers(20, 1))])
    assert not method.is_fitted


def test_missing_targets_give_no_information() -> None:
    x, y = numbers(16, 2), numbers(16, 1, seed=1)
    holes = y.clone()
    holes[10:] = np.nan
    whole, part = (
        FunctionSpaceVI(MLP(2, [4], 1), Gaussian(NOISE, missing="ignore"), kernel=RBF(SCALE, STD)).double()
        for _ in range(2)
    )
    whole.fit_posterior([(x, holes)])
    part.fit_posterior([(x[:10], y[:10])])
    assert_close(whole.output_moments(x)[1], part.output_moments(x)[1], rtol=1e-4, atol=1e-5)
