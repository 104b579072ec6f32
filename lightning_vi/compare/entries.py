"""The methods of a comparison, by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lightning_vi import methods as method_room
from lightning_vi.arguments import accepted_arguments, suggestion
from lightning_vi.compare.adjustments import adjusted
from lightning_vi.compare.describe import describe
from lightning_vi.core import Predictor, UQMethod
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods import CalibratedMethod, VariationalMethod

MethodLike = str | type[UQMethod] | Callable[..., Predictor]
"""A name, a class, or a function of network and likelihood."""


@dataclass(frozen=True)
class Entry:
    """One method of a comparison.

    Attributes:
        name: Name in the tables.
        make: Class of the method, or a function from network and likelihood to the method.
        options: Arguments in addition to network and likelihood.
        calibrations: Calibrations that are fitted afterwards, in this order.
    """

    name: str
    make: Callable[..., Predictor]
    options: Mapping[str, Any] = field(default_factory=dict)
    calibrations: tuple[type[CalibratedMethod], ...] = ()

    def build(self, network: nn.Module, likelihood: Likelihood) -> Predictor:
        """Builds the method.

        Args:
            network: The network, which may be changed.
            likelihood: The likelihood.

        Returns:
            The unfitted method.
        """
        options: Mapping[str, Any] = self.options
        if isinstance(self.make, type) and issubclass(self.make, Predictor):
            network, likelihood, options = adjusted(self.make, network, likelihood, options)
        return self.make(network, likelihood, **options)

    def description(self) -> dict[str, Any]:
        """Describes the method, see `describe`."""
        facts = {"method": self.make, "options": self.options, "calibrations": self.calibrations}
        return {name: describe(value) for name, value in facts.items()}


def public_classes() -> dict[str, type]:
    """Returns the methods, calibrations and base classes of the package by name."""
    names: list[str] = vars(method_room)["__all__"]
    return {name: getattr(method_room, name) for name in names}


def method_names() -> list[str]:
    """Returns the names of all methods that train a network."""
    return [
        name
        for name, kind in public_classes().items()
        if issubclass(kind, UQMethod) and not inspect.isabstract(kind) and kind is not VariationalMethod
    ]


def make_entries(
    methods: Sequence[MethodLike] | Mapping[str, MethodLike],
    options: Mapping[str, Mapping[str, Any]],
    common_options: Mapping[str, Any],
) -> list[Entry]:
    """Makes the entries of a comparison.

    Args:
        methods: Names, classes or functions; a mapping names them. `A + B` is method A with calibration B.
        options: Arguments of each method, by its name in the comparison.
        common_options: Arguments of all methods that take them.

    Returns:
        One entry for each method.

    Raises:
        ValueError: If there is no method, a name is unknown or used twice, or a method does not take an option.
        TypeError: If a method is no name, class or function.
    """
    if isinstance(methods, str):
        raise InputTypeError(f"methods must be a list of methods, got the string {methods!r}")
    named = list(methods.items()) if isinstance(methods, Mapping) else [(_name_of(each), each) for each in methods]
    names = [name for name, _ in named]
    if not names:
        raise InputValueError("methods must name at least one method")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputValueError(f"methods has {repeated[0]!r} twice: give a mapping from names to methods")
    if unknown := [name for name in options if name not in names]:
        raise InputValueError(f"options has {unknown[0]!r}, which is no method of the comparison {names}")
    return [_make_entry(name, method, options.get(name, {}), common_options) for name, method in named]


def _make_entry(name: str, method: MethodLike, options: Mapping[str, Any], common_options: Mapping[str, Any]) -> Entry:
    calibrations: tuple[type[CalibratedMethod], ...] = ()
    if isinstance(method, str):
        base, *rest = (part.strip() for part in method.split("+"))
        make: Callable[..., Predictor] = _find(base, UQMethod)
        calibrations = tuple(_find(part, CalibratedMethod) for part in rest)
    elif callable(method):
        make = method
    else:
        raise InputTypeError(f"methods[{name!r}] must be a name, class or function, got {type(method).__name__}")
    common: dict[str, Any] = {}
    if isinstance(make, type):
        accepted = accepted_arguments(make).keys() - {"backbone", "likelihood"}
        if unknown := [option for option in options if option not in accepted]:
            raise InputValueError(f"{make.__name__} has no option {unknown[0]!r}{suggestion(unknown[0], accepted)}")
        common = {option: value for option, value in common_options.items() if option in accepted}
    return Entry(name, make, {**common, **options}, calibrations)


def _find(name: str, kind: type[Any]) -> Any:
    known = {each: found for each, found in public_classes().items() if issubclass(found, kind)}
    if name not in known:
        what = "method" if kind is UQMethod else "calibration"
        names = method_names() if kind is UQMethod else known
        raise InputValueError(f"there is no {what} {name!r}{suggestion(name, names)}")
    return known[name]


def _name_of(method: MethodLike) -> str:
    return method if isinstance(method, str) else getattr(method, "__name__", repr(method))
