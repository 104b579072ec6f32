"""Latent variable models: closed forms of a linear model and decomposition of the variance."""

from typing import Any

import pytest
import torch
from helpers import loader, quiet_trainer
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi import LatentVariableVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, Poisson, StudentT
from lightning_vi.posteriors import inverse_softplus

WEIGHT, FACTOR, BIAS, NOISE, LATENT_STD = 1.5, 0.8, -0.3, 0.5, 1.3


def linear_model(weight_std: float = 1e-6, **options: Any) -> LatentVariableVI:
    """Returns y = w x + a z + b + noise with the exact posterior of z given x and y."""
    precision = 1 / LATENT_STD**2 + FACTOR**2 / NOISE**2
    gain = FACTOR / NOISE**2 / precision / LATENT_STD
    inference = nn.Linear(2, 2)
    with torch.no_grad():
        inference.weight.copy_(torch.tensor([[-gain * WEIGHT, gain], [0.0, 0.0]]))
        inference.bias.copy_(torch.tensor([-gain * BIAS, inverse_softplus(precision**-0.5 / LATENT_STD)]))
    method = LatentVariableVI(
        nn.Linear(2, 1), Gaussian(NOISE), latent_std=LATENT_STD, inference_network=inference, num_data=40,
        init_std=weight_std, **options,
    )  # fmt: skip
    layer: Any = method.backbone
    with torch.no_grad():
        layer.weight_mu.copy_(torch.tensor([[WEIGHT, FACTOR]]))
        layer.bias_mu.fill_(BIAS)
    return method


def test_elbo_with_the_exact_posterior_of_z_is_the_evidence() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 1), 2 * torch.randn(30, 1)
    method = linear_model(num_latent_samples_train=20_000, num_mc_samples_train=1)
    _, nll, kl = method.elbo(x, y)
    weights_kl = method.engine.kl()
    marginal_std = (FACTOR**2 * LATENT_STD**2 + NOISE**2) ** 0.5
    evidence = Normal(WEIGHT * x + BIAS, marginal_std).log_prob(y).mean()
    assert_close(-nll - (kl - weights_kl) / 40, evidence, rtol=0, atol=0.01)


def test_latent_kl_is_summed_and_scaled_to_all_data() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 1), torch.randn(30, 1)
    method = LatentVariableVI(MLP(3, [4], 1), Gaussian(), latent_dim=2, latent_std=0.7, num_data=90)
    mean, std = method.latent_posterior(x, y)
    assert mean.shape == std.shape == (30, 2)
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 0.7)).sum() * (90 / 30)
    assert_close(method.elbo(x, y).kl - method.engine.kl(), expected, rtol=1e-4, atol=1e-4)


def test_variance_decomposition_of_a_linear_model() -> None:
    method = linear_model(weight_std=0.2, num_latent_samples_test=512)
    x = torch.tensor([[0.0], [1.0], [-2.0]])
    prediction = method.predict(x, num_samples=20_000)
    assert_close(prediction.mean, WEIGHT * x + BIAS, rtol=0, atol=0.02)
    assert_close(prediction.epistemic_var, 0.2**2 * (x.square() + 1), rtol=0.05, atol=0)
    aleatoric = (FACTOR**2 + 0.2**2) * LATENT_STD**2 + NOISE**2
    assert_close(prediction.aleatoric_var, torch.full((3, 1), aleatoric), rtol=0.02, atol=0)


def test_decomposition_matches_nested_samples() -> None:
    torch.manual_seed(1)
    method = LatentVariableVI(MLP(3, [6], 1), Gaussian(0.4), init_std=0.3, num_latent_samples_test=8)
    x = torch.randn(5, 2)
    prediction = method.predict(x, num_samples=6, seed=3)
    (outputs,) = method.sampled_outputs(x, 6, seed=3)
    networks = outputs.view(6, 8, 5, 1)
    means = torch.stack([network.mean(0) for network in networks])
    inner = torch.stack([network.var(0, correction=0) for network in networks])
    assert_close(prediction.epistemic_var, means.var(0, correction=0))
    assert_close(prediction.aleatoric_var, inner.mean(0) + 0.4**2)
    classes = LatentVariableVI(MLP(3, [6], 3), Categorical(3), init_std=0.3, num_latent_samples_test=8)
    result = classes.predict(x, num_samples=6, seed=3)
    (logits,) = classes.sampled_outputs(x, 6, seed=3)
    probs = logits.softmax(-1).view(6, 8, 5, 3).mean(1)
    assert result.expected_entropy is not None
    assert_close(result.mean, probs.mean(0))
    assert_close(result.expected_entropy, torch.special.entr(probs).sum(-1).mean(0))


def test_prediction_and_scores_do_not_use_the_inference_network() -> None:
    method = LatentVariableVI(MLP(3, [6], 1), Gaussian(), num_data=8)

    def fail(*_: Any) -> None:
        raise RuntimeError("the target was seen")

    method.inference_network.register_forward_pre_hook(fail)
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    trainer = quiet_trainer()
    trainer.validate(method, loader(x, y), verbose=False)
    trainer.test(method, loader(x, y), verbose=False)
    with_target, without = method.predict_step((x, y)), method.predict_step(x)
    assert all(torch.equal(value, with_target[key]) for key, value in without.items())
    with pytest.raises(RuntimeError, match="the target was seen"):
        method.elbo(x, y)


