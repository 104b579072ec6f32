"""Units of the quantities that methods log."""

STAGES = ("train_", "val_", "test_")
UNITS = {
    "loss": "objective",
    "nll": "nats per datum",
    "elbo": "nats per datum",
    "kl": "nats",
    "kl_weight": "weight",
    "burnin": "1 during burn-in",
    "rmse": "units of the target",
    "mae": "units of the target",
    "crps": "units of the target",
    "interval_width": "units of the target",
    "conformal_width": "units of the target",
    "r2": "share of the variance",
    "coverage": "share of the data",
    "conformal_coverage": "share of the data",
    "accuracy": "share of the data",
    "miou": "share of the union",
    "f1": "harmonic mean of shares",
    "exact_match": "share of the data",
    "rps": "classes",
    "ece": "probability",
    "brier": "squared probability",
    "conformal_set_size": "classes",
    "epistemic_share": "share of the variance",
    "mutual_information": "nats",
}


def metric_unit(name: str) -> str:
    """Returns the unit of a logged metric, such as "nats per datum" for `val_nll`; empty if it is unknown."""
    name = name.split("/")[0]
    for stage in STAGES:
        name = name.removeprefix(stage)
    return UNITS.get(name, "")
