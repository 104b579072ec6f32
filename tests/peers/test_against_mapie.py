"""Split conformal intervals against MAPIE."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, RegressorMixin

from lightning_vi import Deterministic, SplitConformal
from lightning_vi.likelihoods import Gaussian

mapie = pytest.importorskip("mapie.regression")


class Fitted(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The method's mean as a fitted scikit-learn regressor."""

    def __init__(self, method: Deterministic) -> None:
        self.method = method
        self.n_features_in_ = 2

    def fit(self, x: np.ndarray, y: np.ndarray) -> "Fitted":
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        mean: np.ndarray = self.method.predict(torch.tensor(x, dtype=torch.float32)).mean[:, 0].double().numpy()
        return mean


@pytest.mark.parametrize("coverage", [0.5, 0.9])
@pytest.mark.parametrize("rows", [19, 60, 101])
def test_intervals_of_absolute_residuals_agree(rows: int, coverage: float) -> None:
    method = Deterministic(torch.nn.Linear(2, 1), Gaussian(0.5))
    x, y, new = torch.randn(rows, 2), torch.randn(rows, 1), torch.randn(7, 2)
    conformal = SplitConformal(method, coverage=coverage, normalised=False)
    conformal.calibrate([(x, y)])
    ours = conformal.predict(new)
    theirs = mapie.SplitConformalRegressor(Fitted(method), confidence_level=coverage, prefit=True)
    theirs.conformalize(x.numpy(), y[:, 0].double().numpy())
    _, intervals = theirs.predict_interval(new.numpy())
    np.testing.assert_allclose(ours.lower[:, 0], intervals[:, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.upper[:, 0], intervals[:, 1, 0], rtol=1e-4, atol=1e-5)
