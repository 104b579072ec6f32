"""Moments of single functions, against draws and closed forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi.moments import NoRuleError, Propagation, make_gaussian, mean_of, variance_of

DRAWS = 20_000


def random_tensor(*shape: int, scale: float = 1.0) -> Tensor:
    return make_gaussian(scale * torch.randn(shape), scale**2 * (0.1 + torch.rand(shape)))


def draws_of(x: Any) -> Any:
    if variance_of(x) is None:
        return x
    mean, variance = mean_of(x), variance_of(x)
    return mean + variance.sqrt() * torch.randn(DRAWS, *mean.shape)


def check(function: Callable[..., Tensor], *inputs: Any, atol: float = 0.0, rtol: float = 0.0) -> None:
    """Compares moments with those of draws, within five standard errors and the error of an approximation."""
    with Propagation():
        result = function(*inputs)
    dims = tuple(None if variance_of(x) is None else 0 for x in inputs)
    outputs = torch.vmap(function, in_dims=dims)(*map(draws_of, inputs))
    mean, variance = mean_of(result), variance_of(result)
    std = outputs.std(0)
    kurtosis = ((outputs - outputs.mean(0)) / std.clamp_min(1e-6)).pow(4).mean(0)
    assert mean.shape == variance.shape == outputs.shape[1:]
    assert ((mean - outputs.mean(0)).abs() <= 5 * std / DRAWS**0.5 + atol + 1e-5).all()
    error = (variance.sqrt() - std).abs()
    assert (error <= 5 * std * (kurtosis / 4 / DRAWS).sqrt() + atol + rtol * std + 1e-4).all(), error.max()


ELEMENTWISE: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "relu": (F.relu, 2.5e-3),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), 2.5e-3),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.3])), 2.5e-3),
    "relu6": (F.relu6, 2.5e-3),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 2.0), 2.5e-3),
    "clamp_min": (lambda x: x.clamp(min=0.3), 2.5e-3),
    "clamp_max": (lambda x: x.clamp(max=0.3), 2.5e-3),
    "hardsigmoid": (F.hardsigmoid, 2.5e-3),
    "gelu": (F.gelu, 0.02),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), 0.02),
    "silu": (F.silu, 3e-3),
    "mish": (F.mish, 3e-3),
    "tanh": (torch.tanh, 5e-3),
    "sigmoid": (Tensor.sigmoid, 2.5e-3),
    "softplus": (F.softplus, 2.5e-3),
    "elu": (F.elu, 0.01),
    "selu": (F.selu, 0.05),
    "square": (lambda x: x**2, 2.5e-3),
    "product with itself": (lambda x: x * x, 2.5e-3),
    "exp": (lambda x: torch.exp(0.3 * x), 2.5e-3),
    "sin": (torch.sin, 2e-3),
    "affine": (lambda x: 3 - 2 * x / 4, 2.5e-3),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions(name: str) -> None:
    function, error = ELEMENTWISE[name]
    x = random_tensor(40)
    with Propagation():
        result = function(x)
    quantiles = torch.special.ndtri((torch.arange(20_000).double() + 0.5) / 20_000).float().unsqueeze(1)
    outputs = function(mean_of(x) + variance_of(x).sqrt() * quantiles)
    assert_close(mean_of(result), outputs.mean(0), rtol=1e-3, atol=error)
    assert_close(variance_of(result).sqrt(), outputs.std(0), rtol=1e-3, atol=error)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "relu6", "gelu", "silu", "prelu"])
def test_reused_memory_and_parts_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, _ = ELEMENTWISE[name]
    x = random_tensor(40, scale=3.0)
    before = mean_of(x).clone(), variance_of(x).clone()
    with Propagation():
        with torch.enable_grad():
            expected = function(x)
        with torch.no_grad():
            whole = function(x)
            monkeypatch.setattr("lightning_vi.moments.activations.PART", 7)
            parts = function(x)
    for result in (whole, parts):
        assert_close(mean_of(result), mean_of(expected))
        assert_close(variance_of(result), variance_of(expected))
    assert_close((mean_of(x), variance_of(x)), before)


WEIGHT, KERNEL = (torch.randn(3, 5), torch.randn(4, 2, 3, 3))


@pytest.mark.parametrize("random_input", [True, False])
def test_linear_maps_are_exact(random_input: bool) -> None:
    x, image = random_tensor(6, 5), random_tensor(2, 2, 5, 5)
    if not random_input:
        x, image = mean_of(x), mean_of(image)
    check(F.linear, x, random_tensor(3, 5), random_tensor(3))
    check(lambda *args: F.conv2d(*args, stride=2, padding=1), image, random_tensor(4, 2, 3, 3), random_tensor(4))
    check(lambda *args: F.conv_transpose2d(*args, stride=2), image, random_tensor(2, 3, 3, 3))
    check(torch.matmul, x, random_tensor(5, 2))
    if random_input:
        check(lambda a: F.linear(a, WEIGHT), x)
        check(lambda a: F.conv2d(a, KERNEL, groups=1, padding=1), image)
        check(lambda a: torch.einsum("ij,kj->ik", a, WEIGHT), x)


def test_sums_products_and_averages_of_independent_tensors_are_exact() -> None:
    x, y = random_tensor(3, 4, 6), random_tensor(3, 1, 6)
    check(lambda a, b: a + 2 * b, x, y)
    check(lambda a, b: a * b - 1, x, y)
    check(lambda a: a.mean((1, 2)), x)
    check(lambda a: a.sum(-1, keepdim=True), x)
    check(lambda a: F.avg_pool1d(a, 2), x)
    check(lambda a: F.adaptive_avg_pool1d(a, 3), x)


def test_moves_treat_means_and_variances_alike() -> None:
    x = random_tensor(2, 3, 4)
    functions: list[Callable[[Tensor], Tensor]] = [
        lambda a: a.flatten(1),
        lambda a: a.transpose(1, 2)[:, 0],
        lambda a: a.view(2, 12).unsqueeze(1).expand(2, 3, 12),
        lambda a: torch.cat([a, 2 * a], -1),
        lambda a: torch.stack(a.unbind(1)),
        lambda a: F.pad(a, (1, 1), value=3.0),
        lambda a: a.masked_fill(torch.eye(3, 4).bool(), 7.0),
        lambda a: torch.where(torch.eye(3, 4).bool(), a, torch.zeros(())),
        lambda a: a.chunk(2, -1)[1].contiguous().reshape(-1),
    ]
    for function in functions:
        check(function, x)


def test_normalizations_and_attention_are_close_for_small_variances() -> None:
    x = make_gaussian(torch.randn(3, 6), 0.02 * torch.rand(3, 6))
    weight, bias = torch.rand(6), torch.rand(6)
    check(lambda a: F.layer_norm(a, (6,), weight), x, rtol=0.1, atol=0.02)
    check(lambda a: F.rms_norm(a, (6,)), x, rtol=0.1, atol=0.02)
    check(lambda a: F.group_norm(a, 2), x, rtol=0.25, atol=0.05)
    check(lambda a: F.batch_norm(a, bias, 1 + weight, weight, bias), x)
    check(lambda a: a.softmax(-1), x, rtol=0.1, atol=0.01)
    check(lambda a: F.log_softmax(a, -1), x, rtol=0.1, atol=0.02)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of attention in vmap, in some versions of torch
@pytest.mark.parametrize("by_hand", [True, False])
def test_attention_is_linearized_in_its_scores(by_hand: bool) -> None:
    q, k, v = (make_gaussian(torch.randn(2, 5, 4), 0.02 * torch.rand(2, 5, 4)) for _ in range(3))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v if by_hand else F.scaled_dot_product_attention(q, k, v)

    check(attend, q, k, v, rtol=0.2, atol=0.02)


def test_max_pooling_takes_the_element_with_the_largest_mean() -> None:
    mean, variance = torch.tensor([[[0.0, 3.0, 1.0, -1.0]]]), torch.tensor([[[0.1, 0.2, 0.3, 0.4]]])
    with Propagation():
        result = F.max_pool1d(make_gaussian(mean, variance), 2)
    assert_close(mean_of(result), torch.tensor([[[3.0, 1.0]]]))
    assert_close(variance_of(result), torch.tensor([[[0.2, 0.3]]]))


def test_max_pooling_of_a_relu_is_the_relu_of_the_largest_element() -> None:
    x = random_tensor(2, 3, 8, 6, scale=3.0)
    with Propagation():
        pooled = F.max_pool2d(F.relu(x), 2)
        expected = F.relu(F.max_pool2d(x, 2))
    assert_close(mean_of(pooled), mean_of(expected))
    assert_close(variance_of(pooled), variance_of(expected))
    apart = make_gaussian(torch.tensor([[[0.0, 30.0, -5.0, -1.0, -9.0, 0.5]]]), 0.1 + torch.rand(1, 1, 6))
    check(lambda a: F.max_pool1d(F.relu(a), 3), apart, rtol=0.01, atol=5e-3)


def test_a_deferred_relu_does_not_see_later_changes_of_its_input() -> None:
    x = random_tensor(5)
    with Propagation():
        expected = F.relu(make_gaussian(mean_of(x).clone(), variance_of(x).clone()))
        result = F.relu(x)
        x += 3
    assert_close(mean_of(result), mean_of(expected))


def test_a_change_of_shape_in_place_is_refused() -> None:
    with Propagation(), pytest.raises(NoRuleError, match="a change of shape in place"):
        random_tensor(4).unsqueeze_(0)


@pytest.mark.parametrize("needs_weights", [True, False])
@pytest.mark.parametrize("has_mask", [True, False])
def test_attention_by_parts_is_attention(needs_weights: bool, has_mask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x = make_gaussian(torch.randn(7, 5, 8), 0.1 * torch.rand(7, 5, 8))
    padding = torch.arange(5) >= torch.randint(2, 6, (7, 1)) if has_mask else None
    with torch.no_grad(), Propagation():
        expected, _ = attention(x, x, x, key_padding_mask=padding)
        monkeypatch.setattr("lightning_vi.moments.activations.PART", 60)
        result, weights = attention(x, x, x, key_padding_mask=padding, need_weights=needs_weights)
    assert (weights is None) is not needs_weights
    assert_close(mean_of(result), mean_of(expected))
    assert_close(variance_of(result), variance_of(expected))
    assert_close(result.shared, expected.shared)


def test_a_batch_normalization_with_random_parameters_is_exact() -> None:
    x, weight, bias = random_tensor(3, 2, 4), random_tensor(2), random_tensor(2)
    mean, variance = torch.randn(2), 0.5 + torch.rand(2)
    check(lambda *args: F.batch_norm(args[0], mean, variance, *args[1:]), x, weight, bias)
    check(lambda *args: F.batch_norm(args[0], mean, variance, *args[1:]).mean(2), x, weight, bias)


def test_averages_over_positions_are_exact_behind_moves() -> None:
    tokens, weight = torch.randn(3, 6, 5), random_tensor(4, 5)
    check(lambda w: F.linear(tokens, w).mean(1), weight)
    check(lambda w: F.linear(tokens, w).transpose(1, 2).unflatten(1, (2, 2)).mean(-1), weight)
    check(lambda w: 2 * F.linear(tokens, w).chunk(2, -1)[1].permute(2, 0, 1).sum(2), weight)


def test_functions_in_place_change_their_input() -> None:
    x = random_tensor(4)
    with Propagation():
        expected = F.relu(make_gaussian(mean_of(x).clone(), variance_of(x)))
        F.relu(x, inplace=True)
        x += 1
    assert_close(mean_of(x), mean_of(expected) + 1)
    assert_close(variance_of(x), variance_of(expected))


def test_dropout_does_nothing_or_multiplies_by_independent_masks() -> None:
    x = random_tensor(5)
    with Propagation():
        assert F.dropout(x, 0.5) is x
    with Propagation(drops_units=True):
        result, constant = F.dropout(x, 0.3), F.dropout(torch.ones(2), 0.5)
    masks = (torch.rand(DRAWS, 5) > 0.3).float() / 0.7
    products = masks * draws_of(x)
    assert_close(mean_of(result), products.mean(0), rtol=0, atol=0.06)
    assert_close(variance_of(result), products.var(0), rtol=0.1, atol=0.02)
    assert_close(variance_of(constant), torch.ones(2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.sort(x)[0],
        lambda x: x / x,
        lambda x: x > 0,
        lambda x: torch.zeros(4).index_put((torch.arange(4),), x),
        lambda x: torch.linalg.norm(x),
    ],
)
def test_other_functions_are_refused_by_name(function: Callable[[Tensor], Tensor]) -> None:
    with Propagation(), pytest.raises(NoRuleError, match="approximation='moments' has no rule for '"):
        function(random_tensor(4))


def test_a_random_value_is_not_written_into_a_constant() -> None:
    constant = torch.zeros(4)
    with Propagation(), pytest.raises(NoRuleError, match="__setitem__"):
        constant[0] = random_tensor(1)[0]
    assert_close(constant, torch.zeros(4))


def test_python_functions_of_torch_run_with_moments_in_their_place() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x = torch.randn(2, 3, 4)
    with torch.no_grad(), Propagation():
        output, weights = attention(*[make_gaussian(x, torch.full_like(x, 1e-12))] * 3)
    with torch.no_grad():
        expected, expected_weights = attention(x, x, x)
    assert_close(mean_of(output), expected)
    assert_close(mean_of(weights), expected_weights)
    assert (variance_of(output) < 1e-9).all()
