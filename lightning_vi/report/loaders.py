"""Dataloaders of the test sets of a datamodule."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning import LightningDataModule

from lightning_vi.core import Predictor
from lightning_vi.datamodules import ArrayDataModule, CalibrationDataModule
from lightning_vi.errors import InputValueError


def test_loaders(datamodule: LightningDataModule) -> dict[str, Iterable[Any]]:
    """Makes the dataloaders of all test sets.

    Args:
        datamodule: The data.

    Returns:
        The dataloaders by the name of the test set.

    Raises:
        ValueError: If there are none.
    """
    inner: Any = datamodule.data if isinstance(datamodule, CalibrationDataModule) else datamodule
    if isinstance(inner, ArrayDataModule) and inner.test_split == "test":
        return dict(inner.test_sets())
    loaders: Any = inner.test_dataloader()
    if isinstance(loaders, Mapping):
        found = {str(name): loader for name, loader in loaders.items()}
    elif isinstance(loaders, list | tuple):
        names = ["test"] if len(loaders) == 1 else [f"test {number}" for number in range(len(loaders))]
        found = dict(zip(names, loaders, strict=True))
    else:
        found = {"test": loaders}
    if not found:
        raise InputValueError(f"{type(inner).__name__} has no test data, which a report needs")
    return found


@contextmanager
def treated_as_in_fit(datamodule: LightningDataModule, method: Predictor) -> Iterator[None]:
    """Lets a datamodule treat its data as those that a method was trained on, as in `Trainer.test`.

    Args:
        datamodule: The data.
        method: The method.

    Yields:
        Nothing.
    """
    inner: Any = datamodule.data if isinstance(datamodule, CalibrationDataModule) else datamodule
    state = method.data_state
    if not isinstance(inner, ArrayDataModule) or state is None or state["kind"] != inner.kind_of_data:
        yield
        return
    before = inner._loaded_state
    inner.load_state_dict(state)
    try:
        yield
    finally:
        inner._loaded_state = before
