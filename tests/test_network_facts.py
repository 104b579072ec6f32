"""Facts about a network that the engine finds before it runs it."""

from typing import Any

import pytest
import torch
from helpers import randomize_posteriors
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.conversion import convert
from lightning_vi.sampling import SamplingEngine, call, evaluating, tensors
from lightning_vi.sampling.network import batch_size, is_random, map_tensors, treats_rows_alike, unroll


class Mixing(nn.Module):
    """Makes each row from all of them."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class Doubled(nn.Linear):
    """A subclass whose forward is not torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(2, 2),
        nn.Conv2d(1, 1, 3),
        nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.GELU(), nn.Dropout(0.1))),
        nn.BatchNorm1d(3),
        nn.LayerNorm(3),
        nn.Flatten(),
        nn.MaxPool2d(2),
        nn.Softmax(dim=1),
        nn.Softmax(dim=-1),
        nn.Upsample(scale_factor=2),
        convert(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))[0],
    ],
)
def test_rows_stay_apart_in_torch_modules_of_which_that_is_known(module: nn.Module) -> None:
    assert treats_rows_alike(module)


@pytest.mark.parametrize(
    "module",
    [
        Mixing(),
        Doubled(2, 2),
        nn.Sequential(nn.Linear(2, 2), Mixing()),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.Flatten(0),
        nn.Softmax(dim=0),
        nn.Softmax(dim=-2),
        nn.LSTM(2, 2),
        nn.MultiheadAttention(2, 1),
        nn.Bilinear(2, 2, 2),
        nn.Unflatten(0, (1, 2)),
    ],
)
def test_nothing_is_taken_for_granted_of_other_modules(module: nn.Module) -> None:
    assert not treats_rows_alike(module)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_that_mixes_rows_is_never_run_on_copies_of_the_batch(training: bool) -> None:
    """The deviation from the batch's mean has a mean of zero within each sample only if samples do not mix."""
    network = nn.Sequential(nn.Linear(3, 4), Mixing(), nn.Linear(4, 2, bias=False))
    converted, _ = convert(network, estimator="reparameterization")
    randomize_posteriors(converted)
    converted.train(training)
    engine = SamplingEngine(converted)
    samples = engine.training_samples(torch.randn(5, 3), 4)
    torch.testing.assert_close(samples.mean(1), torch.zeros(4, 2), rtol=0, atol=1e-5)
    (predicted,) = engine.prediction_samples(torch.randn(5, 3), 4, seed=0)
    torch.testing.assert_close(predicted.mean(1), torch.zeros(4, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("estimator", ["auto", "reparameterization"])
def test_dropout_has_a_mask_of_its_own_in_each_sample(estimator: str) -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Linear(200, 200, bias=False))
    nn.init.eye_(network[1].weight)
    converted, _ = convert(network, estimator=estimator, init_std=1e-9)
    engine, x = SamplingEngine(converted), torch.ones(3, 200)
    masks = engine.training_samples(x, 2).detach().round() / 2
    kept = masks.mean(-1)
    assert ((kept > 0.35) & (kept < 0.65)).all()
    agreement = (masks[0] == masks[1]).float().mean(-1)
    assert ((agreement > 0.35) & (agreement < 0.65)).all()
    converted.eval()
    torch.testing.assert_close(engine.training_samples(x, 2), x.expand(2, 3, 200), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_dropout_of_recurrent_and_attending_modules_counts_as_random(rate: float) -> None:
    head = nn.Linear(2, 2)
    for module in (nn.LSTM(2, 2, num_layers=2, dropout=rate), nn.MultiheadAttention(2, 1, dropout=rate)):
        assert is_random(nn.Sequential(module, head)) is (rate > 0)
        assert not is_random(module.eval())
    assert is_random(nn.Dropout(rate)) is (rate > 0)
    assert is_random(nn.Dropout2d(rate)) is (rate > 0)
    assert is_random(nn.AlphaDropout(rate)) is (rate > 0)


def test_batch_statistics_in_training_are_those_of_one_sample() -> None:
    """Each sample is normalized by itself: its outputs have mean 0 and variance 1 over the batch."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False))
    converted, _ = convert(network, estimator="reparameterization")
    randomize_posteriors(converted)
    samples = SamplingEngine(converted).training_samples(torch.randn(50, 3), 3)
    torch.testing.assert_close(samples.mean(1), torch.zeros(3, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(samples.var(1, correction=0), torch.ones(3, 4), rtol=0, atol=1e-2)
    assert not torch.allclose(samples[0], samples[1], atol=0.1)


def test_a_module_that_stands_in_several_places_unrolls_to_all_of_them() -> None:
    layer, activation = nn.Linear(2, 2), nn.ReLU()
    assert unroll(nn.Sequential(layer, activation, nn.Sequential(layer, activation))) == [layer, activation] * 2


def test_sequential_networks_unroll_unless_somebody_watches_them() -> None:
    inner = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
    network = nn.Sequential(nn.Linear(2, 2), inner)
    assert unroll(network) == [network[0], inner[0], inner[1]]
    inner.register_forward_hook(lambda *_: None)
    assert unroll(network) == [network[0], inner]


class Keywords(nn.Module):
    def forward(self, first: Tensor, second: Tensor, scale: float = 1.0) -> Tensor:
        return first - scale * second


class OneDictionary(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["first"] - batch["second"]


def test_inputs_of_every_kind_reach_the_network() -> None:
    a, b = torch.randn(4, 2), torch.randn(4, 2)
    assert torch.equal(call(Keywords(), (a, b)), a - b)
    assert torch.equal(call(Keywords(), [a, b]), a - b)
    assert torch.equal(call(Keywords(), {"second": b, "first": a}), a - b)
    assert torch.equal(call(Keywords(), {"second": b, "first": a, "scale": 2.0}), a - 2 * b)
    assert torch.equal(call(OneDictionary(), {"second": b, "first": a}), a - b)
    assert torch.equal(call(nn.Identity(), a), a)


def test_tensors_of_nested_inputs() -> None:
    a, b = torch.randn(4, 2), torch.randn(4, 3)
    x: Any = {"first": a, "rest": [b, 7, "text"]}
    assert [id(t) for t in tensors(x)] == [id(a), id(b)]
    assert batch_size(x) == 4
    doubled: Any = map_tensors(lambda tensor: 2 * tensor, x)
    assert torch.equal(doubled["rest"][0], 2 * b)
    assert doubled["rest"][1:] == [7, "text"]
    with pytest.raises(TypeError, match="must hold a tensor, got a dict without one"):
        tensors({"numbers": 3})


def test_modes_come_back_one_by_one_also_after_an_exception() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    network[1].eval()
    modes = [module.training for module in network.modules()]
    with evaluating(network):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == modes
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert [module.training for module in network.modules()] == modes
