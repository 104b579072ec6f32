"""SGHMC against the exact posterior of conjugate linear regression, and with Lightning's trainer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from linear_regression import LinearRegression, random_features
from torch import Tensor, nn
from torch.distributions import Laplace, Normal
from torch.testing import assert_close

from lightning_vi import SGHMC
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.methods.monte_carlo.draws import spread_order
from lightning_vi.priors import GaussianPrior, LaplacePrior
from lightning_vi.sampling import unstack_network

NUM_DATA, NOISE_STD, PRIOR_STD = 60, 0.8, 0.5
FEATURES = random_features(NUM_DATA, orthogonal=False)
TARGET = FEATURES @ np.array([0.6, -0.8, 0.4, 1.0]) + NOISE_STD * np.random.default_rng(1).normal(size=NUM_DATA)
EXACT = LinearRegression(FEATURES, TARGET, NOISE_STD, 0.0, PRIOR_STD)
X, Y = torch.from_numpy(FEATURES[:, :-1]), torch.from_numpy(TARGET[:, None])


def sampler(num_chains: int, **options: Any) -> SGHMC:
    return SGHMC(
        nn.Linear(3, 1), Gaussian(NOISE_STD), prior=GaussianPrior(std=PRIOR_STD), num_chains=num_chains,
        num_draws=8 * num_chains, num_data=NUM_DATA, **options,
    ).double()  # fmt: skip


def drive(method: SGHMC, num_steps: int, batch_size: int) -> torch.optim.Optimizer:
    """Collects eight draws of each chain over some steps; each chain has batches of its own."""
    optimizer = method.make_optimizer()
    generator = torch.Generator().manual_seed(0)
    for step in range(num_steps):
        rows = torch.rand(method.num_networks, NUM_DATA, generator=generator).argsort(1)[:, :batch_size]
        optimizer.zero_grad()
        outputs = method._outputs(X[rows], own_inputs=True)
        method._terms(outputs, Y[rows], num_data=NUM_DATA).loss.backward()
        optimizer.step()
        if num_steps - step <= 8 * (num_steps // 12) and (num_steps - step - 1) % (num_steps // 12) == 0:
            method.collect()
    assert int(method.num_kept) == method.num_draws
    return optimizer


def check_law(draws: Tensor, temperature: float) -> None:
    """Compares mean and covariance of draws with the exact ones, within five standard errors.

    A half of the draws counts, because those of one chain are a little correlated.
    """
    values, number = draws.numpy(), len(draws) / 2
    covariance = temperature * np.linalg.inv(EXACT.precision)
    variances = np.diag(covariance)
    deviation = (values.mean(0) - EXACT.posterior_mean) / np.sqrt(variances / number)
    assert np.abs(deviation).max() < 5
    error = np.sqrt((np.outer(variances, variances) + covariance**2) / number)
    assert (np.abs(np.cov(values.T) - covariance) / error).max() < 5


@pytest.mark.parametrize(
    ("options", "num_steps", "batch_size"),
    [
        ({"lr": 0.1, "momentum": 0.9}, 300, NUM_DATA),  # Hamiltonian Monte Carlo with friction
        ({"lr": 0.1, "momentum": 0.0}, 300, NUM_DATA),  # Langevin dynamics
        ({"lr": 0.1, "momentum": 0.9, "temperature": 0.2}, 300, NUM_DATA),
        ({"lr": 0.003, "momentum": 0.8}, 800, 20),
        pytest.param({"lr": 0.01, "momentum": 0.0}, 2400, 20, marks=pytest.mark.thorough),
    ],
)
def test_draws_have_the_law_of_the_exact_posterior(options: dict[str, Any], num_steps: int, batch_size: int) -> None:
    """The step is exact for Gaussian posteriors; the noise of small batches vanishes with the learning rate."""
    method = sampler(300, **options)
    optimizer = drive(method, num_steps, batch_size)
    check_law(method.draws, method.temperature)
    if batch_size == NUM_DATA:  # equipartition: the velocities of a unit mass have the variance T
        velocity = torch.cat([optimizer.state[p]["velocity"].flatten() for p in method.backbone.parameters()])
        error = method.temperature * (2 / velocity.numel()) ** 0.5
        assert abs(velocity.square().mean() - method.temperature) < 0.3 * method.temperature + 5 * error


def test_the_prior_is_part_of_the_loss() -> None:
    priors = {"0.weight": GaussianPrior(0.3, 0.7), "2": LaplacePrior(std=0.4)}
    method = SGHMC(MLP(3, [4], 1), Gaussian(0.5), prior=priors, num_chains=2, num_draws=2, num_data=50)
    loss, nll, kl = method.elbo(X.float(), Y.float())
    weights = dict(method.backbone.named_parameters())
    laws = [Normal(0.3, 0.7), Normal(0.0, 1.0), Laplace(0.0, 0.4 / 2**0.5), Laplace(0.0, 0.4 / 2**0.5)]
    expected = sum(law.log_prob(value).sum() for law, value in zip(laws, weights.values(), strict=True))
    assert_close(loss, 2 * nll - expected / 50)
    assert kl == 0
    with pytest.raises(ValueError, match=r"prior: .* match no stochastic parameter"):
        SGHMC(MLP(3, [4], 1), Gaussian(), prior={"5.weight": GaussianPrior()})


def test_draws_have_likelihoods_of_their_own() -> None:
    method = SGHMC(nn.Linear(3, 1), Gaussian(), num_chains=2, num_draws=6, num_data=NUM_DATA, lr=0.05)
    optimizer = method.make_optimizer()
    stds = []
    for _ in range(3):
        optimizer.zero_grad()
        method.elbo(X.float(), Y.float()).loss.backward()
        optimizer.step()
        method.collect()
        stds.append(nn.functional.softplus(method.likelihood.noise_rho.detach().clone()))
    kept = method.sample_parameters(num_samples=6)
    x = X[:5].float()
    prediction = method.predict(x, return_samples=True)
    means = torch.einsum("bf,sof->sbo", x, kept["weight"]) + kept["bias"].unsqueeze(1)
    assert_close(prediction.samples, means)
    assert_close(prediction.epistemic_var, means.var(0, unbiased=False))
    assert_close(prediction.aleatoric_var, torch.cat(stds).square().mean(0).expand(5, 1))
    assert_close(method.predict(x, num_samples=2, return_samples=True).samples, means[:2])
    assert_close(method(x), means.mean(0))


def test_a_fit_keeps_evenly_spaced_draws_and_resumes(tmp_path: Path) -> None:
    x, y = normal(20, 3), normal(20, 1)

    def make() -> SGHMC:
        torch.manual_seed(1)
        options: dict[str, Any] = {"num_cycles": 2, "num_chains": 2, "num_draws": 12, "burnin_epochs": 1}
        return SGHMC(MLP(3, [4], 2), HeteroscedasticGaussian(), **options)

    def data() -> Any:
        return loader(x, y, batch_size=5)

    whole = make()
    taken = []
    collect = whole.collect
    whole.collect = lambda: (taken.append(whole.trainer.global_step), collect())  # type: ignore[method-assign, func-returns-value, return-value, assignment]
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=16, save_top_k=-1)
    fit(whole, data(), max_epochs=6, callbacks=[saver], enable_checkpointing=True)
    assert taken == [8, 10, 12, 20, 22, 24]  # two cycles of 12 steps, in the second halves
    assert int(whole.num_kept) == 12
    assert len(torch.unique(whole.draws, dim=0)) == 12
    resumed = make()
    fit(resumed, data(), ckpt_path=tmp_path / "step=16.ckpt", max_epochs=6)
    assert_close(resumed.draws, whole.draws, rtol=0, atol=0)
    loaded = SGHMC.load_from_checkpoint(
        tmp_path / "step=16.ckpt", backbone=MLP(3, [4], 2), likelihood=HeteroscedasticGaussian()
    )
    assert_close(loaded.draws[:6], whole.draws[:6])
    assert loaded.predict(x).metadata["num_samples"] == 6


class _Centered(nn.Module):
    """Subtracts a mean of the inputs that training changes, and has frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.first, self.last = nn.Linear(3, 5).requires_grad_(False), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        output: Tensor = self.last(torch.tanh(self.first(x - self.mean)))
        return output


