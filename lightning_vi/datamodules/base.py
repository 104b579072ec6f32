"""Base class of the datamodules: splits of tensors and their dataloaders."""

from collections.abc import Mapping
from typing import Any, Literal, NotRequired, TypedDict, Unpack, cast

from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi.datamodules._checks import check_int, check_seed, check_split
from lightning_vi.datamodules._loader import row_loader
from lightning_vi.datamodules._rows import Sample
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._state import VERSION, DataState, check_version, digest
from lightning_vi.datamodules._summary import as_html, as_text
from lightning_vi.errors import InputTypeError, InputValueError

Split = tuple[Tensor | NDArray[Any], Tensor | NDArray[Any]]
"""Inputs and targets."""


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


def loader_settings(datamodule: str, batch_size: int, given: LoaderOptions) -> dict[str, Any]:
    """Returns all arguments of `row_loader`, given some of them.

    Args:
        datamodule: Name of the class, for the message.
        batch_size: Number of rows per batch.
        given: Dataloader options.

    Raises:
        ValueError: If an option is out of range.
        TypeError: If an option is unknown.
    """
    options: LoaderOptions = {"num_workers": 0, "pin_memory": False, "shuffle_seed": 0, **given}
    if unknown := set(options) - set(LoaderOptions.__annotations__):
        raise InputTypeError(f"{datamodule} got unexpected arguments {sorted(unknown)}.")
    return {
        "batch_size": check_int("batch_size", batch_size, at_least=1),
        "num_workers": check_int("num_workers", options["num_workers"], at_least=0),
        "pin_memory": options["pin_memory"],
        "shuffle_seed": check_seed("shuffle_seed", options["shuffle_seed"]),
    }


class Splits(TypedDict):
    """Rows `(X, Y)` of each split, as arguments of `ArrayDataModule`."""

    train: Split
    test: Split
    val: NotRequired[Split]
    calib: NotRequired[Split]
    ood: NotRequired[Split]


def take_splits(inputs: Tensor, targets: Tensor, rows: Mapping[str, IntArray]) -> Splits:
    """Returns the inputs and targets of each split, given its row numbers."""
    return cast(Splits, {name: (inputs[index], targets[index]) for name, index in rows.items()})


Rows = tuple[Tensor, Tensor | None]
TestSplit = Literal["test", "ood"]
SCALING = ("input_mean", "input_std", "target_mean", "target_std")


