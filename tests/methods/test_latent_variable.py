"""Latent variable models: closed forms of a linear model and decomposition of the variance."""

from collections.abc import Callable
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
from lightning_vi.conversion import widened
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
        nn.Linear(1, 1), Gaussian(NOISE), latent_std=LATENT_STD, inference_network=inference, num_data=40,
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
    method = LatentVariableVI(MLP(1, [4], 1), Gaussian(), latent_dim=2, latent_std=0.7, num_data=90)
    mean, std = method.latent_posterior(x, y)
    assert mean.shape == std.shape == (30, 2)
    expected = kl_divergence(Normal(mean, std), Normal(0.0, 0.7)).sum() * (90 / 30)
    assert_close(method.elbo(x, y).kl - method.engine.kl(), expected, rtol=1e-4, atol=1e-4)


def test_latent_kl_is_not_warmed_up() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 1), torch.randn(30, 1)
    method = LatentVariableVI(MLP(1, [4], 1), Gaussian(), num_data=90, kl_weight=0.8)
    _, terms = method.objective(x, y, num_data=90, kl_weight=0.2)
    weights_kl = method.engine.kl()
    assert_close(terms.loss, terms.nll + (0.2 * weights_kl + 0.8 * (terms.kl - weights_kl)) / 90)


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
    method = LatentVariableVI(MLP(2, [6], 1), Gaussian(0.4), init_std=0.3, num_latent_samples_test=8)
    x = torch.randn(5, 2)
    prediction = method.predict(x, num_samples=6, seed=3)
    (outputs,) = method.sampled_outputs(x, 6, seed=3)
    networks = outputs.view(6, 8, 5, 1)
    means = torch.stack([network.mean(0) for network in networks])
    inner = torch.stack([network.var(0, correction=0) for network in networks])
    assert_close(prediction.epistemic_var, means.var(0, correction=0))
    assert_close(prediction.aleatoric_var, inner.mean(0) + 0.4**2)
    classes = LatentVariableVI(MLP(2, [6], 3), Categorical(3), init_std=0.3, num_latent_samples_test=8)
    result = classes.predict(x, num_samples=6, seed=3)
    (logits,) = classes.sampled_outputs(x, 6, seed=3)
    probs = logits.softmax(-1).view(6, 8, 5, 3).mean(1)
    assert result.expected_entropy is not None
    assert_close(result.mean, probs.mean(0))
    assert_close(result.expected_entropy, torch.special.entr(probs).sum(-1).mean(0))


def test_prediction_and_scores_do_not_use_the_inference_network() -> None:
    method = LatentVariableVI(MLP(2, [6], 1), Gaussian(), num_data=8)

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
    method = LatentVariableVI(MLP(1, [6], 1), Gaussian(), latent_dim=2, num_latent_samples_test=1024)
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


@pytest.mark.thorough
def test_bimodal_heteroscedastic_noise_is_recovered() -> None:
    """y = +-(1.2 + x) with equal probability. A network with homoscedastic noise cannot fit it."""
    torch.manual_seed(0)
    x = torch.rand(500, 1) * 2 - 1
    sign = torch.where(torch.rand(500, 1) < 0.5, -1.0, 1.0)
    y = sign * (1.2 + x) + 0.15 * torch.randn(500, 1)
    grid = torch.tensor([[-0.8], [-0.3], [0.3], [0.8]])
    truth = ((1.2 + grid).square() + 0.15**2).sqrt()
    options: dict[str, Any] = {"num_mc_samples_train": 4, "num_data": 500}
    latent = LatentVariableVI(MLP(1, [20], 1), Gaussian(), num_latent_samples_test=64, **options)
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
    method = LatentVariableVI(MLP(2, [4], likelihood.num_outputs), likelihood, num_data=6)
    assert likelihood.target_features(target).shape == (6, likelihood.num_target_features)
    method.elbo(torch.randn(6, 2), target).loss.backward()
    assert all(parameter.grad is not None for parameter in method.inference_network.parameters())


def test_target_features_are_standardized() -> None:
    likelihood = Gaussian()
    likelihood.set_target_scaling(torch.tensor([50.0]), torch.tensor([10.0]))
    assert_close(likelihood.target_features(torch.tensor([[70.0]])), torch.tensor([[2.0]]))
    assert_close(Categorical(3).target_features(torch.tensor([2])), F.one_hot(torch.tensor([2]), 3).float())


