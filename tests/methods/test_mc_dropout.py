"""Monte Carlo dropout against closed forms, enumeration and masks applied by hand."""

import copy
import itertools
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from network_cases import Attending, Recurrent
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.hooks import RemovableHandle

from lightning_vi import MCDropout
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.noise import mix_seed
from lightning_vi.sampling import DropoutSampler, hooks_behind
from lightning_vi.sampling.dropout_mode import _GivenMasks
from lightning_vi.sampling.memory import MAX_ACTIVATIONS_PER_PASS

X, Y = normal(12, 3), normal(12, 1)


def samples(method: MCDropout, x: Any, num_samples: int = 6, seed: int = 0) -> Tensor:
    """Sampled network outputs [S, B, ...] in evaluation mode."""
    method.eval()
    with torch.no_grad():
        return torch.cat(list(method.sampled_outputs(x, num_samples, seed)))


def linear_model(p: float, **options: Any) -> MCDropout:
    return MCDropout(nn.Sequential(nn.Dropout(p), nn.Linear(3, 1)), Gaussian(0.5), **options)


def exact_moments(method: MCDropout, p: float) -> tuple[Tensor, Tensor]:
    layer: Any = method.backbone[1]  # type: ignore[index]
    variance = (X.square() @ layer.weight.square().T) * p / (1 - p)
    return layer(X).detach(), variance.detach()


@pytest.mark.parametrize("p", [0.2, 0.7])
@pytest.mark.parametrize("overridden", [False, True])
def test_moments_of_a_linear_model(p: float, overridden: bool) -> None:
    """The variance of w (x z / (1 - p)) is w^2 x^2 p / (1 - p), whether the rate is the layer's or the method's."""
    method = linear_model(0.4, dropout_p=p) if overridden else linear_model(p)
    size = 4000
    mean, variance = exact_moments(method, p)
    drawn = samples(method, X, size)
    assert ((drawn.mean(0) - mean).abs() < 4.5 * (variance / size).sqrt()).all()
    fourth = (drawn - mean).pow(4).mean(0)
    errors = ((fourth - variance.square()) / size).sqrt()
    assert ((drawn.var(0) - variance).abs() < 4.5 * errors).all()
    prediction = method.predict(X, num_samples=size, seed=0)
    assert_close(prediction.epistemic_var, drawn.var(0, correction=0))
    assert_close(prediction.aleatoric_var, torch.full((12, 1), 0.25))


def test_moments_of_a_nonlinear_network_by_enumerating_its_masks() -> None:
    """All 2^(2 + 3) thinned networks of a ReLU network with dropout on its inputs and hidden units."""
    rates = 0.3, 0.6
    network = nn.Sequential(nn.Dropout(rates[0]), nn.Linear(2, 3), nn.ReLU(), nn.Dropout(rates[1]), nn.Linear(3, 2))
    first, second = network[1], network[4]
    x = normal(5, 2)
    values, weights = [], []
    with torch.no_grad():
        for mask in itertools.product([0.0, 1.0], repeat=5):
            inputs, hidden = torch.tensor(mask[:2]), torch.tensor(mask[2:])
            values.append(second(first(x * inputs / 0.7).relu() * hidden / 0.4))
            kept = sum(mask[:2]), sum(mask[2:])
            weights.append(0.7 ** kept[0] * 0.3 ** (2 - kept[0]) * 0.4 ** kept[1] * 0.6 ** (3 - kept[1]))
    table, probability = torch.stack(values), torch.tensor(weights).view(-1, 1, 1)
    assert probability.sum() == pytest.approx(1.0)
    mean = (probability * table).sum(0)
    variance = (probability * (table - mean).square()).sum(0)
    fourth = (probability * (table - mean).pow(4)).sum(0)
    size = 5000
    method = MCDropout(network, Gaussian(0.1, num_targets=2))
    drawn = samples(method, x, size)
    assert ((drawn.mean(0) - mean).abs() < 4.5 * (variance / size).sqrt() + 1e-6).all()
    assert ((drawn.var(0) - variance).abs() < 4.5 * ((fourth - variance.square()) / size).sqrt() + 1e-6).all()
    distance = (drawn[:200].flatten(1)[:, None] - table.flatten(1)).abs().amax(-1)
    assert (distance.amin(1) < 1e-5).all()


