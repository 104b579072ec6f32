"""Figure of one score of all methods."""

import pandas as pd
from matplotlib.figure import Figure


def plot_scores(summary: pd.DataFrame, metric: str, reference: str | None) -> Figure:
    """Draws means with standard errors, one panel for each data set and test set.

    Args:
        summary: Rows of `Comparison.summary` for one score.
        metric: Name of the score.
        reference: Method whose mean is a vertical line.

    Returns:
        The figure.
    """
    groups = [group for group in summary.groupby(["data", "test_set"], sort=False) if group[1]["mean"].notna().any()]
    methods = list(dict.fromkeys(summary["method"]))
    figure = Figure(figsize=(2.2 + 3.2 * max(len(groups), 1), 1.2 + 0.28 * len(methods)), layout="constrained")
    panels = figure.subplots(1, max(len(groups), 1), sharey=True, squeeze=False)[0]
    for axes, (key, group) in zip(panels, groups, strict=False):
        rows = group["method"].map(methods.index)
        axes.errorbar(group["mean"], rows, xerr=group["standard_error"].fillna(0.0), fmt="o", capsize=3, markersize=4)
        line = group.loc[group["method"] == reference, "mean"]
        if len(line):
            axes.axvline(float(line.iloc[0]), color="gray", linestyle="--", linewidth=1)
        axes.set(xlabel=metric, title=", ".join(part for part in key if part))
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].invert_yaxis()
    return figure