class ArrayDataModule(LightningDataModule):
    """Datamodule of splits given as tensors or arrays, and base class of all other datamodules.

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
            units, [N, D] or [N, ..., D], or int64 class labels [N] or [N, ...]. Tensors, or NumPy arrays, of which
            floating-point numbers become float32 and integers int64.
        test: Test inputs and targets, as `train`.
        val: Validation inputs and targets; None for no validation split.
        calib: Calibration inputs and targets; None for no calibration split.
        ood: Out-of-distribution inputs and targets, a second test set; None for none.
        num_classes: Number of classes C of the labels 0..C-1; None for regression.
        ignore_index: Label of elements without a class, such as 255; None if there is none.
        target_dim: Dimension of the D targets in Y: -1, or 1 for images [N, D, H, W].
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Inputs, [N, ...features]; None for a missing split.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Targets in original units, [N, D], or int64 class labels, [N]; None for
            a missing split.
        input_mean, input_std: Mean and standard deviation of the training inputs, [F]; None if inputs are not
            standardized.
        target_mean, target_std: Mean and standard deviation of the training targets, [D]; None if methods do not
            standardize the targets.
        num_classes: Number of classes C; None for regression.

    Raises:
        ValueError: If `batch_size` is not positive, a loader option is out of range, or a split is not a pair of
            finite, non-empty tensors or arrays with matching shapes.

    Example:
        >>> import torch
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
    X_ood: Tensor | None
    Y_ood: Tensor | None
    input_mean: Tensor | None = None
    input_std: Tensor | None = None
    target_mean: Tensor | None = None
    target_std: Tensor | None = None
    kind_of_data = "arrays"
    image_shape: tuple[int, ...] | None = None
    """Shape of the image that a flat row of pixels is; None if inputs are images already, or none."""
    test_split: TestSplit = "test"
    """The rows of `test_dataloader` and `predict_dataloader`: those of the test set, or the out-of-distribution set."""

    def __init__(
        self,
        train: Split,
        test: Split,
        val: Split | None = None,
        calib: Split | None = None,
        *,
        ood: Split | None = None,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        target_dim: int = -1,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        settings = loader_settings(type(self).__name__, batch_size, loader_options)
        self.batch_size: int = settings["batch_size"]
        self.num_workers: int = settings["num_workers"]
        self.pin_memory: bool = settings["pin_memory"]
        self.shuffle_seed: int = settings["shuffle_seed"]
        self.num_classes = None if num_classes is None else check_int("num_classes", num_classes, at_least=2)
        self.ignore_index = ignore_index
        self.target_dim = target_dim
        self._digests: dict[str, str] | None = None
        self._loaded_state: DataState | None = None

        for name, rows in {"train": train, "val": val, "test": test, "calib": calib, "ood": ood}.items():
            if rows is None and name in ("val", "calib", "ood"):
                inputs, targets = None, None
            else:
                inputs, targets = check_split(name, rows, num_classes, ignore_index)
            setattr(self, f"X_{name}", inputs)
            setattr(self, f"Y_{name}", targets)
            if inputs is not None and targets is not None:
                _check_same_shape(name, inputs, targets, (self.X_train, self.Y_train))

    def __repr__(self) -> str:
        return as_text(self)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The summary of a notebook."""
        return as_html(self)

    @property
    def n_inputs(self) -> int:
        """Number of input features per row, the product of all input dimensions but the first."""
        return self.X_train[0].numel()

    @property
    def n_targets(self) -> int:
        """Number of targets D; 1 for class labels."""
        return 1 if self.num_classes is not None else self.Y_train.shape[self.target_dim]

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns shuffled batches `(x, y)` of the training rows."""
        return self._loader((self.X_train, self.Y_train), shuffle=True)

    def ordered_train_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of the training rows in order, for calibrations on them such as `EnbPI`."""
        return self._loader((self.X_train, self.Y_train))

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Returns batches `(x, y)` of the validation rows in order; an empty list without a validation split.

        The `Trainer` then skips validation, with a warning unless `limit_val_batches=0`.
        """
        rows = self._rows("val")
        return [] if rows is None else self._loader(rows)

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of the test rows, or of those that `test_split` names, in order."""
        return self._loader(self._rows(self.test_split))

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns the same rows as `test_dataloader`."""
        return self._loader(self._rows("predict" if self.test_split == "test" else self.test_split))

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of the calibration rows in order.

        Raises:
            ValueError: If there is no calibration split.
        """
        rows = self._rows("calib")
        if rows is None:
            raise InputValueError(f"{type(self).__name__} has no calibration split: X_calib is None.")
        return self._loader(rows)

    def ood_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of the out-of-distribution rows in order.

        Raises:
            ValueError: If there is no out-of-distribution set.
        """
        if self.X_ood is None:
            raise InputValueError(f"{type(self).__name__} has no out-of-distribution set: X_ood is None.")
        return self._loader(self._rows("ood"))

    def test_sets(self) -> dict[str, DataLoader[Any]]:
        """Returns the dataloaders of all test sets by name: `test`, and `ood` if there is an out-of-distribution set.

        `Trainer.test(method, list(dm.test_sets().values()))` has one result for each, in this order.
        """
        names = ("test",) if self.X_ood is None else ("test", "ood")
        return {name: self._loader(self._rows(name)) for name in names}

    @property
    def data_state(self) -> DataState:
        """Facts by which new data are treated as these training data: scaling, shapes, and a digest of the rows.

        It consists of numbers, strings, lists and tensors. Methods keep it and write it into their checkpoints.
        """
        if self._digests is None:
            self._digests = self._find_digests()
        scaling = {name: getattr(self, name) for name in SCALING}
        return {
            "version": VERSION,
            "kind": self.kind_of_data,
            "datamodule": type(self).__name__,
            "num_classes": self.num_classes,
            "input_shape": list(self.X_train.shape[1:]),
            "tables": [self._digests],
            **scaling,
        }

    def state_dict(self) -> DataState:
        """Returns `data_state`, which Lightning writes into checkpoints."""
        return self.data_state

    def load_state_dict(self, state_dict: DataState) -> None:
        """Treats the data as the training data of a checkpoint from now on.

        Lightning calls it with the checkpoint of a `Trainer`. Batches for validation, test and prediction are scaled as
        the training data were; `X_*` and `Y_*` stay as they are. In a fit that is resumed it compares the data instead.

        Args:
            state_dict: State of the datamodule of a fit.

        Raises:
            ValueError: If the state is of other data or of another version, or a resumed fit has other data.
        """
        check_version(state_dict, self.kind_of_data)
        if self._is_running and self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._check_resumed(state_dict)
        else:
            self._loaded_state = state_dict

    @property
    def _is_running(self) -> bool:
        return self.trainer is not None and self.trainer.state.status == TrainerStatus.RUNNING

    def _training_state(self) -> DataState | None:
        """The state of the data that the method was trained on: that of the running method, or the loaded one."""
        if self._is_running and self.trainer is not None:
            state: DataState | None = getattr(self.trainer.lightning_module, "data_state", None)
            if state is not None and state["kind"] == self.kind_of_data:
                check_version(state, self.kind_of_data)
                return state
        return self._loaded_state

    def _rows(self, name: str) -> Rows | None:
        """Inputs and targets of a split, treated as the training data of the method; None for a missing split."""
        state = self._training_state()
        return self._own_rows(name) if state is None else self._rows_as_trained(name, state)

    def _own_rows(self, name: str) -> Rows | None:
        split = "test" if name == "predict" else name
        inputs, targets = getattr(self, f"X_{split}"), getattr(self, f"Y_{split}")
        return None if inputs is None else (inputs, targets)

    def _rows_as_trained(self, name: str, state: DataState) -> Rows | None:
        rows, mean, std = self._own_rows(name), state["input_mean"], state["input_std"]
        if rows is None or self.input_mean is None or self.input_std is None or mean is None:
            return rows
        if _equal(self.input_mean, mean) and _equal(self.input_std, std):
            return rows
        return (rows[0] * (self.input_std / std) + (self.input_mean - mean) / std, rows[1])

    def _find_digests(self) -> dict[str, str]:
        return {"rows": digest(self.X_train, self.Y_train), "split": digest(self.X_test, self.Y_test)}

    def _differences(self, state: DataState) -> list[str]:
        """Differences by which new rows would be treated otherwise, in words."""
        ours = self.data_state
        found = [
            f"{name} {ours[name]} instead of {state[name]}"
            for name in ("num_classes", "input_shape")
            if ours[name] != state[name]
        ]
        return found + [f"another {name}" for name in SCALING if not _equal(ours[name], state[name])]

    def _check_resumed(self, state: DataState) -> None:
        if differences := self._differences(state):
            raise InputValueError(
                f"the fit cannot be resumed, because its data have changed: {'; '.join(differences)}. Give the data of "
                "the checkpoint, or start a new fit without ckpt_path."
            )
        if self.data_state["tables"][0]["rows"] != state["tables"][0]["rows"]:
            rank_zero_warn(f"The fit is resumed with other training rows of {type(self).__name__} than it began with.")

    def _loader(self, rows: Rows | None, shuffle: bool = False) -> DataLoader[Any]:
        if rows is None:
            raise InputValueError(f"{type(self).__name__} has no rows for this.")
        return row_loader(
            *rows,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            shuffle_seed=self.shuffle_seed,
            shuffle=shuffle,
        )


def _equal(ours: Tensor | None, theirs: Tensor | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return ours.shape == theirs.shape and bool(ours.isclose(theirs, rtol=1e-6).all())


def _check_same_shape(name: str, inputs: Tensor, targets: Tensor, train: Sample) -> None:
    for letter, values, reference in (("X", inputs, train[0]), ("Y", targets, train[1])):
        if values.shape[1:] != reference.shape[1:]:
            raise InputValueError(
                f"{letter}_{name} must have rows of the same shape as {letter}_train, "
                f"{list(reference.shape[1:])}, got {list(values.shape[1:])}."
            )
