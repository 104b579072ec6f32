"""Contract of all datamodules."""

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler

from lightning_vi.datamodules import (
    ADR1DDataModule,
    ArrayDataModule,
    DiabetesDataModule,
    DigitsDataModule,
    ElasticBar1DDataModule,
    Heat2DDataModule,
    TabularDataModule,
    ToyHeteroscedasticDataModule,
    ToyOrdinalDataModule,
    ToySeriesDataModule,
    Transport2DDataModule,
    TwoMoonsDataModule,
    WavesDataModule,
)

SPLITS = ("train", "val", "test", "calib")


def table(n_rows: int = 60) -> pd.DataFrame:
    noise = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "a": noise.normal(3.0, 2.0, n_rows),
            "b": noise.normal(-50.0, 9.0, n_rows),
            "y": noise.normal(700.0, 30.0, n_rows),
            "kind": noise.choice(["pear", "apple", "fig"], n_rows),
        }
    )


def tabular_regression(**options: Any) -> ArrayDataModule:
    return TabularDataModule(table(), "y", "regression", ["a", "b"], **options)


def tabular_classification(**options: Any) -> ArrayDataModule:
    return TabularDataModule(table(), "kind", "classification", **options)


def generated(datamodule: Callable[..., ArrayDataModule], **size: int) -> Callable[..., ArrayDataModule]:
    """Datamodule whose points depend on `data_seed`, which has no seed of the split."""

    def make(split_seed: object = 0, **options: Any) -> ArrayDataModule:
        return datamodule(data_seed=split_seed, **size, **options)

    make.__name__ = datamodule.__name__  # type: ignore[attr-defined]
    return make


MODULES: list[Callable[..., ArrayDataModule]] = [
    ToyHeteroscedasticDataModule,
    TwoMoonsDataModule,
    tabular_regression,
    tabular_classification,
    DiabetesDataModule,
    DigitsDataModule,
    generated(ADR1DDataModule, n_functions=8),
    generated(ElasticBar1DDataModule, n_functions=8),
    generated(Transport2DDataModule, n_functions=4, n_grid=6),
    generated(Heat2DDataModule),
    generated(WavesDataModule),
    generated(ToyOrdinalDataModule, n_points=60),
    generated(ToySeriesDataModule, n_points=600),
]


@pytest.fixture(params=MODULES, ids=lambda make: make.__name__)
def make(request: pytest.FixtureRequest) -> Callable[..., ArrayDataModule]:
    return request.param


def tensors(dm: ArrayDataModule) -> dict[str, Tensor]:
    return {f"{letter}_{name}": getattr(dm, f"{letter}_{name}") for name in SPLITS for letter in "XY"}


def loaders(dm: ArrayDataModule) -> dict[str, DataLoader[Any]]:
    return {
        "train": dm.train_dataloader(),
        "val": dm.val_dataloader(),
        "test": dm.test_dataloader(),
        "predict": dm.predict_dataloader(),
        "calib": dm.calibration_dataloader(),
    }


def gather(loader: DataLoader[Any]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*loader, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def global_random_state() -> tuple[bytes, Any, bytes]:
    numpy_state = pickle.dumps(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state


def rows_of(values: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in values}


def test_splits_are_available_from_construction(make: Callable[..., ArrayDataModule]) -> None:
    dm = make()
    for name in SPLITS:
        inputs, targets = getattr(dm, f"X_{name}"), getattr(dm, f"Y_{name}")
        assert len(inputs) == len(targets) > 0
        assert inputs.dtype == torch.float32
        assert inputs.shape[1:].numel() == dm.n_inputs
        if dm.num_classes is None:
            assert targets.dtype == torch.float32
            assert targets.shape == (len(inputs), dm.n_targets)
        else:
            assert targets.dtype == torch.int64
            assert targets.shape == (len(inputs),)
            assert targets.min() >= 0
            assert targets.max() < dm.num_classes
    if dm.num_classes is not None:
        assert len(dm.Y_train.unique()) == dm.num_classes
        assert dm.target_mean is None
        assert dm.target_std is None


def test_no_row_is_in_two_splits(make: Callable[..., ArrayDataModule]) -> None:
    dm = make()
    seen = [rows_of(getattr(dm, f"X_{name}")) for name in SPLITS]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_setup_changes_nothing(make: Callable[..., ArrayDataModule]) -> None:
    dm = make()
    before = {name: value.clone() for name, value in tensors(dm).items()}
    for stage in ("fit", "fit", "validate", "test", "predict"):
        dm.prepare_data()
        dm.setup(stage)
        dm.teardown(stage)
    assert all(torch.equal(value, before[name]) for name, value in tensors(dm).items())


def test_splits_depend_on_the_split_seed_only(make: Callable[..., ArrayDataModule]) -> None:
    first, again, other = tensors(make()), tensors(make()), tensors(make(split_seed=7))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in ("X_train", "X_test", "X_val", "X_calib"))


def test_global_random_state_is_neither_read_nor_changed(make: Callable[..., ArrayDataModule]) -> None:
    before = global_random_state()
    dm = make(batch_size=16)
    dm.setup("fit")
    orders = [torch.cat([x for x, _ in loader]) for loader in loaders(dm).values()]
    assert global_random_state() == before

    with torch.random.fork_rng():
        torch.manual_seed(12345)
        again = [torch.cat([x for x, _ in loader]) for loader in loaders(make(batch_size=16)).values()]
    assert all(torch.equal(a, b) for a, b in zip(orders, again, strict=True))


def test_dataloaders_return_the_rows_of_their_split(make: Callable[..., ArrayDataModule]) -> None:
    dm = make(batch_size=7)
    for name, loader in loaders(dm).items():
        assert loader.batch_size == 7
        # Lightning recognizes a shuffled dataloader by its sampler.
        assert isinstance(loader.sampler, RandomSampler) == (name == "train")
    found = {name: gather(loader) for name, loader in loaders(dm).items()}
    for name in ("val", "test", "calib"):
        assert torch.equal(found[name][0], getattr(dm, f"X_{name}"))
        assert torch.equal(found[name][1], getattr(dm, f"Y_{name}"))
    assert all(torch.equal(a, b) for a, b in zip(found["predict"], found["test"], strict=True))

    inputs, targets = found["train"]
    assert not torch.equal(inputs, dm.X_train)
    pairs = {(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in zip(inputs, targets, strict=True)}
    assert pairs == {(x.numpy().tobytes(), y.numpy().tobytes()) for x, y in zip(dm.X_train, dm.Y_train, strict=True)}
    assert len(inputs) == len(dm.X_train)


def test_invalid_arguments_are_rejected(make: Callable[..., ArrayDataModule]) -> None:
    for argument, value in (("batch_size", 0), ("num_workers", -1), ("shuffle_seed", -1), ("split_seed", None)):
        names = "(split|data)_seed" if argument == "split_seed" else argument
        with pytest.raises(ValueError, match=rf"{names} must be an integer .*got {value}"):
            make(**{argument: value})
    with pytest.raises(TypeError, match="drop_last"):
        make(drop_last=True)


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 2.5), ("batch_size", True), ("split_seed", 2**32)])
def test_integers_are_checked(argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{argument} must be an integer .*got {value}"):
        TwoMoonsDataModule(**{argument: value})
