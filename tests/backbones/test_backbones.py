"""The plain networks against their definitions."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_vi import RankOneVI
from lightning_vi.backbones import FourierFeatures, LeNet, ResidualMLP
from lightning_vi.likelihoods import Gaussian


def test_fourier_features_are_sines_and_cosines_of_each_input() -> None:
    x = torch.tensor([[0.3, -1.2]])
    expected = [0.3, -1.2]
    for function in (math.sin, math.cos):
        expected += [function(w * value) for w in (0.8, 1.7) for value in (0.3, -1.2)]
    assert_close(FourierFeatures([0.8, 1.7])(x), torch.tensor([expected]))
    assert_close(FourierFeatures([0.8, 1.7], include_input=False)(x), torch.tensor([expected[2:]]))
    assert FourierFeatures([0.8, 1.7])(torch.zeros(2, 5, 3)).shape == (
        2,
        5,
        FourierFeatures([0.8, 1.7]).num_features(3),
    )


def test_a_residual_block_adds_its_inner_layers_to_its_input() -> None:
    network = ResidualMLP(3, 4, 2, 1, residual_scale=0.25)
    x = torch.randn(5, 3)
    hidden = nn.functional.silu(nn.functional.linear(x, network[0].weight, network[0].bias))
    for block in list(network)[2:4]:
        first, _, second = block.inner
        change = second(nn.functional.silu(first(hidden)))
        hidden = nn.functional.silu(hidden + 0.25 * change)
    assert_close(network(x), network[-1](hidden))


def test_they_can_be_a_methods_backbone() -> None:
    features = FourierFeatures([1.0])
    backbone = nn.Sequential(features, ResidualMLP(features.num_features(2), 6, 1, 1))
    method = RankOneVI(backbone, Gaussian(), num_data=4)
    assert sum(row.stochastic for row in method.conversion.modules) == 4
    method.elbo(torch.randn(4, 2), torch.randn(4, 1)).loss.backward()


@pytest.mark.parametrize("size", [12, 28, 32])
def test_lenet_takes_square_images(size: int) -> None:
    assert LeNet(3, 7, size)(torch.zeros(2, 3, size, size)).shape == (2, 7)
    with pytest.raises(ValueError, match="image_size must be a multiple of 4 and at least 12, got 30"):
        LeNet(image_size=30)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"frequencies must be one or more positive and finite numbers, got \[\]"):
        FourierFeatures([])
    with pytest.raises(ValueError, match=r"frequencies must be .* got \[1.0, -2.0\]"):
        FourierFeatures([1.0, -2.0])
    with pytest.raises(ValueError, match="n_blocks must be positive, got 0"):
        ResidualMLP(1, 2, 0, 1)
