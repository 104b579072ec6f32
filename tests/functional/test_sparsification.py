"""Generalized risk, coverage at risk and sparsification against loops and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lightning_vi import functional


def data(size: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    uncertainty = torch.randint(0, 30, (size,), generator=generator) / 10  # with ties
    return uncertainty, 0.3 * torch.randn(size, generator=generator) * (0.2 + uncertainty)


def test_generalized_area_of_the_zero_one_loss() -> None:
    """The closed form of Traub et al. (2024) in accuracy and failure AUROC."""
    uncertainty, error = data()
    wrong = (error.abs() > 0.4).double()
    accuracy = 1 - float(wrong.mean())
    expected = (1 - accuracy) ** 2 / 2 + (1 - roc_auc_score(wrong, uncertainty)) * accuracy * (1 - accuracy)
    ours = functional.area_under_generalized_risk_coverage(uncertainty.double(), wrong)
    assert float(ours) == pytest.approx(expected)


def test_generalized_area_of_any_loss_is_a_mean_over_pairs() -> None:
    uncertainty, error = data(60)
    loss = error.abs().double()
    pairs = [
        float(loss[i]) * (float(uncertainty[j] > uncertainty[i]) + 0.5 * float(uncertainty[j] == uncertainty[i]))
        for i in range(60)
        for j in range(60)
    ]
    ours = functional.area_under_generalized_risk_coverage(uncertainty.double(), loss)
    assert float(ours) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("risk", [0.0, 0.05, 0.2, 1.0])
def test_coverage_at_risk_equals_a_loop(risk: float) -> None:
    uncertainty, error = torch.randperm(100).double(), data(100)[1].abs().double()
    losses = error[uncertainty.argsort()].numpy()
    kept = [k for k in range(1, 101) if losses[:k].mean() <= risk]
    assert float(functional.coverage_at_risk(uncertainty, error, risk)) == max(kept, default=0) / 100


@pytest.mark.parametrize("norm", ["rmse", "mae"])
def test_sparsification_equals_a_loop(norm) -> None:
    order, error = torch.randperm(50).double(), data(50)[1].double()

    def curve(ranking: np.ndarray) -> np.ndarray:
        ordered = np.abs(error.numpy())[np.argsort(ranking)]
        parts = [ordered[:k] for k in range(1, 51)]
        return np.array([np.sqrt(np.mean(p**2)) if norm == "rmse" else np.mean(p) for p in parts])

    ours, best = curve(order.numpy()), curve(np.abs(error.numpy()))
    np.testing.assert_allclose(functional.sparsification_curve(order, error, norm)[1], ours)
    area = functional.area_under_sparsification_error(order, error, norm)
    assert float(area) == pytest.approx(np.mean(ours - best) / ours[-1])
    raw = functional.area_under_sparsification_error(order, error, norm, normalized=False)
    assert float(raw) == pytest.approx(np.mean(ours - best))
    assert float(functional.area_under_sparsification_error(error.abs(), error, norm)) == 0


def test_area_of_absolute_errors_is_the_excess_area() -> None:
    uncertainty, error = data()
    ours = functional.area_under_sparsification_error(uncertainty, error, "mae", normalized=False)
    assert float(ours) == pytest.approx(float(functional.excess_area_under_risk_coverage(uncertainty, error.abs())))


def test_nan_and_invalid_arguments() -> None:
    nan = torch.tensor([0.0, torch.nan])
    assert functional.coverage_at_risk(nan, torch.zeros(2), 0.1).isnan()
    assert functional.area_under_generalized_risk_coverage(nan, torch.zeros(2)).isnan()
    with pytest.raises(ValueError, match="risk must be a number, got nan"):
        functional.coverage_at_risk(torch.zeros(2), torch.zeros(2), float("nan"))
    with pytest.raises(ValueError, match=r"norm must be one of \['rmse', 'mae'\], got 'mse'"):
        functional.sparsification_curve(torch.zeros(2), torch.zeros(2), "mse")  # type: ignore[arg-type]
