"""Advection-diffusion-reaction in one dimension: regression with noise that depends on the position."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from lightning_vi.datamodules.functions import FunctionDataModule, Ranges


class ADR1DDataModule(FunctionDataModule):
    r"""Regression: solutions of a steady advection-diffusion-reaction equation with heteroscedastic noise.

    .. math::
        u(x) = a\, e^{-D x} \sin(\pi x) + b\, x (1 - x) (1 + 0.2\, v - 0.1\, r), \qquad
        y = u(x) + \sigma(x)\, \varepsilon, \quad \sigma(x) = 0.01 + 0.04\, e^{-80 (x - 0.65)^2}

    u is a manufactured solution: it solves :math:`-D u'' + v u' + r u = s` on (0, 1) with :math:`u(0) = u(1) = 0` and
    the source s that this gives. The six inputs are the position x, the amplitudes a and b, the diffusion coefficient
    D, the velocity v and the reaction rate r; all are dimensionless.

    The amplitudes a and b are uniform in (0.4, 1.1) and (0.1, 0.6), D in (0.1, 0.3), v in (0.2, 1) and r in (0.1, 0.8);
    out of distribution in (1.2, 2), (0.6, 1.1), (0.05, 0.15), (1.2, 2) and (0.8, 1.4). Only the ranges of D overlap.
    There are 96 functions for training and 24 for each other split, on 80 points.

    Source: equations, noise, ranges and numbers are those of Deep-UQ's tutorial "Heteroscedastic Bayes by Backprop on
    1D Advection-Diffusion-Reaction". The calibration set is an addition.

    The noise-free targets, the noise and the grid are further attributes, those of `FunctionDataModule`.

    Args:
        batch_size: Number of rows per batch.
        n_functions: Number of training functions, at least 4. The validation, test, calibration and out-of-distribution
            sets have a quarter as many each, rounded down.
        n_grid: Number of grid points.
        data_seed: Seed of the functions and of the noise.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those of the
            out-of-distribution functions.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Standardized inputs, [7680, 6] and four times [1920, 6] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Noisy u, [7680, 1] and four times [1920, 1] float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ADR1DDataModule()
        >>> dm.X_train.shape, dm.Y_ood.shape, dm.as_functions(dm.truth_test).shape
        (torch.Size([7680, 6]), torch.Size([1920, 1]), torch.Size([24, 80, 1]))
    """

    coordinate_names: ClassVar = ("x",)
    target_names: ClassVar = ("u",)
    ranges: ClassVar[Ranges] = {"a": (0.4, 1.1), "b": (0.1, 0.6), "D": (0.1, 0.3), "v": (0.2, 1.0), "r": (0.1, 0.8)}
    ood_ranges: ClassVar[Ranges] = {
        "a": (1.2, 2.0),
        "b": (0.6, 1.1),
        "D": (0.05, 0.15),
        "v": (1.2, 2.0),
        "r": (0.8, 1.4),
    }

    def function(self, points: Tensor) -> Tensor:  # noqa: D102
        x, a, b, diffusion, velocity, reaction = points.unbind(dim=-1)
        decaying = a * torch.exp(-diffusion * x) * torch.sin(math.pi * x)
        u = decaying + b * x * (1.0 - x) * (1.0 + 0.2 * velocity - 0.1 * reaction)
        return u.unsqueeze(-1)

    def noise_std(self, points: Tensor) -> Tensor:  # noqa: D102
        return 0.01 + 0.04 * torch.exp(-80.0 * (points[..., :1] - 0.65).square())
