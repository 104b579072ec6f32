"""The sampling engine against networks whose weights are put in by hand."""

import copy
import math
import pickle
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import copy_of_state, randomize_posteriors, same_state
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.conversion import convert
from lightning_vi.layers import VariationalLayer, VariationalLinear
from lightning_vi.noise import private_random_state, sample_noise
from lightning_vi.posteriors import NoiseCoupling
from lightning_vi.sampling import SamplingEngine, chunk_ranges, memory, num_fitting, weights

CPU = torch.device("cpu")


def stochastic(network: nn.Module, names: list[str | int] | None = None, **options: Any) -> nn.Module:
    converted, _ = convert(network, names, **options)
    randomize_posteriors(converted)
    return converted


def small(**options: Any) -> nn.Module:
    return stochastic(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), **options)


def predicted(engine: SamplingEngine, x: Tensor, num_samples: int, seed: int = 0) -> Tensor:
    with torch.no_grad():
        return torch.cat(list(engine.prediction_samples(x, num_samples, seed)))


class Residual(nn.Module):
    """A network that is no nn.Sequential: features, a head, and by choice something behind it."""

    def __init__(self, tail: nn.Module | None = None) -> None:
        super().__init__()
        self.features = nn.Linear(2, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(self.features(x)).tanh())
        return output if self.tail is None else self.tail(output)


class Recurrent(nn.Module):
    """A variational layer in front of an LSTM, which torch cannot vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3)
        self.lstm = nn.LSTM(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.lstm(self.embed(x))[0]
        return output


NETWORKS = {
    "dense": lambda: small(),
    "residual": lambda: stochastic(Residual()).eval(),
    "residual, last layer": lambda: stochastic(Residual(), ["head"]).eval(),
    "convolution": lambda: stochastic(
        nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 2, 3, padding=1), nn.Flatten(), nn.Linear(4, 1))
    ),
    "mixed estimators": lambda: nn.Sequential(
        VariationalLinear(2, 3, estimator="flipout", init_std=0.5),
        nn.Tanh(),
        VariationalLinear(3, 1, estimator="reparameterization", init_std=0.5),
    ),
}


def ways(network: nn.Module) -> list[Any]:
    """All ways to run the network's samples."""
    only_affine = all(isinstance(module, VariationalLayer) for module in SamplingEngine(network).modules)
    return ["auto", "vmap", "loop", *(["repeat"] if only_affine else [])]


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    made: nn.Module = request.param()
    return made