def test_draws_predict_with_the_buffers_and_frozen_weights_of_their_chains() -> None:
    x = normal(20, 3)
    method = SGHMC(_Centered(), Gaussian(0.5, scale_targets=False), num_chains=3, num_draws=6)
    fit(method, loader(x, normal(20, 1), shuffle=True, batch_size=5), max_epochs=2)
    assert int(method.num_kept) == 6
    expected = []
    for index in range(6):
        network = unstack_network(method.backbone, index % 3).eval()
        nn.utils.vector_to_parameters(method.draws[index], network.last.parameters())  # type: ignore[union-attr, arg-type]
        expected.append(network(x))
    means = [network.mean for network in (unstack_network(method.backbone, index) for index in range(3))]
    assert not torch.equal(means[0], means[1])
    samples = method.predict(x, num_samples=6, return_samples=True).samples
    assert_close(torch.as_tensor(samples), torch.stack(expected)[spread_order(6)].detach())


def test_fewer_draws_than_asked_for_give_a_warning() -> None:
    method = SGHMC(nn.Linear(3, 1), Gaussian(), num_chains=2, num_draws=20)
    with pytest.warns(UserWarning, match="will keep 4 draws instead of num_draws=20: of its 4 steps, 2 belong"):
        fit(method, loader(normal(20, 3), normal(20, 1), batch_size=10), max_epochs=2)
    assert int(method.num_kept) == 4


@pytest.mark.filterwarnings("error")
def test_as_many_draws_as_asked_for_give_none() -> None:
    method = SGHMC(nn.Linear(3, 1), Gaussian(), num_chains=2, num_draws=4)
    fit(method, loader(normal(20, 3), normal(20, 1), batch_size=10), max_epochs=2)
    assert int(method.num_kept) == 4


def test_wrong_options_and_fits_of_unknown_length_are_refused() -> None:
    for options, message in [
        ({"num_chains": 3, "num_draws": 2}, "num_draws must be an integer of at least 3, got 2"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"temperature": -1.0}, "temperature must be nonnegative and finite, got -1.0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"exploration": 1.0}, r"exploration must lie in \[0, 1\), got 1.0"),
        ({"sampling_factor": 0.0}, r"sampling_factor must lie in \(0, 1\], got 0.0"),
        ({"num_cycles": 0}, "num_cycles must be an integer of at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            SGHMC(nn.Linear(3, 1), Gaussian(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the number of steps of the fit is unknown"):
        quiet_trainer(max_epochs=-1).fit(SGHMC(nn.Linear(3, 1), Gaussian()), loader(X.float(), Y.float()))
    with pytest.raises(ValueError, match="must have trainable parameters to sample"):
        SGHMC(nn.Linear(3, 1).requires_grad_(False), Gaussian())


def test_without_draws_the_present_weights_predict_with_a_warning() -> None:
    method = SGHMC(nn.Linear(3, 1), Gaussian(0.5), num_chains=2, num_data=NUM_DATA)
    with pytest.warns(UserWarning, match="SGHMC has no draws"):
        method.fit_posterior([])
    x = X.float()
    assert_close(method.predict(x).mean, method._outputs(x).mean(0))
