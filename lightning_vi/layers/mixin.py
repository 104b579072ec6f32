"""Mixins added to the class of an existing module."""

from typing import Any, ClassVar

from torch import nn


class ModuleMixin(nn.Module):
    """Base class of mixins for existing modules, which stay copyable and picklable."""

    class_prefix: ClassVar[str]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles a class made by `mixed_class` as the pair of classes it is made of."""
        cls, reduced = type(self), super().__reduce_ex__(protocol)
        parts = cls.__dict__.get("_made_of")
        return reduced if parts is None else (_new, parts, *reduced[2:])


def mixed_class(mixin: type[ModuleMixin], original: type[nn.Module]) -> type[ModuleMixin]:
    """Combines a mixin with the class of a module.

    Args:
        mixin: The mixin.
        original: The class of the module.

    Returns:
        A subclass of both. Repeated calls return the same class.
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
