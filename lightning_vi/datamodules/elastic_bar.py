"""Elastic bar: regression with two targets and without noise."""

from typing import ClassVar, Unpack

import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_not_negative
from lightning_vi.datamodules.base import LoaderOptions, TestSplit
from lightning_vi.datamodules.functions import FunctionDataModule, Ranges


class ElasticBar1DDataModule(FunctionDataModule):
    r"""Regression with two targets: displacement and stress of an elastic bar under a distributed load, without noise.

    .. math:: u(x) = \frac{p}{E}\, x (1 - x), \qquad \sigma(x) = p\, (0.5 - x)

    The bar is fixed at both ends, :math:`u(0) = u(1) = 0`, and in equilibrium with the load, :math:`\sigma' = -p`. The
    constitutive law is :math:`\sigma = \tfrac12 E u'`, so that the input E is twice Young's modulus. The three inputs
    are the position x, E and the load p; all are dimensionless.

    E is uniform in (1.2, 2.4) and p in (0.4, 1.4); out of distribution in (2.5, 3.2) and (1.4, 2.2). There are 96
    functions for training and 24 for each other split, on 80 points. Since there is no noise, the std that a
    likelihood learns is the error of the network.

    Source: equations, ranges and numbers are those of Deep-UQ's tutorial "Multi-Output Bayes by Backprop on a 1D
    Elastic Bar". The calibration set is an addition.

    The noise-free targets, the noise and the grid are further attributes, those of `FunctionDataModule`.

    Args:
        batch_size: Number of rows per batch.
        n_functions: Number of training functions, at least 4. The validation, test, calibration and out-of-distribution
            sets have a quarter as many each, rounded down.
        n_grid: Number of grid points.
        noise_std: Standard deviation of Gaussian noise on both targets; 0 for none.
        data_seed: Seed of the functions and of the noise.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those of the
            out-of-distribution functions.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Standardized inputs, [7680, 3] and four times [1920, 3] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Displacement u and stress, [7680, 2] and four times
            [1920, 2] float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ElasticBar1DDataModule()
        >>> dm.X_train.shape, dm.Y_train.shape, dm.input_names, dm.target_names
        (torch.Size([7680, 3]), torch.Size([7680, 2]), ['x', 'E', 'p'], ('displacement', 'stress'))
    """

    coordinate_names: ClassVar = ("x",)
    target_names: ClassVar = ("displacement", "stress")
    ranges: ClassVar[Ranges] = {"E": (1.2, 2.4), "p": (0.4, 1.4)}
    ood_ranges: ClassVar[Ranges] = {"E": (2.5, 3.2), "p": (1.4, 2.2)}

    def __init__(
        self,
        batch_size: int = 128,
        *,
        n_functions: int = 96,
        n_grid: int = 80,
        noise_std: float = 0.0,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        self._noise_std = check_not_negative("noise_std", noise_std)
        super().__init__(
            batch_size,
            n_functions=n_functions,
            n_grid=n_grid,
            data_seed=data_seed,
            test_split=test_split,
            **loader_options,
        )

    def function(self, points: Tensor) -> Tensor:  # noqa: D102
        x, modulus, load = points.unbind(dim=-1)
        return torch.stack([load / modulus * x * (1.0 - x), load * (0.5 - x)], dim=-1)

    def noise_std(self, points: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(points[..., :2], self._noise_std)