@pytest.mark.parametrize("most_joined", [2**14, 8])
def test_prediction_draws_are_the_posterior_at_the_noise_of_seed_and_index(
    most_joined: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: w = mu + softplus(rho) eps, with eps cut from the sample's own noise vector.

    Parameters that are drawn together, being small, need not stand side by side in it.
    """
    monkeypatch.setattr(memory, "MAX_JOINED_WEIGHTS", most_joined)
    network = small()
    x = torch.randn(5, 2)
    first, second = network[0], network[2]
    noise = sample_noise(7, 0, 6, 4 * 2 + 4 + 3 * 4 + 3)
    expected = []
    for row in noise:
        parts = iter(row.split([8, 4, 12, 3]))
        weights = []
        for layer in (first, second):
            for name in ("weight", "bias"):
                mu, rho = layer.get_parameter(f"{name}_mu"), layer.get_parameter(f"{name}_rho")
                weights.append(mu + F.softplus(rho) * next(parts).view_as(mu))
        expected.append(F.linear(F.linear(x, *weights[:2]).tanh(), *weights[2:]))
    torch.testing.assert_close(predicted(SamplingEngine(network), x, 6, seed=7), torch.stack(expected))


def test_all_ways_agree(network: nn.Module) -> None:
    x = torch.randn(5, 2)
    first, *others = [predicted(SamplingEngine(network, how), x, 4) for how in ways(network)]
    for other in others:
        torch.testing.assert_close(other, first)


def test_functions_are_the_same_on_every_split_of_the_rows(network: nn.Module) -> None:
    x = torch.randn(7, 2)
    engine = SamplingEngine(network)
    whole = predicted(engine, x, 5)
    halves = torch.cat([predicted(engine, part, 5) for part in x.split([3, 4])], dim=1)
    torch.testing.assert_close(halves, whole)
    assert len({tuple(sample.flatten().tolist()) for sample in whole}) == 5


def test_fewer_samples_are_the_first_of_more(network: nn.Module) -> None:
    x, engine = torch.randn(4, 2), SamplingEngine(network)
    torch.testing.assert_close(predicted(engine, x, 3), predicted(engine, x, 8)[:3])


def test_seeds_choose_other_functions(network: nn.Module) -> None:
    x, engine = torch.randn(4, 2), SamplingEngine(network)
    assert torch.equal(predicted(engine, x, 3, seed=1), predicted(engine, x, 3, seed=1))
    assert not torch.allclose(predicted(engine, x, 3, seed=1), predicted(engine, x, 3, seed=2))


def test_memory_limits_cut_into_chunks_and_change_no_value(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(5, 2)
    expected = predicted(SamplingEngine(network), x, 7)
    num_weights = sum(parameter.numel() for parameter in SamplingEngine(network).parameters()) // 2
    for limit, value, lengths in (
        ("MAX_KEPT_NUMBERS", 2 * num_weights, [7]),
        ("MAX_WEIGHTS_PER_PASS", 2 * num_weights, [2, 2, 2, 1]),
        ("MAX_ACTIVATIONS_PER_PASS", {"cpu": 1}, [1] * 7),
    ):
        monkeypatch.setattr(memory, limit, value)
        with torch.no_grad():
            chunks = list(SamplingEngine(network).prediction_samples(x, 7, seed=0))
        assert [len(chunk) for chunk in chunks] == lengths
        torch.testing.assert_close(torch.cat(chunks), expected)


@pytest.mark.parametrize(
    ("names", "hidden", "num_samples", "lengths"),
    [(None, 4, 7, [2, 2, 2, 1]), (None, 4, 5, [2, 2, 1]), ([-1], 100, 7, [2, 2, 2, 1]), (None, 2, 5, [3, 2])],
)
def test_the_widest_output_behind_the_first_stochastic_layer_limits_a_pass(
    names: list[str | int] | None, hidden: int, num_samples: int, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = 4 if names else 2
    monkeypatch.setattr(memory, "MAX_ACTIVATIONS_PER_PASS", {"cpu": 2 * 5 * 4})
    network = stochastic(nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, outputs)), names)
    with torch.no_grad():
        chunks = list(SamplingEngine(network).prediction_samples(torch.randn(5, 2), num_samples, seed=0))
    assert [len(chunk) for chunk in chunks] == lengths


@pytest.mark.parametrize("estimator", ["auto", "reparameterization"])
def test_many_rows_are_cut_too_where_they_stay_apart(estimator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 2)
    network = small(estimator=estimator)
    expected = predicted(SamplingEngine(network), x, 3)
    monkeypatch.setattr(memory, "MAX_ACTIVATIONS_PER_PASS", {"cpu": 7 * 4})
    engine = SamplingEngine(network)
    predicted(engine, x, 3)  # the engine inspects the network in its first pass
    count = Count(network[0])
    samples = predicted(engine, x, 3)
    torch.testing.assert_close(samples, expected)
    assert count.rows == [7, 7, 7, 7, 7, 7, 7, 1] * 3


@pytest.mark.parametrize("is_training", [False, True])
def test_many_rows_are_cut_at_batch_normalizations_in_evaluation_mode(
    is_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(50, 2)
    layers = [nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)]
    network = stochastic(nn.Sequential(*layers)).train(is_training)
    expected = predicted(SamplingEngine(network), x, 3)
    monkeypatch.setattr(memory, "MAX_ACTIVATIONS_PER_PASS", {"cpu": 7 * 4})
    engine = SamplingEngine(network)
    predicted(engine, x, 3)  # the engine inspects the network in its first pass
    count = Count(network[2])
    torch.testing.assert_close(predicted(engine, x, 3), expected)
    assert count.rows == ([50] if is_training else [7, 7, 7, 7, 7, 7, 7, 1]) * 3


def test_rows_that_meet_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Centered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    monkeypatch.setattr(memory, "MAX_ACTIVATIONS_PER_PASS", {"cpu": 7 * 4})
    network = stochastic(nn.Sequential(nn.Linear(2, 4), Centered()))
    samples = predicted(SamplingEngine(network), torch.randn(50, 2), 3)
    torch.testing.assert_close(samples.mean(1), torch.zeros(3, 4), rtol=0, atol=1e-5)


def test_weights_are_not_kept_for_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    expected = predicted(SamplingEngine(network), torch.ones(5, 2), 3)
    monkeypatch.setattr(memory, "MAX_ROWS_FOR_KEPT_WEIGHTS", 4)
    monkeypatch.setattr(weights.DrawCache, "get", None)
    torch.testing.assert_close(predicted(SamplingEngine(network), torch.ones(5, 2), 3), expected)


def test_a_gpu_keeps_draws_in_a_share_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(total_memory=32 * 2**30)
    module = SimpleNamespace(get_device_properties=lambda device: properties)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert memory.max_kept(torch.device("cuda", 0)) == 2**29  # 4 bytes each, a sixteenth
    assert memory.max_kept(torch.device("cpu")) == memory.MAX_KEPT_NUMBERS
    properties.total_memory = 2**20
    assert memory.max_kept(torch.device("cuda", 0)) == memory.MAX_KEPT_NUMBERS


def change_in_place(layer: VariationalLinear) -> None:
    with torch.no_grad():
        layer.weight_mu.add_(1.0)


def change_behind_autograd(layer: VariationalLinear) -> None:
    layer.weight_mu.data.add_(1.0)


def change_by_loading(layer: VariationalLinear) -> None:
    layer.load_state_dict({name: value + 1.0 for name, value in layer.state_dict().items()})


def change_by_optimizer(layer: VariationalLinear, **options: bool) -> None:
    layer.kl().backward()
    torch.optim.Adam(layer.parameters(), lr=1.0, **options).step()


def change_by_fused_optimizer(layer: VariationalLinear) -> None:
    """A fused step does not count up the version of a tensor."""
    change_by_optimizer(layer, fused=True)


@pytest.mark.parametrize(
    "change",
    [change_in_place, change_behind_autograd, change_by_loading, change_by_optimizer, change_by_fused_optimizer],
)
def test_draws_follow_the_parameters(change: Any) -> None:
    """Drawn weights are reused across batches, but never after the posterior has changed."""
    network = small()
    engine, x = SamplingEngine(network), torch.randn(4, 2)
    before = predicted(engine, x, 3)
    change(network[2])
    after = predicted(engine, x, 3)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, predicted(SamplingEngine(network), x, 3))


def test_drawn_weights_are_not_drawn_again_for_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*args: int, antithetic: bool) -> Tensor:
        calls.append(1)
        return sample_noise(*args, antithetic=antithetic)

    monkeypatch.setattr(weights, "sample_noise", counted)
    engine = SamplingEngine(small())
    for part in torch.randn(9, 2).split(3):
        predicted(engine, part, 5)
    assert len(calls) == 1


def test_weights_drawn_in_inference_mode_can_be_used_outside() -> None:
    network = small()
    engine, x = SamplingEngine(network), torch.randn(4, 2)
    with torch.inference_mode():
        inside = torch.cat(list(engine.prediction_samples(x, 3, seed=0)))
    torch.testing.assert_close(predicted(engine, x, 3), inside)


def test_training_noise_is_fresh_in_each_pass(network: nn.Module) -> None:
    engine, x = SamplingEngine(network), torch.randn(4, 2)
    first, second = engine.training_samples(x, 3), engine.training_samples(x, 3)
    assert first.shape == (3, 4, *first.shape[2:])
    assert not torch.allclose(first, second)
    with private_random_state(1, CPU):
        third = engine.training_samples(x, 3)
    with private_random_state(1, CPU):
        torch.testing.assert_close(engine.training_samples(x, 3), third)


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
@pytest.mark.parametrize("names", [None, [-1]])
def test_every_training_draw_reaches_the_gradient_of_rho(estimator: str, names: list[str | int] | None) -> None:
    network = small(names=names, estimator=estimator)
    engine = SamplingEngine(network)
    rhos = [parameter for name, parameter in network.named_parameters() if name.endswith("rho")]
    with private_random_state(1, CPU):
        losses = engine.training_samples(torch.randn(6, 2), 4).square().flatten(1).sum(1)
    for rho in rhos:
        rows = [torch.autograd.grad(loss, rho, retain_graph=True)[0] for loss in losses]
        assert all(row.abs().sum() > 0 for row in rows)
        assert len({tuple(row.flatten().tolist()) for row in rows}) == 4
        torch.testing.assert_close(torch.autograd.grad(losses.sum(), rho, retain_graph=True)[0], sum(rows))


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
def test_training_and_prediction_have_one_law(estimator: str) -> None:
    """For a linear network both have the exact mean x mu^T and variance x^2 (sigma^2)^T + sigma_b^2."""
    network = stochastic(nn.Linear(3, 2), estimator=estimator)
    x = torch.randn(2, 3)
    mu, std = network.weight_mu, F.softplus(network.weight_rho)
    mean = (x @ mu.T + network.bias_mu).detach()
    variance = (x.square() @ std.square().T + F.softplus(network.bias_rho).square()).detach()
    engine = SamplingEngine(network)
    with torch.no_grad():
        fresh = torch.stack([engine.training_samples(x, 2) for _ in range(1500)])
    fixed = predicted(engine, x, 3000).unflatten(0, (1500, 2))
    for values in (fresh, fixed):
        for statistic, exact in ((values.mean(1), mean), ((values - mean).square().mean(1), variance)):
            error = (statistic.mean(0) - exact).abs() / (statistic.std(0) / math.sqrt(1500))
            assert error.max() < 5


class Count:
    """Counts the runs of a module and their rows."""

    def __init__(self, module: nn.Module) -> None:
        self.rows: list[int] = []
        module.register_forward_hook(lambda _, inputs, __: self.rows.append(inputs[0].shape[0]))


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["sequential", "module"])
def test_features_are_computed_once(estimator: str, wrapped: bool) -> None:
    if wrapped:
        network = stochastic(Residual(), ["head"], estimator=estimator).eval()
        features: nn.Module = network.features
    else:
        network = stochastic(nn.Sequential(nn.Linear(2, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 3))), [-1])
        features = network[0]
    engine, x = SamplingEngine(network), torch.randn(5, 2)
    engine.training_samples(x, 8)  # the engine inspects the network in its first pass
    count = Count(features)
    engine.training_samples(x, 8)
    assert count.rows == [5]
    predicted(engine, x, 8)
    assert count.rows == [5, 5]


def test_features_are_computed_once_for_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_ACTIVATIONS_PER_PASS", {"cpu": 2 * 5 * 4})
    network = stochastic(nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)), [-1])
    engine, x = SamplingEngine(network), torch.randn(5, 2)
    predicted(engine, x, 8)
    count = Count(network[0])
    predicted(engine, x, 8)
    assert count.rows == [5]


def test_batch_norm_statistics_move_once_for_each_training_pass() -> None:
    """Also where the head's output is not the network's, so that the features cannot be split off."""
    for tail in (None, nn.Softplus()):
        network = stochastic(Residual(tail), ["head"])
        SamplingEngine(network).training_samples(torch.randn(6, 2), 4)
        assert network.norm.num_batches_tracked == 1


def test_moments_of_the_output_are_exact_or_none() -> None:
    x = torch.randn(5, 2)
    last = stochastic(Residual(), ["head"]).eval()
    moments = SamplingEngine(last).output_moments(x)
    assert moments is not None
    features = last.norm(last.features(x)).tanh()
    variance = features.square() @ F.softplus(last.head.weight_rho).square().T + F.softplus(last.head.bias_rho) ** 2
    torch.testing.assert_close(moments[0], features @ last.head.weight_mu.T + last.head.bias_mu)
    torch.testing.assert_close(moments[1], variance.sqrt())
    for network in (small(), stochastic(Residual(nn.Softplus()), ["head"]), small(names=[0])):
        assert SamplingEngine(network.eval()).output_moments(x) is None
    dropped = stochastic(nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5), nn.Linear(4, 1)), [-1])
    assert SamplingEngine(dropped).output_moments(x) is None
    assert SamplingEngine(dropped.eval()).output_moments(x) is not None


def test_moments_of_a_transposed_convolution() -> None:
    network = stochastic(nn.Sequential(nn.ConvTranspose1d(2, 3, 2, stride=2)))
    moments = SamplingEngine(network).output_moments(torch.randn(5, 2, 4))
    assert moments is not None
    assert moments[0].shape == (5, 3, 8)


def test_what_vmap_cannot_trace_runs_in_a_loop() -> None:
    network = stochastic(Recurrent(), ["embed"])
    x = torch.randn(4, 5, 2)
    outputs = [predicted(SamplingEngine(network, how), x, 3) for how in ("auto", "loop")]
    assert outputs[0].shape == (3, 4, 5, 3)
    torch.testing.assert_close(outputs[1], outputs[0])
    with pytest.raises(RuntimeError):
        predicted(SamplingEngine(network, "vmap"), x, 3)


def test_a_copy_leaves_the_drawn_weights_behind() -> None:
    engine, x = SamplingEngine(small()), torch.randn(4, 2)
    fresh = len(pickle.dumps(engine))
    before = predicted(engine, x, 1000)
    assert len(pickle.dumps(engine)) < 2 * fresh
    assert torch.equal(predicted(copy.deepcopy(engine), x, 1000), before)


def test_a_data_dependent_branch_runs_in_a_loop() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x if x.sum() > 0 else x

    network = stochastic(nn.Sequential(nn.Linear(2, 1), Branch()))
    engine, x = SamplingEngine(network), torch.randn(4, 2)
    torch.testing.assert_close(predicted(engine, x, 6), predicted(SamplingEngine(network, "loop"), x, 6))
    assert (predicted(engine, x, 6).sum((1, 2)) <= 0).all()


class Fails(nn.Module):
    """Raises once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("out of luck")
        return x


@pytest.mark.parametrize("how", ["auto", "repeat", "vmap", "loop"])
def test_a_failing_pass_leaves_no_weight_behind(how: Any) -> None:
    failing = stochastic(nn.Sequential(nn.Linear(2, 3), Fails(), nn.Linear(3, 1)), estimator="reparameterization")
    engine, state, x = SamplingEngine(failing, how), copy_of_state(failing), torch.randn(4, 2)
    engine.training_pass(x, 2)
    failing[1].fails = True
    for run in (
        lambda: engine.training_pass(x, 2),
        lambda: list(engine.prediction_samples(x, 2, seed=0)),
        lambda: engine.mean_output(x),
    ):
        with pytest.raises(RuntimeError, match="out of luck"):
            run()
        assert failing[0]._parameters["weight"] is None
        assert failing[2]._parameters["bias"] is None
        assert same_state(failing.state_dict(), state)


def test_networks_without_a_variational_layer_and_unknown_ways_are_refused() -> None:
    with pytest.raises(ValueError, match="no stochastic weight"):
        SamplingEngine(nn.Linear(2, 1))
    with pytest.raises(ValueError, match=r"vectorization must be one of .* got 'jit'"):
        SamplingEngine(small(), "jit")  # type: ignore[arg-type]


def test_an_output_without_batch_dimension_is_refused() -> None:
    network = stochastic(nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)))
    with pytest.raises(ValueError, match="must be the batch"):
        SamplingEngine(network).training_samples(torch.randn(4, 2), 5)


