"""Local reparameterization of several layers in one product, against the layers one by one."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from lightning_vi.layers.local_linear import local_linear
from lightning_vi.layers.stacked_linear import stacked_linear, stacked_local_linear


def inputs(bias: str, num_samples: int | None, *rows: int) -> list[Tensor | None]:
    torch.manual_seed(0)
    x, mean, std = torch.randn(2, *rows, 3), torch.randn(2, 4, 3), torch.rand(2, 4, 3) + 0.3
    center = torch.randn(2, 4) if bias != "none" else None
    spread = torch.rand(2, 4) + 0.3 if bias == "stochastic" else None
    noise = torch.randn(2, *(() if num_samples is None else (num_samples,)), *rows, 4).double()
    given = [each if each is None else each.double().requires_grad_() for each in (x, mean, std, center, spread)]
    return [*given, noise]


@pytest.mark.parametrize("bias", ["none", "deterministic", "stochastic"])
@pytest.mark.parametrize("rows", [(5,), (2, 5)])
@pytest.mark.parametrize("num_samples", [None, 3])
def test_values_and_gradients(bias: str, rows: tuple[int, ...], num_samples: int | None) -> None:
    given = inputs(bias, num_samples, *rows)
    outputs = stacked_local_linear(*given, 1e-9)  # type: ignore[arg-type]
    one_by_one = [[None if each is None else each[index] for each in given] for index in range(2)]
    expected = torch.stack([local_linear(*own, 1e-9) for own in one_by_one])  # type: ignore[arg-type]
    torch.testing.assert_close(outputs, expected)
    wanted = [each for each in given[:-1] if each is not None]
    weights = torch.randn_like(outputs)
    found, right = (torch.autograd.grad((each * weights).sum(), wanted) for each in (outputs, expected))
    torch.testing.assert_close(found, right)
    assert gradcheck(lambda *values: stacked_local_linear(*values, given[-1], 1e-9), given[:-1], fast_mode=True)


@pytest.mark.parametrize("has_bias", [False, True])
def test_stacked_layers_are_the_layers(has_bias: bool) -> None:
    layers = [torch.nn.Linear(3, 4, has_bias) for _ in range(2)]
    x = torch.randn(2, 6, 5, 3)
    bias = torch.stack([layer.bias for layer in layers]) if has_bias else None
    outputs = stacked_linear(x, torch.stack([layer.weight for layer in layers]), bias)
    torch.testing.assert_close(outputs, torch.stack([layer(own) for layer, own in zip(layers, x, strict=True)]))
