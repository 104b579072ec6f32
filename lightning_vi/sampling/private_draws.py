"""Random numbers of a network's own, drawn from a private generator in one thread alone."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_NATIVE_DROPOUT = torch.ops.aten.native_dropout.default
_WITH_GENERATOR = {
    "default": "generator",
    "low": "low_generator",
    "Tensor": "Tensor_generator",
    "low_dtype": "low_generator_dtype",
}
"""Overloads of an operation without a generator, and those with one."""
_FILLS: Mapping[Any, Callable[..., Tensor]] = {
    torch.ops.aten.randn_like.default: Tensor.normal_,
    torch.ops.aten.rand_like.default: Tensor.uniform_,
}
"""Operations that have no overload with a generator in older releases of PyTorch, by what fills an empty tensor."""


class PrivateDraws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs its body on private random numbers. The global random state is neither read nor changed.

    Args:
        seed: Seed of the body's random numbers.

    Attributes:
        num_draws: Number of operations that have drawn random numbers.

    Example:
        >>> with PrivateDraws(seed=1):
        ...     first = torch.rand(2)
        >>> with PrivateDraws(seed=1) as draws:
        ...     second = torch.rand(2)
        >>> torch.equal(first, second), draws.num_draws
        (True, 1)
    """

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_draws = 0
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = {name: value for name, value in (kwargs or {}).items() if name != "generator" or value is not None}
        if torch.Tag.nondeterministic_seeded not in func.tags or "generator" in options:
            return func(*args, **options)
        if func is _NATIVE_DROPOUT:
            return self._dropout(*args)
        taking = func if _takes_generator(func) else _sibling(func) or _like(func)
        if taking is None:  # it draws only with dropout, as attention and recurrent networks do
            return func(*args, **options)
        self.num_draws += 1
        return taking(*args, **options, generator=self._generator(_device(args, options)))

    def _dropout(self, x: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
        """`torch.native_dropout`, which takes no generator."""
        if train is False:
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        self.num_draws += 1
        kept = torch.empty_like(x).bernoulli_(1 - p, generator=self._generator(x.device))
        return x * kept / max(1 - p, 1e-30), kept.bool()

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _takes_generator(func: Any) -> bool:
    return any(argument.name == "generator" for argument in func._schema.arguments)


def _sibling(func: Any) -> Any:
    """Overload of an operation with a generator, None if there is none."""
    name = _WITH_GENERATOR.get(func._overloadname, "")
    return getattr(func.overloadpacket, name) if name in func.overloadpacket.overloads() else None


def _like(func: Any) -> Any:
    """Function that draws like an operation, with a generator; None for other operations."""
    if (fill := _FILLS.get(func)) is None:
        return None
    return lambda *args, generator, **options: fill(torch.empty_like(*args, **options), generator=generator)


def _device(args: tuple[Any, ...], options: Mapping[str, Any]) -> torch.device:
    """Device of an operation's result."""
    given = options.get("device")
    if given is not None:
        return torch.device(given)
    return next((argument.device for argument in args if isinstance(argument, Tensor)), torch.get_default_device())
