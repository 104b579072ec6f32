"""Shifted images: severities, randomness that depends on the image alone, wrappers of any data, refusals."""

from typing import Any

import pytest
import torch
from helpers import normal
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_vi.datamodules import (
    ArrayDataModule,
    DigitsDataModule,
    ShiftedDataModule,
    ShiftedDataset,
    shift_images,
    shifted_loader,
    shifted_test_sets,
)
from lightning_vi.datamodules.shifts import SEVERITIES, SHIFTS
from lightning_vi.errors import InputError, InputTypeError, InputValueError
from lightning_vi.functional import rotate_images

IMAGES = DigitsDataModule(as_images=True).X_test[:40]


def batches(loader: Any) -> tuple[Tensor, Tensor]:
    x, y = zip(*loader, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_larger_severity_is_farther_from_the_clean_images(shift: str) -> None:
    large = torch.nn.functional.interpolate(IMAGES, scale_factor=4.0, mode="bilinear")
    distances = [float((shift_images(large, shift, level) - large).square().mean()) for level in SEVERITIES]
    assert distances[0] > 0
    assert distances == sorted(set(distances))


def test_noise_has_the_std_of_its_severity() -> None:
    gray = torch.full((50, 1, 20, 20), 0.5)
    noise = shift_images(gray, "gaussian_noise", 1) - gray
    assert float(noise.std()) == pytest.approx(0.08, rel=3 / (2 * noise.numel()) ** 0.5)
    assert float(noise.mean()) == pytest.approx(0.0, abs=3 * 0.08 / noise.numel() ** 0.5)
    assert torch.corrcoef(noise.flatten(1)).triu(1).abs().max() < 0.25  # each image has noise of its own


def test_rotations_go_in_both_directions() -> None:
    turned = shift_images(IMAGES, "rotation", 2)
    directions = [
        [
            torch.allclose(turned[i : i + 1], rotate_images(IMAGES[i : i + 1], sign * 30.0), atol=1e-5)
            for sign in (1, -1)
        ]
        for i in range(len(IMAGES))
    ]
    assert all(sum(pair) == 1 for pair in directions)
    assert 5 < sum(pair[0] for pair in directions) < 35


@pytest.mark.parametrize("shift", SHIFTS)
def test_the_range_of_pixels_does_not_matter(shift: str) -> None:
    black, white = torch.tensor([-2.0]), torch.tensor([3.0])
    scaled = shift_images(IMAGES * 5 - 2, shift, 3, pixel_range=(black, white))
    torch.testing.assert_close(scaled, shift_images(IMAGES, shift, 3) * 5 - 2, rtol=0, atol=1e-4)


def test_images_stay_in_the_range_of_pixels() -> None:
    for shift in SHIFTS:
        shifted = shift_images(IMAGES, shift, 5)
        assert (shifted.min(), shifted.max()) >= (0, 0)
        assert shifted.max() <= 1


@pytest.mark.parametrize("shift", ["rotation", "gaussian_noise", "translation"])
def test_randomness_depends_on_the_image_and_the_seed_alone(shift: str) -> None:
    before = torch.get_rng_state()
    whole = shift_images(IMAGES, shift, 3, seed=7)
    torch.testing.assert_close(shift_images(IMAGES[11:13], shift, 3, seed=7, indices=[11, 12]), whole[11:13])
    assert not torch.allclose(shift_images(IMAGES, shift, 3, seed=8), whole)
    dataset = TensorDataset(IMAGES, torch.arange(len(IMAGES)))
    black_and_white = (0.0, 1.0)
    for batch_size in (1, 7, 40):
        loader = shifted_loader(
            DataLoader(dataset, batch_size=batch_size), shift, 3, seed=7, pixel_range=black_and_white
        )
        x, y = batches(loader)
        torch.testing.assert_close(x, whole)
        assert torch.equal(y, torch.arange(len(IMAGES)))
    assert torch.equal(before, torch.get_rng_state())


def test_any_form_of_a_sample_stays() -> None:
    image = IMAGES[3]
    forms: list[Any] = [image, (image, 5), [image, 5], {"input": image, "target": 5}]
    expected = shift_images(IMAGES[3:4], "contrast", 2, pixel_range=(0.0, 1.0))[0]
    for form in forms:
        sample = ShiftedDataset([form], "contrast", 2, pixel_range=(0.0, 1.0))[0]
        assert type(sample) is tuple if isinstance(form, list) else type(sample) is type(form)
        found = sample["input"] if isinstance(sample, dict) else sample[0] if isinstance(sample, tuple) else sample
        torch.testing.assert_close(found, expected)


class OwnData(LightningDataModule):
    """Color images of a user's own."""

    def test_dataloader(self) -> Any:
        x = normal(30, 3, 8, 8) * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
        return DataLoader(TensorDataset(x, torch.arange(30) % 3), batch_size=16)


@pytest.mark.parametrize("datamodule", [DigitsDataModule(), DigitsDataModule(as_images=True), OwnData()])
def test_any_datamodule_of_images_has_shifted_test_sets(datamodule: LightningDataModule) -> None:
    sets = shifted_test_sets(datamodule, severities=[2, 4])
    assert list(sets) == [f"{shift}_{severity}" for shift in SHIFTS for severity in (2, 4)]
    clean, labels = batches(datamodule.test_dataloader())
    for loader in sets.values():
        x, y = batches(loader)
        assert x.shape == clean.shape
        assert torch.equal(y, labels)
        assert not torch.equal(x, clean)


def test_a_wrapped_datamodule_has_shifted_test_data_only() -> None:
    digits = DigitsDataModule()
    shifted = ShiftedDataModule(digits, "rotation", 3, seed=4)
    expected, labels = batches(shifted_test_sets(digits, ["rotation"], [3], seed=4)["rotation_3"])
    for loader in (shifted.test_dataloader(), shifted.predict_dataloader()):
        x, y = batches(loader)
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)
    assert torch.equal(batches(shifted.train_dataloader())[0], batches(digits.train_dataloader())[0])
    assert torch.equal(batches(shifted.calibration_dataloader())[0], batches(digits.calibration_dataloader())[0])
    with pytest.raises(InputValueError, match="from 1 to 5, got 6"):
        ShiftedDataModule(digits, "rotation", 6)


