r"""Rules of functions that are linear in each argument.

For :math:`y = \sum_j a_j b_j` with independent factors,

.. math:: \mathrm{E}[y] = \sum_j \mathrm{E}[a_j] \mathrm{E}[b_j], \qquad
    \mathrm{Var}[y] = \sum_j \mathrm{Var}[a_j]\, (\mathrm{E}[b_j]^2 + \mathrm{Var}[b_j])
    + \mathrm{E}[a_j]^2\, \mathrm{Var}[b_j]
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_vi.moments.activations import reused
from lightning_vi.moments.attended import attend
from lightning_vi.moments.correlation import shared_variance, with_shared
from lightning_vi.moments.factored import MIN_NUMBERS
from lightning_vi.moments.gaussian_tensor import (
    GaussianTensor,
    kept,
    make_gaussian,
    mean_of,
    mean_over,
    mean_square_of,
    positions,
    second_moment_of,
    variance_of,
)
from lightning_vi.moments.propagation import NoRuleError, rule


def added(*variances: Tensor | None) -> Tensor | None:
    """Sum of variances, of which None is zero."""
    known = [variance for variance in variances if variance is not None]
    return sum(known[1:], known[0]) if known else None


def product_variance(
    product: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor, extra: Tensor | None = None
) -> Tensor | None:
    """Variance of a sum of products of independent factors.

    Args:
        product: Linear in both of its arguments, with coefficients that are zero or one.
        first: One factor.
        second: The other one.
        extra: Variance to be added, which broadcasts to the product.

    Returns:
        The shape of the product; None if both factors are constants and there is nothing to be added.
    """
    variance, other = variance_of(first), variance_of(second)
    total = None if other is None else product(mean_square_of(first), other)
    for term in (None if variance is None else product(variance, second_moment_of(second)), extra):
        if term is not None:
            total = term if total is None else torch.add(total, term, out=reused(total))
    return total


@rule("linear")
def linear(func: Callable[..., Any], input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """Affine map, the same at each position."""
    mean = func(mean_of(input), mean_of(weight), mean_of(bias))
    spread = variance_of(bias)
    variance = _factored_variance(func, input, weight, spread)
    result = _expanded(mean, _linear_variance(func, input, weight, spread) if variance is None else variance)
    dims = positions(input) or range(1, input.dim() - 1)
    if all(input.shape[dim] == 1 for dim in dims) or input.dim() - 1 in dims:
        return result
    return with_shared(result, _linear_variance(func, position_mean(input, dims), weight, spread), dims)


def _linear_variance(func: Callable[..., Any], x: Tensor, weight: Tensor, extra: Tensor | None) -> Tensor | None:
    """`product_variance`, in products that add to each other."""
    spread, other = variance_of(x), variance_of(weight)
    if spread is None or other is None or torch.is_grad_enabled() or extra is None or extra.dim() != 1:
        return product_variance(func, x, weight, extra)
    total: Tensor = func(spread, second_moment_of(weight), extra)
    total.view(-1, total.shape[-1]).addmm_(mean_square_of(x).reshape(-1, x.shape[-1]), other.mT)
    return total


def _factored_variance(
    product: Callable[..., Tensor], x: Tensor, weight: Tensor, extra: Tensor | None
) -> Tensor | None:
    """`product_variance` with a weight [outputs, ...], by the factors of its variances; None if that saves no time."""
    factors = weight.variance_factors if isinstance(weight, GaussianTensor) else None
    if factors is None or max(x.numel(), weight.numel()) < MIN_NUMBERS:
        return None
    of_outputs, of_inputs, of_kernel = factors
    square = mean_square_of(x)
    if (dimensions := weight.dim() - 2) == 0:
        single = (square @ of_inputs).unsqueeze(-1)
    else:
        channels = of_inputs @ square.flatten(2)
        # as one image with a channel for each datum: images with one channel take longer
        image, count = channels.view(1, len(square), *square.shape[2:]), len(square)
        single = product(image, of_kernel.expand(count, *of_kernel.shape[1:]), groups=count).transpose(0, 1)
        of_outputs = of_outputs.view(-1, *[1] * dimensions)
    if (spread := variance_of(x)) is not None:
        known = product(spread, second_moment_of(weight), extra)
        return torch.addcmul(known, single, of_outputs, out=reused(known))
    if extra is None:
        return single * of_outputs
    return torch.addcmul(extra.view(-1, *[1] * dimensions), single, of_outputs)


def position_mean(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Average over positions, with ones in their place."""
    if not dims:
        return x
    shared = None if variance_of(x) is None else shared_variance(x, dims)
    return make_gaussian(mean_over(mean_of(x), dims), shared)


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **options: Any,
) -> Tensor:
    """Convolution. The average output is that of the average input and the sum of the kernel, but for the edges."""
    dimensions = weight.dim() - 2
    if input.dim() == dimensions + 1:
        batch = make_gaussian(mean_of(input)[None], None if (v := variance_of(input)) is None else v[None])
        result = convolution(func, batch, weight, bias, *args, **options)
        return make_gaussian(mean_of(result)[0], None if (v := variance_of(result)) is None else v[0])
    spread = variance_of(bias)
    shared = None if spread is None else spread.view(-1, *[1] * dimensions)
    mean = func(mean_of(input), mean_of(weight), mean_of(bias), *args, **options)
    is_transposed = "transpose" in func.__name__
    groups = args[3] if len(args) > 3 else options.get("groups", 1)

    def convolved(x: Tensor, w: Tensor, b: Tensor | None = None, **changed: int) -> Tensor:
        if not changed:
            return func(x, w, b, *args, **options)  # type: ignore[no-any-return]
        named = dict(zip(("stride", "padding", "dilation"), args, strict=False))
        return func(x, w, b, **(named | options | changed))  # type: ignore[no-any-return]

    variance = None if is_transposed or groups > 1 else _factored_variance(convolved, input, weight, spread)
    variance = product_variance(convolved, input, weight, shared) if variance is None else variance
    result = _expanded(mean, variance)
    if variance is None:
        return result
    dims = range(2, input.dim())
    share = input.shape[2:].numel() / mean.shape[2:].numel() if is_transposed else 1.0
    kernel = kept(weight, f"kernel {share}", lambda: _summed_kernel(weight, share))
    average = position_mean(input, dims)

    def product(x: Tensor, w: Tensor) -> Tensor:
        if groups > 1:
            return func(x, w, None, groups=groups)  # type: ignore[no-any-return]
        rows = x.flatten(1) @ (w.flatten(1) if is_transposed else w.flatten(1).mT)
        return rows.view(*rows.shape, *[1] * dimensions)

    small = product_variance(product, average, kernel, shared)
    return with_shared(result, small, dims)


