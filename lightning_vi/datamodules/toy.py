"""Toy problems: one-dimensional heteroscedastic regression and two moons."""

from typing import Unpack

import numpy as np
import torch

from lightning_vi.datamodules._checks import check_int, check_not_negative, check_seed
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._standardize import FloatArray, Standardizer, as_float32
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, take_splits

MIN_POINTS = 20


class ToyHeteroscedasticDataModule(ArrayDataModule):
    r"""One-dimensional regression with input-dependent noise and three clusters of inputs, with gaps in between.

    .. math::
        y = 7 \sin x + 3 \left|\cos \tfrac{x}{2}\right| \varepsilon, \qquad \varepsilon \sim N(0, 1)

    x is drawn from an equal-weight mixture of Gaussians with means -4, 0, 4 and standard deviations 0.4, 0.9, 0.4. 500
    points give 350 for training, 30 for validation, 20 for calibration and 100 for testing: the points of the MFVI
    tutorial of lightning-uq-box.

    Units: x and y are standardized with the mean and standard deviation of the training rows, and these standardized
    values *are* the data. `X_*`, `Y_*`, the batches and the grid are all standardized, and `input_mean`, `input_std`,
    `target_mean` and `target_std` are None.

    Args:
        batch_size: Number of rows per batch.
        n_points: Total number of points in all splits, at least 20.
        noise_seed: Seed of the points.
        split_seed: Seed of the split.
        n_grid: Number of grid points, at least 2.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Inputs, [N, 1] float32.
        Y_train, Y_val, Y_test, Y_calib: Targets, [N, 1] float32.
        X_gtext: Evenly spaced inputs for plots, which extend the range of the data by a tenth on both sides,
            [n_grid, 1] float32.
        Y_gtext: Noise-free function on the grid, [n_grid, 1] float32.
        noise_std_gtext: Standard deviation of the noise on the grid, [n_grid, 1] float32.

    Raises:
        ValueError: If `batch_size`, `n_points`, `n_grid` or a seed is out of range.

    Example:
        >>> dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
        >>> dm.X_train.shape, dm.X_test.shape, dm.X_gtext.shape
        (torch.Size([350, 1]), torch.Size([100, 1]), torch.Size([750, 1]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        n_points: int = 500,
        noise_seed: int = 42,
        split_seed: int = 42,
        n_grid: int = 750,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_grid = check_int("n_grid", n_grid, at_least=2)
        rows = _split_points(n_points, split_seed)
        x, y = _draw_heteroscedastic(n_points, check_seed("noise_seed", noise_seed))
        scale_x = Standardizer.fit(x[rows["train"]])
        scale_y = Standardizer.fit(y[rows["train"]])
        inputs, targets = as_float32(scale_x(x)), as_float32(scale_y(y))
        super().__init__(
            **take_splits(inputs, targets, rows),
            batch_size=batch_size,
            **loader_options,
        )
        margin = 0.1 * (x.max() - x.min())
        grid = np.linspace(x.min() - margin, x.max() + margin, n_grid).reshape(-1, 1)
        self.X_gtext = as_float32(scale_x(grid))
        self.Y_gtext = as_float32(scale_y(7.0 * np.sin(grid)))
        self.noise_std_gtext = as_float32(_noise_std(grid) / scale_y.std)


class TwoMoonsDataModule(ArrayDataModule):
    """Classification of two interleaved half circles in the plane.

    Source: `sklearn.datasets.make_moons`. Inputs are not standardized. 500 points give 350 for training, 30 for
    validation, 20 for calibration and 100 for testing.

    Args:
        batch_size: Number of rows per batch.
        n_points: Total number of points in all splits, at least 20.
        noise_std: Standard deviation of the Gaussian noise on both coordinates.
        noise_seed: Seed of the points.
        split_seed: Seed of the split.
        n_grid: Number of grid points G per side, at least 2.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Inputs, [N, 2] float32.
        Y_train, Y_val, Y_test, Y_calib: Labels 0 and 1, [N] int64.
        num_classes: 2.
        X_grid: Points of a regular grid for plots, which extends the range of the data by half on every side,
            [G * G, 2] float32.
        grid_shape: `(G, G)`; reshape `X_grid[:, k]` and values on the grid to this shape for `contourf`.

    Raises:
        ValueError: If `batch_size`, `n_points`, `n_grid`, `noise_std` or a seed is out of range.

    Example:
        >>> dm = TwoMoonsDataModule(n_points=200, n_grid=50)
        >>> dm.X_train.shape, dm.Y_train.dtype, dm.X_grid.shape
        (torch.Size([140, 2]), torch.int64, torch.Size([2500, 2]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        n_points: int = 500,
        noise_std: float = 0.15,
        noise_seed: int = 42,
        split_seed: int = 42,
        n_grid: int = 100,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        from sklearn.datasets import make_moons

        noise_std = check_not_negative("noise_std", noise_std)
        n_grid = check_int("n_grid", n_grid, at_least=2)
        rows = _split_points(n_points, split_seed)
        points, labels = make_moons(
            n_samples=n_points, noise=noise_std, random_state=check_seed("noise_seed", noise_seed)
        )
        inputs, targets = as_float32(points), torch.tensor(labels, dtype=torch.int64)
        super().__init__(
            **take_splits(inputs, targets, rows),
            num_classes=2,
            batch_size=batch_size,
            **loader_options,
        )
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.5 * (high - low)
        axes = np.linspace(low - margin, high + margin, n_grid)
        columns = np.meshgrid(axes[:, 0], axes[:, 1])
        self.X_grid = as_float32(np.stack([column.ravel() for column in columns], axis=1))
        self.grid_shape = (n_grid, n_grid)


def _noise_std(x: FloatArray) -> FloatArray:
    return np.asarray(3.0 * np.abs(np.cos(x / 2.0)), dtype=np.float64)


def _draw_heteroscedastic(n_points: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Returns x and y, not standardized, each [n_points, 1].

    The order of the draws (cluster, x and noise of one point after the other, from NumPy's legacy generator) determines
    the points of a seed.
    """
    clusters = ((-4.0, 0.4), (0.0, 0.9), (4.0, 0.4))
    random = np.random.RandomState(seed)
    x, noise = np.empty((n_points, 1)), np.empty((n_points, 1))
    for i in range(n_points):
        mean, std = clusters[int(3.0 * random.rand())]
        x[i] = random.normal(mean, std)
        noise[i] = random.randn()
    return x, 7.0 * np.sin(x) + _noise_std(x) * noise


def _split_points(n_points: int, seed: int) -> dict[str, IntArray]:
    """Returns the row numbers of each split: 70% train, 6% validation, 4% calibration and 20% test, rounded."""
    from sklearn.model_selection import train_test_split

    n_points = check_int("n_points", n_points, at_least=MIN_POINTS)
    seed = check_seed("split_seed", seed)
    rest, test = train_test_split(np.arange(n_points), test_size=0.2, random_state=seed)
    train, held_out = train_test_split(rest, test_size=0.125, random_state=seed)
    val, calib = train_test_split(held_out, test_size=0.4, random_state=seed)
    return {"train": train, "val": val, "test": test, "calib": calib}
