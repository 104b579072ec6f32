"""SNGP against exact Gaussian processes, and properties of the spectral bound and the random features."""

import itertools
import math
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from method_cases import ImageNet
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from lightning_vi import SNGP, Deterministic, NotFittedError
from lightning_vi.backbones import MLP, ResidualMLP
from lightning_vi.datamodules import TwoMoonsDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.layers import BoundedModule
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian

NOISE, PRIOR = 0.4, 0.8
N = 30
X, NEW = normal(N, 3), 2 * normal(7, 3)
Y = X.sin().sum(1, keepdim=True) + NOISE * normal(N, 1)


def sngp(outputs: int = 1, likelihood: Any = None, **options: Any) -> SNGP:
    torch.manual_seed(1)
    defaults: dict[str, Any] = {"num_random_features": 50, "prior_std": PRIOR, "length_scale": 0.3}
    likelihood = Gaussian(NOISE) if likelihood is None else likelihood
    return SNGP(MLP(3, [8], outputs, activation_fn=nn.Tanh()), likelihood, **(defaults | options)).eval()


def random_features(method: SNGP, x: Tensor) -> Tensor:
    """Computes the random features from the hidden features in float64."""
    layers: Any = method.backbone
    hidden = nn.Sequential(*list(layers)[:-1])(x).double()
    random, _ = layers[-1]
    frequencies, phases = random.frequencies.double(), random.phases.double()
    return math.sqrt(2 / len(phases)) * (hidden @ frequencies.T / random.length_scale + phases).cos().detach()


def head(method: SNGP) -> nn.Linear:
    layers: Any = method.backbone
    layer: nn.Linear = layers[-1][1]
    return layer


def set_head(method: SNGP, output: int, weights: Tensor) -> None:
    with torch.no_grad():
        head(method).weight[output].copy_(weights)


