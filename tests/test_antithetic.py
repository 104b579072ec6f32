"""Pairs of samples with opposite noise."""

from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, randomize_posteriors
from torch import Tensor, nn

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.conversion import convert
from lightning_vi.likelihoods import Gaussian
from lightning_vi.noise import antithetic_pairs, sample_noise
from lightning_vi.sampling import SamplingEngine

X = normal(6, 3)


def linear(**options: Any) -> nn.Module:
    """A network that is linear in its weights, in which opposite noise means opposite deviations."""
    converted, _ = convert(nn.Sequential(nn.Linear(3, 2)), **options)
    randomize_posteriors(converted)
    return converted


@pytest.mark.parametrize("num_samples", [1, 2, 5, 8])
def test_each_odd_vector_of_noise_is_the_negative_of_the_one_before(num_samples: int) -> None:
    noise = antithetic_pairs(torch.randn((num_samples + 1) // 2, 4), num_samples)
    assert noise.shape == (num_samples, 4)
    assert torch.equal(noise[1::2], -noise[: num_samples - 1 : 2])


def test_prediction_noise_depends_on_the_index_alone() -> None:
    everything = sample_noise(3, 0, 9, 4, antithetic=True)
    assert torch.equal(everything[1::2], -everything[:8:2])
    assert torch.equal(everything[0], sample_noise(3, 0, 1, 4)[0])
    for first in range(9):
        for stop in range(first + 1, 10):
            assert torch.equal(sample_noise(3, first, stop, 4, antithetic=True), everything[first:stop])


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization"])
@pytest.mark.parametrize("num_samples", [4, 5])
def test_pairs_of_outputs_lie_opposite_each_other_around_the_mean(estimator: str, num_samples: int) -> None:
    network = linear(estimator=estimator)
    engine = SamplingEngine(network, antithetic=True)
    with torch.no_grad():
        mean = engine.mean_output(X)
        (predicted,) = engine.prediction_samples(X, num_samples, seed=0)
        for samples in (engine.training_samples(X, num_samples), predicted):
            deviations = samples - mean
            assert samples.shape == (num_samples, 6, 2)
            torch.testing.assert_close(deviations[1::2], -deviations[: num_samples - 1 : 2])
            assert not torch.allclose(deviations[2], deviations[0])


def test_a_network_of_layers_that_draw_outputs_has_opposite_noise_in_each() -> None:
    """The first layer's outputs are watched behind a hook: the second layer sees opposite deviations of them."""
    converted, _ = convert(nn.Sequential(nn.Linear(3, 2), nn.Identity(), nn.Linear(2, 1)))
    randomize_posteriors(converted)
    hidden: list[Tensor] = []
    converted[1].register_forward_hook(lambda *arguments: hidden.append(arguments[2]))
    engine = SamplingEngine(converted, antithetic=True)
    engine.mean_output(X)
    engine.training_samples(X, 4)
    mean, drawn = hidden[0], hidden[-1].view(4, 6, 2)
    torch.testing.assert_close(drawn[1::2] - mean, mean - drawn[::2])


@pytest.mark.parametrize("how", ["vmap", "loop"])
def test_drawn_weights_are_opposite_in_every_way_to_run_samples(how: Any) -> None:
    engine = SamplingEngine(linear(estimator="reparameterization"), how, antithetic=True)
    with torch.no_grad():
        deviations = engine.training_samples(X, 4) - engine.mean_output(X)
    torch.testing.assert_close(deviations[1::2], -deviations[::2])


def test_it_halves_the_variance_of_a_mean_that_is_odd_in_the_noise() -> None:
    """Here the mean over pairs of a linear network's outputs is exact; without pairs it has variance."""
    network = linear()
    with torch.no_grad():
        plain, paired = (
            SamplingEngine(network, antithetic=antithetic).training_samples(X, 10).mean(0)
            for antithetic in (False, True)
        )
        exact = SamplingEngine(network).mean_output(X)
    torch.testing.assert_close(paired, exact)
    assert (plain - exact).abs().max() > 0.05


def test_flipout_refuses_pairs() -> None:
    with pytest.raises(
        ValueError, match=r"antithetic noise cannot be combined with random signs, but \['0'\] use flipout"
    ):
        SamplingEngine(linear(estimator="flipout"), antithetic=True)
    with pytest.raises(ValueError, match="antithetic"):
        MeanFieldVI(MLP(3, [4], 1), Gaussian(), estimator="flipout", antithetic=True)


def test_a_method_trains_and_predicts_with_pairs() -> None:
    torch.manual_seed(0)
    method = MeanFieldVI(MLP(3, [], 1), Gaussian(), antithetic=True, num_mc_samples_train=4, num_mc_samples_test=6)
    history = fit(method, loader(X, X[:, :1]), max_epochs=40)
    assert history["train_nll"][-1] < history["train_nll"][0]
    samples = method.predict(X, return_samples=True).samples
    assert samples is not None
    torch.testing.assert_close(samples[::2] + samples[1::2], 2 * method.point_outputs(X).expand(3, 6, 1).detach())
