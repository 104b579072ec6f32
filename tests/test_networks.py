"""Every test network, converted: the caller's outputs at std 0, and the law of sequential passes otherwise."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import copy_of_state, randomize_posteriors, same_state
from network_cases import EXAMPLES, Example, each_example, each_example_and_estimator
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from lightning_vi.conversion import convert
from lightning_vi.layers import stochastic_parameters
from lightning_vi.priors import GaussianPrior
from lightning_vi.sampling import NetworkInput, SamplingEngine, call

WEIGHT_SPACE = [name for name, example in EXAMPLES.items() if "flipout" not in example.estimators]


@contextmanager
def gradients(enabled: bool) -> Iterator[None]:
    with torch.set_grad_enabled(enabled):
        yield


def trained(example: Example) -> tuple[nn.Module, NetworkInput]:
    """A network whose batch statistics have moved, in evaluation mode."""
    network, x = example.make(), example.make_input()
    for _ in range(2):
        call(network.train(), x)
    return network.eval(), x


def assert_same_law(first: Tensor, second: Tensor) -> None:
    """Draws along the first dimension have one mean and one variance, within five standard errors."""
    moments = []
    for draws in (first.double(), second.double()):
        square = (draws - first.double().mean(0)).square()
        moments.append([(values.mean(0), values.var(0) / len(values)) for values in (draws, square)])
    for (mean, error), (other_mean, other_error) in zip(*moments, strict=True):
        assert ((mean - other_mean).abs() < 5 * (error + other_error).sqrt() + 1e-6).all()


@each_example_and_estimator
@pytest.mark.parametrize("with_gradients", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("vectorization", ["auto", "loop"])
def test_a_vanishing_std_reproduces_the_callers_outputs(
    example: Example, estimator: str, with_gradients: bool, vectorization: Any
) -> None:
    """Without gradients a TransformerEncoder takes its fast path."""
    network, x = trained(example)
    converted, _ = convert(network, estimator=estimator, init_std=1e-9)
    engine = SamplingEngine(converted, vectorization)
    with gradients(with_gradients):
        expected = call(network, x)
        everything = [
            engine.mean_output(x),
            call(converted, x),
            *engine.training_samples(x, 3),
            *torch.cat(list(engine.prediction_samples(x, 3, seed=1))),
        ]
    for outputs in everything:
        torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)


@each_example
def test_conversion_leaves_the_callers_network_alone(example: Example) -> None:
    network, x = trained(example)
    state, classes = copy_of_state(network), [(name, type(part)) for name, part in network.named_modules()]
    identities, random_state = [id(parameter) for parameter in network.parameters()], torch.get_rng_state()
    converted, _ = convert(network)
    assert torch.equal(torch.get_rng_state(), random_state)
    randomize_posteriors(converted)
    SamplingEngine(converted.train()).training_pass(x, 2)[1].backward()
    assert same_state(network.state_dict(), state)
    assert [(name, type(part)) for name, part in network.named_modules()] == classes
    assert [id(parameter) for parameter in network.parameters()] == identities
    assert all(parameter.grad is None for parameter in network.parameters())


@each_example
def test_the_divergence_counts_every_stochastic_weight_once(example: Example) -> None:
    converted, report = convert(example.make(), prior=GaussianPrior(0.3, 0.7))
    randomize_posteriors(converted)
    parameters = dict(converted.named_parameters())
    expected = sum(
        kl_divergence(Normal(mu, F.softplus(parameters[f"{name[:-3]}_rho"])), Normal(0.3, 0.7)).sum()
        for name, mu in parameters.items()
        if name.endswith("_mu")
    )
    torch.testing.assert_close(SamplingEngine(converted).kl(), expected)
    assert report.num_stochastic == report.num_parameters == sum(p.numel() for p in example.make().parameters())


@each_example
def test_a_deterministic_checkpoint_loads_as_posterior_means(example: Example) -> None:
    source, x = trained(example)
    converted, _ = convert(trained(example)[0], init_std=0.3, prior=GaussianPrior("pretrained", 0.5))
    before = copy_of_state(converted)
    converted.load_state_dict(source.state_dict())
    torch.testing.assert_close(SamplingEngine(converted.eval()).mean_output(x), call(source, x))
    after = converted.state_dict()
    kept = [name for name in before if name.endswith(("_rho", "_prior_mean"))]
    assert kept
    assert all(torch.equal(after[name], before[name]) for name in kept)


@each_example
def test_copies_are_independent_and_compute_the_same(example: Example) -> None:
    network, x = trained(example)
    converted, _ = convert(network)
    randomize_posteriors(converted)
    expected = SamplingEngine(converted).mean_output(x)
    copies = [copy.deepcopy(converted)]
    if example.picklable:
        copies.append(pickle.loads(pickle.dumps(converted)))
    for twin in copies:
        assert {id(p) for p in twin.parameters()}.isdisjoint({id(p) for p in converted.parameters()})
        torch.testing.assert_close(SamplingEngine(twin).mean_output(x), expected)
        owners = [stochastic_parameters(module) for module in twin.modules()]
        assert all(owner.module in set(twin.modules()) for owner in owners if owner is not None)
        torch.testing.assert_close(SamplingEngine(twin).kl(), SamplingEngine(converted).kl())


@each_example
def test_a_network_can_change_its_type(example: Example) -> None:
    network, x = trained(example)
    converted, _ = convert(network, init_std=1e-9)
    x = x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
    if isinstance(x, dict):
        x = {name: value.double() if value.is_floating_point() else value for name, value in x.items()}
    outputs = SamplingEngine(converted.double()).mean_output(x)
    assert outputs.dtype == torch.float64
    torch.testing.assert_close(outputs, call(network.double(), x))


def drawn_by_hand(network: nn.Module, converted: nn.Module, x: NetworkInput, num_samples: int) -> Tensor:
    """Outputs of a deterministic network whose parameters are drawn anew for each pass, tied ones together."""
    state = converted.state_dict()
    padding = {
        f"{name}.weight": module.padding_idx
        for name, module in network.named_modules()
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.padding_idx is not None
    }
    outputs = []
    with torch.no_grad():
        for _ in range(num_samples):
            for name, parameter in network.named_parameters():
                mu, std = state[f"{name}_mu"], F.softplus(state[f"{name}_rho"])
                parameter.copy_(mu + std * torch.randn_like(mu))
                if name in padding:
                    parameter[padding[name]] = mu[padding[name]]
            outputs.append(call(network, x))
    return torch.stack(outputs)


@each_example
def test_draws_in_weight_space_have_the_law_of_sequential_passes(example: Example) -> None:
    network, x = trained(example)
    converted, _ = convert(network, estimator="reparameterization")
    randomize_posteriors(converted, low=0.1, high=0.3)
    engine = SamplingEngine(converted)
    expected = drawn_by_hand(network, converted, x, 600)
    with torch.no_grad():
        assert_same_law(engine.training_samples(x, 600), expected)
        assert_same_law(torch.cat(list(engine.prediction_samples(x, 600, seed=5))), expected)
        flipped = SamplingEngine(converted, antithetic=True)
        pairs = torch.cat(list(flipped.prediction_samples(x, 600, seed=5)))
        assert_same_law(pairs[::2], expected)
        assert_same_law(pairs[1::2], expected)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in WEIGHT_SPACE])
@pytest.mark.parametrize("estimator", ["local_reparameterization", "flipout"])
def test_draws_of_outputs_have_the_law_of_sequential_passes(name: str, estimator: str) -> None:
    network, x = trained(EXAMPLES[name])
    converted, _ = convert(network, estimator=estimator)
    randomize_posteriors(converted, low=0.1, high=0.3)
    with torch.no_grad():
        expected = torch.stack([call(converted, x) for _ in range(600)])
        for how in ("repeat", "vmap", "loop"):
            assert_same_law(SamplingEngine(converted, how).training_samples(x, 600), expected)
        assert_same_law(SamplingEngine(converted, "repeat").training_samples(x, 600), expected)


@each_example
def test_a_training_pass_is_samples_and_divergence_at_once(example: Example) -> None:
    network, x = trained(example)
    converted, _ = convert(network)
    randomize_posteriors(converted, low=0.1, high=0.3)
    engine = SamplingEngine(converted)
    engine.training_samples(x, 1)
    results = []
    for at_once in (True, False):
        torch.manual_seed(7)
        converted.zero_grad()
        samples, kl = engine.training_pass(x, 3) if at_once else (engine.training_samples(x, 3), engine.kl())
        (samples.square().sum() + kl).backward()
        results.append([samples, kl, *(parameter.grad for parameter in converted.parameters())])
    torch.testing.assert_close(results[0], results[1])
    for module in converted.modules():
        owner = stochastic_parameters(module)
        if owner is not None:
            assert not owner._stds
            assert owner.num_copies is None
            assert all(module._parameters[label] is None for label in owner.names)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_transformer_takes_its_fast_path_with_a_padding_mask() -> None:
    """The fused path zeroes padded positions, which the other does not."""
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, num_layers=1).eval()
    x = {"src": torch.randn(3, 4, 4), "src_key_padding_mask": torch.arange(4).expand(3, 4) >= 3}
    converted, _ = convert(encoder, init_std=1e-9)
    with torch.no_grad():
        expected = encoder(**x)
        (samples,) = SamplingEngine(converted).prediction_samples(x, 2, seed=0)
        torch.testing.assert_close(samples, expected.expand(2, *expected.shape), rtol=0, atol=1e-6)
