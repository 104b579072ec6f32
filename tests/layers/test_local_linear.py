"""The fused gradient of local reparameterization against the formula in separate steps."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lightning_vi.layers.local_linear import local_linear


def inputs(bias: str, num_samples: int | None, *rows: int, members: tuple[int, ...] = ()) -> list[Tensor | None]:
    torch.manual_seed(0)
    x = torch.randn(*members, *rows, 3)
    mean, std = torch.randn(*members, 2, 3), torch.rand(*members, 2, 3) + 0.3
    center = torch.randn(*members, 2) if bias != "none" else None
    spread = torch.rand(*members, 2) + 0.3 if bias == "stochastic" else None
    noise = torch.randn(*members, *(() if num_samples is None else (num_samples,)), *rows, 2)
    given = [each if each is None else each.double().requires_grad_() for each in (x, mean, std, center, spread)]
    return [*given, noise.double()]


def by_hand(
    x: Tensor, mean: Tensor, std: Tensor, center: Tensor | None, spread: Tensor | None, noise: Tensor
) -> Tensor:
    if mean.dim() == 3:
        given = (x, mean, std, center, spread, noise)
        own = [[None if each is None else each[index] for each in given] for index in range(len(mean))]
        return torch.stack([by_hand(*each) for each in own])  # type: ignore[arg-type]
    variance = x.square() @ std.square().T + (0 if spread is None else spread.square())
    return x @ mean.T + (0 if center is None else center) + variance.sqrt() * noise


@pytest.mark.parametrize("bias", ["none", "deterministic", "stochastic"])
@pytest.mark.parametrize(
    ("members", "rows"), [((), ()), ((), (4,)), ((), (2, 4)), ((2,), (4,)), ((2,), (3, 4))], ids=str
)
@pytest.mark.parametrize("num_samples", [None, 3])
def test_values_and_gradients(
    bias: str, members: tuple[int, ...], rows: tuple[int, ...], num_samples: int | None
) -> None:
    given = inputs(bias, num_samples, *rows, members=members)
    outputs, expected = local_linear(*given, 0.0), by_hand(*given)  # type: ignore[arg-type]
    torch.testing.assert_close(outputs, expected)
    assert gradcheck(lambda *values: local_linear(*values, given[-1], 0.0), given[:-1], fast_mode=True)
    wanted = [each for each in given[:-1] if each is not None]
    for found, right in zip(
        torch.autograd.grad(outputs.sin().sum(), wanted), torch.autograd.grad(expected.sin().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("bias", ["none", "stochastic"])
@pytest.mark.parametrize("members", [(), (2,)], ids=str)
@pytest.mark.parametrize("num_samples", [None, 3])
def test_second_derivatives(bias: str, members: tuple[int, ...], num_samples: int | None) -> None:
    """Differential equations are residuals of derivatives with respect to the input."""
    given = inputs(bias, num_samples, 4, members=members)
    assert gradgradcheck(lambda *values: local_linear(*values, given[-1], 0.0), given[:-1], fast_mode=True)


def test_gradients_of_some_inputs_alone() -> None:
    x, *others = inputs("stochastic", None, 4)
    assert isinstance(x, Tensor)
    outputs = local_linear(x, *(each.detach() for each in others), 0.0)  # type: ignore[union-attr]
    (found,) = torch.autograd.grad(outputs.sum(), x)
    (right,) = torch.autograd.grad(by_hand(x, *others).sum(), x)  # type: ignore[arg-type]
    torch.testing.assert_close(found, right)
