"""Tensors of independent Gaussian variables."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar, overload

import torch
from torch import Tensor

Formula = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Deferred = tuple[Formula, Tensor, Tensor]


class GaussianTensor(Tensor):
    """A tensor of independent Gaussian variables.

    Its shape, type and device are those of the means. Its own values are the means too, unless they are deferred or it
    was changed in place. `Propagation` gives the results of torch's functions on it.

    Example:
        >>> x = make_gaussian(torch.zeros(2), torch.ones(2))
        >>> mean_of(x), variance_of(x)
        (tensor([0., 0.]), tensor([1., 1.]))
    """

    moments: tuple[Tensor, Tensor] | None
    """Means and variances; None for those of a function that is not yet computed."""
    deferred: Deferred | None
    """A function of single elements, and the means and variances of its argument, if its result is not yet computed."""
    mean_square: Tensor | None
    """Squares of the means, once they are known."""
    second_moment: Tensor | None
    """Squares of the means plus variances, once they are known."""
    variance_factors: tuple[Tensor, Tensor, Tensor] | None
    """See `lightning_vi.moments.factored`."""
    facts: dict[str, Any] | None
    """Results of the moments alone, for weights that are kept from one pass to the next; see `kept`."""
    logit_variance: Tensor | None
    """Variances of the logits, if the tensor is a softmax over its last dimension."""
    shared: Tensor | None
    """Variance of the average over positions, expanded along their dimensions to the tensor's shape, if it is known."""
    known_correlation: Tensor | None
    """The value of `correlation`, once it is known."""

    __torch_function__: ClassVar[Callable[..., Any]] = torch._C._disabled_torch_function_impl

    @property
    def mean_values(self) -> Tensor:
        """Means."""
        return self._known_moments()[0]

    @property
    def variance(self) -> Tensor:
        """Variances, the shape of the means."""
        return self._known_moments()[1]

    def _known_moments(self) -> tuple[Tensor, Tensor]:
        if self.moments is None:
            formula, mean, variance = self.deferred  # type: ignore[misc]
            self.moments, self.deferred = formula(mean, variance), None
        return self.moments

    @property
    def correlation(self) -> Tensor | None:
        """Average correlation between positions, expanded along their dimensions to the tensor's shape."""
        if self.known_correlation is None and self.shared is not None:
            dims = zero_strides(self.shared)
            total = mean_over(self.variance, dims).clamp_min(torch.finfo(self.variance.dtype).tiny)
            correlation = (first_of(self.shared, dims) / total).clamp(0, 1)
            self.known_correlation = correlation.expand_as(self.variance)
        return self.known_correlation


