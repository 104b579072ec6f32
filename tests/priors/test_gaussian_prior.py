"""The Gaussian prior against torch.distributions."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from lightning_vi.layers import VARIATIONAL_COUNTERPART, VariationalLayer
from lightning_vi.priors import GaussianPrior

MEAN = torch.linspace(-1, 2, 6).view(2, 3)
STD = torch.linspace(0.3, 2, 6).view(2, 3)


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 1.0), (0.7, 1.9), (MEAN, 0.4), (-1.3, STD), (MEAN, STD), (torch.tensor(0.5), STD)]
)
def test_log_prob_and_kl_match_torch_distributions(mean: Tensor | float, std: Tensor | float) -> None:
    prior = GaussianPrior(mean, std).for_parameter("weight", torch.zeros(2, 3), num_inputs=3)
    oracle = Normal(torch.as_tensor(mean).expand(2, 3), torch.as_tensor(std).expand(2, 3))
    value = torch.randn(5, 2, 3)
    torch.testing.assert_close(prior.log_prob(value), oracle.log_prob(value))
    q_mean, q_std = torch.randn(2, 3), torch.rand(2, 3) + 0.1
    expected = kl_divergence(Normal(q_mean, q_std), oracle).sum()
    torch.testing.assert_close(prior.kl_from_gaussian(q_mean, q_std), expected)


def test_fan_in_scales_weights_but_not_biases() -> None:
    prior = GaussianPrior(mean=0.3, std="fan_in")
    weight = prior.for_parameter("weight", torch.zeros(4, 18), num_inputs=18)
    bias = prior.for_parameter("bias", torch.zeros(4), num_inputs=18)
    assert weight.std == pytest.approx((2 / 18) ** 0.5)
    assert bias.std == 1.0
    assert weight.mean == bias.mean == 0.3
    assert prior.std == "fan_in"


LAYERS: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any], tuple[int, ...]]] = [
    (nn.Linear, (5, 4), {}, (5,)),
    (nn.Conv1d, (6, 4, 3), {"groups": 2}, (6, 20)),
    (nn.Conv2d, (6, 4, 3), {"groups": 2, "dilation": 2}, (6, 20, 20)),
    (nn.Conv3d, (2, 4, 3), {"stride": 2}, (2, 12, 12, 12)),
    (nn.ConvTranspose1d, (6, 4, 4), {"stride": 2}, (6, 20)),
    (nn.ConvTranspose2d, (6, 4, 4), {"stride": 2, "groups": 2}, (6, 20, 20)),
    (nn.ConvTranspose3d, (2, 4, 3), {}, (2, 12, 12, 12)),
]


@pytest.mark.parametrize(("kind", "sizes", "options", "shape"), LAYERS, ids=lambda part: getattr(part, "__name__", ""))
def test_fan_in_counts_the_inputs_of_an_inner_output(
    kind: type[nn.Module], sizes: tuple[int, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """With unit weights and inputs, an output away from the border equals the number of its inputs."""
    layer = kind(*sizes, bias=False, **options)
    nn.init.ones_(layer.weight)
    output = layer(torch.ones(1, *shape)).squeeze(0)
    middle = output[(0, *(size // 2 for size in output.shape[1:]))].item()
    variational: VariationalLayer = VARIATIONAL_COUNTERPART[kind](*sizes, prior=GaussianPrior(std="fan_in"), **options)
    assert variational.prior("weight").std == pytest.approx((2 / middle) ** 0.5)
    assert variational.prior("bias").std == 1.0


def test_tensors_are_in_the_state_dict() -> None:
    prior = GaussianPrior(MEAN, STD).for_parameter("weight", torch.zeros(2, 3), num_inputs=3)
    fresh = GaussianPrior(torch.zeros(2, 3), torch.ones(2, 3)).for_parameter("weight", MEAN, num_inputs=3)
    fresh.load_state_dict(prior.state_dict())
    value = torch.randn(2, 3)
    assert torch.equal(fresh.log_prob(value), prior.log_prob(value))
    assert copy.deepcopy(prior).double().log_prob(value.double()).dtype == torch.float64


def test_resolved_prior_copies_tensors() -> None:
    """Loading a checkpoint into one method must not change the prior of another."""
    given = GaussianPrior(MEAN.clone(), STD.clone())
    first = given.for_parameter("weight", torch.zeros(2, 3), num_inputs=3)
    second = given.for_parameter("weight", torch.zeros(2, 3), num_inputs=3)
    first.load_state_dict({"mean": MEAN + 1, "std": STD + 1})
    torch.testing.assert_close(second.mean, MEAN)
    torch.testing.assert_close(given.std, STD)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf"), torch.tensor([1.0, 0.0]), "he"])
def test_invalid_std_raises(std: Any) -> None:
    with pytest.raises(ValueError, match="std must be"):
        GaussianPrior(std=std)


@pytest.mark.parametrize("mean", [float("nan"), torch.tensor([0.0, float("inf")])])
def test_invalid_mean_raises(mean: Any) -> None:
    with pytest.raises(ValueError, match="mean must be finite"):
        GaussianPrior(mean=mean)


@pytest.mark.parametrize("prior", [GaussianPrior(mean=MEAN), GaussianPrior(std=STD)])
def test_tensor_of_another_shape_raises(prior: GaussianPrior) -> None:
    with pytest.raises(ValueError, match=r"has shape \(2, 3\), but the parameter 'bias' has \(3,\)"):
        prior.for_parameter("bias", torch.zeros(3), num_inputs=2)


def test_unresolved_prior_raises() -> None:
    prior = GaussianPrior(std="fan_in")
    with pytest.raises(ValueError, match="for_parameter"):
        prior.log_prob(torch.zeros(1))
    with pytest.raises(ValueError, match="for_parameter"):
        prior.kl_from_gaussian(torch.zeros(1), torch.ones(1))
