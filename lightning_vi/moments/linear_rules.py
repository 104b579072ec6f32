r"""Rules of functions that are linear in each argument.

For :math:`y = \sum_j a_j b_j` with independent factors,

.. math:: \mathrm{E}[y] = \sum_j \mathrm{E}[a_j] \mathrm{E}[b_j], \qquad
    \mathrm{Var}[y] = \sum_j \mathrm{Var}[a_j]\, (\mathrm{E}[b_j]^2 + \mathrm{Var}[b_j])
    + \mathrm{E}[a_j]^2\, \mathrm{Var}[b_j]
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_vi.moments.gaussian_tensor import GaussianTensor, make_gaussian, mean_of, variance_of
from lightning_vi.moments.propagation import NoRuleError, rule


def added(*variances: Tensor | None) -> Tensor | None:
    """Sum of variances, of which None is zero."""
    known = [variance for variance in variances if variance is not None]
    return sum(known[1:], known[0]) if known else None


def product_variance(product: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor | None:
    """Variance of a sum of products of independent factors.

    Args:
        product: Linear in both of its arguments, with coefficients that are zero or one.
        first: One factor.
        second: The other one.

    Returns:
        The shape of the product; None if both factors are constants.
    """
    variance, other = variance_of(first), variance_of(second)
    terms = []
    if variance is not None:
        square = mean_of(second).square()
        terms.append(product(variance, square if other is None else square + other))
    if other is not None:
        terms.append(product(mean_of(first).square(), other))
    return added(*terms)


@rule("linear")
def linear(func: Callable[..., Any], input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # noqa: A002
    """Affine map."""
    variance = product_variance(func, input, weight)
    mean = func(mean_of(input), mean_of(weight), mean_of(bias))
    return _with_bias(mean, variance, variance_of(bias))


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolution(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **options: Any,
) -> Tensor:
    """Convolution. Its outputs share weights, which makes them dependent; they are treated as independent."""
    dimensions = weight.dim() - 2
    if input.dim() == dimensions + 1:
        batch = make_gaussian(mean_of(input)[None], None if (v := variance_of(input)) is None else v[None])
        result = convolution(func, batch, weight, bias, *args, **options)
        return make_gaussian(mean_of(result)[0], None if (v := variance_of(result)) is None else v[0])
    variance = product_variance(lambda x, w: func(x, w, None, *args, **options), input, weight)
    mean = func(mean_of(input), mean_of(weight), mean_of(bias), *args, **options)
    shared = variance_of(bias)
    return _with_bias(mean, variance, None if shared is None else shared.view(-1, *[1] * dimensions))


def _with_bias(mean: Tensor, variance: Tensor | None, bias_variance: Tensor | None) -> Tensor:
    if bias_variance is not None:
        variance = bias_variance.expand_as(mean) if variance is None else variance + bias_variance
    return make_gaussian(mean, variance)


@rule("matmul", "mm", "bmm", "mv", "__matmul__", "__rmatmul__")
def matrix_product(func: Callable[..., Any], input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    """Matrix product; that of a softmax is linearized in its logits, see `attend`."""
    logit_variance = getattr(input, "logit_variance", None)
    if logit_variance is not None and func.__name__ != "__rmatmul__":
        return attend(mean_of(input), logit_variance, other)
    variance = product_variance(func, input, other)
    return make_gaussian(func(mean_of(input), mean_of(other)), variance)


def attend(probs: Tensor, logit_variance: Tensor | None, values: Tensor) -> Tensor:
    r"""Average of values with weights of a softmax, linearized in its logits s.

    .. math:: o = \sum_j p_j v_j, \qquad \mathrm{Var}[o] \approx \sum_j p_j^2\, \mathrm{Var}[v_j]
        + p_j^2\, \mathrm{Var}[s_j]\, \big((v_j - o)^2 + \mathrm{Var}[v_j]\big)

    Args:
        probs: Probabilities p at the means of the logits, shape [..., T, J].
        logit_variance: Variances of the logits, the shape of `probs`; None for constants.
        values: v, shape [..., J, F].

    Returns:
        Shape [..., T, F].
    """
    mean, variance = mean_of(values), variance_of(values)
    output = probs @ mean
    squares = probs.square()
    if logit_variance is None:
        return make_gaussian(output, None if variance is None else squares @ variance)
    weights = squares * logit_variance
    # (v - o)^2 in terms of sums over j, around the mean over j so that no digits are lost
    center = mean.mean(-2, keepdim=True)
    shifted, shift = mean - center, output - center
    spread = weights @ shifted.square() - 2 * shift * (weights @ shifted)
    spread = (spread + shift.square() * weights.sum(-1, keepdim=True)).clamp_min(0)
    return make_gaussian(output, spread if variance is None else spread + (squares + weights) @ variance)


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


@rule("mul", "multiply", "__mul__", "__rmul__")
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
    variance = product_variance(torch.mul, input, other)
    return make_gaussian(mean, variance)


@rule("div", "divide", "true_divide", "__div__", "__truediv__")
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
        return make_gaussian((1 + alpha) * mean_of(input), (1 + alpha) ** 2 * input.variance)
    mean = mean_of(input) + (mean_of(other) if alpha == 1 else alpha * mean_of(other))
    second = variance_of(other)
    variance = added(variance_of(input), second if second is None or alpha == 1 else alpha**2 * second)
    return make_gaussian(mean, None if variance is None else variance.expand_as(mean))


@rule("sub", "subtract", "__sub__", "__isub__")
def difference(func: Callable[..., Any], input: Any, other: Any, *, alpha: float = 1) -> Tensor:  # noqa: A002
    """Difference of independent tensors."""
    return total(func, input, other, alpha=-alpha)


@rule("rsub", "__rsub__")
def reversed_difference(func: Callable[..., Any], input: Any, other: Any) -> Tensor:  # noqa: A002
    """Difference of independent tensors."""
    return total(func, other, input, alpha=-1)


@rule("neg", "negative", "__neg__")
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
    return _with_bias(mean, variance, variance_of(bias))


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
