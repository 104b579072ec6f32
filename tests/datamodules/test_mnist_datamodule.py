"""Images read from files in the format of MNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_vi.datamodules import MNISTDataModule

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)


def write(path: Path, values: NDArray[np.uint8], zipped: bool) -> None:
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    data = header + values.tobytes()
    if zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


@pytest.fixture(params=[True, False], ids=["gz", "plain"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    write(tmp_path / "train-images-idx3-ubyte", IMAGES, request.param)
    write(tmp_path / "train-labels-idx1-ubyte", LABELS, request.param)
    write(tmp_path / "t10k-images-idx3-ubyte", IMAGES[:6], request.param)
    write(tmp_path / "t10k-labels-idx1-ubyte", LABELS[:6], request.param)
    return tmp_path


def test_images_are_standardized_and_labels_are_integers(folder: Path) -> None:
    dm = MNISTDataModule(folder, batch_size=4)
    assert dm.X_train.shape == (20, 1, 28, 28)
    assert dm.X_train.mean().abs() < 1e-5
    assert dm.X_train.std() == pytest.approx(1.0, abs=1e-4)
    expected = (torch.from_numpy(IMAGES[:6]).float() - IMAGES.mean()) / torch.from_numpy(IMAGES).float().std()
    torch.testing.assert_close(dm.X_test[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(dm.Y_test, torch.arange(6))
    assert dm.num_classes == 10
    assert dm.X_val is None


def test_validation_images_are_held_out(folder: Path) -> None:
    dm = MNISTDataModule(folder, val_fraction=0.25)
    assert dm.X_val is not None
    assert (len(dm.X_train), len(dm.X_val)) == (15, 5)
    everything = torch.cat([dm.X_train, dm.X_val]).flatten(1)
    whole = MNISTDataModule(folder).X_train.flatten(1)
    assert torch.equal(everything.sum(1).sort().values, whole.sum(1).sort().values)


def test_missing_and_invalid_files_are_errors(folder: Path) -> None:
    for path in folder.glob("t10k-labels*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"found neither t10k-labels-idx1-ubyte nor .*\.gz"):
        MNISTDataModule(folder)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"not an idx file")
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte .* is not an idx file of unsigned bytes"):
        MNISTDataModule(folder)
