"""Images read from files in the format of MNIST."""

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_vi.datamodules import FashionMNISTDataModule, MNISTDataModule
from lightning_vi.errors import InputValueError

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


def idx(values: NDArray[np.uint8], sizes: tuple[int, ...] | None = None) -> bytes:
    sizes = values.shape if sizes is None else sizes
    return struct.pack(">BBBB", 0, 0, 8, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes) + values.tobytes()


def bomb(sizes: tuple[int, ...]) -> bytes:
    """A gzip file of a header and zeros that inflate to 256 MiB."""
    stream, zeros = zlib.compressobj(9, wbits=31), bytes(2**20)
    parts = [stream.compress(idx(np.zeros(0, np.uint8), sizes)), *(stream.compress(zeros) for _ in range(256))]
    return b"".join(parts) + stream.flush()


IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BAD_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "bomb": (f"{IMAGE_FILE}.gz", lambda: bomb((20, 28, 28)), r"announces 15680 values, .* and has more"),
    "bomb that says so": (f"{IMAGE_FILE}.gz", lambda: bomb((2**22, 28, 28)), "announces 3288334336 bytes.* more than"),
    "huge sizes": (IMAGE_FILE, lambda: idx(IMAGES, (2**31, 2**31, 2**31)), "announces .* bytes"),
    "fewer than announced": (
        IMAGE_FILE,
        lambda: idx(IMAGES, (21, 28, 28)),
        "announces 16464 bytes",
    ),
    "cut off": (f"{IMAGE_FILE}.gz", lambda: gzip.compress(idx(IMAGES))[:-500], r"\.gz .* is cut off or damaged"),
    "damaged": (f"{IMAGE_FILE}.gz", lambda: gzip.compress(idx(IMAGES))[:200] + bytes(99), "is cut off or damaged"),
    "not gzip": (f"{IMAGE_FILE}.gz", lambda: idx(IMAGES), "is cut off or damaged .*Not a gzipped file"),
    "no bytes": (IMAGE_FILE, lambda: b"", "is not an idx file of unsigned bytes with 3 dimensions"),
    "no bytes, gz": (f"{IMAGE_FILE}.gz", lambda: b"", "is not an idx file of unsigned bytes with 3 dimensions"),
    "no images": (IMAGE_FILE, lambda: idx(IMAGES[:0]), r"has no values: its sizes are \[0, 28, 28\]"),
    "labels as images": (IMAGE_FILE, lambda: idx(LABELS), "is not an idx file of unsigned bytes with 3 dimensions"),
    "other number": (LABEL_FILE, lambda: idx(LABELS[:19]), "has 20 images, but train-labels-idx1-ubyte has 19 labels"),
    "label of 200": (
        LABEL_FILE,
        lambda: idx(np.full(20, 200, np.uint8)),
        "labels up to 200, but num_classes=10",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_damaged_files_are_refused_in_bounded_memory(case: str, tmp_path: Path, tally: Callable[..., None]) -> None:
    for name, values in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        for part in ("train", "t10k"):
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(idx(values))
    name, make, message = BAD_FILES[case]
    (tmp_path / name.removesuffix(".gz")).unlink()
    (tmp_path / name).write_bytes(make())
    tracemalloc.start()
    with pytest.raises(InputValueError, match=message):
        MNISTDataModule(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**23
    tally("damaged image files", "MNISTDataModule", tried=1, right=1)


def test_more_classes_must_be_announced(tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(IMAGES))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(LABELS + 1))
    assert MNISTDataModule(tmp_path, num_classes=11).num_classes == 11
    with pytest.raises(ValueError, match="num_classes must be an integer between 2 and 256, got 1"):
        MNISTDataModule(tmp_path, num_classes=1)


def test_fashion_mnist_is_scaled_as_the_digits_that_a_method_was_trained_on(folder: Path, tmp_path: Path) -> None:
    digits = MNISTDataModule(folder)
    clothes_folder = tmp_path / "clothes"
    clothes_folder.mkdir()
    clothes = IMAGES // 2
    for part, count in (("train", 20), ("t10k", 6)):
        write(clothes_folder / f"{part}-images-idx3-ubyte", clothes[:count], zipped=False)
        write(clothes_folder / f"{part}-labels-idx1-ubyte", LABELS[:count], zipped=False)
    fashion = FashionMNISTDataModule(clothes_folder)
    assert len(fashion.class_names) == fashion.num_classes == 10
    fashion.load_state_dict(digits.data_state)
    (x, y) = next(iter(fashion.test_dataloader()))
    expected = (torch.from_numpy(clothes[:6]).float().unsqueeze(1) - digits.input_mean) / digits.input_std
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(y, torch.arange(6))