class Bare(nn.Module):
    """A network that the sampler does not know inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return output


def norms() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(3, 6), nn.Dropout(0.2), nn.BatchNorm1d(6), nn.SELU(), nn.AlphaDropout(0.3)),
        *(nn.Linear(6, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout(0.5, inplace=True), nn.Linear(6, 1)),
    )


def convolutions() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.4), nn.ReLU(inplace=True), nn.Dropout(0.2)),
        *(nn.FeatureAlphaDropout(0.3), nn.Flatten(), nn.Linear(36, 1)),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (partial(MLP, 3, [5, 5], 1, dropout_p=0.3), (3,)),
    "tokens": (partial(MLP, 3, [5], 1, dropout_p=0.3), (4, 3)),
    "norms": (norms, (3,)),
    "convolutions": (convolutions, (2, 5, 5)),
    "Dropout1d": (lambda: nn.Sequential(nn.Dropout1d(0.5), nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(9, 1)), (2, 5)),
}
each_network = pytest.mark.parametrize(("make", "shape"), NETWORKS.values(), ids=NETWORKS)


@each_network
def test_one_pass_over_copies_equals_a_loop(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    network, x = make(), torch.randn(7, *shape)
    before = x.clone()
    in_one_pass = samples(MCDropout(network, Gaussian()), x, 5)
    assert torch.equal(x, before)
    in_a_loop = samples(MCDropout(Bare(network), Gaussian()), x, 5)
    assert torch.equal(x, before)
    assert_close(in_one_pass, in_a_loop, rtol=1e-4, atol=1e-5)
    assert in_one_pass.var(0).mean() > 1e-4


@each_network
def test_passes_are_bounded(
    make: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By samples and then by rows, without a change in the numbers."""
    method, x = MCDropout(make(), Gaussian()), torch.randn(7, *shape)
    expected, run, rows = samples(method, x, 5), DropoutSampler._run, []

    def spy(self: Any, parts: Any, x: Tensor, chosen: range, *rest: Any) -> Tensor:
        rows.append(len(x) * len(chosen))
        return run(self, parts, x, chosen, *rest)

    monkeypatch.setattr(DropoutSampler, "_run", spy)
    width = method.sampler._survey[1].width  # type: ignore[index]
    for most, chunk, largest in ((35, 5, 35), (34, 3, 21), (14, 2, 14), (7, 1, 7), (3, 1, 3), (0, 1, 1)):
        monkeypatch.setitem(MAX_ACTIVATIONS_PER_PASS, "cpu", most * width + width // 2)
        rows.clear()
        chunks = list(method.sampled_outputs(x, 5, 0))
        assert_close(torch.cat(chunks), expected, rtol=1e-4, atol=1e-5)
        assert max(map(len, chunks)) == chunk
        assert max(rows) == largest


def test_the_width_is_that_of_what_is_run_for_each_sample() -> None:
    network = nn.Sequential(nn.Linear(3, 90), nn.Linear(90, 5), nn.Dropout(), nn.Linear(5, 40), nn.Linear(40, 1))
    method = MCDropout(network, Gaussian())
    samples(method, X)
    assert method.sampler._survey[1].width == 40  # type: ignore[index]


def test_a_network_that_mixes_rows_keeps_samples_apart() -> None:
    class Centered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    drawn = samples(MCDropout(nn.Sequential(nn.Dropout(), Centered()), Gaussian(num_targets=3)), X)
    assert_close(drawn.sum(1), torch.zeros(6, 3), rtol=0.0, atol=1e-5)
    assert drawn.var(0).mean() > 0.01


def test_masks_applied_by_hand() -> None:
    """Each sample is the network with one mask for all rows, of the hidden units."""
    network = MLP(3, [5], 1, dropout_p=0.3)
    first, last = network[0], network[3]
    with torch.no_grad():
        last.weight.copy_(2.0 ** torch.arange(5).unsqueeze(0))
        last.bias.zero_()
        first.weight.zero_()
        first.bias.fill_(0.7)
        drawn = samples(MCDropout(network, Gaussian()), X, 9)
    codes = drawn.round().int()
    assert_close(drawn, codes.float())
    assert torch.equal(codes, codes[:, :1].expand(-1, 12, -1))
    masks = (codes[:, 0] >> torch.arange(5)) & 1
    assert len(set(map(tuple, masks.tolist()))) > 5
    again = MLP(3, [5], 1)
    again.load_state_dict({name.replace("3.", "2."): value for name, value in network.state_dict().items()})
    torch.nn.init.normal_(again[0].weight)
    with torch.no_grad():
        network[0].weight.copy_(again[0].weight)
        expected = torch.stack([last(again[0](X).relu() * mask / 0.7) for mask in masks])
    assert_close(samples(MCDropout(network, Gaussian()), X, 9), expected)


@pytest.mark.parametrize("make", [lambda: nn.Dropout(0.4), lambda: nn.Dropout2d(0.4), lambda: nn.AlphaDropout(0.4)])
def test_masks_are_those_of_seed_index_and_place(make: Callable[[], nn.Module]) -> None:
    """Against one generator for each sample and place, whose uniform numbers are compared with the rate."""
    x = torch.randn(2, 3, 4, 5)
    drawn = samples(MCDropout(nn.Sequential(nn.Dropout(0.1), make()), Gaussian()), x, 3, seed=11)
    for index in range(3):
        masks = []
        for place, rate in enumerate((0.1, 0.4)):
            generator = torch.Generator().manual_seed(mix_seed(11, index, place))
            shape = (3, 1, 1) if place and isinstance(make(), nn.Dropout2d) else (3, 4, 5)
            masks.append(torch.rand(shape, generator=generator) >= rate)
        first = x * masks[0] / 0.9
        if isinstance(make(), nn.AlphaDropout):
            saturation = -1.0507009873554805 * 1.6732632423543772
            values = torch.where(masks[1], first, torch.tensor(saturation))
            mean, variance = 0.4 * saturation, 0.6 * (1 + 0.4 * saturation**2)
            expected = (values - mean) / variance**0.5  # of an input with mean 0 and variance 1
        else:
            expected = first * masks[1] / 0.6
        assert_close(drawn[index], expected)


def test_a_rate_may_change_between_predictions() -> None:
    method = MCDropout(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)), Gaussian())
    expected = samples(method, X)
    for layer in (method.backbone[0], method.backbone[2]):  # type: ignore[index]
        layer.p = 0.0
    assert samples(method, X).var(0).amax() < 1e-10
    for layer in (method.backbone[0], method.backbone[2]):  # type: ignore[index]
        layer.p = 0.5
    assert_close(samples(method, X), expected)


