"""Cache for draws, kept from one prediction to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from lightning_vi.tracing import is_exporting, uses_last_prediction

Draws = TypeVar("Draws")


class DrawCache(Generic[Draws]):
    """Keeps the last draws for as long as the tensors that they depend on have the same values.

    Values are compared, because not every update increments a tensor's version: fused optimizers do not. Copies and
    pickles do not contain the draws.

    Example:
        >>> cache, mean = DrawCache(), torch.zeros(2)
        >>> cache.get((0, 1), [mean], lambda: "first")
        'first'
        >>> cache.get((0, 1), [mean], lambda: "second")
        'first'
        >>> _ = mean.add_(1)
        >>> cache.get((0, 1), [mean], lambda: "second")
        'second'
    """

    def __init__(self) -> None:
        self._kept: _Kept[Draws] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_kept": None}

    def get(self, key: tuple[int, ...], made_of: Sequence[Tensor], draw: Callable[[], Draws]) -> Draws:
        """Returns the draws of a key, and makes them if they are not the kept ones.

        Args:
            key: Identifies the draws, such as seed and number of samples.
            made_of: All tensors that they depend on.
            draw: Makes them.

        Returns:
            The result of `draw`, of this call or an earlier one.
        """
        kept = self._kept
        if is_exporting():  # values cannot be compared
            is_known = uses_last_prediction() and kept is not None and kept.key == key
            return kept.draws if kept is not None and is_known else draw()
        if kept is None or not kept.belongs_to(key, made_of):
            with torch.inference_mode(False), torch.no_grad():  # what is kept serves passes with gradients too
                kept = _Kept(key, [tensor.detach().clone() for tensor in made_of], draw())
            self._kept = kept
        return kept.draws


@dataclass(frozen=True)
class _Kept(Generic[Draws]):
    key: tuple[int, ...]
    made_of: list[Tensor]
    draws: Draws

    def belongs_to(self, key: tuple[int, ...], made_of: Sequence[Tensor]) -> bool:
        if key != self.key or [_kind(tensor) for tensor in made_of] != [_kind(tensor) for tensor in self.made_of]:
            return False
        pairs = list(zip(self.made_of, made_of, strict=True))
        if all(tensor.device.type == "cpu" for tensor in made_of):
            return all(torch.equal(then, now) for then, now in pairs)
        equal = [torch.eq(then, now).all() for then, now in pairs]  # a number of a device is read once
        return bool(torch.stack([each.to(equal[0].device) for each in equal]).all())


def _kind(tensor: Tensor) -> tuple[torch.device, torch.dtype, torch.Size]:
    return tensor.device, tensor.dtype, tensor.shape
