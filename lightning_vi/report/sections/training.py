"""Section on the training: the objective, and the validation scores."""

from functools import partial

from lightning_vi.errors import InputError
from lightning_vi.plots import plot_objective, plot_training_metrics
from lightning_vi.plots._logs import read_log
from lightning_vi.report.facts import Facts
from lightning_vi.report.markup import Section, figure, join


def training_section(facts: Facts) -> Section | None:
    """Writes the section, if the log of the fit is at hand.

    Args:
        facts: What is known.
    """
    if facts.log_folder is None:
        return None
    try:
        log = read_log(facts.log_folder)
    except (FileNotFoundError, InputError):
        return None
    validated = [name for name in log.columns if name.startswith("val_") and log.has(name)]
    main = [name for name in ("val_nll", "val_rmse", "val_crps", "val_accuracy", "val_ece") if name in validated]
    parts = [
        figure(partial(plot_objective, facts.log_folder), "Objective of the training and its parts, over the epochs.")
    ]
    if main:
        draw = partial(plot_training_metrics, facts.log_folder, main[:3])
        parts.append(figure(draw, "Scores of the validation data, over the epochs."))
    body = join(part for part in parts if part)
    how = (
        "The curves should level off before the end; vertical lines mark the ends of the burn-in and of the KL "
        "warm-up, where the objective changes."
    )
    return Section("training", "Training", how, body) if body else None
