"""Subsets of the classes of a datamodule."""

from typing import Any

import pytest
import torch
from helpers import normal

from lightning_vi.datamodules import ArrayDataModule, ClassSubsetDataModule, DiabetesDataModule, DigitsDataModule
from lightning_vi.errors import InputError, InputTypeError, InputValueError


def test_subsets_share_out_the_rows_of_each_split() -> None:
    digits = DigitsDataModule()
    known, unknown = ClassSubsetDataModule(digits, range(8)), ClassSubsetDataModule(digits, [9, 8], batch_size=7)
    for split in ("train", "val", "test", "calib"):
        targets = getattr(digits, f"Y_{split}")
        assert torch.equal(getattr(known, f"Y_{split}"), targets[targets < 8])
        assert torch.equal(getattr(known, f"X_{split}"), getattr(digits, f"X_{split}")[targets < 8])
        assert torch.equal(getattr(unknown, f"Y_{split}"), 9 - targets[targets >= 8])
    assert (known.num_classes, unknown.num_classes) == (8, 2)
    assert (known.batch_size, unknown.batch_size) == (digits.batch_size, 7)
    assert known.image_shape == digits.image_shape


def test_missing_splits_and_scaling_stay() -> None:
    x, y = normal(12, 3), torch.arange(12) % 3
    data = ArrayDataModule(train=(x, y), test=(x, y), num_classes=3)
    data.input_mean, data.input_std = torch.zeros(3), torch.full((3,), 2.0)
    subset = ClassSubsetDataModule(data, [2, 0])
    assert subset.X_val is None
    assert subset.X_calib is None
    assert subset.data_state["input_std"] is data.input_std


@pytest.mark.parametrize(
    ("data", "classes", "error", "said"),
    [
        (DiabetesDataModule(), [0, 1], InputTypeError, "with class labels .*got a DiabetesDataModule"),
        (DigitsDataModule(), [3], InputValueError, r"at least two different labels from 0 to 9, got \[3\]"),
        (DigitsDataModule(), [3, 10], InputValueError, r"from 0 to 9, got \[3, 10\]"),
        (DigitsDataModule(), [3, 3], InputValueError, r"different labels from 0 to 9, got \[3, 3\]"),
    ],
)
def test_wrong_classes_are_refused(data: Any, classes: list[int], error: type[InputError], said: str) -> None:
    with pytest.raises(error, match=said):
        ClassSubsetDataModule(data, classes)
