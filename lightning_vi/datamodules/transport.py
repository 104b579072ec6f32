"""Transport in two dimensions: regression with two targets on a grid, each with noise of its own."""

import math
from typing import ClassVar, Unpack

import torch
from torch import Tensor

from lightning_vi.datamodules.base import LoaderOptions, TestSplit
from lightning_vi.datamodules.functions import FunctionDataModule, Ranges


class Transport2DDataModule(FunctionDataModule):
    r"""Regression with two targets: concentration and size of its gradient in the unit square, with noise on each.

    .. math::
        c(x, y) = a\, e^{-\mathrm{Pe}\, x} \sin(\pi x) \sin(\pi y) + b\, x (1 - x)\, y (1 - y), \qquad
        g = |\nabla c|

    .. math::
        \sigma_c = 0.01 + 0.03\, e^{-4 x}, \qquad \sigma_g = 0.015 + 0.03\, \frac{g}{\max_{\text{grid}} g}

    The concentration is zero on the boundary. The five inputs are the position (x, y), the amplitudes a and b, and the
    Peclet number Pe; all are dimensionless.

    a is uniform in (0.5, 1.1), b in (0, 0.3) and Pe in (0.4, 1.6); out of distribution in (1.2, 1.8), (0.3, 0.7) and
    (2, 3.2). There are 48 fields for training and 12 for each other split, on 36 x 36 points, x first.

    Source: equations, noise, ranges and numbers are those of Deep-UQ's tutorial "Heteroscedastic Multi-Output Bayes by
    Backprop on 2D Transport". The validation and calibration sets are an addition.

    The noise-free targets, the noise and the grid are further attributes, those of `FunctionDataModule`.

    Args:
        batch_size: Number of rows per batch.
        n_functions: Number of training functions, at least 4. The validation, test, calibration and out-of-distribution
            sets have a quarter as many each, rounded down.
        n_grid: Number of grid points per coordinate.
        data_seed: Seed of the functions and of the noise.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those of the
            out-of-distribution functions.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Standardized inputs, [62208, 5] and four times [15552, 5] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Noisy c and g, [62208, 2] and four times [15552, 2] float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = Transport2DDataModule(n_functions=8)
        >>> dm.X_train.shape, dm.Y_train.shape, dm.as_functions(dm.Y_test).shape
        (torch.Size([10368, 5]), torch.Size([10368, 2]), torch.Size([2, 36, 36, 2]))
    """

    coordinate_names: ClassVar = ("x", "y")
    target_names: ClassVar = ("concentration", "gradient")
    ranges: ClassVar[Ranges] = {"a": (0.5, 1.1), "b": (0.0, 0.3), "Pe": (0.4, 1.6)}
    ood_ranges: ClassVar[Ranges] = {"a": (1.2, 1.8), "b": (0.3, 0.7), "Pe": (2.0, 3.2)}

    def __init__(
        self,
        batch_size: int = 256,
        *,
        n_functions: int = 48,
        n_grid: int = 36,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__(
            batch_size,
            n_functions=n_functions,
            n_grid=n_grid,
            data_seed=data_seed,
            test_split=test_split,
            **loader_options,
        )

    def function(self, points: Tensor) -> Tensor:  # noqa: D102
        x, y, a, b, peclet = points.unbind(dim=-1)
        decay = a * torch.exp(-peclet * x)
        wave_x, wave_y = torch.sin(math.pi * x), torch.sin(math.pi * y)
        bump_x, bump_y = x * (1.0 - x), y * (1.0 - y)
        concentration = decay * wave_x * wave_y + b * bump_x * bump_y
        slope_x = math.pi * torch.cos(math.pi * x) - peclet * wave_x  # of exp(-Pe x) sin(pi x), over exp(-Pe x)
        along_x = decay * slope_x * wave_y + b * (1.0 - 2.0 * x) * bump_y
        along_y = decay * wave_x * math.pi * torch.cos(math.pi * y) + b * bump_x * (1.0 - 2.0 * y)
        return torch.stack([concentration, torch.hypot(along_x, along_y)], dim=-1)

    def noise_std(self, points: Tensor) -> Tensor:  # noqa: D102
        gradient = self.function(points)[..., 1:]
        of_concentration = 0.01 + 0.03 * torch.exp(-4.0 * points[..., :1])
        of_gradient = 0.015 + 0.03 * gradient / gradient.amax(dim=1, keepdim=True)
        return torch.cat([of_concentration, of_gradient], dim=-1)