def _summed_kernel(weight: Tensor, share: float) -> Tensor:
    """Sum of a kernel over its places, times a number."""
    dims = list(range(2, weight.dim()))
    spread = variance_of(weight)
    mean = share * mean_of(weight).sum(dims, keepdim=True)
    if spread is None:
        return mean
    spread = share**2 * spread.sum(dims, keepdim=True)
    return make_gaussian(mean, spread, second_moment=mean.square() + spread)


def _expanded(mean: Tensor, variance: Tensor | None) -> Tensor:
    if variance is not None and variance.shape != mean.shape:
        variance = variance.expand_as(mean)
    return make_gaussian(mean, variance)


@rule("matmul", "mm", "bmm", "mv", "__matmul__", "__rmatmul__")
def matrix_product(func: Callable[..., Any], input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    """Matrix product; that of a softmax is linearized in its logits, see `attend`."""
    logit_variance = getattr(input, "logit_variance", None)
    if logit_variance is not None and func.__name__ != "__rmatmul__":
        return attend(mean_of(input), logit_variance, other)
    spread, other_spread = variance_of(input), variance_of(other)
    if spread is None or other_spread is None or other.dim() < 2 or func.__name__ == "__rmatmul__":
        variance = product_variance(func, input, other)
    else:  # both products in one
        factors = torch.cat([spread, mean_square_of(input)], -1), torch.cat([second_moment_of(other), other_spread], -2)
        variance = torch.matmul(*factors)
    return make_gaussian(func(mean_of(input), mean_of(other)), variance)


@rule("addmm", "baddbmm", "addbmm", "addmv")
def added_product(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    first: Tensor,
    second: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
) -> Tensor:
    """Matrix product plus a matrix."""
    if func.__name__ == "addbmm":
        raise NoRuleError("addbmm")
    result = matrix_product(torch.matmul, first, second)
    mean = func(mean_of(input), mean_of(first), mean_of(second), beta=beta, alpha=alpha)
    terms = [
        None if variance is None else factor**2 * variance
        for variance, factor in ((variance_of(input), beta), (variance_of(result), alpha))
    ]
    variance = added(*terms)
    return make_gaussian(mean, None if variance is None else variance.expand_as(mean))


@rule("mul", "multiply", "__mul__", "__rmul__", keeps_correlation=True)
def elementwise_product(func: Callable[..., Any], input: Any, other: Any) -> Tensor:  # noqa: A002, ARG001
    """Elementwise product of independent tensors, or the square of one."""
    if input is other:
        mean, variance = mean_of(input), input.variance
        return make_gaussian(mean.square() + variance, 4 * variance * mean.square() + 2 * variance.square())
    if not isinstance(input, Tensor):
        input, other = other, input  # noqa: A001
    mean = mean_of(input) * mean_of(other)
    if not isinstance(other, Tensor):
        return make_gaussian(mean, input.variance * other**2)
    result = make_gaussian(mean, product_variance(torch.mul, input, other))
    if variance_of(input) is None or variance_of(other) is None:
        known = input if variance_of(other) is None else other
        if not positions(known) and known.shape == result.shape:
            return result
    dims = joint_positions(result, input, other)
    shared = product_variance(torch.mul, *(_averaged(x, dims, result.dim()) for x in (input, other)))
    return with_shared(result, shared, dims)


def joint_positions(result: Tensor, *parts: Any) -> list[int]:
    """Dimensions in which any of several tensors has correlated elements, or one element for all of them."""
    dims = set[int]()
    for x in parts:
        if isinstance(x, GaussianTensor):
            missing = result.dim() - x.dim()
            dims |= {dim + missing for dim in positions(x)}
            dims |= {
                dim
                for dim in range(1, result.dim())
                if result.shape[dim] > 1 and (dim < missing or x.shape[dim - missing] == 1)
            }
    return sorted(dims)


def _averaged(x: Tensor, dims: Sequence[int], num_dims: int) -> Tensor:
    """Root mean square over positions of a constant, average of random variables."""
    missing = num_dims - x.dim()
    mean = mean_of(x)[(None,) * missing] if missing else mean_of(x)
    over = [dim for dim in dims if mean.shape[dim] > 1]
    if variance_of(x) is None:
        return mean_over(mean.square(), over).sqrt() if over else mean
    average = mean_over(mean, over) if over else mean
    return make_gaussian(average, shared_variance(x, dims, num_dims))


@rule("div", "divide", "true_divide", "__div__", "__truediv__", keeps_correlation=True)
def quotient(func: Callable[..., Any], input: Tensor, other: Any, **options: Any) -> Tensor:  # noqa: A002
    """Quotient by a constant."""
    if isinstance(other, GaussianTensor) or options.get("rounding_mode"):
        raise NoRuleError("div")
    mean = func(mean_of(input), other)
    return make_gaussian(mean, (input.variance / other**2).expand_as(mean))  # type: ignore[attr-defined]


@rule("add", "__add__", "__radd__", "__iadd__")
def total(func: Callable[..., Any], input: Any, other: Any, *, alpha: float = 1) -> Tensor:  # noqa: A002, ARG001
    """Sum of independent tensors, or twice one."""
    if input is other:
        twice = (1 + alpha) ** 2 * input.variance
        return make_gaussian((1 + alpha) * mean_of(input), twice, correlation=input.correlation)
    mean = mean_of(input) + (mean_of(other) if alpha == 1 else alpha * mean_of(other))
    second = variance_of(other)
    variance = added(variance_of(input), second if second is None or alpha == 1 else alpha**2 * second)
    result = make_gaussian(mean, None if variance is None else variance.expand_as(mean))
    if variance is None or not (dims := joint_positions(result, input, other)):
        return result
    parts = [
        factor * shared_variance(x, dims, mean.dim())
        for x, factor in ((input, 1.0), (other, alpha**2))
        if isinstance(x, GaussianTensor)
    ]
    return with_shared(result, added(*parts), dims)


@rule("sub", "subtract", "__sub__", "__isub__")
def difference(func: Callable[..., Any], input: Any, other: Any, *, alpha: float = 1) -> Tensor:  # noqa: A002
    """Difference of independent tensors."""
    return total(func, input, other, alpha=-alpha)


@rule("rsub", "__rsub__")
def reversed_difference(func: Callable[..., Any], input: Any, other: Any) -> Tensor:  # noqa: A002
    """Difference of independent tensors."""
    return total(func, other, input, alpha=-1)


@rule("neg", "negative", "__neg__", keeps_correlation=True)
def negated(func: Callable[..., Any], input: Tensor) -> Tensor:  # noqa: A002
    """Negative of a tensor."""
    return make_gaussian(func(mean_of(input)), input.variance)  # type: ignore[attr-defined]


@rule("addcmul")
def added_elementwise_product(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    first: Tensor,
    second: Tensor,
    *,
    value: float = 1,
) -> Tensor:
    """Elementwise product plus a tensor."""
    return total(torch.add, input, elementwise_product(torch.mul, first, second), alpha=value)


@rule("bilinear")
def bilinear(
    func: Callable[..., Any],
    input1: Tensor,
    input2: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Form that is linear in two inputs and its weight, by the product of second moments."""
    mean = func(*map(mean_of, (input1, input2, weight, bias)))
    squares = [mean_of(x).square() for x in (input1, input2, weight)]
    moments = [
        square if (v := variance_of(x)) is None else square + v
        for square, x in zip(squares, (input1, input2, weight), strict=True)
    ]
    variance = (func(*moments, None) - func(*squares, None)).clamp_min(0)
    return _expanded(mean, added(variance, variance_of(bias)))


@rule("einsum")
def einsum(func: Callable[..., Any], equation: str, *operands: Any) -> Tensor:
    """Sum of products of at most two factors."""
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    if len(operands) > 2 or not isinstance(equation, str) or _has_diagonal(equation):
        raise NoRuleError("einsum")
    mean = func(equation, *map(mean_of, operands))
    if len(operands) == 1:
        return make_gaussian(mean, func(equation, operands[0].variance))
    return make_gaussian(mean, product_variance(lambda a, b: func(equation, a, b), *operands))


def _has_diagonal(equation: str) -> bool:
    operands = equation.replace(" ", "").split("->")[0].split(",")
    return any(len(set(names := operand.replace("...", ""))) < len(names) for operand in operands)
