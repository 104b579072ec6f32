"""Factors of weight variances, against products with all variances."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from lightning_vi import MeanFieldVI
from lightning_vi.likelihoods import Gaussian
from lightning_vi.moments import Propagation, make_gaussian, mean_of, variance_of
from lightning_vi.moments.factored import factored
from lightning_vi.sampling import DrawCache


def product(*shape: int) -> Tensor:
    """Variances that are a product of factors."""
    outputs, inputs, *kernel = shape
    factors = torch.rand(outputs, 1, 1) * torch.rand(1, inputs, 1)
    return (factors * torch.rand(*kernel).flatten()).view(shape) if kernel else factors.squeeze(-1)


@pytest.mark.parametrize("shape", [(64, 80), (4, 3, 5), (4, 3, 3, 2), (2, 3, 2, 2, 2)])
def test_products_are_factored(shape: tuple[int, ...]) -> None:
    variance = product(*shape)
    factors = factored(variance)
    assert factors is not None
    of_outputs, of_inputs, of_kernel = factors
    cube = of_outputs[:, None, None] * of_inputs[None, :, None] * of_kernel.flatten()
    assert_close(cube.view(shape), variance)


def test_other_variances_and_small_matrices_are_not() -> None:
    assert factored(torch.rand(64, 80)) is None
    assert factored(torch.rand(8, 4, 3, 3)) is None
    assert factored(torch.ones(8, 8)) is None
    assert factored(torch.ones(8)) is None


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "linear": (F.linear, (3, 80), (64, 80)),
    "tokens": (F.linear, (3, 5, 80), (64, 80)),
    "conv1d": (F.conv1d, (3, 4, 9), (5, 4, 3)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1, dilation=2), (3, 4, 9, 8), (5, 4, 3, 3)),
    "conv2d of a module": (lambda x, w, b: F.conv2d(x, w, b, (2, 1), "valid", (1, 2), 1), (3, 4, 9, 8), (5, 4, 3, 2)),
    "conv3d": (F.conv3d, (2, 3, 4, 4, 4), (2, 3, 2, 2, 2)),
}


@pytest.mark.parametrize("size", [64, 400])
def test_large_variances_of_pruned_units_do_not_hide_the_others(size: int) -> None:
    variance = torch.ones(size, size)
    variance[:, :4] = 1e-4 * torch.rand(size, 4, generator=torch.Generator().manual_seed(0))
    assert factored(variance) is None
    variance[:, :4] = 1e-4
    assert factored(variance) is not None


@pytest.mark.parametrize("is_random", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_agree_with_products_with_all_variances(
    name: str, is_random: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_vi.moments.linear_rules.MIN_NUMBERS", 1)
    function, shape, weight_shape = FUNCTIONS[name]
    mean, variance = torch.randn(weight_shape), product(*weight_shape)
    x = make_gaussian(torch.randn(shape), torch.rand(shape) if is_random else None)
    bias = make_gaussian(torch.randn(weight_shape[0]), torch.rand(weight_shape[0]))
    with Propagation():
        known = function(x, make_gaussian(mean, variance, variance_factors=factored(variance)), bias)
        plain = function(x, make_gaussian(mean, variance), bias)
    assert_close(mean_of(known), mean_of(plain))
    assert_close(variance_of(known), variance_of(plain))


def test_predictions_change_by_less_than_the_error_of_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 1))
    method, x = MeanFieldVI(network, Gaussian(0.1)), torch.randn(4, 2, 5, 5)
    for name, parameter in method.backbone.named_parameters():
        if name.endswith("rho"):
            parameter.data += 0.01 * torch.randn_like(parameter)
    found: list[Any] = []

    def spied(variance: Tensor) -> Any:
        found.append(factored(variance))
        return found[-1]

    monkeypatch.setattr("lightning_vi.moments.networks.factored", spied)
    known = method.predict(x, approximation="moments").epistemic_var
    assert sum(factors is not None for factors in found) == 2
    monkeypatch.setattr("lightning_vi.moments.networks.factored", lambda _: None)
    method._variances = DrawCache()
    assert_close(known, method.predict(x, approximation="moments").epistemic_var, rtol=0.01, atol=0)


@pytest.mark.parametrize(("noise", "most"), [(0.0, 2.3), (0.3, 3.2)])
def test_factors_save_one_of_three_products(noise: float, most: float) -> None:
    layers = [nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64), nn.ReLU()]
    method = MeanFieldVI(nn.Sequential(*layers, nn.Linear(64, 1)), Gaussian(0.1))
    for name, parameter in method.backbone.named_parameters():
        if name.endswith("rho"):
            parameter.data += noise * torch.randn_like(parameter)
    x = torch.randn(4, 8, 10, 10)
    operations = []
    for run in (method, lambda x: method.predict(x, approximation="moments")):
        run(x)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run(x)
        operations.append(counter.get_total_flops())
    assert 1.5 < operations[1] / operations[0] < most
