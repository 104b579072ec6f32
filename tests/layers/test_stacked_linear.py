"""Linear layers of several networks in one product, against the layers one by one."""

import pytest
import torch

from lightning_vi.layers.stacked_linear import stacked_linear


@pytest.mark.parametrize("has_bias", [False, True])
def test_stacked_layers_are_the_layers(has_bias: bool) -> None:
    layers = [torch.nn.Linear(3, 4, has_bias) for _ in range(2)]
    x = torch.randn(2, 6, 5, 3)
    bias = torch.stack([layer.bias for layer in layers]) if has_bias else None
    outputs = stacked_linear(x, torch.stack([layer.weight for layer in layers]), bias)
    torch.testing.assert_close(outputs, torch.stack([layer(own) for layer, own in zip(layers, x, strict=True)]))


def test_layers_share_a_bias() -> None:
    x, weight, bias = torch.randn(2, 6, 3), torch.randn(2, 4, 3), torch.randn(4)
    torch.testing.assert_close(stacked_linear(x, weight, bias), x @ weight.mT + bias)
