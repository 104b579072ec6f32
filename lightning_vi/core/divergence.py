"""Stops a fit that diverges, at the step where it happens."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.tuner.lr_finder import _LRCallback
from torch import Tensor, nn

from lightning_vi.errors import DivergenceError, InputError

if TYPE_CHECKING:
    from lightning_vi.core.method import UQMethod

MAX_GROWTH = 1e5
"""A loss that exceeds 1 plus the first one's size by this factor has diverged, while still finite; so has a weight."""
MAX_BEYOND = 10
"""Number of such losses in a row that end a fit."""
ADVICE = "Try a smaller learning rate, Trainer(gradient_clip_val=1.0), or inputs of order one"


class LossWatch:
    """Raises an error when the loss of a fit is not finite, or stays beyond any sense.

    A single finite loss may be that of a draw of the weights that a clipped gradient forgives. On a CPU each loss is
    checked before the optimizer's step. Elsewhere that would wait for the device, so that the losses are kept there
    and checked by `flush`: every 50 steps, and before each validation and checkpoint.
    """

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begins with the first loss of a fit, or of its next stage."""
        self._limit: float | None = None
        self._pending: list[Tensor] = []
        self._num_beyond = 0

    def check(self, loss: Tensor, method: "UQMethod") -> None:
        """Checks the loss of a step, or keeps it for the next `flush`.

        Args:
            loss: A scalar tensor.
            method: The method, for the message.

        Raises:
            DivergenceError: If a loss is NaN or infinite, or as many as `MAX_BEYOND` in a row are beyond the limit.
        """
        if getattr(method.trainer.precision_plugin, "scaler", None) is not None:
            return  # it leaves out steps whose gradients overflow
        self._pending.append(loss.detach().abs())
        if loss.device.type == "cpu" or self._limit is None or len(self._pending) >= 50:
            self.flush(method)

    def flush(self, method: "UQMethod") -> None:
        """Checks the losses since the last check.

        Args:
            method: The method, for the message.

        Raises:
            DivergenceError: As in `check`.
        """
        if not self._pending:
            return
        sizes, self._pending = torch.stack(self._pending).cpu().tolist(), []
        for size in sizes:
            if not math.isfinite(size):
                stop(method, "the training loss has become NaN or infinite")
            if self._limit is None:
                self._limit = MAX_GROWTH * (1 + size)
            self._num_beyond = self._num_beyond + 1 if size > self._limit else 0
            if self._num_beyond == MAX_BEYOND:
                stop(method, f"the training loss has become {size:.3g}")


def stop(method: "UQMethod", what: str, cause: BaseException | None = None) -> None:
    """Stops a fit that has diverged; a search for a learning rate just ends.

    Args:
        method: The method.
        what: What has happened.
        cause: The error that has shown it.

    Raises:
        DivergenceError: Unless the Trainer searches for a learning rate.
    """
    trainer: Any = method._trainer
    if trainer is None:
        raise DivergenceError(f"{what}. {ADVICE}") from cause
    if any(isinstance(callback, _LRCallback) for callback in trainer.callbacks):
        trainer.fit_loop.epoch_loop.max_steps = trainer.global_step + 1
        return
    rates = sorted({float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups})
    raise DivergenceError(
        f"{what} at step {trainer.global_step} (epoch {trainer.current_epoch}), learning rate "
        f"{' and '.join(f'{rate:.3g}' for rate in rates)}: {type(method).__name__} has diverged. {ADVICE}. Checkpoints "
        "that have been written are as they were"
    ) from cause


def largest_weight(module: nn.Module) -> float:
    """Returns the largest size of a trained weight; infinite if one is NaN.

    Args:
        module: Any module.
    """
    sizes = [parameter.detach().abs().max().float() for parameter in _trained(module) if parameter.numel()]
    return float(torch.stack(sizes).nan_to_num(nan=math.inf, posinf=math.inf).max()) if sizes else 0.0


def check_weights(method: "UQMethod", limit: float) -> None:
    """Raises an error if a trained weight is NaN, infinite or beyond a limit.

    Args:
        method: A method that is being trained.
        limit: The limit.

    Raises:
        DivergenceError: If there is one.
    """
    size = largest_weight(method)
    if not size <= limit or math.isinf(size):
        found = "NaN or infinite" if math.isinf(size) else f"as large as {size:.3g}"
        stop(method, f"a weight has become {found}")


@contextmanager
def watched_step(method: "UQMethod", check_batch: Callable[[], None]) -> Iterator[None]:
    """Runs the forward pass of a training step, and explains a failure by bad data or weights that are not finite.

    Args:
        method: The method.
        check_batch: A function without arguments that raises an error if the batch has invalid values.

    Raises:
        ValueError: If the pass fails and the batch has invalid values.
        DivergenceError: If it fails and weights are not finite, or a matrix is singular.
    """
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        check_batch()
        if isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            stop(method, f"a matrix has become singular ({str(error).splitlines()[0]})", error)
        if math.isinf(largest_weight(method)):
            stop(method, "a weight has become NaN or infinite", error)
        raise


def _trained(module: nn.Module) -> list[Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
