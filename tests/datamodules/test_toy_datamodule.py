"""Toy problems against reference points and against their definition."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_vi.datamodules import ToyHeteroscedasticDataModule, TwoMoonsDataModule

REFERENCE = Path(__file__).parents[1] / "data" / "toy_heteroscedastic.npz"


def test_reference_points_are_reproduced() -> None:
    dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
    names = {"Xtr": "X_train", "Ytr": "Y_train", "Xte": "X_test", "Yte": "Y_test", "Xg": "X_gtext", "Yg": "Y_gtext"}
    with np.load(REFERENCE) as reference:
        for key, name in names.items():
            found = getattr(dm, name).numpy()
            assert found.dtype == reference[key].dtype
            assert found.shape == reference[key].shape
            # One unit in the last place: builds of NumPy may round sin and cos differently.
            np.testing.assert_allclose(found, reference[key], rtol=2e-7, atol=2e-7)
    assert (len(dm.X_train), len(dm.X_val), len(dm.X_calib), len(dm.X_test)) == (350, 30, 20, 100)


def test_x_and_y_are_standardized_on_the_training_rows_only() -> None:
    dm = ToyHeteroscedasticDataModule()
    for values in (dm.X_train, dm.Y_train):
        assert values.double().mean().abs() < 1e-6
        assert abs(values.double().std(correction=0) - 1.0) < 1e-6
    everything = torch.cat([dm.X_train, dm.X_val, dm.X_test, dm.X_calib])
    assert everything.mean().abs() > 1e-3
    assert dm.target_mean is None
    assert dm.target_std is None
    assert dm.input_mean is None
    assert dm.input_std is None


def test_grid_is_even_and_extends_the_range_by_a_tenth_on_both_sides() -> None:
    dm = ToyHeteroscedasticDataModule(n_grid=100)
    x = torch.cat([dm.X_train, dm.X_val, dm.X_test, dm.X_calib])
    margin = 0.1 * (x.max() - x.min())
    assert dm.X_gtext.shape == dm.Y_gtext.shape == dm.noise_std_gtext.shape == (100, 1)
    assert torch.allclose(dm.X_gtext[[0, -1], 0], torch.stack([x.min() - margin, x.max() + margin]), atol=1e-5)
    steps = dm.X_gtext.diff(dim=0)
    assert torch.allclose(steps, steps.mean().expand_as(steps), atol=1e-5)


def test_function_and_noise_on_the_grid_match_the_points() -> None:
    dm = ToyHeteroscedasticDataModule(n_points=20_000, noise_seed=1)
    x, y = dm.X_train[:, 0].numpy(), dm.Y_train[:, 0].numpy()
    grid = dm.X_gtext[:, 0].numpy()
    mean = np.interp(x, grid, dm.Y_gtext[:, 0].numpy())
    std = np.interp(x, grid, dm.noise_std_gtext[:, 0].numpy())
    residual = (y - mean) / std
    # Tolerances of four standard errors of n = 14,000 samples: 4 / sqrt(n) and 4 sqrt(2 / n).
    assert abs(residual.mean()) < 4 / np.sqrt(len(x))
    assert abs(residual.var() - 1.0) < 4 * np.sqrt(2 / len(x))


def test_a_third_of_the_points_is_in_each_cluster() -> None:
    dm = ToyHeteroscedasticDataModule(n_points=9000, noise_seed=5)
    x = torch.cat([dm.X_train, dm.X_val, dm.X_test, dm.X_calib])
    # The clusters hardly overlap; in standardized units they are separated by -0.75 and 0.75.
    fractions = torch.stack([(x < -0.75).float().mean(), (x > 0.75).float().mean()])
    assert (fractions - 1 / 3).abs().max() < 4 * np.sqrt(2 / 9 / 9000) + 0.005


def test_points_depend_on_the_noise_seed() -> None:
    assert not torch.equal(ToyHeteroscedasticDataModule().X_train, ToyHeteroscedasticDataModule(noise_seed=1).X_train)
    assert not torch.equal(TwoMoonsDataModule().X_train, TwoMoonsDataModule(noise_seed=1).X_train)


@pytest.mark.parametrize("module", [ToyHeteroscedasticDataModule, TwoMoonsDataModule])
def test_smallest_problem_has_rows_in_every_split(module: type[ToyHeteroscedasticDataModule]) -> None:
    dm = module(n_points=20)
    assert min(len(dm.X_train), len(dm.X_val), len(dm.X_calib), len(dm.X_test)) >= 1


@pytest.mark.parametrize("module", [ToyHeteroscedasticDataModule, TwoMoonsDataModule])
def test_arguments_out_of_range_are_rejected(module: type[ToyHeteroscedasticDataModule]) -> None:
    for argument, value in (("n_points", 19), ("n_grid", 1), ("noise_seed", -1)):
        with pytest.raises(ValueError, match=rf"{argument} must be an integer .*got {value}"):
            module(**{argument: value})


@pytest.mark.parametrize("noise_std", [-0.1, float("nan"), float("inf")])
def test_noise_std_of_the_moons_is_checked(noise_std: float) -> None:
    with pytest.raises(ValueError, match=f"noise_std must be finite and at least 0, got {noise_std}"):
        TwoMoonsDataModule(noise_std=noise_std)


def test_moons_without_noise_lie_on_two_half_circles() -> None:
    dm = TwoMoonsDataModule(n_points=200, noise_std=0.0)
    x = torch.cat([dm.X_train, dm.X_val, dm.X_test, dm.X_calib])
    y = torch.cat([dm.Y_train, dm.Y_val, dm.Y_test, dm.Y_calib])
    centers = torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    assert torch.allclose((x - centers[y]).norm(dim=1), torch.ones(200), atol=1e-5)
    assert torch.bincount(y).tolist() == [100, 100]


def test_noise_std_is_the_standard_deviation_of_the_moons() -> None:
    clean, noisy = (TwoMoonsDataModule(n_points=4000, noise_std=std) for std in (0.0, 0.3))
    # make_moons shuffles before it draws the noise, so rows correspond.
    residual = noisy.X_train - clean.X_train
    assert abs(residual.std() - 0.3) < 4 * 0.3 / np.sqrt(2 * residual.numel())


def test_grid_of_the_moons_extends_the_range_of_the_data() -> None:
    dm = TwoMoonsDataModule(n_points=200, n_grid=30)
    x = torch.cat([dm.X_train, dm.X_val, dm.X_test, dm.X_calib])
    low, high = x.min(dim=0).values, x.max(dim=0).values
    assert dm.grid_shape == (30, 30)
    assert dm.X_grid.shape == (900, 2)
    assert torch.allclose(dm.X_grid.min(dim=0).values, low - 0.5 * (high - low), atol=1e-5)
    assert torch.allclose(dm.X_grid.max(dim=0).values, high + 0.5 * (high - low), atol=1e-5)
    first, second = (dm.X_grid[:, k].reshape(dm.grid_shape) for k in range(2))
    assert (first.diff(dim=1) > 0).all()
    assert (second.diff(dim=0) > 0).all()
    assert (first.diff(dim=0) == 0).all()
