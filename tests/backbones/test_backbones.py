"""Backbones against their definitions."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lightning_vi import RankOneVI
from lightning_vi.backbones import MLP, FourierFeatures, LeNet, ResidualMLP, SeriesLSTM, SeriesTransformer
from lightning_vi.backbones.series_transformer import position_encoding
from lightning_vi.likelihoods import Gaussian


def test_fourier_features_are_sines_and_cosines_of_each_input() -> None:
    x = torch.tensor([[0.3, -1.2]])
    expected = [0.3, -1.2]
    for function in (math.sin, math.cos):
        expected += [function(w * value) for w in (0.8, 1.7) for value in (0.3, -1.2)]
    assert_close(FourierFeatures([0.8, 1.7])(x), torch.tensor([expected]))
    assert_close(FourierFeatures([0.8, 1.7], include_input=False)(x), torch.tensor([expected[2:]]))
    assert FourierFeatures([0.8, 1.7])(torch.zeros(2, 5, 3)).shape == (2, 5, 15)
    assert FourierFeatures([0.8, 1.7]).num_features(3) == 15


def test_residual_mlp_adds_scaled_residuals() -> None:
    network = ResidualMLP(3, 4, 2, 1, residual_scale=0.25)
    x = torch.randn(5, 3)
    hidden = nn.functional.silu(nn.functional.linear(x, network[0].weight, network[0].bias))
    for block in list(network)[2:4]:
        first, _, second = block.inner
        residual = second(nn.functional.silu(first(hidden)))
        hidden = nn.functional.silu(hidden + 0.25 * residual)
    assert_close(network(x), network[-1](hidden))


def test_composed_backbone_of_a_method() -> None:
    features = FourierFeatures([1.0])
    backbone = nn.Sequential(features, ResidualMLP(features.num_features(2), 6, 1, 1))
    method = RankOneVI(backbone, Gaussian(), num_data=4)
    assert sum(row.stochastic for row in method.conversion.modules) == 4
    method.elbo(torch.randn(4, 2), torch.randn(4, 1)).loss.backward()


def test_lenet_takes_images_of_its_size() -> None:
    for size in (12, 28):
        assert LeNet(3, 7, size)(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_mlp_applies_activation_and_dropout_to_hidden_layers() -> None:
    network = MLP(2, [5, 4], 1, dropout_p=0.5, activation_fn=nn.Tanh())
    first, second, last = (module for module in network if isinstance(module, nn.Linear))
    x = torch.randn(3, 2)
    assert_close(network.eval()(x), last(second(first(x).tanh()).tanh()))
    hidden = nn.Sequential(*network.train())[:3](torch.ones(1, 2).expand(1000, 2))
    dropped = (hidden == 0).double().mean()
    assert abs(float(dropped) - 0.5) < 4 * 0.5 / math.sqrt(hidden.numel())


def test_series_networks() -> None:
    x = torch.randn(5, 9, 3)
    lstm = SeriesLSTM(3, 2, width=4, n_layers=2)
    assert_close(lstm(x), lstm.head(lstm.lstm(x)[1][0][-1]))
    code = position_encoding(9, 6)
    for step, column in ((0, 0), (4, 1), (8, 2)):
        angle = (8 - step) / 10000 ** (2 * column / 6)
        assert_close(code[step, [column, column + 3]], torch.tensor([math.sin(angle), math.cos(angle)]))
    transformer = SeriesTransformer(3, 2, width=6).eval()
    hidden = transformer.encoder(transformer.embed(x) + code)
    assert_close(transformer(x), transformer.head(hidden[:, -1]))
    assert not torch.allclose(transformer(x), transformer(x.flip(1)))
    for network in (SeriesLSTM, SeriesTransformer):
        with pytest.raises(ValueError, match="n_layers must be positive, got 0"):
            network(n_layers=0)
        with pytest.raises(ValueError, match=r"dropout_p must lie in \[0, 1\), got 1"):
            network(dropout_p=1)
    with pytest.raises(ValueError, match="width must be even and a multiple of n_heads=2, got 5"):
        SeriesTransformer(width=5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"frequencies must be one or more positive, finite numbers, got \[\]"):
        FourierFeatures([])
    with pytest.raises(ValueError, match=r"frequencies must be .* got \[1.0, -2.0\]"):
        FourierFeatures([1.0, -2.0])
    with pytest.raises(ValueError, match="n_blocks must be positive, got 0"):
        ResidualMLP(1, 2, 0, 1)
    with pytest.raises(ValueError, match=r"n_hidden and n_outputs must be positive, got 1, \[0\], 1"):
        MLP(1, [0], 1)
    with pytest.raises(ValueError, match=r"dropout_p must lie in \[0, 1\), got 1"):
        MLP(1, [2], 1, dropout_p=1)
    with pytest.raises(ValueError, match="n_channels and n_outputs must be positive, got 0 and 10"):
        LeNet(n_channels=0)
    with pytest.raises(ValueError, match="image_size must be a multiple of 4 and at least 12, got 30"):
        LeNet(image_size=30)
