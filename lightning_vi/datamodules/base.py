"""Base class of the datamodules: splits of tensors and their dataloaders."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict, Unpack, cast

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi.datamodules._checks import check_int, check_seed, check_split
from lightning_vi.datamodules._loader import ResumableLoader
from lightning_vi.datamodules._rows import RowDataset, Sample, collate_rows
from lightning_vi.datamodules._shuffle import EpochShuffle
from lightning_vi.datamodules._split import IntArray
from lightning_vi.errors import InputTypeError, InputValueError


class LoaderOptions(TypedDict, total=False):
    """Dataloader options of every datamodule.

    Attributes:
        num_workers: Number of worker processes per dataloader. Default: 0, since the rows are in memory.
        pin_memory: If True, batches are copied to page-locked memory. Default: False.
        shuffle_seed: Seed of the order of the training rows, which depends on the seed and the epoch. Default: 0.
    """

    num_workers: int
    pin_memory: bool
    shuffle_seed: int


class Splits(TypedDict):
    """Rows `(X, Y)` of each split, as arguments of `ArrayDataModule`."""

    train: Sample
    test: Sample
    val: NotRequired[Sample]
    calib: NotRequired[Sample]


def take_splits(inputs: Tensor, targets: Tensor, rows: Mapping[str, IntArray]) -> Splits:
    """Returns the inputs and targets of each split, given its row numbers."""
    return cast(Splits, {name: (inputs[index], targets[index]) for name, index in rows.items()})


class ArrayDataModule(LightningDataModule):
    """Datamodule of splits given as tensors, and base class of all other datamodules.

    The splits are available from construction; `setup()` may be called any number of times and has no effect.

    Units: `X_*` and the batches have inputs as the network sees them, standardized if `input_mean` and `input_std` are
    not None. `Y_*` and the batches have targets in their *original* units. If `target_mean` and `target_std` are not
    None, methods train on `(y - target_mean) / target_std` and return predictions and metrics in original units.

    The order of the training rows depends on `shuffle_seed` and the epoch only, and the position within an epoch is
    part of checkpoints, so that a fit that is resumed within an epoch equals an uninterrupted one. In distributed
    training, Lightning replaces the sampler by a `DistributedSampler`, seeded by `seed_everything`. Neither
    construction nor iteration uses the global random state of PyTorch, NumPy or `random`.

    Args:
        train: Training inputs and targets `(X, Y)`: X floating point, [N, ...features]; Y floating point in original
            units, [N, D] or [N, ..., D], or int64 class labels [N].
        test: Test inputs and targets, as `train`.
        val: Validation inputs and targets; None for no validation split.
        calib: Calibration inputs and targets; None for no calibration split.
        num_classes: Number of classes C of the labels 0..C-1; None for regression.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Inputs, [N, ...features]; None for a missing split.
        Y_train, Y_val, Y_test, Y_calib: Targets in original units, [N, D], or int64 class labels, [N]; None for a
            missing split.
        input_mean, input_std: Mean and standard deviation of the training inputs, [F]; None if inputs are not
            standardized.
        target_mean, target_std: Mean and standard deviation of the training targets, [D]; None if methods do not
            standardize the targets.
        num_classes: Number of classes C; None for regression.

    Raises:
        ValueError: If `batch_size` is not positive, a loader option is out of range, or a split is not a pair of
            finite, non-empty tensors with matching shapes.

    Example:
        >>> x = torch.linspace(-1.0, 1.0, 10).unsqueeze(-1)
        >>> dm = ArrayDataModule(train=(x[:8], x[:8] ** 2), test=(x[8:], x[8:] ** 2), batch_size=4)
        >>> [tuple(batch.shape) for batch, _ in dm.train_dataloader()]
        [(4, 1), (4, 1)]
    """

    X_train: Tensor
    Y_train: Tensor
    X_val: Tensor | None
    Y_val: Tensor | None
    X_test: Tensor
    Y_test: Tensor
    X_calib: Tensor | None
    Y_calib: Tensor | None
    input_mean: Tensor | None = None
    input_std: Tensor | None = None
    target_mean: Tensor | None = None
    target_std: Tensor | None = None

    def __init__(
        self,
        train: Sample,
        test: Sample,
        val: Sample | None = None,
        calib: Sample | None = None,
        *,
        num_classes: int | None = None,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        options: LoaderOptions = {"num_workers": 0, "pin_memory": False, "shuffle_seed": 0, **loader_options}
        if unknown := set(options) - set(LoaderOptions.__annotations__):
            raise InputTypeError(f"{type(self).__name__} got unexpected arguments {sorted(unknown)}.")
        self.batch_size = check_int("batch_size", batch_size, at_least=1)
        self.num_workers = check_int("num_workers", options["num_workers"], at_least=0)
        self.pin_memory = options["pin_memory"]
        self.shuffle_seed = check_seed("shuffle_seed", options["shuffle_seed"])
        self.num_classes = None if num_classes is None else check_int("num_classes", num_classes, at_least=2)

        for name, rows in {"train": train, "val": val, "test": test, "calib": calib}.items():
            if rows is None and name in ("val", "calib"):
                inputs, targets = None, None
            else:
                inputs, targets = check_split(name, rows, num_classes)
                _check_same_shape(name, inputs, targets, train)
            setattr(self, f"X_{name}", inputs)
            setattr(self, f"Y_{name}", targets)

    @property
    def n_inputs(self) -> int:
        """Number of input features per row, the product of all input dimensions but the first."""
        return self.X_train[0].numel()

    @property
    def n_targets(self) -> int:
        """Number of targets D; 1 for class labels."""
        return 1 if self.num_classes is not None else self.Y_train.shape[-1]

    def train_dataloader(self) -> DataLoader[Sample]:
        """Returns shuffled batches `(x, y)` of the training rows."""
        return self._loader(self.X_train, self.Y_train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Returns batches `(x, y)` of the validation rows in order; an empty list without a validation split.

        The `Trainer` then skips validation, with a warning unless `limit_val_batches=0`.
        """
        if self.X_val is None or self.Y_val is None:
            return []
        return self._loader(self.X_val, self.Y_val)

    def test_dataloader(self) -> DataLoader[Sample]:
        """Returns batches `(x, y)` of the test rows in order."""
        return self._loader(self.X_test, self.Y_test)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Returns the same batches `(x, y)` as `test_dataloader`."""
        return self.test_dataloader()

    def calibration_dataloader(self) -> DataLoader[Sample]:
        """Returns batches `(x, y)` of the calibration rows in order.

        Raises:
            ValueError: If there is no calibration split.
        """
        if self.X_calib is None or self.Y_calib is None:
            raise InputValueError(f"{type(self).__name__} has no calibration split: X_calib is None.")
        return self._loader(self.X_calib, self.Y_calib)

    def _loader(self, inputs: Tensor, targets: Tensor, shuffle: bool = False) -> DataLoader[Sample]:
        dataset = RowDataset(inputs, targets)
        return (ResumableLoader if shuffle else DataLoader)(
            dataset,
            batch_size=self.batch_size,
            sampler=EpochShuffle(dataset, self.shuffle_seed) if shuffle else None,
            collate_fn=collate_rows,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
            # Without a generator, each pass draws a base seed from the global random state of PyTorch.
            generator=torch.Generator().manual_seed(self.shuffle_seed),
        )


def _check_same_shape(name: str, inputs: Tensor, targets: Tensor, train: Sample) -> None:
    for letter, values, reference in (("X", inputs, train[0]), ("Y", targets, train[1])):
        if values.shape[1:] != reference.shape[1:]:
            raise InputValueError(
                f"{letter}_{name} must have rows of the same shape as {letter}_train, "
                f"{list(reference.shape[1:])}, got {list(values.shape[1:])}."
            )
