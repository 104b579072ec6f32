"""Heat in two dimensions: classification of source fields by the largest temperature."""

from typing import Unpack, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits, TestSplit
from lightning_vi.datamodules.functions import SPLITS, check_test_split, random_state

THRESHOLD, OOD_THRESHOLD = 0.12, 0.18
SOURCE_STEPS, TEMPERATURE_STEPS = 4, 8


class Heat2DDataModule(ArrayDataModule):
    r"""Classification of heat sources in a plate: does the temperature exceed a threshold anywhere?

    With a diffusion step M that replaces each value by the mean of its 3 x 3 neighborhood, with zeros outside of the
    plate, an explicit step of the heat equation with cold edges,

    .. math::
        q = 0.8\, M^4 \varepsilon, \qquad T = M^8 q, \qquad
        y = \begin{cases} 1 & \max T > 0.12 \\ 0 & \text{otherwise} \end{cases}

    where :math:`\varepsilon` is white noise with standard deviation 1 on 16 x 16 cells. Out of distribution the source
    is stronger and rough, :math:`q = 1.6\, M^4 \varepsilon + 0.8\, \varepsilon'`, and the threshold is 0.18. The input
    is the source q, and there is no noise on the label. There are 192 fields for training and 48 for each other split.

    Source: the process, thresholds and numbers are those of Deep-UQ's tutorial "Last-Layer Variational Inference for 2D
    Heat Failure Classification". The calibration set is an addition.

    Units: `X_*` and the batches are standardized by the mean and the standard deviation of all cells of the training
    sources, `input_mean` and `input_std`.

    Args:
        batch_size: Number of fields per batch.
        n_fields: Number of training fields, at least 4. The validation, test, calibration and out-of-distribution sets
            have a quarter as many each, rounded down.
        size: Height and width H of the plate in cells, at least 2.
        data_seed: Seed of the fields.
        test_split: The fields of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those out of
            distribution.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Standardized sources, [n, 1, H, H] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Labels, 1 if the largest temperature exceeds the threshold, [n] int64.
        num_classes: 2.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = Heat2DDataModule()
        >>> dm.X_train.shape, dm.X_ood.shape, dm.temperature(dm.X_test).shape
        (torch.Size([192, 1, 16, 16]), torch.Size([48, 1, 16, 16]), torch.Size([48, 1, 16, 16]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        n_fields: int = 192,
        size: int = 16,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_fields = check_int("n_fields", n_fields, at_least=4)
        size = check_int("size", size, at_least=2)
        seed = check_seed("data_seed", data_seed)
        check_test_split(test_split)
        splits: dict[str, tuple[Tensor, Tensor]] = {}
        for name in SPLITS:
            source = _draw_sources(name, n_fields if name == "train" else n_fields // 4, size, seed)
            hottest = diffuse(source, TEMPERATURE_STEPS).amax(dim=(1, 2, 3))
            splits[name] = (source, (hottest > (OOD_THRESHOLD if name == "ood" else THRESHOLD)).long())
        std, mean = torch.std_mean(splits["train"][0], correction=0)
        scaled = {name: (((source - mean) / std).float(), labels) for name, (source, labels) in splits.items()}
        super().__init__(**cast(Splits, scaled), num_classes=2, batch_size=batch_size, **loader_options)
        self.input_mean, self.input_std = mean.float(), std.float()
        self.test_split = test_split

    def temperature(self, inputs: Tensor) -> Tensor:
        """Returns the temperatures of standardized sources.

        Args:
            inputs: Sources, such as `X_test`, [n, 1, H, H].

        Returns:
            Temperatures, [n, 1, H, H].
        """
        if self.input_mean is None or self.input_std is None:
            return inputs
        return diffuse(inputs * self.input_std + self.input_mean, TEMPERATURE_STEPS)


def diffuse(fields: Tensor, steps: int) -> Tensor:
    """Replaces each value by the mean of its 3 x 3 neighborhood, with zeros outside, a number of times.

    Args:
        fields: Fields, [n, 1, H, W].
        steps: Number of times.

    Returns:
        Fields, [n, 1, H, W].
    """
    for _ in range(steps):
        fields = F.avg_pool2d(fields, kernel_size=3, stride=1, padding=1)
    return fields


def _draw_sources(split: str, count: int, size: int, seed: int) -> Tensor:
    random = random_state(seed, split, "source")
    smooth, rough = (torch.from_numpy(random.standard_normal((count, 1, size, size))) for _ in range(2))
    smooth = diffuse(smooth, SOURCE_STEPS)
    return 1.6 * smooth + 0.8 * rough if split == "ood" else 0.8 * smooth
