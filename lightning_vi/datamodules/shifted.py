"""Shifted test sets of any data set of images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from lightning_vi.datamodules._rows import RowBatch
from lightning_vi.datamodules._wrapped import WrappedDataModule
from lightning_vi.datamodules.shifts import (
    SEVERITIES,
    SHIFTS,
    PixelRange,
    check_severity,
    check_shift,
    shift_images,
)
from lightning_vi.errors import InputTypeError, InputValueError

MAX_RANGE_IMAGES = 1000
"""Number of images in which the darkest and the brightest pixel are looked for."""


class ShiftedDataset(Dataset[Any]):
    """Wraps a data set of images, which are shifted when they are read.

    Samples are images x, pairs (x, y), or dictionaries with the key `input`; the rest of a sample stays as it is. See
    `shift_images` for the kinds, the severities and the randomness.

    Args:
        dataset: A data set with `__len__` and `__getitem__`.
        shift: Kind of the shift.
        severity: 1 to 5.
        seed: Seed of directions and noise.
        pixel_range: Pixel values of black and white, one number or one for each channel; by default the smallest and
            largest of each channel in the first 1000 images.
        image_shape: (C, H, W) of images that are flat rows of pixels; None for images.

    Raises:
        ValueError: If the samples are no images, or an argument is out of range.
        TypeError: If the data set has no length, or its inputs are no floating-point tensors.

    Example:
        >>> dataset = torch.utils.data.TensorDataset(torch.rand(6, 1, 8, 8), torch.arange(6))
        >>> image, label = ShiftedDataset(dataset, "rotation", 2)[5]
        >>> image.shape, int(label)
        (torch.Size([1, 8, 8]), 5)
    """

    def __init__(
        self,
        dataset: Any,
        shift: str,
        severity: int,
        *,
        seed: int = 0,
        pixel_range: PixelRange | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        check_shift(shift)
        check_severity(severity)
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise InputTypeError(f"dataset must have a length and an index, which {type(dataset).__name__} has not")
        self.dataset = dataset
        self.shift = shift
        self.severity = severity
        self.seed = seed
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.pixel_range = pixel_range_of(dataset, self.image_shape) if pixel_range is None else pixel_range

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Returns the samples of a batch, all shifted at once."""
        samples = _samples(self.dataset, indices)
        rows = _inputs(samples)
        images = _as_images(rows, self.image_shape)
        shifted = shift_images(
            images, self.shift, self.severity, seed=self.seed, indices=indices, pixel_range=self.pixel_range
        ).reshape(rows.shape)
        if isinstance(samples, RowBatch):
            return RowBatch(shifted, samples.targets)
        return [_with_input(sample, image) for sample, image in zip(samples, shifted, strict=True)]


def shifted_loader(
    loader: DataLoader[Any],
    shift: str,
    severity: int,
    *,
    seed: int = 0,
    pixel_range: PixelRange | None = None,
    image_shape: Sequence[int] | None = None,
) -> DataLoader[Any]:
    """Makes a dataloader of the images of another one, which are shifted.

    Args:
        loader: A dataloader of a data set with a length.
        shift: Kind of the shift, see `shift_images`.
        severity: 1 to 5.
        seed: Seed of directions and noise.
        pixel_range: As for `ShiftedDataset`.
        image_shape: As for `ShiftedDataset`.

    Returns:
        A dataloader with the same batch size, sampler, collation and workers.

    Raises:
        TypeError: If it is no dataloader of a data set with a length that collates samples.
        ValueError: As for `ShiftedDataset`.
    """
    if not isinstance(loader, DataLoader) or loader.batch_size is None or not hasattr(loader.dataset, "__getitem__"):
        raise InputTypeError(
            "shifted images need a DataLoader with a batch_size, of a data set with a length and an index, "
            f"got {type(loader).__name__}"
        )
    dataset = ShiftedDataset(
        loader.dataset, shift, severity, seed=seed, pixel_range=pixel_range, image_shape=image_shape
    )
    return DataLoader(
        dataset,
        batch_size=loader.batch_size,
        sampler=None if isinstance(loader.sampler, SequentialSampler) else loader.sampler,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        # Without a generator, each pass draws a base seed from the global random state of PyTorch.
        generator=torch.Generator().manual_seed(seed),
    )


def shifted_test_sets(
    datamodule: LightningDataModule,
    shifts: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    *,
    seed: int = 0,
    pixel_range: PixelRange | None = None,
) -> dict[str, DataLoader[Any]]:
    """Makes shifted test sets of any datamodule of images.

    Args:
        datamodule: A datamodule whose test data are images, [C, H, W], or flat rows of pixels with `image_shape`.
        shifts: Kinds of shifts, see `shift_images`; all by default.
        severities: Severities from 1 to 5.
        seed: Seed of directions and noise.
        pixel_range: As for `ShiftedDataset`.

    Returns:
        Dataloaders by name: `rotation_1`, `rotation_2` and so on. Images are shifted when they are read.

    Raises:
        ValueError: If the data are no images, a kind is unknown or a severity out of range.
        TypeError: If the datamodule has not one dataloader of a data set with a length.

    Example:
        >>> from lightning_vi.datamodules import DigitsDataModule
        >>> sets = shifted_test_sets(DigitsDataModule(), ["rotation", "contrast"], [1, 5])
        >>> list(sets)
        ['rotation_1', 'rotation_5', 'contrast_1', 'contrast_5']
    """
    kinds = list(SHIFTS) if shifts is None else check_shifts(shifts)
    loader = datamodule.test_dataloader()
    if not isinstance(loader, DataLoader):
        raise InputTypeError(
            f"shifted images need one DataLoader of test data, but {type(datamodule).__name__} has "
            f"a {type(loader).__name__}"
        )
    image_shape: Sequence[int] | None = getattr(datamodule, "image_shape", None)
    if image_shape is not None and _inputs(_samples(loader.dataset, [0])).dim() == 4:
        image_shape = None
    if pixel_range is None:
        pixel_range = pixel_range_of(loader.dataset, image_shape)
    return {
        f"{shift}_{severity}": shifted_loader(
            loader, shift, severity, seed=seed, pixel_range=pixel_range, image_shape=image_shape
        )
        for shift in kinds
        for severity in check_severities(severities)
    }


