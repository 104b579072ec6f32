"""Draws of several tensors in one node of the graph."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from lightning_vi.posteriors import draw_together

SHAPES = ((3,), (2, 2))


def tensors(*leading: int) -> list[Tensor]:
    return [torch.rand(*leading, *shape, dtype=torch.float64) + 0.5 for shape in SHAPES]


@pytest.mark.parametrize("num_samples", [1, 4])
@pytest.mark.parametrize("is_computed", [False, True], ids=["noise", "deviations of a coupling"])
def test_draws_have_the_gradients_of_their_formula(num_samples: int, is_computed: bool) -> None:
    torch.manual_seed(0)
    means, stds, noises = tensors(), tensors(), tensors(num_samples)
    inputs = [each.requires_grad_() for each in (*means, *stds, *(noises if is_computed else []))]

    def draws(*_: Tensor) -> tuple[Tensor, ...]:
        return tuple(draw_together(means, stds, noises))

    for draw, mean, std, noise in zip(draws(), means, stds, noises, strict=True):
        torch.testing.assert_close(draw, mean + std * noise)
    assert gradcheck(draws, inputs)
    assert gradgradcheck(draws, inputs)