BACKBONES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)), (3,)),
    "flattened": (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(12, 6), nn.Linear(6, 2)), (3, 4)),
    "steps": (lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Flatten(), nn.Linear(30, 2)), (5, 3)),
    "images": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)
        ),
        (3, 6, 5),
    ),
    "signals": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(12, 2)), (2, 3)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_the_backbone_of_any_other_method_is_widened(name: str) -> None:
    torch.manual_seed(0)
    make, shape = BACKBONES[name]
    backbone = make().eval()
    method = LatentVariableVI(backbone, Gaussian(num_targets=2), latent_dim=2, num_data=8, init_std=1e-7).eval()
    x, y = torch.randn(8, *shape), torch.randn(8, 2)
    with torch.no_grad():
        assert_close(method.point_outputs(x), backbone(x))  # of z = 0
    method.elbo(x, y).loss.backward()
    gradient = next(p.grad for key, p in method.backbone.named_parameters() if key.endswith("weight_mu"))
    assert gradient is not None
    assert (gradient[:, -2:].abs().sum((0, *range(2, gradient.dim()))) > 0).all()  # both latent variables are inputs
    assert method.predict(x).mean.shape == (8, 2)


def test_latent_inputs_are_constant_over_an_image() -> None:
    """A 1 x 1 convolution is linear in z: output = w x + a z + b at each pixel."""
    method = LatentVariableVI(nn.Conv2d(1, 1, 1), Gaussian(), inference_network=nn.Linear(17, 2), init_std=1e-7)
    x, z = torch.randn(3, 1, 4, 4), torch.randn(2, 3, 1)
    layer: Any = method.backbone
    expected = layer.weight_mu[0, 0] * x + layer.weight_mu[0, 1] * z[..., None, None] + layer.bias_mu
    outputs = layer(method._with_latents(x, z), sample=False).view(2, 3, 4, 4)
    assert_close(outputs, expected.squeeze(2) if expected.dim() == 5 else expected)


def test_new_weights_are_initialized_like_those_of_the_layer() -> None:
    torch.manual_seed(0)
    network, first = widened(nn.Sequential(nn.Conv2d(3, 400, 5)), num_new=2)
    new = network[0].weight[:, 3:]  # type: ignore[index, union-attr]
    reference = nn.Conv2d(5, 400, 5).weight
    assert_close(new.std(), reference.std(), rtol=0.05, atol=0.0)
    assert reference.abs().max() * 0.9 < new.abs().max() <= (5 * 25) ** -0.5
    assert (first.num_inputs, first.num_spatial, first.summary_size) == (3, 2, 48)


def test_invalid_arguments_and_inputs() -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    tied[2].weight = tied[0].weight
    for backbone, message in (
        (nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 1)), r"first module of backbone with parameters .* a LayerNorm"),
        (nn.Conv2d(2, 2, 1, groups=2), "a convolution without groups"),
        (nn.Sequential(nn.LazyLinear(3)), "a LazyLinear"),
        (tied, "'0', shares its weight with another module"),
    ):
        with pytest.raises(ValueError, match=message):
            LatentVariableVI(backbone, Gaussian())
    with pytest.raises(ValueError, match="latent_std must be positive and finite, got 0"):
        LatentVariableVI(MLP(2, [4], 1), Gaussian(), latent_std=0)
    with pytest.raises(ValueError, match="latent_dim must be an integer of at least 1, got 0"):
        LatentVariableVI(MLP(2, [4], 1), Gaussian(), latent_dim=0)
    method = LatentVariableVI(MLP(3, [4], 1), Gaussian(), num_data=4)
    with pytest.raises(ValueError, match=r"takes 3 inputs, got an input of shape \(4, 2\): .* is widened for"):
        method.predict(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="needs tensors as inputs, got a tuple"):
        method.elbo((torch.zeros(4, 3), torch.zeros(4)), torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"targets of shape \(4, 2, 1\) need an inference_network for 3 features"):
        method.elbo(torch.zeros(4, 2, 3), torch.zeros(4, 2, 1))
