"""Names of metrics, and the direction in which they are better."""

from collections.abc import Mapping

from torchmetrics import MetricCollection

from lightning_vi.plots._metric_units import metric_unit

NAMES: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "miou": "Mean intersection over union",
    "f1": "F1 of the labels",
    "exact_match": "All labels right",
    "rps": "Ranked probability score",
    "nll": "Negative log-likelihood",
    "rmse": "Root mean squared error",
    "crps": "CRPS",
    "coverage": "Coverage of 95% intervals",
    "interval_width": "Width of 95% intervals",
    "mae": "Mean absolute error",
    "r2": "R²",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "conformal_coverage": "Conformal coverage",
    "conformal_width": "Conformal width",
    "conformal_set_size": "Conformal set size",
    "epistemic_share": "Epistemic share of the variance",
    "mutual_information": "Mutual information",
}
"""Names in words, the most important metric first."""


def place_of(metric: str) -> tuple[int, str]:
    """Returns the key by which metrics are sorted: those with a name first."""
    known = list(NAMES)
    return (known.index(metric) if metric in NAMES else len(known), metric)


def name_of(metric: str) -> str:
    """Returns the name of a metric in words."""
    return NAMES.get(metric, metric)


def better(metric: str, metrics: MetricCollection) -> str:
    """Returns which values of a metric are better.

    Args:
        metric: Its name without prefix.
        metrics: The collection that has it.

    Returns:
        ``"higher"``, ``"lower"``, ``"nominal"`` for coverages, and nothing for what describes a prediction.
    """
    found = {name.removeprefix("test_"): each for name, each in metrics.items()}
    is_higher = getattr(found.get(metric), "higher_is_better", None)
    if is_higher is None:
        return "nominal" if "coverage" in metric else ""
    return "higher" if is_higher else "lower"


def unit_of(metric: str) -> str:
    """Returns the unit of a metric."""
    return metric_unit(metric)