class ShiftedDataModule(WrappedDataModule):
    """Wraps a datamodule of images, whose test data are shifted.

    Training, validation and calibration data are those of the wrapped datamodule. See `shift_images` for the kinds, the
    severities and the randomness.

    Args:
        data: A datamodule whose test data are images, [C, H, W], or flat rows of pixels with `image_shape`.
        shift: Kind of the shift.
        severity: 1 to 5.
        seed: Seed of directions and noise.

    Raises:
        ValueError: If the kind is unknown, the severity is out of range, or the test data are no images.
        TypeError: If `data` is not a datamodule with one dataloader of test data.

    Example:
        >>> from lightning_vi.datamodules import DigitsDataModule
        >>> dm = ShiftedDataModule(DigitsDataModule(as_images=True), "rotation", 2)
        >>> next(iter(dm.test_dataloader()))[0].shape
        torch.Size([32, 1, 8, 8])
    """

    def __init__(self, data: LightningDataModule, shift: str, severity: int, *, seed: int = 0) -> None:
        super().__init__(data)
        check_shift(shift)
        check_severity(severity)
        self.shift = shift
        self.severity = severity
        self.seed = seed

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns the shifted test data."""
        (loader,) = shifted_test_sets(self.data, [self.shift], [self.severity], seed=self.seed).values()
        return loader

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns the same rows as `test_dataloader`."""
        return self.test_dataloader()


def check_shifts(shifts: Sequence[str]) -> list[str]:
    """Returns kinds of shifts; raises an error if there is none, an unknown one, or one twice."""
    if isinstance(shifts, str) or not isinstance(shifts, Sequence):
        raise InputTypeError(f"shifts must be a list of names such as ['rotation'], got {shifts!r}")
    for shift in shifts:
        check_shift(shift)
    return _different("shifts", shifts)


def check_severities(severities: Sequence[int]) -> list[int]:
    """Returns severities; raises an error if there is none, one out of range, or one twice."""
    if isinstance(severities, str) or not isinstance(severities, Sequence):
        raise InputTypeError(f"severities must be a list of integers from 1 to 5, got {severities!r}")
    for severity in severities:
        check_severity(severity)
    return _different("severities", severities)


def pixel_range_of(dataset: Any, image_shape: Sequence[int] | None = None) -> PixelRange:
    """Finds the smallest and the largest value of each channel in the first 1000 images of a data set.

    Args:
        dataset: Data set of images.
        image_shape: (C, H, W) of images that are flat rows of pixels; None for images.

    Returns:
        Black and white, each [C]. White is black + 1 in a channel with one value only.

    Raises:
        ValueError: If the samples are no images, or there are none.
        TypeError: If the inputs are no floating-point tensors.
    """
    count = min(len(dataset), MAX_RANGE_IMAGES)
    if count == 0:
        raise InputValueError("the data set has no images")
    images = _as_images(_inputs(_samples(dataset, range(count))), image_shape)
    black, white = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    return black, torch.where(white > black, white, black + 1)


def _different(name: str, values: Sequence[Any]) -> list[Any]:
    if not values or len(set(values)) < len(values):
        raise InputValueError(f"{name} must have at least one value and none twice, got {list(values)}")
    return list(values)


def _samples(dataset: Any, indices: Sequence[int]) -> Any:
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(list(indices))
    return [dataset[index] for index in indices]


def _inputs(samples: Any) -> Tensor:
    """The inputs of samples, [B, ...]."""
    if isinstance(samples, RowBatch):
        return samples.inputs
    return torch.stack([torch.as_tensor(_input(sample)) for sample in samples])


def _input(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        if "input" not in sample:
            raise InputTypeError(f"a sample must have the key 'input', got {list(sample)}")
        return sample["input"]
    return sample[0] if isinstance(sample, tuple | list) else sample


def _with_input(sample: Any, image: Tensor) -> Any:
    if isinstance(sample, Mapping):
        return {**sample, "input": image}
    return (image, *sample[1:]) if isinstance(sample, tuple | list) else image


def _as_images(rows: Tensor, image_shape: Sequence[int] | None) -> Tensor:
    """Inputs [B, ...] as images [B, C, H, W]."""
    if image_shape is not None:
        return rows.reshape(len(rows), *image_shape)
    if rows.dim() != 4:
        raise InputValueError(
            f"shifts need images [C, H, W], but inputs have the shape {list(rows.shape[1:])}; give image_shape "
            "for images that are flat rows of pixels"
        )
    return rows
