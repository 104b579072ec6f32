"""Annealing of the KL divergence's weight."""

from lightning import Trainer

from lightning_vi.core.fit_progress import share_done

WARMUP_SHARE = 0.9
"""Share of a fit over which the weight increases by default."""


def late_increase(trainer: Trainer | None, burnin_epochs: int, start: float) -> float:
    """Returns a factor that is 0 at first, and then increases linearly to 1 in the last step of a fit.

    Args:
        trainer: The Trainer, None without one.
        burnin_epochs: Number of initial epochs that do not count.
        start: Share of the fit at which the factor begins to increase.

    Returns:
        A number in [0, 1]; 1 outside of fits and in fits of unknown length.
    """
    share = _share(trainer, burnin_epochs)
    return 1.0 if share is None else max(0.0, (share - start) / (1 - start))


def annealing_factor(trainer: Trainer | None, burnin_epochs: int, warmup_epochs: int | None) -> float:
    """Returns the factor of the KL divergence's weight in the current step.

    Args:
        trainer: The Trainer, None without one.
        burnin_epochs: Number of initial epochs without divergence.
        warmup_epochs: Number of epochs after burn-in in which the factor increases; None for an increase in each step
            over 90% of a fit.

    Returns:
        A number in [0, 1]; 1 by default outside of fits and in fits of unknown length.
    """
    if warmup_epochs is None:
        share = _share(trainer, burnin_epochs)
        return 1.0 if share is None else min(1.0, share / WARMUP_SHARE)
    epoch = 0 if trainer is None else trainer.current_epoch
    return min(1.0, max(0, epoch - burnin_epochs + 1) / (warmup_epochs + 1))


def _share(trainer: Trainer | None, burnin_epochs: int) -> float | None:
    """Share of a fit that is done; None outside of fits and in fits of unknown length."""
    return share_done(trainer, burnin_epochs) if trainer is not None and trainer.training else None