@pytest.mark.parametrize("name", ["norms", "convolutions"])
def test_inference_mode_draws_the_same_masks(name: str) -> None:
    make, shape = NETWORKS[name]
    method, x = MCDropout(make(), Gaussian()), torch.randn(4, *shape)
    expected = samples(method, x)
    with torch.inference_mode():
        drawn = torch.cat(list(method.sampled_outputs(x, 6, 0)))
    assert_close(drawn, expected)


def test_the_fused_operation_of_a_gpu_takes_the_same_masks() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    kept = torch.tensor([1.0, 0.0, 1.0, 1.0])
    with _GivenMasks(lambda mask, _: mask.copy_(kept)):
        output, mask = torch.native_dropout(x, 0.2, True)
    assert_close(output, x * kept / 0.8)
    assert torch.equal(mask, kept.bool().expand(5, 4))
    assert_close(torch.autograd.grad(output.sum(), x)[0], (kept / 0.8).expand(5, 4))


def test_threads_draw_their_own_masks() -> None:
    methods = [MCDropout(Attending(dropout=rate), Gaussian(num_targets=2)) for rate in (0.1, 0.5)] * 2
    x = torch.randn(3, 4, 4)
    expected = [samples(method, x) for method in methods]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for drawn, alone in zip(pool.map(lambda method: samples(method, x), methods), expected, strict=True):
                assert_close(drawn, alone)


