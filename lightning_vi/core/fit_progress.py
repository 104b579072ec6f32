"""Progress of a fit: the current step, the last step and the share that is done."""

import math
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.trainer.states import RunningStage, TrainerFn


def is_step_done(trainer: Trainer) -> bool:
    """Returns whether the current batch has been processed, optimizer step included.

    Args:
        trainer: A Trainer that fits.

    Returns:
        False within a training step.
    """
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(progress.processed == progress.ready > 0)


def is_last_step(trainer: Trainer) -> bool:
    """Returns whether training ends after the step that has just been done.

    It ends after `max_epochs` or `max_steps`, or if a callback stops it; then the minimum numbers must be reached.

    Args:
        trainer: A Trainer.

    Returns:
        False outside of a fit.
    """
    is_training = trainer.state.stage in (RunningStage.TRAINING, RunningStage.VALIDATING)
    if trainer.state.fn != TrainerFn.FITTING or not is_training or not is_step_done(trainer):
        return False
    loop, step = trainer.fit_loop, trainer.global_step
    progress: Any = loop.epoch_progress.current
    if step == trainer.max_steps:
        return True
    in_epoch = progress.started > progress.completed
    num_epochs = trainer.current_epoch + int(in_epoch and trainer.is_last_batch)
    if trainer.max_epochs not in (None, -1) and num_epochs >= trainer.max_epochs:
        return True
    return trainer.should_stop and num_epochs >= (loop.min_epochs or 0) and step >= (loop.min_steps or 0)


def is_searching(trainer: Trainer) -> bool:
    """Returns whether the Trainer searches for a learning rate, in steps that do not count.

    Args:
        trainer: A Trainer.

    Returns:
        False in the fit itself.
    """
    schedulers = (each.scheduler for each in trainer.lr_scheduler_configs)
    return any(type(scheduler).__module__.startswith("lightning.pytorch.tuner") for scheduler in schedulers)


def planned_epochs(trainer: Trainer) -> float:
    """Returns the largest number of epochs of a fit, by `max_epochs` and `max_steps`.

    Args:
        trainer: A Trainer with its training data.

    Returns:
        The number; infinite if there is no limit.
    """
    epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
    steps_per_epoch = _steps_per_epoch(trainer)
    if trainer.max_steps == -1 or math.isinf(steps_per_epoch):
        return epochs
    return min(epochs, math.ceil(trainer.max_steps / max(steps_per_epoch, 1)))


def ended_within(trainer: Trainer, num_epochs: int) -> bool:
    """Returns whether a fit has taken no step after a number of epochs.

    Args:
        trainer: A Trainer at the end of a fit.
        num_epochs: The number.
    """
    steps_per_epoch = _steps_per_epoch(trainer)
    if math.isinf(steps_per_epoch):
        return trainer.current_epoch < num_epochs
    return trainer.global_step <= num_epochs * steps_per_epoch


def _steps_per_epoch(trainer: Trainer) -> float:
    num_batches = trainer.num_training_batches
    return num_batches if math.isinf(num_batches) else math.ceil(num_batches / trainer.accumulate_grad_batches)


def has_known_length(trainer: Trainer) -> bool:
    """Returns whether a fit ends after a number of epochs or steps that is known before it, and not at another time.

    Args:
        trainer: A Trainer with its training data.

    Returns:
        False without a limit, and with `EarlyStopping` or `max_time`.
    """
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    return math.isfinite(planned_epochs(trainer)) and not any(isinstance(c, EarlyStopping | Timer) for c in callbacks)


def share_done(trainer: Trainer, skipped_epochs: int = 0) -> float | None:
    """Returns the share of a fit that is done after the current training step.

    A search for a learning rate counts as the beginning of the fit: its own limit of steps is ignored.

    Args:
        trainer: A Trainer that fits.
        skipped_epochs: Number of initial epochs that do not count.

    Returns:
        A number in [0, 1], the larger share of `max_epochs` and `max_steps`; None if both are unlimited.
    """
    num_batches, max_epochs = trainer.num_training_batches, trainer.max_epochs
    is_counted = math.isfinite(num_batches) and num_batches > 0
    shares = []
    if max_epochs is not None and max_epochs >= 0:
        of_epoch = (trainer.fit_loop.epoch_loop.batch_idx + 1) / num_batches if is_counted else 1.0
        epochs = trainer.current_epoch + of_epoch - skipped_epochs
        shares.append(_share(epochs, max_epochs - skipped_epochs))
    if trainer.max_steps >= 0 and not (shares and is_searching(trainer)):
        skipped_steps = skipped_epochs * num_batches / trainer.accumulate_grad_batches if is_counted else 0.0
        shares.append(_share(trainer.global_step + 1 - skipped_steps, trainer.max_steps - skipped_steps))
    return max(shares) if shares else None


def _share(done: float, total: float) -> float:
    return min(1.0, max(0.0, done / total)) if total > 0 else 1.0
