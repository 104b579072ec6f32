"""Bounded spectral norms against singular value decompositions."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from helpers import copy_of_state, same_state
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi.layers import BoundedModule, bound_spectral_norm, can_be_bounded

C = 0.7
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(5, 4), (3, 5)),
    "Linear without bias": (lambda: nn.Linear(2, 6, bias=False), (3, 2)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), (3, 2, 6)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2), (3, 4, 9, 9)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (3, 2, 4, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 5, 3, stride=2), (3, 2, 4, 4)),
}
each_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)


def with_norm(layer: nn.Module, norm: float) -> nn.Module:
    """Gives the layer a random weight of the given spectral norm."""
    weight = layer.get_parameter("weight")
    with torch.no_grad():
        weight.normal_()
        weight.mul_(norm / spectral_norm(layer, weight))
    return layer


def spectral_norm(layer: nn.Module, weight: Tensor) -> Tensor:
    matrix = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
    return torch.linalg.matrix_norm(matrix.reshape(len(matrix), -1), ord=2)


@each_layer
def test_large_weight_is_scaled_to_the_bound(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    layer = with_norm(make(), 3.0)
    plain = copy.deepcopy(layer)
    bound_spectral_norm(layer, C)
    bounded: Tensor = layer.weight
    assert_close(spectral_norm(layer, bounded), torch.tensor(C), rtol=1e-3, atol=0.0)
    with torch.no_grad():
        plain.get_parameter("weight").mul_(C / 3.0)
    x = torch.randn(shape)
    assert_close(layer.eval()(x), plain(x), rtol=2e-3, atol=1e-4)


@each_layer
def test_small_weight_is_unchanged(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    layer = with_norm(make(), 0.99 * C)
    plain = copy.deepcopy(layer)
    bound_spectral_norm(layer, C)
    x = torch.randn(shape)
    assert torch.equal(layer(x), plain(x))


def test_gradient_matches_that_of_the_largest_singular_value() -> None:
    layer = with_norm(nn.Linear(5, 4, bias=False), 3.0).double()
    weight = layer.get_parameter("weight").detach().clone().requires_grad_()
    bound_spectral_norm(layer, C)
    layer.iterate(500)
    x = torch.randn(3, 5).double()
    layer(x).square().sum().backward()
    expected = weight / (torch.linalg.matrix_norm(weight, ord=2) / C)
    (x @ expected.T).square().sum().backward()
    assert_close(layer.get_parameter("unbounded_weight").grad, weight.grad)


def test_power_iteration_runs_in_training_mode_only() -> None:
    layer = nn.Linear(30, 20)
    bound_spectral_norm(layer, C)
    with_new_weight = torch.randn(20, 30)
    with torch.no_grad():
        layer.get_parameter("unbounded_weight").copy_(with_new_weight)
    before, x = copy_of_state(layer), torch.randn(2, 30)
    layer.eval()(x)
    assert same_state(copy_of_state(layer), before)
    for _ in range(200):
        layer.train()(x)
    assert not torch.equal(layer.get_buffer("right_vector"), before["right_vector"])
    assert_close(layer.spectral_norm(), torch.linalg.matrix_norm(with_new_weight, ord=2), rtol=1e-4, atol=0.0)


def test_several_forward_passes_before_backward() -> None:
    layer = with_norm(nn.Linear(5, 4), 3.0)
    bound_spectral_norm(layer, C)
    sum(layer(torch.randn(3, 5)).sum() for _ in range(3)).backward()
    assert layer.get_parameter("unbounded_weight").grad is not None


def test_initially_zero_weight_is_bounded_after_an_update() -> None:
    layer = nn.Linear(5, 4)
    nn.init.zeros_(layer.weight)
    bound_spectral_norm(layer, C)
    assert torch.equal(layer.weight, torch.zeros(4, 5))
    with torch.no_grad():
        layer.get_parameter("unbounded_weight").normal_()
    for _ in range(100):
        layer(torch.randn(2, 5))
    assert torch.linalg.matrix_norm(layer.weight, ord=2) < 1.001 * C


def test_copy_pickle_and_state_dict() -> None:
    layer = with_norm(nn.Linear(5, 4), 3.0)
    bound_spectral_norm(layer, C)
    layer.eval()
    x = torch.randn(3, 5)
    other = nn.Linear(5, 4).eval()
    bound_spectral_norm(other, C)
    other.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other):
        assert type(twin) is type(layer)
        assert torch.equal(twin(x), layer(x))
        with torch.no_grad():
            twin.get_parameter("unbounded_weight").normal_()
        assert not torch.equal(twin(x), layer(x))
    assert type(layer).__name__ == "BoundedLinear"
    assert isinstance(layer, nn.Linear)


def test_attention_uses_the_bounded_weight() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    with_norm(attention.out_proj, 3.0)
    x = torch.randn(2, 3, 4)
    before = attention(x, x, x)[0]
    bound_spectral_norm(attention.out_proj, C)
    assert_close(attention(x, x, x)[0], before * C / 3.0, rtol=1e-3, atol=1e-4)


def test_tied_weights_stay_tied() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    for layer in (first, second):
        bound_spectral_norm(layer, C)
    assert first.get_parameter("unbounded_weight") is second.get_parameter("unbounded_weight")


def test_unsupported_layers_raise() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    bounded = nn.Linear(3, 2)
    bound_spectral_norm(bounded, C)
    assert isinstance(bounded, BoundedModule)
    for layer in (normed, bounded, nn.LayerNorm(3), nn.Embedding(3, 2), nn.ReLU()):
        assert not can_be_bounded(layer)
        with pytest.raises(ValueError, match="whose weight is a parameter, got"):
            bound_spectral_norm(layer, C)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_invalid_bound_raises(bound: float) -> None:
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="spectral_norm_bound must be positive and finite, got"):
        bound_spectral_norm(layer, bound)
    assert type(layer) is nn.Linear


def test_autocast_computes_the_norm_in_float32() -> None:
    layer = with_norm(nn.Linear(30, 20), 3.0)
    bound_spectral_norm(layer, C)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.spectral_norm().dtype == torch.float32
        assert layer.weight.dtype == torch.float32
        assert layer(torch.randn(2, 30)).dtype == torch.bfloat16