def test_samples_can_be_differentiated() -> None:
    """For a linear network the gradient in the input is the thinned weight."""
    method = linear_model(0.4).eval()
    x = X.clone().requires_grad_()
    (drawn,) = method.sampled_outputs(x, 1, 0)
    (gradient,) = torch.autograd.grad(drawn.sum(), x)
    kept = gradient / method.backbone[1].weight.detach()  # type: ignore[index, union-attr]
    assert_close(kept, ((kept > 0.5) / 0.6).to(kept))
    assert torch.equal(kept, kept[:1].expand_as(kept))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Dropout1d, (6, 4)), (nn.Dropout2d, (6, 3, 2)), (nn.Dropout3d, (6, 2, 2, 2))]
)
def test_whole_channels_are_dropped(layer: type[nn.Module], shape: tuple[int, ...]) -> None:
    method = MCDropout(nn.Sequential(layer(0.4)), Gaussian())
    drawn = samples(method, torch.ones(3, *shape), 50).flatten(3)
    assert torch.equal(drawn, drawn[:, :1, :, :1].expand_as(drawn))
    values, counts = drawn[:, 0, :, 0].unique(return_counts=True)
    assert_close(values, torch.tensor([0.0, 1 / 0.6]))
    assert abs(counts[0].item() / 300 - 0.4) < 4.5 * math.sqrt(0.24 / 300)
    assert (drawn[:, 0, :, 0] > 0).float().var(0).amin() > 0


