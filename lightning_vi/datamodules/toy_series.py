"""Toy series: two seasonal waves with noise that depends on the season, and a drift in the test rows."""

from typing import Unpack

import numpy as np
import pandas as pd

from lightning_vi.datamodules._checks import check_int, check_not_negative, check_seed
from lightning_vi.datamodules._standardize import FloatArray, as_float32
from lightning_vi.datamodules.base import LoaderOptions
from lightning_vi.datamodules.series import SeriesDataModule

PERIOD = 24
TEST_FRACTION = 0.3


class ToySeriesDataModule(SeriesDataModule):
    r"""Forecasting of a seasonal series whose noise depends on the season and which drifts in the test rows.

    .. math::
        y_t = \sin \tfrac{2 \pi t}{24} + 0.4 \cos \tfrac{4 \pi t}{24} + d\, u_t + (1 + 2 d\, u_t)\, \sigma_t
        \varepsilon_t, \qquad \sigma_t = 0.1 + 0.1 \left(1 + \sin \tfrac{2 \pi t}{24}\right), \qquad
        \varepsilon_t \sim N(0, 1)

    u is 0 up to the test rows, in which it grows from 0 to 1, and d is the `drift`. 40% of the rows are for training,
    10% for validation, 20% for calibration and the last 30% for testing. No row is in two splits. Inputs are
    standardized with the training rows; targets are in original units.

    Args:
        batch_size: Number of windows per batch.
        n_points: Number of rows, at least 500.
        window: Number L of past rows of an input.
        horizon: Number H of rows to forecast.
        drift: Size d of the drift; 0 for a series whose test rows are as the others.
        data_seed: Seed of the noise.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Windows, [N, L, 1] float32.
        Y_train, Y_val, Y_test, Y_calib: Targets, [N, H] float32.
        mean_test, noise_std_test: Mean and standard deviation of the targets `Y_test` given the time, [N, H] float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ToySeriesDataModule()
        >>> dm.X_train.shape, dm.Y_test.shape
        (torch.Size([776, 24, 1]), torch.Size([576, 1]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        n_points: int = 2000,
        window: int = 24,
        horizon: int = 1,
        drift: float = 0.5,
        data_seed: int = 0,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_points = check_int("n_points", n_points, at_least=500)
        check_not_negative("drift", drift)
        random = np.random.default_rng(check_seed("data_seed", data_seed))
        mean, std = seasonal_moments(n_points, drift)
        y = mean + std * random.normal(size=n_points)
        super().__init__(
            pd.DataFrame({"y": y}),
            "y",
            window=window,
            horizon=horizon,
            val_fraction=0.1,
            calib_fraction=0.2,
            test_fraction=TEST_FRACTION,
            batch_size=batch_size,
            **loader_options,
        )
        ahead = self.times["test"][:, None] + np.arange(horizon)
        self.mean_test, self.noise_std_test = as_float32(mean[ahead]), as_float32(std[ahead])


def seasonal_moments(n_points: int, drift: float) -> tuple[FloatArray, FloatArray]:
    """Returns the mean and the standard deviation of each row, [n_points] each."""
    time = np.arange(n_points)
    first = n_points - round(TEST_FRACTION * n_points)
    progress = np.clip((time - first) / (n_points - first), 0.0, None)
    season = np.sin(2 * np.pi * time / PERIOD)
    mean = season + 0.4 * np.cos(4 * np.pi * time / PERIOD) + drift * progress
    return mean, (1 + 2 * drift * progress) * (0.1 + 0.1 * (1 + season))