def gaussian_process(
    phi: Tensor, phi_new: Tensor, target: Tensor, noise_variance: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns mean and variance at new inputs, log evidence and weights of the mean, from N x N matrices."""
    kernel = PRIOR**2 * phi @ phi.T + noise_variance.diag()
    between = PRIOR**2 * phi_new @ phi.T
    mean = between @ torch.linalg.solve(kernel, target)
    variance = PRIOR**2 * phi_new.square().sum(1) - (between * torch.linalg.solve(kernel, between.T).T).sum(1)
    evidence = MultivariateNormal(torch.zeros_like(target), kernel).log_prob(target)
    return mean, variance, evidence, PRIOR**2 * phi.T @ torch.linalg.solve(kernel, target)


@pytest.mark.parametrize("structure", ["per_output", "kronecker", "full"])
def test_prediction_is_the_exact_gaussian_process_of_the_features(structure: Any) -> None:
    method = sngp(structure=structure)
    phi, phi_new = random_features(method, X), random_features(method, NEW)
    noise = torch.full((N,), NOISE**2).double()
    mean, variance, evidence, weights = gaussian_process(phi, phi_new, Y.double()[:, 0], noise)
    set_head(method, 0, weights)
    method.fit_posterior(loader(X, Y))
    prediction = method.predict(NEW)
    assert_close(prediction.mean[:, 0].double(), mean, rtol=1e-4, atol=1e-4)
    assert_close(prediction.epistemic_var[:, 0].double(), variance, rtol=1e-4, atol=1e-5)
    assert_close(prediction.aleatoric_var, torch.full((7, 1), NOISE**2))
    assert_close(method.log_marginal_likelihood().double(), evidence, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("structure", ["per_output", "kronecker"])
def test_two_outputs_with_different_noise_are_two_gaussian_processes(structure: Any) -> None:
    noise_std = [0.3, 1.7]
    method = sngp(2, Gaussian(noise_std, 2), structure=structure)
    targets, total = torch.cat([Y, -2 * Y], 1), 0.0
    phi, phi_new = random_features(method, X), random_features(method, NEW)
    expected = []
    for output, std in enumerate(noise_std):
        noise = torch.full((N,), std**2).double()
        mean, variance, evidence, weights = gaussian_process(phi, phi_new, targets.double()[:, output], noise)
        set_head(method, output, weights)
        expected.append((mean, variance))
        total += evidence.item()
    method.fit_posterior(loader(X, targets))
    prediction = method.predict(NEW)
    for output, (mean, variance) in enumerate(expected):
        assert_close(prediction.mean[:, output].double(), mean, rtol=1e-4, atol=1e-4)
        assert_close(prediction.epistemic_var[:, output].double(), variance, rtol=1e-4, atol=1e-5)
    assert_close(method.log_marginal_likelihood().item(), total, rtol=1e-4, atol=1e-3)


def test_heteroscedastic_noise_is_used_for_each_datum() -> None:
    """Each output is a Gaussian process whose noise variances are the inverse Fisher information."""
    method = sngp(2, HeteroscedasticGaussian())
    with torch.no_grad():
        head(method).weight.normal_(std=1.5)
    phi, phi_new = random_features(method, X), random_features(method, NEW)
    outputs = method(X).detach().double()
    std = nn.functional.softplus(outputs[:, 1]) + 1e-3
    assert std.max() > 3 * std.min()
    noises = [std.square(), std.square() / (2 * outputs[:, 1].sigmoid().square())]
    method.fit_posterior(loader(X, Y))
    _, stds = method.output_moments(NEW)
    for output, noise in enumerate(noises):
        variance = gaussian_process(phi, phi_new, outputs[:, output], noise)[1]
        assert_close(stds[:, output].square().double(), variance, rtol=1e-3, atol=1e-5)


def test_samples_have_the_moments_of_the_closed_form() -> None:
    method, size = sngp(2, Gaussian([0.3, 1.7], 2)), 4000
    method.fit_posterior(loader(X, torch.cat([Y, Y], 1)))
    exact = method.predict(NEW)
    sampled = method.predict(NEW, num_samples=size, return_samples=True)
    assert ((sampled.mean - exact.mean).abs() < 4.5 * (exact.epistemic_var / size).sqrt()).all()
    assert_close(sampled.epistemic_var, exact.epistemic_var, rtol=4.5 * math.sqrt(2 / size), atol=0.0)


def test_training_converges_to_the_mean_of_the_gaussian_process() -> None:
    """For a network that consists of the head only."""
    torch.manual_seed(0)
    method = SNGP(nn.Linear(3, 1), Gaussian(NOISE), num_random_features=40, length_scale=1.0, prior_std=PRIOR)
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = method.elbo(X, Y, num_data=N).loss
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    method.fit_posterior(loader(X, Y))
    random: Any = method.backbone[0]  # type: ignore[index]
    phi, phi_new = random(X).double(), random(NEW).double()
    noise = torch.full((N,), NOISE**2).double()
    mean, variance, _, _ = gaussian_process(phi, phi_new, Y.double()[:, 0], noise)
    prediction = method.predict(NEW)
    assert_close(prediction.mean[:, 0].double(), mean, rtol=1e-3, atol=1e-3)
    assert_close(prediction.epistemic_var[:, 0].double(), variance, rtol=1e-4, atol=1e-5)


NETWORKS: dict[str, Any] = {"MLP": partial(MLP, 2, [32, 32], 2), "ResidualMLP": partial(ResidualMLP, 2, 32, 2, 2)}


@cache
def moons(name: str, kind: Any = SNGP, epochs: int = 20, **options: Any) -> Any:
    torch.manual_seed(0)
    method = kind(NETWORKS[name](), Categorical(2), optimizer=partial(torch.optim.Adam, lr=0.01), **options)
    fit(method, TwoMoonsDataModule(n_points=300, batch_size=32), max_epochs=epochs)
    return method


def test_trained_layers_satisfy_the_bound_and_smaller_weights_are_unchanged() -> None:
    method, bound = moons("ResidualMLP", num_random_features=16, epochs=5, spectral_norm_bound=2.3), 2.3
    bounded = [module for module in method.backbone.modules() if isinstance(module, BoundedModule)]
    assert len(bounded) == 5
    exceeded = []
    for layer in bounded:
        norm = torch.linalg.matrix_norm(layer.unbounded_weight, ord=2)
        assert torch.linalg.matrix_norm(layer.eval().weight, ord=2) < bound * 1.01
        exceeded.append(bool(norm > bound))
        if norm < bound:
            assert torch.equal(layer.weight, layer.unbounded_weight)
    assert any(exceeded)
    assert not all(exceeded)


@pytest.mark.parametrize("name", NETWORKS)
def test_variance_increases_with_the_distance_from_the_data_to_the_prior_variance(name: str) -> None:
    method = moons(name, num_random_features=512, prior_std=1.5)
    angles = torch.linspace(0, 2 * math.pi, 64)
    rays = torch.stack([angles.cos(), angles.sin()], 1)
    center = torch.tensor([0.5, 0.25])
    variances = []
    for radius in (1.0, 2.0, 4.0, 8.0, 100.0):
        _, std = method.output_moments(center + radius * rays)
        variances.append(std.square().mean().item())
    assert all(nearer < further for nearer, further in itertools.pairwise(variances[:4]))
    assert variances[0] < 0.5 * 1.5**2
    assert variances[-1] == pytest.approx(1.5**2, rel=0.05)


def test_out_of_distribution_data_are_detected() -> None:
    data = TwoMoonsDataModule(n_points=300)
    angles = torch.linspace(0, 2 * math.pi, 100)
    far = torch.tensor([0.5, 0.25]) + 4 * torch.stack([angles.cos(), angles.sin()], 1)
    method, plain = moons("MLP", num_random_features=512, prior_std=1.5), moons("MLP", Deterministic)
    detected = ood_detection(method, [data.X_test], [far], score="epistemic_uct").auroc
    assert detected > 0.95
    assert ood_detection(plain, [data.X_test], [far], score="pred_uct").auroc < detected - 0.3
    accuracy = (method.predict(data.X_test).mean.argmax(1) == data.Y_test).float().mean()
    assert accuracy > 0.95


class Named(nn.Module):
    """A network that is not an nn.Sequential and whose last module has no parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"stem": nn.Conv1d(2, 4, 3, padding=1), "out": nn.Linear(4, 3)})
        self.activation = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body["out"](self.activation(self.body["stem"](x)).mT)
        return output


