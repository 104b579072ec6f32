"""Sums over parts of a vector, and numbers spread over them."""

import pytest
import torch

from lightning_vi.functional.parts import spread_over_parts, sums_of_parts


@pytest.mark.parametrize("sizes", [[1], [2, 1, 3], [5000, 1, 40]])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_sums_of_parts(sizes: list[int], requires_grad: bool) -> None:
    values = torch.rand(sum(sizes)).requires_grad_(requires_grad)
    expected = torch.stack([part.double().sum() for part in values.split(sizes)])
    torch.testing.assert_close(sums_of_parts(values, sizes).double(), expected, rtol=1e-5, atol=0.0)


def test_a_number_for_each_element() -> None:
    assert spread_over_parts(torch.tensor([1.0, 2.0]), [1, 3]).tolist() == [1.0, 2.0, 2.0, 2.0]


def test_constants_of_a_prediction_can_be_differentiated_later() -> None:
    """Tensors made in inference mode cannot be saved for a backward pass."""
    with torch.inference_mode():
        spread_over_parts(torch.ones(2), [3, 4])
    values = torch.ones(2, requires_grad=True)
    spread_over_parts(values, [3, 4]).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [3.0, 4.0]
