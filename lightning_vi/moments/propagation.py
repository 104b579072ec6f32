"""Propagation of means and variances through a network."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_vi.errors import InputTypeError
from lightning_vi.moments.gaussian_tensor import GaussianTensor, make_gaussian, mean_of, positions, variance_of
from lightning_vi.sampling.dropout_mode import running_module

AnyRule = TypeVar("AnyRule", bound=Callable[..., Any])
Rule = Callable[..., Any]
"""Result of a function, which is the first argument, on arguments of which at least one is a `GaussianTensor`."""

RULES: dict[str, Rule] = {}
"""Rules by the names of torch's functions. A function and a method of one name have one rule."""


_KEEPING: set[str] = set()


def rule(*names: str, keeps_correlation: bool = False) -> Callable[[AnyRule], AnyRule]:
    """Registers a rule.

    Args:
        *names: Names of functions, without the underscore of those that work in place.
        keeps_correlation: Whether positions of the result are correlated as those of the first argument.

    Returns:
        A decorator.
    """

    def register(function: AnyRule) -> AnyRule:
        RULES.update(dict.fromkeys(names, function))
        if keeps_correlation:
            _KEEPING.update(names)
        return function

    return register


class Propagation(TorchFunctionMode):
    """Computes the results of torch functions on tensors of Gaussian variables by their moments.

    Functions of other tensors are unchanged. A Python function of `torch.nn.functional` without a rule is run with
    moments in its place.

    Args:
        drops_units: Whether dropout is random. Otherwise it does nothing.

    Example:
        >>> from lightning_vi.moments.gaussian_tensor import make_gaussian, variance_of
        >>> x = make_gaussian(torch.zeros(2, 3), torch.ones(2, 3))
        >>> with Propagation():
        ...     y = torch.nn.functional.linear(x, torch.ones(1, 3))
        >>> variance_of(y)
        tensor([[3.],
                [3.]])
    """

    def __init__(self, *, drops_units: bool = False) -> None:
        super().__init__()
        self.drops_units = drops_units

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Computes the result of a function."""
        options = dict(kwargs or {})
        name = _name(func)
        is_dropout = self.drops_units and name in DROPOUT
        if not is_dropout and not _has_gaussian(args) and not (options and _has_gaussian(options.values())):
            return func(*args, **options)
        if name in METADATA:
            return func(*args, **options)
        is_in_place = name.endswith("_") and not name.endswith("__")
        name = name.rstrip("_") if is_in_place else name
        found = RULES.get(name)
        if found is None:
            opened = _opened(func)
            if opened is None:
                raise NoRuleError(name)
            with self:
                return opened(*args, **options)
        if is_in_place:
            func = getattr(Tensor, name, None) or getattr(torch, name)
        if name in DROPOUT:
            options["drops_units"] = self.drops_units
        result = found(func, *args, **options)
        if name in _KEEPING and isinstance(result, GaussianTensor) and not positions(result):
            _keep_correlation(result, args)
        if (is_in_place or options.get("inplace")) and isinstance(args[0], GaussianTensor):
            return _replaced(args[0], result)
        return result


class NoRuleError(Exception):
    """A function of a random variable has no rule. It is no `TypeError`, which operators of tensors would hide.

    Args:
        name: Name of the function.
    """

    def __init__(self, name: str) -> None:
        self.function = name
        self.module = running_module()
        super().__init__(self._message("" if self.module is None else f", which {type(self.module).__name__} calls"))

    def named(self, network: nn.Module) -> InputTypeError:
        """Returns an error that names the module.

        Args:
            network: The network.

        Returns:
            The error.
        """
        names = [name for name, module in network.named_modules() if module is self.module]
        if not names:
            return InputTypeError(str(self))
        name = repr(names[0]) if names[0] else "the network"
        return InputTypeError(self._message(f", which {name}, a {type(self.module).__name__}, calls"))

    def _message(self, where: str) -> str:
        return (
            f"approximation='moments' has no rule for {self.function!r} of a random variable{where}: use "
            "approximation='sampling', or choose stochastic modules behind it by stochastic_module_names"
        )


def _keep_correlation(result: GaussianTensor, args: tuple[Any, ...]) -> None:
    """Gives a result the correlation of the first argument that has one."""
    for x in args:
        if x is result:
            return
        if positions(x) and x.shape == result.shape:
            result.known_correlation = x.correlation
            return


def _replaced(x: GaussianTensor, result: Tensor) -> Tensor:
    """Gives a tensor the moments of a result in place."""
    mean, variance = mean_of(result), variance_of(result)
    if mean.shape != x.shape:
        raise NoRuleError("a change of shape in place")
    x.moments, x.deferred = (mean, torch.zeros_like(mean) if variance is None else variance), None
    x.mean_square = x.second_moment = x.variance_factors = x.logit_variance = None
    known = (result.shared, result.known_correlation) if isinstance(result, GaussianTensor) else (None, None)
    x.shared, x.known_correlation = known
    return x


def _has_gaussian(values: Iterable[Any]) -> bool:
    """Returns True if some of several arguments, or of their elements, are random."""
    for x in values:
        if isinstance(x, GaussianTensor):
            return True
        if isinstance(x, tuple | list) and any(isinstance(part, GaussianTensor) for part in x):
            return True
    return False


def _name(func: Callable[..., Any]) -> str:
    """Name of a function, a method or a property."""
    name: str = getattr(func, "__name__", "")
    return func.__self__.__name__ if name == "__get__" else name  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _opened(func: Callable[..., Any]) -> Callable[..., Any] | None:
    """The Python code of a function of `torch.nn.functional`, which calls functions with rules; None for others."""
    if not isinstance(func, FunctionType) or func.__module__ != F.__name__:
        return None
    names = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    known = func.__globals__ | dict.fromkeys(names, lambda *_: False)
    opened = FunctionType(func.__code__, known, func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


METADATA = frozenset(
    {
        *("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf", "grad_fn", "itemsize", "names"),
        *("is_cuda", "is_cpu", "is_mps", "is_meta", "is_sparse", "is_quantized", "is_mkldnn", "is_xla", "is_nested"),
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "element_size", "storage_offset", "__len__"),
        *("is_floating_point", "is_complex", "is_contiguous", "get_device", "is_same_size", "__hash__"),
        *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
        *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "result_type", "can_cast"),
        "_has_compatible_shallow_copy_type",
    }
)
"""Functions that do not depend on the values of a tensor."""

DROPOUT = frozenset(
    {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}
)


def _dropped(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    p: float = 0.5,
    training: bool = True,  # noqa: ARG001
    inplace: bool = False,  # noqa: ARG001
    *,
    drops_units: bool,
    **_: Any,
) -> Tensor:
    r"""Dropout with independent units, :math:`x z / (1 - p)`."""
    if not drops_units or p == 0:
        return input
    mean, variance = mean_of(input), variance_of(input)
    square = mean.square() if variance is None else mean.square() + variance
    added = square * (p / (1 - p))
    return make_gaussian(mean, added if variance is None else variance + added)


RULES.update(dict.fromkeys(DROPOUT - {"alpha_dropout", "feature_alpha_dropout"}, _dropped))
_KEEPING.update(DROPOUT)
