"""Problems of differential equations against their equations, by automatic differentiation and the law of the noise."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from lightning_vi.datamodules import (
    ADR1DDataModule,
    ArrayDataModule,
    ElasticBar1DDataModule,
    FunctionDataModule,
    Heat2DDataModule,
    Transport2DDataModule,
    WavesDataModule,
)

FUNCTIONS = (ADR1DDataModule, ElasticBar1DDataModule, Transport2DDataModule)
PROBLEMS = (*FUNCTIONS, Heat2DDataModule, WavesDataModule)
SPLITS = ("train", "val", "test", "calib", "ood")
each_problem = pytest.mark.parametrize("problem", PROBLEMS)
each_function_problem = pytest.mark.parametrize("problem", FUNCTIONS)


def derivative(values: Tensor, points: Tensor) -> Tensor:
    """Derivatives of one value per row with respect to the inputs of the row, [N, F]."""
    (gradient,) = torch.autograd.grad(values.sum(), points, create_graph=True)
    return gradient


def interior_points(dm: FunctionDataModule, num_points: int = 50) -> Tensor:
    """Random points with parameters in the ranges, [1, N, F] float64, with gradient."""
    random = np.random.default_rng(0)
    ranges = [(0.05, 0.95)] * len(dm.coordinate_names) + list(dm.ranges.values())
    columns = [random.uniform(low, high, num_points) for low, high in ranges]
    return torch.tensor(np.stack(columns, axis=1)).unsqueeze(0).requires_grad_()


def test_each_mode_of_the_adr_solution_solves_its_equation() -> None:
    dm = ADR1DDataModule()
    points = interior_points(dm)
    x, amplitude, shape, diffusion, velocity, reaction = points[0].detach().T
    without_b = points.detach().clone()
    without_b[..., 2] = 0.0
    without_b.requires_grad_()
    u = dm.function(without_b)[0, :, 0]
    slope = derivative(u, without_b)[0, :, 0]
    curvature = derivative(slope, without_b)[0, :, 0]
    # a exp(-D x) sin(pi x) is a damped oscillation with u(0) = 0 and u'(0) = pi a.
    residual = curvature + 2 * diffusion * slope + (diffusion**2 + math.pi**2) * u
    assert residual.abs().max() < 1e-10

    without_a = points.detach().clone()
    without_a[..., 1] = 0.0
    without_a.requires_grad_()
    curvature = derivative(derivative(dm.function(without_a)[0, :, 0], without_a)[0, :, 0], without_a)[0, :, 0]
    assert torch.allclose(curvature, -2 * shape * (1 + velocity / 5 - reaction / 10))

    start = points.detach().clone()
    start[..., 0] = 0.0
    start.requires_grad_()
    slope = derivative(dm.function(start)[0, :, 0], start)[0, :, 0]
    assert torch.allclose(slope, math.pi * amplitude + shape * (1 + velocity / 5 - reaction / 10))
    assert x.min() > 0


def test_bar_is_in_equilibrium_and_obeys_its_constitutive_law() -> None:
    dm = ElasticBar1DDataModule()
    points = interior_points(dm)
    displacement, stress = dm.function(points)[0].T
    modulus, load = points[0, :, 1], points[0, :, 2]
    assert torch.allclose(derivative(stress, points)[0, :, 0], -load)
    assert torch.allclose(derivative(displacement, points)[0, :, 0] * modulus / 2, stress)


def test_second_target_of_transport_is_the_size_of_the_gradient() -> None:
    dm = Transport2DDataModule(n_functions=4)
    points = interior_points(dm)
    concentration, size = dm.function(points)[0].T
    assert torch.allclose(derivative(concentration, points)[0, :, :2].norm(dim=-1), size)
    # Of the first mode with b = 0 and Pe = 0, the Laplacian is -2 pi^2 c.
    points = interior_points(dm).detach()
    points[..., 3:] = 0.0
    points.requires_grad_()
    concentration = dm.function(points)[0, :, 0]
    gradient = derivative(concentration, points)[0]
    laplacian = sum(derivative(gradient[:, i], points)[0, :, i] for i in range(2))
    assert torch.allclose(laplacian, -2 * math.pi**2 * concentration)


@each_function_problem
def test_first_target_is_zero_on_the_boundary(problem: type[FunctionDataModule]) -> None:
    dm = problem()
    for name in SPLITS:
        values = dm.as_functions(getattr(dm, f"truth_{name}"))[..., 0]
        for dim in range(1, values.dim()):
            assert values.index_select(dim, torch.tensor([0, values.shape[dim] - 1])).abs().max() < 1e-6


@each_function_problem
def test_rows_are_the_grid_points_of_functions_in_their_ranges(problem: type[FunctionDataModule]) -> None:
    dm = problem()
    num_coordinates = len(dm.coordinate_names)
    assert dm.input_names == [*dm.coordinate_names, *dm.ranges]
    for name in SPLITS:
        points = dm.as_functions(dm.points(getattr(dm, f"X_{name}")))
        assert len(points) == (96 if problem is not Transport2DDataModule else 48) // (1 if name == "train" else 4)
        axis = torch.linspace(0, 1, dm.grid_shape[0])
        for k in range(num_coordinates):
            along = points[..., k].movedim(1 + k, -1)
            assert torch.allclose(along, axis.expand_as(along), atol=1e-6)
        parameters = points.flatten(1, -2)[..., num_coordinates:]
        assert torch.allclose(parameters, parameters[:, :1].expand_as(parameters), atol=1e-5)
        ranges = dm.ood_ranges if name == "ood" else dm.ranges
        for values, (low, high) in zip(parameters.unbind(-1), ranges.values(), strict=True):
            assert values.min() > low - 1e-5
            assert values.max() < high + 1e-5
            assert values.max() - values.min() > 0.6 * (high - low)


@each_function_problem
def test_no_function_is_in_two_splits(problem: type[FunctionDataModule]) -> None:
    dm = problem()
    first = len(dm.coordinate_names)
    parameters = [dm.as_functions(getattr(dm, f"X_{name}")).flatten(1, -2)[:, 0, first:] for name in SPLITS]
    assert len(torch.cat(parameters).unique(dim=0)) == sum(map(len, parameters))


def test_ranges_are_disjoint_but_for_the_diffusion_coefficient() -> None:
    overlapping = {
        (problem.__name__, name)
        for problem in FUNCTIONS
        for name, (low, high) in problem.ood_ranges.items()
        if not (low >= problem.ranges[name][1] or high <= problem.ranges[name][0])
    }
    assert overlapping == {("ADR1DDataModule", "D")}


@pytest.mark.parametrize("problem", [ADR1DDataModule, Transport2DDataModule])
def test_noise_has_the_stated_standard_deviation(problem: type[FunctionDataModule]) -> None:
    dm = problem(n_functions=20)
    x = dm.points(dm.X_train).double()
    truth = dm.function(dm.as_functions(x).flatten(1, -2)).flatten(0, 1)
    if problem is ADR1DDataModule:
        std = 0.01 + 0.04 * (-80 * (x[:, :1] - 0.65) ** 2).exp()
    else:
        largest = dm.as_functions(truth[:, 1]).amax(dim=(1, 2)).repeat_interleave(36 * 36)
        std = torch.stack([0.01 + 0.03 * (-4 * x[:, 0]).exp(), 0.015 + 0.03 * truth[:, 1] / largest], dim=1)
    assert torch.allclose(dm.noise_std_train.double(), std, atol=1e-5)
    assert torch.allclose(dm.truth_train.double(), truth, atol=1e-5)
    residuals = (dm.Y_train - truth) / std
    # In each tenth of the grid and for each target; tolerances of four standard errors of n residuals.
    for part in residuals.unflatten(0, (20, -1)).tensor_split(10, dim=1):
        part = part.flatten(0, 1)
        assert (part.mean(0).abs() < 4 / np.sqrt(len(part))).all()
        assert ((part.var(0) - 1).abs() < 4 * np.sqrt(2 / len(part))).all()
    assert abs(np.corrcoef(residuals[:-1, 0].numpy(), residuals[1:, 0].numpy())[0, 1]) < 4 / np.sqrt(len(residuals))


def test_bar_has_no_noise_unless_it_is_given() -> None:
    dm, noisy = ElasticBar1DDataModule(), ElasticBar1DDataModule(noise_std=0.1)
    assert torch.equal(dm.Y_train, dm.truth_train)
    residual = noisy.Y_train - noisy.truth_train
    assert abs(residual.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * residual.numel())


def test_labels_of_the_plate_are_those_of_the_diffused_source() -> None:
    dm = Heat2DDataModule()
    assert [len(getattr(dm, f"X_{name}")) for name in SPLITS] == [192, 48, 48, 48, 48]
    assert dm.input_mean is not None
    assert dm.input_std is not None
    for name in SPLITS:
        source = getattr(dm, f"X_{name}").double().numpy() * float(dm.input_std) + float(dm.input_mean)
        temperature = source
        for _ in range(8):
            temperature = uniform_filter(temperature, size=(1, 1, 3, 3), mode="constant")
        assert np.allclose(dm.temperature(getattr(dm, f"X_{name}")), temperature, atol=1e-6)
        hottest = temperature.max(axis=(1, 2, 3))
        assert np.array_equal(getattr(dm, f"Y_{name}"), hottest > (0.18 if name == "ood" else 0.12))
        assert 0.1 < float(getattr(dm, f"Y_{name}").float().mean()) < 0.9


def test_sources_of_the_plate_have_the_stated_variance() -> None:
    dm = Heat2DDataModule(n_fields=4000)
    assert dm.input_std is not None
    # The variance of a cell far from the edges is the sum of the squared weights of all neighbors.
    kernel = np.zeros((17, 17))
    kernel[8, 8] = 1.0
    for _ in range(4):
        kernel = uniform_filter(kernel, size=3, mode="constant")
    smooth = (kernel**2).sum()
    center = (slice(None), 0, slice(5, 11, 5), slice(5, 11, 5))  # cells of little correlation
    for fields, variance in ((dm.X_train, 0.64 * smooth), (dm.X_ood, 1.6**2 * smooth + 0.64)):
        cells = fields[center] * dm.input_std
        assert abs(float(cells.var()) / variance - 1) < 4 * np.sqrt(2 / len(cells))
    # Neighbors share the smooth part only.
    inner = (dm.X_ood[:, 0, 4:12, 4:12] * dm.input_std + dm.input_mean).double()
    covariance = float((inner[:, 1:] * inner[:, :-1]).mean())
    assert abs(covariance / (1.6**2 * (kernel[1:] * kernel[:-1]).sum()) - 1) < 0.2


def test_waves_have_the_stated_noise_and_ranges() -> None:
    dm = WavesDataModule(n_points=30_000)
    x, y = dm.X_train.double(), dm.Y_train.double()
    residual = (y - 0.45 * x - (1.7 * x).sin() - 0.2 * (3.2 * x).cos()) / 0.08
    assert residual.mean().abs() < 4 / np.sqrt(len(residual))
    assert abs(residual.var() - 1) < 4 * np.sqrt(2 / len(residual))
    assert 2.99 < x.abs().max() < 3
    assert dm.X_ood is not None
    assert (dm.X_ood.abs() > 3).all()
    assert abs((dm.X_ood > 0).float().mean() - 0.5) < 4 * 0.5 / np.sqrt(len(dm.X_ood))
    assert [len(getattr(WavesDataModule(), f"X_{name}")) for name in SPLITS] == [800, 200, 200, 200, 200]


def test_waves_on_the_grid_are_the_function() -> None:
    dm = WavesDataModule(noise_std=0.0)
    x = dm.X_train.numpy()[:, 0]
    truth = 0.45 * x + np.sin(1.7 * x) + 0.2 * np.cos(3.2 * x)
    assert np.allclose(dm.Y_train[:, 0].numpy(), truth, atol=1e-6)
    near = np.interp(x, dm.X_gtext[:, 0].numpy(), dm.Y_gtext[:, 0].numpy())
    assert np.abs(near - dm.Y_train[:, 0].numpy()).max() < 1e-3


@each_problem
def test_scaling_is_that_of_the_training_rows(problem: type[ArrayDataModule]) -> None:
    dm = problem()
    if dm.input_mean is not None:
        dims = (0, 1, 2, 3) if problem is Heat2DDataModule else 0
        assert dm.X_train.double().mean(dims).abs().max() < 1e-5
        assert (dm.X_train.double().std(dims, correction=0) - 1).abs().max() < 1e-5
    if dm.num_classes is None:
        assert torch.allclose(dm.target_mean, dm.Y_train.mean(0), atol=1e-5)
        assert torch.allclose(dm.target_std, dm.Y_train.std(0, correction=0), rtol=1e-4)


@each_problem
def test_more_functions_and_another_seed_leave_no_row_in_common(problem: type[ArrayDataModule]) -> None:
    first, other = problem(), problem(data_seed=1)
    for name in SPLITS:
        ours, theirs = (getattr(dm, f"Y_{name}") for dm in (first, other))
        assert not torch.equal(ours, theirs)


@each_problem
def test_out_of_distribution_set_is_a_second_test_set(problem: type[ArrayDataModule]) -> None:
    dm, shifted = problem(), problem(test_split="ood")
    assert list(dm.test_sets()) == ["test", "ood"]
    for loader, inputs in (
        (dm.test_dataloader(), dm.X_test),
        (dm.test_sets()["test"], dm.X_test),
        (dm.ood_dataloader(), dm.X_ood),
        (dm.test_sets()["ood"], dm.X_ood),
        (shifted.test_dataloader(), dm.X_ood),
        (shifted.predict_dataloader(), dm.X_ood),
        (shifted.test_sets()["test"], dm.X_test),
    ):
        assert torch.equal(torch.cat([x for x, _ in loader]), inputs)


@each_problem
def test_arguments_are_checked(problem: type[ArrayDataModule]) -> None:
    with pytest.raises(ValueError, match=r"test_split must be 'test' or 'ood', got 'val'"):
        problem(test_split="val")
    with pytest.raises(ValueError, match=r"data_seed must be an integer .*got -1"):
        problem(data_seed=-1)
    count = {Heat2DDataModule: "n_fields", WavesDataModule: "n_points"}.get(problem, "n_functions")
    with pytest.raises(ValueError, match=rf"{count} must be an integer >= \d, got 3"):
        problem(**{count: 3})


@pytest.mark.parametrize("problem", [ElasticBar1DDataModule, WavesDataModule])
def test_noise_std_is_checked(problem: type[ArrayDataModule]) -> None:
    with pytest.raises(ValueError, match=r"noise_std must be finite and at least 0, got -0.1"):
        problem(noise_std=-0.1)


def test_rows_of_parts_of_functions_are_refused() -> None:
    dm = ADR1DDataModule(n_functions=4)
    for rows in (dm.X_train[:100], dm.X_train[:0]):
        with pytest.raises(ValueError, match=rf"rows must be a multiple of the 80 grid points .*got {len(rows)}"):
            dm.as_functions(rows)