def test_last_layer_is_replaced_and_other_layers_are_bounded() -> None:
    network = Named()
    before, kinds = copy_of_state(network), [type(module) for module in network.modules()]
    method = SNGP(network, Categorical(3, class_dim=-1), num_random_features=16)
    found: Any = method.backbone.get_submodule("body.out")
    assert [type(part).__name__ for part in found] == ["RandomFourierFeatures", "Linear"]
    assert type(method.backbone.get_submodule("body.stem")).__name__ == "BoundedConv1d"
    assert [block.module_name for block in method._blocks] == ["body.out.1"]
    assert same_state(copy_of_state(network), before)
    assert [type(module) for module in network.modules()] == kinds
    free = SNGP(network, Categorical(3, class_dim=-1), num_random_features=16, spectral_norm_bound=None)
    assert not any(isinstance(module, BoundedModule) for module in free.backbone.modules())


def test_pointwise_convolution_as_head_equals_a_linear_head_at_each_position() -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 2, 4, 4)
    labels = torch.randint(0, 3, (5, 4, 4))
    method = SNGP(ImageNet(3), Categorical(3), num_random_features=16)
    method.fit_posterior([(images, labels)])
    features, convolution = method.backbone.get_submodule("head")  # type: ignore[misc]
    hidden: list[Tensor] = []
    handle = features.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0].detach()))
    logits, std = method.output_moments(images)
    handle.remove()
    positions = hidden[0].movedim(1, -1).reshape(-1, 4)
    linear = SNGP(nn.Linear(4, 3), Categorical(3), num_random_features=16)
    linear.backbone[0].load_state_dict(features.state_dict())  # type: ignore[index]
    linear.backbone[1].weight.data = convolution.weight.detach()[:, :, 0, 0]  # type: ignore[index]
    linear.fit_posterior([(positions, labels.flatten())])
    for found, expected in zip((logits, std), linear.output_moments(positions), strict=True):
        assert_close(found.movedim(1, -1).reshape(-1, 3), expected, rtol=1e-4, atol=1e-5)


