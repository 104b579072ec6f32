"""Negative ELBO per example."""

import pytest
import torch

from lightning_vi.objectives import negative_elbo


def test_loss_is_per_example_for_any_batch_size() -> None:
    log_prob, kl = torch.randn(7, 12), torch.tensor(250.0)
    loss, nll, divergence = negative_elbo(log_prob, kl, num_data=40, kl_weight=0.3)
    torch.testing.assert_close(nll, -log_prob.sum() / (7 * 12))
    torch.testing.assert_close(loss, nll + 0.3 * 250 / 40)
    assert divergence == 250.0
    parts = [negative_elbo(part, kl, num_data=40, kl_weight=0.3).loss * part.shape[1] for part in log_prob.split(5, 1)]
    torch.testing.assert_close(sum(parts) / 12, loss)


def test_gradients_of_both_terms() -> None:
    log_prob, kl = torch.zeros(2, 5, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    negative_elbo(log_prob, kl, num_data=20, kl_weight=0.5).loss.backward()
    torch.testing.assert_close(log_prob.grad, torch.full((2, 5), -0.1))
    torch.testing.assert_close(kl.grad, torch.tensor(0.5 / 20))


@pytest.mark.parametrize("num_data", [0, -5])
def test_invalid_num_data_raises(num_data: int) -> None:
    with pytest.raises(ValueError, match=f"num_data must be positive, got {num_data}"):
        negative_elbo(torch.zeros(1, 1), torch.zeros(()), num_data)


def test_invalid_kl_weight_raises() -> None:
    with pytest.raises(ValueError, match=r"kl_weight must not be negative, got -0.1"):
        negative_elbo(torch.zeros(1, 1), torch.zeros(()), 5, kl_weight=-0.1)