def test_latent_samples_follow_the_prior_and_are_shared_by_all_rows() -> None:
    method = LatentVariableVI(MLP(3, [6], 1), Gaussian(), latent_dim=2, num_latent_samples_test=1024)
    draws = method._prior_noise(seed=0).float()
    assert_close(draws.T.cov(), torch.eye(2), rtol=0, atol=0.02)
    assert_close(draws.mean(0), torch.zeros(2), rtol=0, atol=0.01)
    x = torch.randn(1, 1).expand(4, 1)
    assert_close(method.predict(x).mean.std().item(), 0.0, rtol=0, atol=1e-6)


def train(method: Any, x: Tensor, y: Tensor, steps: int) -> None:
    """Trains on full batches with KL warm-up over the first third of the steps."""
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    for step in range(steps):
        method.kl_weight = min(1.0, 3 * (step + 1) / steps)
        optimizer.zero_grad()
        method.elbo(x, y).loss.backward()
        optimizer.step()


def test_bimodal_heteroscedastic_noise_is_recovered() -> None:
    """y = +-(1.2 + x) with equal probability. A network with homoscedastic noise cannot fit it."""
    torch.manual_seed(0)
    x = torch.rand(500, 1) * 2 - 1
    sign = torch.where(torch.rand(500, 1) < 0.5, -1.0, 1.0)
    y = sign * (1.2 + x) + 0.15 * torch.randn(500, 1)
    grid = torch.tensor([[-0.8], [-0.3], [0.3], [0.8]])
    truth = ((1.2 + grid).square() + 0.15**2).sqrt()
    options: dict[str, Any] = {"num_mc_samples_train": 4, "num_data": 500}
    latent = LatentVariableVI(MLP(2, [20], 1), Gaussian(), num_latent_samples_test=64, **options)
    plain = MeanFieldVI(MLP(1, [20], 1), Gaussian(), **options)
    nll = {}
    for method in (latent, plain):
        train(method, x, y, steps=700)
        (scores,) = quiet_trainer().test(method, loader(x, y, batch_size=500), verbose=False)
        nll[type(method).__name__] = scores["test_nll"]
    prediction = latent.predict(grid)
    assert_close(prediction.aleatoric_var.sqrt(), truth, rtol=0.25, atol=0.0)
    assert (prediction.epistemic_var.sqrt() < 0.2 * truth).all()
    flat = plain.predict(grid).aleatoric_var.sqrt()
    assert_close(flat, flat[:1].expand(4, 1))
    assert nll["LatentVariableVI"] < nll["MeanFieldVI"] - 0.4


@pytest.mark.parametrize("likelihood", [StudentT(), Poisson(), Categorical(2)])
def test_all_likelihoods_have_target_features(likelihood: Any) -> None:
    target = torch.randint(0, 2, (6,)) if isinstance(likelihood, Categorical) else torch.randint(0, 9, (6, 1)).float()
    method = LatentVariableVI(MLP(3, [4], likelihood.num_outputs), likelihood, num_data=6)
    assert likelihood.target_features(target).shape == (6, likelihood.num_target_features)
    method.elbo(torch.randn(6, 2), target).loss.backward()
    assert all(parameter.grad is not None for parameter in method.inference_network.parameters())


def test_target_features_are_standardized() -> None:
    likelihood = Gaussian()
    likelihood.set_target_scaling(torch.tensor([50.0]), torch.tensor([10.0]))
    assert_close(likelihood.target_features(torch.tensor([[70.0]])), torch.tensor([[2.0]]))
    assert_close(Categorical(3).target_features(torch.tensor([2])), F.one_hot(torch.tensor([2]), 3).float())


def test_invalid_arguments_and_inputs() -> None:
    with pytest.raises(ValueError, match="the backbone must start with a linear layer on F"):
        LatentVariableVI(MLP(1, [4], 1), Gaussian())
    with pytest.raises(ValueError, match="the backbone must start with a linear layer on F"):
        LatentVariableVI(nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)), Gaussian())
    with pytest.raises(ValueError, match="latent_std must be positive and finite, got 0"):
        LatentVariableVI(MLP(2, [4], 1), Gaussian(), latent_std=0)
    with pytest.raises(ValueError, match="latent_dim must be an integer of at least 1, got 0"):
        LatentVariableVI(MLP(2, [4], 1), Gaussian(), latent_dim=0)
    method = LatentVariableVI(MLP(3, [4], 1), Gaussian(), num_data=4)
    with pytest.raises(ValueError, match=r"takes 2 inputs and 1 latent variables, got an input of shape \(4, 3\)"):
        method.predict(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"needs inputs of shape \[B, F\], got a tensor of shape \(4, 1, 2\)"):
        method.predict(torch.zeros(4, 1, 2))
