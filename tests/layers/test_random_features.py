"""Random Fourier features against the Gaussian kernel."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi.layers import RandomFourierFeatures

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))


def gaussian_kernel(x: Tensor, length_scale: float) -> Tensor:
    return (-torch.cdist(x, x).square() / (2 * length_scale**2)).exp()


@pytest.mark.parametrize("length_scale", [0.4, 1.7])
def test_inner_products_match_the_gaussian_kernel(length_scale: float) -> None:
    """The variance of each term 2 cos cos is less than 2."""
    num_features, repeats = 256, 200
    kernels = []
    for _ in range(repeats):
        phi = RandomFourierFeatures(3, num_features, length_scale)(X)
        kernels.append(phi @ phi.T)
    stacked, expected = torch.stack(kernels), gaussian_kernel(X, length_scale)
    error = stacked.std(0) / math.sqrt(repeats)
    assert ((stacked.mean(0) - expected).abs() < 5 * error).all()
    assert stacked.std(0).max() < math.sqrt(2 / num_features)
    diagonal = stacked.diagonal(dim1=1, dim2=2)
    assert_close(diagonal.std(0), torch.full((12,), math.sqrt(0.5 / num_features)), rtol=0.25, atol=0.0)


def test_normalized_inputs_match_layer_norm() -> None:
    features = RandomFourierFeatures(3, 64, 0.5, normalize=True)
    plain = RandomFourierFeatures(3, 64, 0.5)
    plain.load_state_dict(features.state_dict())
    assert_close(features(X), plain(nn.LayerNorm(3, elementwise_affine=False)(X)))
    assert_close(features(5 * X), features(X), rtol=1e-2, atol=1e-3)


def test_feature_dimension() -> None:
    features = RandomFourierFeatures(3, 16, 0.5, dim=1)
    images = torch.randn(2, 3, 4, 5)
    expected = math.sqrt(2 / 16) * torch.cos(
        F.conv2d(images / 0.5, features.frequencies[:, :, None, None], features.phases)
    )
    assert_close(features(images), expected)


def test_phases_are_uniform_buffers() -> None:
    features = RandomFourierFeatures(3, 4096)
    assert list(features.state_dict()) == ["frequencies", "phases"]
    assert not list(features.parameters())
    turns = (features.phases / (2 * math.pi)).sort().values
    assert turns.min() >= 0
    assert turns.max() < 1
    uniform = torch.arange(4096) / 4096
    assert (turns - uniform).abs().max() < 1.95 / math.sqrt(4096)  # Kolmogorov-Smirnov test, level 0.1%


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": 0}, "num_inputs and num_features must be positive, got 3 and 0"),
        ({"length_scale": 0.0}, "length_scale must be positive and finite, got 0.0"),
        ({"length_scale": float("inf")}, "length_scale must be positive and finite, got inf"),
    ],
)
def test_invalid_arguments_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomFourierFeatures(3, **({"num_features": 8} | options))