def test_mean_output_uses_the_posterior_means(network: nn.Module) -> None:
    """The average over many tiny-noise draws, by another path: each layer's own `sample=False`."""
    x = torch.randn(4, 2)
    handles = [
        module.register_forward_pre_hook(lambda m, a, k: (a, k | {"sample": False}), with_kwargs=True)
        for module in network.modules()
        if hasattr(module, "posterior")
    ]
    with torch.no_grad():
        expected = network(x)
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(SamplingEngine(network).mean_output(x).detach(), expected, atol=1e-6)


@pytest.mark.parametrize("num_samples", [0, 1, 5, 7, 12])
@pytest.mark.parametrize("max_chunk", [1, 3, 4, 100])
def test_chunks_are_few_and_of_about_one_length(num_samples: int, max_chunk: int) -> None:
    ranges = list(chunk_ranges(num_samples, max_chunk))
    assert [index for first, stop in ranges for index in range(first, stop)] == list(range(num_samples))
    lengths = [stop - first for first, stop in ranges]
    assert len(lengths) == -(-num_samples // max_chunk)
    assert max(lengths, default=0) == (-(-num_samples // len(lengths)) if lengths else 0)


def test_at_least_one_item_fits_into_a_budget() -> None:
    assert [num_fitting(10, cost) for cost in (0, 1, 3, 10, 11)] == [10, 10, 3, 1, 1]


def test_a_coupling_is_made_from_the_shapes_in_the_order_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tied parameters count once; parameters that are drawn together keep their places."""
    monkeypatch.setattr(memory, "MAX_JOINED_WEIGHTS", 6)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 3), nn.Linear(3, 2, bias=False))
    network[2].weight = network[0].weight
    network[3].weight = network[1].weight
    converted = stochastic(network)
    received: list[torch.Size] = []

    class Scaled(NoiseCoupling):
        """Standardized deviations are the noise times the number of the tensor that they belong to."""

        def __init__(self, shapes: Sequence[torch.Size]) -> None:
            super().__init__()
            received.extend(shapes)
            sizes = torch.tensor([shape.numel() for shape in shapes])
            self.factors = torch.arange(1.0, len(shapes) + 1).repeat_interleave(sizes)
            self.num_noise = len(self.factors)

        def forward(self, noise: Tensor) -> Tensor:
            return noise * self.factors

        def marginals(self) -> tuple[Tensor, Tensor]:
            return self.factors, torch.tensor(0.0)

    engine = SamplingEngine(converted, coupling=Scaled)
    assert received == [torch.Size(shape) for shape in ((3, 2), (3,), (2, 3), (2,), (3,))]
    x, noise = torch.randn(4, 2), sample_noise(7, 0, 2, 20)
    expected = []
    for row in noise:
        drawn, start = [], 0
        names = ((0, "weight"), (0, "bias"), (1, "weight"), (1, "bias"), (2, "bias"))
        for factor, (index, name) in enumerate(names, start=1):
            mu, rho = (converted[index].get_parameter(f"{name}_{kind}") for kind in ("mu", "rho"))
            part = row[start : start + mu.numel()].view_as(mu)
            drawn.append(mu + F.softplus(rho) * factor * part)
            start += mu.numel()
        hidden = F.linear(F.linear(x, *drawn[:2]), *drawn[2:4])
        expected.append(F.linear(F.linear(hidden, drawn[0], drawn[4]), drawn[2]))
    torch.testing.assert_close(predicted(engine, x, 2, seed=7), torch.stack(expected))