def mean_over(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Average over some dimensions, which are kept, from a sum: `torch.mean` takes longer for few elements.

    Args:
        x: Any tensor.
        dims: The dimensions.

    Returns:
        The shape of `x` with ones in the place of `dims`.
    """
    return x.sum(tuple(dims), keepdim=True) * (1 / math.prod(x.shape[dim] for dim in dims))


def zero_strides(x: Tensor) -> tuple[int, ...]:
    """Dimensions along which a tensor was expanded.

    Args:
        x: Any tensor.

    Returns:
        The dimensions.
    """
    pairs = zip(x.shape, x.stride(), strict=True)
    return tuple(dim for dim, (size, stride) in enumerate(pairs) if stride == 0 and size > 1)


def first_of(x: Tensor, dims: Iterable[int]) -> Tensor:
    """First elements along some dimensions, which are kept.

    Args:
        x: Any tensor.
        dims: The dimensions.

    Returns:
        The shape of `x` with ones in the place of `dims`.
    """
    for dim in dims:
        x = x.narrow(dim, 0, 1)
    return x


def make_gaussian(
    mean: Tensor,
    variance: Tensor | None,
    logit_variance: Tensor | None = None,
    correlation: Tensor | None = None,
    second_moment: Tensor | None = None,
    variance_factors: tuple[Tensor, Tensor, Tensor] | None = None,
    facts: dict[str, Any] | None = None,
) -> Tensor:
    """Makes a tensor of independent Gaussian variables.

    Args:
        mean: Means, any shape.
        variance: Variances, the shape of `mean`; None for constants.
        logit_variance: See `GaussianTensor`.
        correlation: See `GaussianTensor`.
        second_moment: See `GaussianTensor`.
        variance_factors: See `GaussianTensor`.
        facts: See `GaussianTensor`.

    Returns:
        A `GaussianTensor`; `mean` itself for constants.
    """
    if variance is None:
        return mean
    tensor = mean.as_subclass(GaussianTensor)
    tensor.moments, tensor.deferred = (mean, variance), None
    tensor.mean_square, tensor.second_moment, tensor.variance_factors = None, second_moment, variance_factors
    tensor.facts = facts
    tensor.logit_variance, tensor.shared, tensor.known_correlation = logit_variance, None, correlation
    return tensor


def defer(formula: Formula, mean: Tensor, variance: Tensor) -> Tensor:
    """Makes the result of a function of single elements, which is computed when its moments are needed.

    Args:
        formula: Gives means and variances of the result.
        mean: Means of the argument, any shape.
        variance: Variances of the argument, the shape of `mean`.

    Returns:
        A `GaussianTensor`.
    """
    tensor = make_gaussian(mean, variance)
    tensor.moments, tensor.deferred = None, (formula, mean, variance)  # type: ignore[attr-defined]
    return tensor


Fact = TypeVar("Fact")


def kept(x: Tensor, name: str, make: Callable[[], Fact]) -> Fact:
    """Returns a result of the moments of a tensor, computed once for a weight that is kept from one pass to the next.

    Args:
        x: Any tensor.
        name: Identifies the result.
        make: Computes it.

    Returns:
        The result of `make`, of this call or an earlier one.
    """
    facts = x.facts if isinstance(x, GaussianTensor) else None
    if facts is None:
        return make()
    if name not in facts:
        with torch.inference_mode(False), torch.no_grad():  # what is kept serves passes with gradients too
            facts[name] = make()
    return facts[name]  # type: ignore[no-any-return]


@overload
def mean_of(x: Tensor) -> Tensor: ...
@overload
def mean_of(x: Any) -> Any: ...
def mean_of(x: Any) -> Any:
    """Means of a tensor.

    Args:
        x: Any object.

    Returns:
        The means of a `GaussianTensor`, and any other object itself.
    """
    return x.mean_values if isinstance(x, GaussianTensor) else x


def variance_of(x: Any) -> Tensor | None:
    """Variances of a tensor.

    Args:
        x: Any object.

    Returns:
        The variances of a `GaussianTensor`, and None for any other object.
    """
    return x.variance if isinstance(x, GaussianTensor) else None


def mean_square_of(x: Tensor) -> Tensor:
    """Squares of the means of a tensor, computed once.

    Args:
        x: Any tensor.

    Returns:
        The shape of `x`.
    """
    if not isinstance(x, GaussianTensor):
        return x.square()
    if x.mean_square is None:
        x.mean_square = x.mean_values.square()
    return x.mean_square


def second_moment_of(x: Tensor) -> Tensor:
    """Expected squares of a tensor.

    Args:
        x: Any tensor.

    Returns:
        The shape of `x`.
    """
    if not isinstance(x, GaussianTensor):
        return x.square()
    return mean_square_of(x) + x.variance if x.second_moment is None else x.second_moment


def correlation_of(x: Any) -> Tensor | None:
    """Correlation between positions of a tensor.

    Args:
        x: Any object.

    Returns:
        See `GaussianTensor`; None for independent elements and other objects.
    """
    return x.correlation if isinstance(x, GaussianTensor) else None


def positions(x: Any) -> tuple[int, ...]:
    """Dimensions of a tensor whose elements are correlated.

    Args:
        x: Any object.

    Returns:
        The dimensions; empty for independent elements and other objects.
    """
    if not isinstance(x, GaussianTensor):
        return ()
    known = x.known_correlation if x.shared is None else x.shared
    return () if known is None else zero_strides(known)
