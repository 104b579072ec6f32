"""Data sets that are part of scikit-learn."""

import torch
from sklearn.datasets import load_diabetes, load_digits

from lightning_vi.datamodules import DiabetesDataModule, DigitsDataModule


def everything(dm: DiabetesDataModule | DigitsDataModule, letter: str) -> torch.Tensor:
    return torch.cat([getattr(dm, f"{letter}_{name}") for name in ("train", "val", "test", "calib")])


def test_diabetes_target_is_in_original_units() -> None:
    dm = DiabetesDataModule()
    target = torch.tensor(load_diabetes(scaled=False).target, dtype=torch.float32)
    assert torch.equal(everything(dm, "Y").flatten().sort().values, target.sort().values)
    assert torch.allclose(dm.target_mean, dm.Y_train.mean(dim=0))
    assert torch.allclose(dm.target_std, dm.Y_train.std(dim=0, correction=0))
    assert dm.target_names == ["target"]


def test_diabetes_inputs_are_standardized() -> None:
    dm = DiabetesDataModule()
    assert (dm.X_train.mean(dim=0).abs() < 1e-5).all()
    assert torch.allclose(dm.X_train.std(dim=0, correction=0), torch.ones(10), atol=1e-5)
    age = everything(dm, "X")[:, 0] * dm.input_std[0] + dm.input_mean[0]
    raw = torch.tensor(load_diabetes(scaled=False).data[:, 0], dtype=torch.float32)
    assert torch.allclose(age.sort().values, raw.sort().values, atol=1e-3)


def test_digits_are_gray_values_in_the_unit_interval() -> None:
    dm = DigitsDataModule()
    pixels = everything(dm, "X")
    assert pixels.shape == (1797, 64)
    assert (pixels.min().item(), pixels.max().item()) == (0.0, 1.0)
    assert abs(pixels.mean() * 16.0 - load_digits().data.mean()) < 1e-3


def test_digits_as_images_have_the_same_pixels() -> None:
    flat, images = DigitsDataModule(), DigitsDataModule(as_images=True)
    assert images.X_val.shape[1:] == (1, 8, 8)
    assert torch.equal(images.X_val.flatten(1), flat.X_val)
    assert torch.equal(images.Y_val, flat.Y_val)
    assert images.n_inputs == flat.n_inputs == 64


def test_labels_belong_to_their_digits() -> None:
    dm = DigitsDataModule()
    pixels, labels = load_digits(return_X_y=True)
    known = {row.tobytes(): label for row, label in zip((pixels / 16.0).astype("float32"), labels, strict=True)}
    assert [known[row.numpy().tobytes()] for row in dm.X_test] == dm.Y_test.tolist()


def test_splits_of_the_digits_are_stratified() -> None:
    dm = DigitsDataModule()
    for labels in (dm.Y_train, dm.Y_val, dm.Y_test, dm.Y_calib):
        expected = torch.bincount(everything(dm, "Y")) * len(labels) / 1797
        # Each of the three stratified splits rounds the number of rows of a class by less than one.
        assert ((torch.bincount(labels, minlength=10) - expected).abs() < 3.0).all()


def test_a_split_of_fraction_zero_is_omitted() -> None:
    dm = DigitsDataModule(val_fraction=0.0, calib_fraction=0.0)
    assert dm.X_val is None
    assert dm.X_calib is None
    assert len(dm.X_train) + len(dm.X_test) == 1797
