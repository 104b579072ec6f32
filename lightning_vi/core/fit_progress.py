"""Where a fit is in its loop, for hooks that run between the Trainer's own ones."""

from typing import Any

from lightning import Trainer
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