def test_flat_rows_and_images_have_the_same_shifts() -> None:
    flat, images = (
        batches(shifted_test_sets(DigitsDataModule(as_images=as_images), ["rotation"], [3])["rotation_3"])[0]
        for as_images in (False, True)
    )
    torch.testing.assert_close(flat.reshape(images.shape), images)


def test_a_loader_with_workers_has_the_same_images() -> None:
    alone, helped = (
        batches(shifted_test_sets(DigitsDataModule(num_workers=n), ["gaussian_noise"], [1])["gaussian_noise_1"])[0]
        for n in (0, 2)
    )
    assert torch.equal(alone, helped)


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([IMAGES[0]])


def table() -> ArrayDataModule:
    x = normal(20, 4)
    return ArrayDataModule(train=(x, x), test=(x, x))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: shift_images(IMAGES, "rotatoin", 1), InputValueError, "no shift 'rotatoin': did you mean rotation?"),
        (lambda: shift_images(IMAGES, "rotation", 0), InputValueError, "an integer from 1 to 5, got 0"),
        (lambda: shift_images(IMAGES, "rotation", 6), InputValueError, "an integer from 1 to 5, got 6"),
        (lambda: shift_images(IMAGES, "rotation", 1.5), InputValueError, "from 1 to 5, got 1.5"),
        (lambda: shift_images(IMAGES, "rotation", True), InputValueError, "from 1 to 5, got True"),
        (lambda: shift_images(IMAGES, "rotation", 1, indices=[0]), InputValueError, "for each of the 40 images, got 1"),
        (lambda: shift_images(IMAGES, "rotation", 1, pixel_range=(1, 0)), InputValueError, "black below white"),
        (lambda: shifted_test_sets(table()), InputValueError, r"images \[C, H, W\], but inputs have the shape \[4\]"),
        (lambda: shifted_test_sets(DigitsDataModule(), []), InputValueError, "shifts must have at least one value"),
        (lambda: shifted_test_sets(DigitsDataModule(), ["contrast"] * 2), InputValueError, "none twice"),
        (lambda: shifted_test_sets(DigitsDataModule(), "contrast"), InputTypeError, "list of names"),
        (lambda: shifted_test_sets(DigitsDataModule(), severities=[0]), InputValueError, "from 1 to 5, got 0"),
        (lambda: shifted_loader(DataLoader(Endless()), "contrast", 1), InputTypeError, "a length and an index"),
        (lambda: ShiftedDataset([{"x": IMAGES[0]}], "contrast", 1), InputTypeError, "the key 'input', got \\['x'\\]"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused(call: Any, error: type[InputError], said: str) -> None:
    with pytest.raises(error, match=said):
        call()