@pytest.mark.parametrize("layer", [nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_alpha_dropout_takes_the_values_that_torch_gives(layer: Callable[[float], nn.Module]) -> None:
    x = torch.full((1, 400, 1), 0.9)
    ours = samples(MCDropout(nn.Sequential(layer(0.35)), Gaussian()), x, 3)
    theirs = layer(0.35)(x)
    assert_close(ours.unique(), theirs.unique())
    kept = (ours == ours.amax()).float().mean().item()
    assert abs(kept - 0.65) < 4.5 * math.sqrt(0.65 * 0.35 / 1200)


def test_a_seed_and_an_index_name_a_mask() -> None:
    method = MCDropout(MLP(3, [64], 1, dropout_p=0.5), Gaussian())
    drawn = samples(method, X, 8, seed=1)
    assert len(drawn[:, 0, 0].unique()) == 8
    assert_close(samples(method, X, 3, seed=1), drawn[:3])
    assert not torch.isclose(samples(method, X, 8, seed=2)[:, 0], drawn[:, 0]).any()
    twin = MCDropout(nn.Sequential(nn.Dropout(), nn.Dropout()), Gaussian())
    assert samples(twin, torch.ones(1, 100), 1).count_nonzero() < 40


def test_what_comes_before_the_first_dropout_runs_once() -> None:
    first, last = Bare(nn.Linear(4, 4)), Bare(nn.Linear(4, 1))
    method = MCDropout(nn.Sequential(nn.Sequential(nn.Linear(3, 4), first), nn.Dropout(), last), Gaussian())
    samples(method, X, 2)
    rows: dict[str, list[int]] = {"first": [], "last": []}
    for name, part in (("first", method.backbone[0][1]), ("last", method.backbone[2])):  # type: ignore[index]
        part.register_forward_hook(lambda _, inputs, output, name=name: rows[name].append(len(output)))
    samples(method, X, 6)
    assert rows == {"first": [12], "last": [12] * 6}


def test_everything_but_dropout_is_in_evaluation_mode() -> None:
    method = MCDropout(norms(), Gaussian()).train()
    method(10 * X + 3)
    before = copy_of_state(method)
    prediction = method.predict(X)
    assert same_state(copy_of_state(method), before)
    assert all(module.training for module in method.modules())
    parts = torch.cat([method.predict(row).mean for row in X.split(1)])
    assert_close(parts, prediction.mean, rtol=1e-4, atol=1e-5)
    plain = nn.Sequential(*(part for part in method.backbone if "Dropout" not in type(part).__name__)).eval()  # type: ignore[union-attr]
    assert_close(method.eval()(X), plain(X))


class TimeMajor(nn.Module):
    """Works on [T, B, F] inside, flattens rows, and drops at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.drop, self.flat_drop = nn.Dropout(0.3), nn.Dropout(0.4)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.embed(x.transpose(0, 1))).transpose(0, 1)
        hidden = self.flat_drop(hidden.reshape(-1, 4)).view(*x.shape[:2], 4)
        output: Tensor = self.head(hidden.sum(1))
        return output


def test_flattened_rows_have_a_mask_for_each_step() -> None:
    class Flattening(nn.Module):
        def __init__(self, flattens: bool) -> None:
            super().__init__()
            self.drop, self.flattens = nn.Dropout(0.4), flattens

        def forward(self, x: Tensor) -> Tensor:
            hidden: Tensor = self.drop(x.flatten(0, 1)).view_as(x) if self.flattens else self.drop(x)
            return hidden

    flat, whole = (
        samples(MCDropout(Flattening(f), Gaussian(num_targets=3)), torch.ones(4, 5, 3)) for f in (True, False)
    )
    assert_close(flat, whole)
    assert flat.var(2).amax() > 0


SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "encoder": lambda: Attending(dropout=0.3),
    "time-major": TimeMajor,
    "LSTM": lambda: Recurrent(nn.LSTM, dropout=0.4, proj_size=2),
    "GRU": lambda: Recurrent(nn.GRU, dropout=0.4),
    "RNN": lambda: Recurrent(nn.RNN, dropout=0.4),
}


def sequence_problem(name: str) -> tuple[nn.Module, Tensor]:
    network = SEQUENCES[name]()
    if name == "LSTM":
        network.head = nn.Linear(4, 2)
    return network, torch.randn(4, 4, {"encoder": 4, "time-major": 3}.get(name, 2))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", SEQUENCES)
def test_sequences_see_the_same_functions_on_every_split(name: str) -> None:
    """As many steps as rows, so that no shape tells one dimension from the other."""
    network, x = sequence_problem(name)
    method = MCDropout(network, Gaussian(num_targets=2 if name != "time-major" else 1))
    drawn = samples(method, x)
    assert drawn.var(0).amin() > 1e-8
    assert_close(torch.cat([samples(method, part) for part in x.split([1, 3])], 1), drawn, rtol=1e-4, atol=1e-5)
    assert_close(torch.cat([samples(method, part) for part in x.split(2)], 1), drawn, rtol=1e-4, atol=1e-5)
    copies = samples(method, x[:1].expand(4, -1, -1))
    assert_close(copies, drawn[:, :1].expand_as(copies), rtol=1e-4, atol=1e-5)
    network.eval()
    assert_close(method(x), network(x))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", ["encoder", "LSTM", "GRU", "RNN"])
def test_samples_of_sequences_have_the_law_of_torch(name: str) -> None:
    """Mean and variance as in torch's own training mode, whose masks are another row's each time."""
    network, x = sequence_problem(name)
    size = 500
    ours = samples(MCDropout(network, Gaussian(num_targets=2)), x[:1], size)[:, 0]
    network.train()
    with torch.no_grad():
        theirs = network(x[:1].expand(size, -1, -1))
    errors = ((ours.var(0) + theirs.var(0)) / size).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * errors).all()
    fourths = [(part - part.mean(0)).pow(4).mean(0) - part.var(0).square() for part in (ours, theirs)]
    assert ((ours.var(0) - theirs.var(0)).abs() < 4.5 * ((fourths[0] + fourths[1]) / size).sqrt()).all()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_network_without_dropout_is_run_as_it_is(kind: type[nn.RNNBase]) -> None:
    """With a rate so small that nothing is dropped, layer after layer gives the same as all at once."""
    network = Recurrent(kind, dropout=1e-7, bias=False)
    x = torch.randn(3, 5, 2)
    method = MCDropout(network, Gaussian(num_targets=2))
    assert_close(samples(method, x, 2)[1], network.eval()(x))


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.GRU(2, 3, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output: Tensor = self.recurrent(packed)[1][-1]
        return output


def test_packed_sequences_see_the_same_functions_on_every_split() -> None:
    x, lengths = torch.randn(4, 5, 2), torch.tensor([2, 5, 3, 1])
    method = MCDropout(Packed(), Gaussian(num_targets=3))
    drawn = samples(method, (x, lengths))
    parts = [samples(method, (x[i : i + 2], lengths[i : i + 2])) for i in (0, 2)]
    assert_close(torch.cat(parts, 1), drawn)
    assert drawn.var(0).amin() > 1e-6
    plain = torch.cat([samples(method, (x[i : i + 1, :n], torch.tensor([n]))) for i, n in enumerate(lengths)], 1)
    assert_close(plain, drawn)


def test_a_packed_sequence_of_full_length_is_as_good_as_a_padded_one() -> None:
    class Padded(nn.Module):
        def __init__(self, recurrent: nn.Module) -> None:
            super().__init__()
            self.recurrent = recurrent

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.recurrent(x)[1][-1]
            return output

    network, x = Packed(), torch.randn(4, 5, 2)
    padded = MCDropout(Padded(network.recurrent), Gaussian(num_targets=3))
    packed = MCDropout(network, Gaussian(num_targets=3))
    assert_close(samples(packed, (x, torch.full((4,), 5))), samples(padded, x))


class OwnAttention(nn.Module):
    """Calls scaled dot products itself, with grouped queries if there are fewer keys than queries."""

    def __init__(self, dropout_p: float, num_keys: int = 4) -> None:
        super().__init__()
        self.dropout_p, self.num_keys = dropout_p, num_keys

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (4, 2)).transpose(1, 2)
        keys = heads[:, : self.num_keys]
        attended = nn.functional.scaled_dot_product_attention(
            heads, keys, keys + 1, dropout_p=self.dropout_p, is_causal=True, enable_gqa=self.num_keys < 4
        )
        return attended.sum((1, 2))[:, :1]


@pytest.mark.parametrize("num_keys", [2, 4])
def test_scaled_dot_products_of_ones_own(num_keys: int) -> None:
    x, size = torch.randn(3, 5, 8), 600
    method = MCDropout(nn.Sequential(OwnAttention(0.3, num_keys), nn.Dropout(1e-7)), Gaussian())
    with pytest.warns(UserWarning, match="scaled_dot_product_attention in the forward of OwnAttention drops units"):
        drawn = samples(method, x, size)
    plain = OwnAttention(0.0, num_keys)(x)
    assert_close(method(x), plain)
    assert ((drawn.mean(0) - plain).abs() < 4.5 * (drawn.var(0) / size).sqrt()).all()
    torchs = torch.stack([OwnAttention(0.3, num_keys)(x) for _ in range(size)])
    assert_close(drawn.var(0), torchs.var(0), rtol=0.4, atol=0.0)


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_of_either_path(need_weights: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.attention(x, x, x, need_weights=need_weights)[0]
            return output

    x = torch.randn(3, 3, 4)
    method = MCDropout(Attention(), Gaussian(num_targets=4))
    drawn = samples(method, x)
    assert drawn.var(0).amin() > 1e-6
    assert_close(torch.cat([samples(method, row) for row in x.split(1)], 1), drawn)
    overridden = MCDropout(Attention(), Gaussian(num_targets=4), dropout_p=0.25)
    assert overridden.backbone.attention.dropout == 0.25  # type: ignore[union-attr]


ATTENTION_OPTIONS: list[dict[str, Any]] = [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 3, "vdim": 2}]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", ATTENTION_OPTIONS, ids=["plain", "additional keys", "separate projections"])
def test_samples_of_attention_have_the_law_of_torch(options: dict[str, Any], need_weights: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.4, batch_first=True, **options)

        def forward(self, query: Tensor, key: Tensor, value: Tensor, padding: Tensor) -> Tensor:
            output: Tensor = self.attention(
                *(query, key, value), key_padding_mask=padding, need_weights=need_weights, average_attn_weights=False
            )[0]
            return output.flatten(1)

    network, size = Attention(), 600
    padding = torch.tensor([[False, False, True], [False, False, False]])
    x = (
        torch.randn(2, 2, 4),
        torch.randn(2, 3, options.get("kdim", 4)),
        torch.randn(2, 3, options.get("vdim", 4)),
        padding,
    )
    method = MCDropout(network, Gaussian(num_targets=8))
    ours = samples(method, x, size)
    assert_close(torch.cat([samples(method, tuple(part[[row]] for part in x), 5) for row in range(2)], 1), ours[:5])
    network.train()
    with torch.no_grad():
        theirs = torch.stack([network(*x) for _ in range(size)])
    errors = ((ours.var(0) + theirs.var(0)) / size).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * errors + 1e-6).all()
    assert_close(ours.var(0), theirs.var(0), rtol=0.5, atol=1e-3)


def test_dropout_of_a_transformer_layer_is_on_at_prediction() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.3, batch_first=True)
    x = torch.randn(3, 5, 4)
    method = MCDropout(layer, Gaussian(num_targets=4))
    prediction = method.predict(x)
    assert prediction.epistemic_var.amin() > 1e-4
    expected = layer.eval()(x)
    assert_close(method.eval()(x), expected)
    attention_alone = copy.deepcopy(layer)
    for part in (attention_alone.dropout, attention_alone.dropout1, attention_alone.dropout2):
        part.p = 0.0
    assert MCDropout(attention_alone, Gaussian(num_targets=4)).predict(x).epistemic_var.amin() > 1e-6


def test_dropout_of_a_padded_transformer_is_on_at_prediction() -> None:
    """With a padding mask torch would take nested tensors."""
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.3, batch_first=True)
    mask = torch.arange(5) >= torch.tensor([[5], [3], [2]])
    x = {"src": torch.randn(3, 5, 4), "src_key_padding_mask": mask}
    drawn = samples(MCDropout(nn.TransformerEncoder(layer, 2), Gaussian(num_targets=4)), x)
    assert drawn.var(0)[~mask].amin() > 1e-6


def test_classes() -> None:
    method = MCDropout(MLP(3, [20], 4, dropout_p=0.5), Categorical(4), num_mc_samples_test=200)
    prediction = method.predict(X, return_samples=True)
    assert_close(prediction.mean, samples(method, X, 200, seed=method.noise.seed).softmax(-1).mean(0))


def test_training_drops_and_prediction_in_between_changes_nothing() -> None:
    torch.manual_seed(1)
    data, network = loader(X, Y), MLP(3, [8], 1, dropout_p=0.5)
    method = MCDropout(network, Gaussian(0.5), optimizer=partial(torch.optim.SGD, lr=0.0))
    losses = [method.elbo(X, Y).loss.item() for _ in range(3)]
    assert len(set(losses)) == 3
    logged = fit(method, data, max_epochs=2)
    assert logged["train_loss"][0] != logged["train_loss"][1]
    assert method.eval().elbo(X, Y).loss == method.elbo(X, Y).loss


SCRIPT = """
import sys, torch
from lightning_vi import MCDropout
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import HeteroscedasticGaussian
method = MCDropout.load_from_checkpoint(
    sys.argv[1], backbone=MLP(3, [4], 2), likelihood=HeteroscedasticGaussian(), weights_only=True
)
pickled = torch.load(sys.argv[2], weights_only=False)
x = torch.load(sys.argv[3], weights_only=True)
torch.save([method.predict_step(x), pickled.predict_step(x), pickled.predict_step(x)], sys.argv[4])
"""


@pytest.mark.thorough
def test_a_fresh_process_predicts_the_same_from_a_checkpoint_and_a_pickle(tmp_path: Path) -> None:
    method = MCDropout(MLP(3, [4], 2), HeteroscedasticGaussian(), dropout_p=0.4, dropout_module_names=["0"])
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    method.trainer = None
    torch.save(method, tmp_path / "method.pt")
    torch.save(X, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("method.ckpt", "method.pt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    expected = method.predict_step(X)
    assert expected["epistemic_uct"].amin() > 0
    for result in torch.load(tmp_path / "out.pt", weights_only=True):
        for key, value in result.items():
            assert_close(value, expected[key])


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan"), "0.1", True])
def test_a_rate_outside_of_its_range(p: Any) -> None:
    with pytest.raises(ValueError, match=r"dropout_p must be None or a number in \[0, 1\), got"):
        MCDropout(MLP(3, [4], 1, dropout_p=0.1), Gaussian(), dropout_p=p)


def test_other_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="dropout_module_names needs dropout_p"):
        MCDropout(MLP(3, [4], 1), Gaussian(), dropout_module_names=[0])
    with pytest.raises(ValueError, match="num_mc_samples_test must be an integer of at least 1, got 0"):
        MCDropout(MLP(3, [4], 1, dropout_p=0.1), Gaussian(), num_mc_samples_test=0)


def test_a_network_that_drops_nothing() -> None:
    for network in (MLP(3, [4], 1), nn.Sequential(nn.Dropout(0.0), nn.Linear(3, 1)), Recurrent(nn.GRU)):
        with pytest.warns(UserWarning, match="no layer of the network drops anything.* no epistemic uncertainty"):
            method = MCDropout(network, Gaussian())
    with pytest.warns(UserWarning, match="give dropout_p with dropout_module_names"):
        method = MCDropout(MLP(3, [4], 1, dropout_p=0.3), Gaussian(), dropout_p=0)
    for network in (MLP(3, [4], 1), Bare(MLP(3, [4], 1))):
        with pytest.warns(UserWarning, match="no layer"):
            method = MCDropout(network, Gaussian())
        prediction = method.predict(X, num_samples=5, return_samples=True)
        assert prediction.samples is not None
        assert prediction.samples.shape == (5, 12, 1)
        assert_close(prediction.epistemic_var, torch.zeros(12, 1), rtol=0.0, atol=1e-12)
        assert_close(prediction.mean, network(X).detach())


def test_all_units_may_be_dropped() -> None:
    method = MCDropout(nn.Sequential(nn.Dropout(1.0), nn.Linear(3, 1), nn.Dropout(0.0)), Gaussian())
    assert_close(samples(method, X), method.backbone[1].bias.detach().expand(6, 12, 1))  # type: ignore[index, union-attr]


def test_no_warning_where_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MCDropout(MLP(3, [4], 1, dropout_p=0.1), Gaussian()).predict(X)


def test_hooks_of_a_new_process_do_not_take_the_place_of_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    method = MCDropout(MLP(3, [4], 1), Gaussian(), dropout_p=0.4, dropout_module_names=[0])
    expected, data = method.predict(X), pickle.dumps(method)
    monkeypatch.setattr(RemovableHandle, "next_id", 0)
    twin = pickle.loads(data)
    for _ in range(max(twin.backbone[0]._forward_hooks) + 2):
        twin.backbone[0].register_forward_hook(lambda *_: None)
    assert len(hooks_behind(twin.backbone[0])) == 1
    assert_close(twin.predict(X).epistemic_var, expected.epistemic_var)


def test_copies_do_not_share_hooks() -> None:
    method = MCDropout(MLP(3, [4], 1), Gaussian(), dropout_p=0.4, dropout_module_names=[0])
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        (ours,), (theirs,) = (list(each.backbone[0]._forward_hooks.values()) for each in (method, twin))
        assert ours.dropout is not theirs.dropout
        assert_close(twin.predict(X).epistemic_var, method.predict(X).epistemic_var)
