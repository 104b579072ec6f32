"""Sum of waves: regression in one dimension with noise of one standard deviation."""

from typing import Unpack, cast

import numpy as np

from lightning_vi.datamodules._checks import check_int, check_not_negative, check_seed
from lightning_vi.datamodules._standardize import FloatArray, Standardizer, as_float32
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits, TestSplit
from lightning_vi.datamodules.functions import check_test_split


class WavesDataModule(ArrayDataModule):
    r"""Regression in one dimension: a line and two waves with homoscedastic noise.

    .. math:: y = 0.45\, x + \sin 1.7 x + 0.2 \cos 3.2 x + 0.08\, \varepsilon, \qquad \varepsilon \sim N(0, 1)

    x is uniform in (-3, 3). There are 800 points for training and 200 for each other split; the out-of-distribution
    points are uniform in (-4.5, -3) and (3, 4.5). Inputs are not standardized, since `FourierFeatures` of the
    frequencies 0.8, 1.7, 2.6 and 3.5 are the usual first layer. Targets are in original units, and methods standardize
    them by `target_mean` and `target_std`.

    Source: function, noise and numbers are those of Deep-UQ's tutorial on Bayes by Backprop. The calibration and the
    out-of-distribution set are an addition.

    Args:
        batch_size: Number of rows per batch.
        n_points: Number of points for training, validation and testing, at least 6: two thirds for training and a sixth
            for each other split, rounded down.
        noise_std: Standard deviation of the noise; 0 for none.
        n_grid: Number of grid points, at least 2.
        data_seed: Seed of the points and of the noise.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those out of
            distribution.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Inputs, [800, 1] and four times [200, 1] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Targets, [800, 1] and four times [200, 1] float32.
        X_gtext: Evenly spaced inputs from -4.5 to 4.5 for plots, [n_grid, 1] float32.
        Y_gtext: Noise-free function on the grid, [n_grid, 1] float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = WavesDataModule()
        >>> dm.X_train.shape, dm.X_test.shape, dm.X_ood.shape
        (torch.Size([800, 1]), torch.Size([200, 1]), torch.Size([200, 1]))
    """

    def __init__(
        self,
        batch_size: int = 128,
        *,
        n_points: int = 1200,
        noise_std: float = 0.08,
        n_grid: int = 500,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_points = check_int("n_points", n_points, at_least=6)
        noise_std = check_not_negative("noise_std", noise_std)
        n_grid = check_int("n_grid", n_grid, at_least=2)
        check_test_split(test_split)
        random = np.random.default_rng(check_seed("data_seed", data_seed))
        held_out = n_points // 6
        x = random.uniform(-3.0, 3.0, size=(n_points, 1))
        noise = random.normal(size=x.shape)
        x_calib = random.uniform(-3.0, 3.0, size=(held_out, 1))
        x_ood = random.choice([-1.0, 1.0], size=(held_out, 1)) * random.uniform(3.0, 4.5, size=(held_out, 1))
        x = np.concatenate([x, x_calib, x_ood])
        y = waves(x) + noise_std * np.concatenate([noise, random.normal(size=(2 * held_out, 1))])

        n_train = n_points - 2 * held_out
        bounds = np.cumsum([0, n_train, *[held_out] * 4])
        rows = dict(zip(("train", "val", "test", "calib", "ood"), map(slice, bounds[:-1], bounds[1:]), strict=True))
        splits = {name: (as_float32(x[part]), as_float32(y[part])) for name, part in rows.items()}
        super().__init__(**cast(Splits, splits), batch_size=batch_size, **loader_options)
        scale = Standardizer.fit(y[rows["train"]])
        self.target_mean, self.target_std = as_float32(scale.mean), as_float32(scale.std)
        grid = np.linspace(-4.5, 4.5, n_grid).reshape(-1, 1)
        self.X_gtext, self.Y_gtext = as_float32(grid), as_float32(waves(grid))
        self.test_split = test_split


def waves(x: FloatArray) -> FloatArray:
    """Returns the noise-free function at x, of the same shape."""
    return np.asarray(0.45 * x + np.sin(1.7 * x) + 0.2 * np.cos(3.2 * x), dtype=np.float64)
