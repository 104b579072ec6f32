"""Modules that get a further class while they keep everything else."""

from typing import Any, ClassVar

from torch import nn


class ModuleMixin(nn.Module):
    """Something added to the class of a module that exists already; such modules can be copied and pickled."""

    class_prefix: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles a class made by `mixed_class` as the two classes that it was made of."""
        cls, reduced = type(self), super().__reduce_ex__(protocol)
        parts = cls.__dict__.get("_made_of")
        return reduced if parts is None else (_new, parts, *reduced[2:])


def mixed_class(mixin: type[ModuleMixin], original: type[nn.Module]) -> type[ModuleMixin]:
    """A class that adds a mixin to the class of a module.

    Args:
        mixin: What is added.
        original: The module's class.

    Returns:
        A subclass of both, the same one in every call.
    """
    if issubclass(original, mixin):
        return original
    if getattr(mixin, "torch_parent", None) is original:
        return mixin
    parts = (mixin, original)
    if parts not in _CLASSES:
        _CLASSES[parts] = type(f"{mixin.class_prefix}{original.__name__}", parts, {"_made_of": parts})
    return _CLASSES[parts]


_CLASSES: dict[tuple[type[ModuleMixin], type[nn.Module]], type[ModuleMixin]] = {}


def _new(mixin: type[ModuleMixin], original: type[nn.Module]) -> ModuleMixin:
    cls = mixed_class(mixin, original)
    return cls.__new__(cls)