def test_prediction_has_no_side_effects_and_training_updates_only_singular_vectors() -> None:
    method = sngp()
    method.fit_posterior(loader(X, Y))
    before = copy_of_state(method)
    method.train().predict(NEW)
    assert same_state(copy_of_state(method), before)
    with torch.no_grad():
        method.backbone[0].unbounded_weight.normal_()  # type: ignore[index, union-attr, operator]
    before = copy_of_state(method)
    method(X)
    changed = {name for name, value in copy_of_state(method).items() if not torch.equal(value, before[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"left_vector", "right_vector"}


def test_prediction_before_fitting_raises() -> None:
    with pytest.raises(NotFittedError, match="SNGP cannot predict before it is fitted"):
        sngp().predict(X)


def test_prior_std_maximizes_the_marginal_likelihood() -> None:
    method = sngp(prior_std="marginal_likelihood").train()
    fit(method, loader(X, Y), max_epochs=20)
    best = method.log_marginal_likelihood()
    for factor in (0.9, 1.1):
        method.prior_precision.mul_(factor)
        assert method.log_marginal_likelihood() < best
        method.prior_precision.div_(factor)


def test_head_has_no_weight_decay() -> None:
    method = sngp(optimizer=partial(torch.optim.AdamW, weight_decay=0.5))
    decay = {
        id(parameter): group["weight_decay"]
        for group in method.make_optimizer().param_groups
        for parameter in group["params"]
    }
    assert decay[id(head(method).weight)] == 0.0
    assert decay[id(method.backbone[0].unbounded_weight)] == 0.5  # type: ignore[index, union-attr]


SCRIPT = """
import sys, torch
from lightning_vi import SNGP
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import HeteroscedasticGaussian
method = SNGP.load_from_checkpoint(
    sys.argv[1], backbone=MLP(3, [4], 2), likelihood=HeteroscedasticGaussian(), weights_only=True
)
torch.save(method.predict_step(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


@pytest.mark.thorough
def test_checkpoint_gives_the_same_predictions_in_a_new_process(tmp_path: Path) -> None:
    method = SNGP(MLP(3, [4], 2), HeteroscedasticGaussian(), num_random_features=20, length_scale=0.7)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "sngp.ckpt")
    torch.save(X, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("sngp.ckpt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    expected = method.predict_step(X)
    for key, value in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert_close(value, expected[key])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_random_features": 0}, "num_random_features must be an integer of at least 1, got 0"),
        ({"length_scale": -1.0}, "length_scale must be positive and finite, got -1.0"),
        ({"spectral_norm_bound": 0.0}, "spectral_norm_bound must be positive and finite, got 0.0"),
        ({"prior_std": -1.0}, "prior_std must be a positive, finite number, 'auto' or 'marginal_likelihood', got -1.0"),
        ({"structure": "block"}, "structure must be one of .* got 'block'"),
        ({"predictive": "bridge"}, "predictive must be 'probit' or 'sampling', got 'bridge'"),
        ({"num_random_features": 9000}, "structure='per_output' needs 309 MiB for 9000 weights, more than"),
        ({"num_mc_samples_test": 0}, "num_mc_samples_test must be"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SNGP(MLP(3, [4], 1), Gaussian(), **({"num_random_features": 8} | options))


def tied() -> nn.Module:
    network = MLP(3, [3], 3)
    network[2].weight = network[0].weight  # type: ignore[union-attr, assignment]
    return network


class CustomLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input).tanh()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.LayerNorm(4)), "layer or a convolution of width 1, but '0' is LayerNorm"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), "or a convolution of width 1, but '0' is Conv2d"),
        (nn.Sequential(nn.Linear(3, 4), CustomLinear(4, 1)), "but '1' is CustomLinear"),
        (nn.Embedding(3, 4), "but the root is Embedding"),
        (nn.Sequential(nn.ReLU()), "this one has no parameters"),
        (tied(), r"the last layer must have weights of its own, but '2' shares them with \['0'\]"),
        (nn.MultiheadAttention(4, 2), "the last layer must be called, but 'out_proj' is not"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 1))), "but '0.parametrizations.weight' is"),
    ],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_unsupported_last_layers(network: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SNGP(network, Gaussian())
