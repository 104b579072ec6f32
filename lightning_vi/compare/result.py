"""Results of a comparison: all scores, their summary, and tables."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lightning_vi.compare.environment import environment_line
from lightning_vi.compare.markdown import format_estimate, markdown_table
from lightning_vi.compare.running import COSTS
from lightning_vi.compare.shift_results import (
    detection_table,
    shift_figures,
    shift_markdown,
    shift_table,
    without_shifts,
)
from lightning_vi.compare.statistics import estimate, p_value
from lightning_vi.compare.store import Run
from lightning_vi.errors import InputValueError
from lightning_vi.plots import plot_method_comparison

KEYS = ["data", "method", "seed", "test_set"]
NO_SCORES = {"error"}
HEADLINES = (
    "nll",
    "rmse",
    "crps",
    "accuracy",
    "miou",
    "f1",
    "exact_match",
    "rps",
    "brier",
    "ece",
    "coverage",
    "ood_auroc",
    "ood_auroc_epistemic",
)


class Comparison:
    """Scores of several methods on the same data.

    Args:
        runs: The runs, one for each data set, method and seed.
        reference: Name of the method that the others are compared with; None for no comparison.
        level: Significance level of the marks.

    Attributes:
        runs: The runs.
        reference: Name of the reference.
        level: Significance level of the marks.

    Example:
        >>> runs = [
        ...     Run("", method, seed, [{"test_set": "test", "nll": nll}], {"nll": False})
        ...     for method, scores in {"A": (1.0, 1.2, 1.1), "B": (1.5, 1.6, 1.6)}.items()
        ...     for seed, nll in enumerate(scores)
        ... ]
        >>> Comparison(runs, reference="A").summary()[["method", "mean", "difference", "worse"]].round(2)
          method  mean  difference  worse
        0      A  1.10         NaN  False
        1      B  1.57        0.47   True
    """

    def __init__(self, runs: Sequence[Run], reference: str | None = None, level: float = 0.05) -> None:
        if not 0 < level < 1:
            raise InputValueError(f"level must lie strictly between 0 and 1, got {level}")
        self.runs = list(runs)
        self.reference = reference
        self.level = level

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each data set, method, seed and test set.

        The columns are `data`, `method`, `seed`, `test_set`, the test metrics, mean uncertainties, `train_seconds`,
        `seconds_per_1000` predictions, `num_parameters`, `passes` (operations of a prediction over those of one pass of
        the plain network) and `error`. A run that failed has one row with its message and no scores.
        """
        rows = []
        for run in self.runs:
            key = {"data": run.data, "method": run.method, "seed": run.seed}
            found: list[dict[str, Any]] = run.rows or [{"test_set": ""}]
            rows += [key | row | {"error": run.error} for row in found]
        frame = pd.DataFrame(rows, columns=None if rows else [*KEYS, "error"])
        return frame[[*KEYS, *(name for name in frame.columns if name not in (*KEYS, "error")), "error"]]

    @property
    def higher_is_better(self) -> dict[str, bool]:
        """Direction of each score that has one."""
        return {name: way for run in self.runs for name, way in run.higher_is_better.items()}

    @property
    def failures(self) -> list[Run]:
        """The runs that raised an error."""
        return [run for run in self.runs if run.error]

    @property
    def environment(self) -> str:
        """Versions of Python and the packages, device, number of threads and total wall time of the runs, in a line."""
        return environment_line(self.runs)

    def summary(self, metrics: Sequence[str] | None = None) -> pd.DataFrame:
        """Computes means and standard errors over the seeds, and paired differences to the reference.

        A difference is that of the same seed on the same data, so that what a seed or split has in common cancels.

        Args:
            metrics: Names of the scores; all by default.

        Returns:
            One row for each data set, test set, score and method, with the columns `data`, `test_set`, `metric`,
            `method`, `mean`, `standard_error`, `count`, `difference`, `difference_se`, `p_value` (two-sided paired
            t-test), `worse` and `better` (significantly, where the score has a direction).

        Raises:
            ValueError: If a score is unknown.
        """
        frame = self.frame
        scores = [name for name in frame.columns if name not in (*KEYS, *NO_SCORES)]
        if unknown := [name for name in metrics or () if name not in scores]:
            why = "" if scores or not self.failures else f": all runs failed, the first with {self.failures[0].error}"
            raise InputValueError(f"metrics has {unknown[0]!r}, but the scores are {scores}{why}")
        frame = frame[frame["error"] == ""]
        rows = [
            {"data": data, "test_set": test_set, "metric": metric} | row
            for (data, test_set), group in frame.groupby(["data", "test_set"], sort=False)
            for metric in (scores if metrics is None else metrics)
            for row in self._compared(_by_seed_and_method(group, metric), metric)
        ]
        order = list(dict.fromkeys(run.method for run in self.runs))
        table = pd.DataFrame(rows)
        if table.empty:
            return table
        blocks = table.groupby(["data", "test_set", "metric"], sort=False).ngroup()
        ranks = table["method"].map(order.index)
        return (
            table.assign(block=blocks, rank=ranks)
            .sort_values(["block", "rank"], ignore_index=True)
            .drop(columns=["block", "rank"])
        )

    def to_markdown(self, metrics: Sequence[str] | None = None, *, costs: bool = True) -> str:
        """Writes a table for each data set and test set, and tables of shifted images.

        Args:
            metrics: Columns; by default the usual scores that were measured.
            costs: Whether to add the costs.

        Returns:
            Markdown. `*` marks scores that are significantly worse than those of the reference. Versions, device and
            wall time of the runs are below the tables.
        """
        frame = self.frame
        measured = [name for name in HEADLINES if name in frame.columns] if metrics is None else list(metrics)
        added = [name for name in COSTS if costs and name in frame.columns]
        shown = list(dict.fromkeys([*measured, *added]))  # a cost may be asked for by name
        summary = self.summary(shown)
        summary = without_shifts(summary) if len(summary) else summary
        parts = []
        for (data, test_set), block in summary.groupby(["data", "test_set"], sort=False) if len(summary) else ():
            columns = [name for name in shown if block.loc[block["metric"] == name, "mean"].notna().any()]
            rows = [
                [str(method), *(self._cell(group, name) for name in columns)]
                for method, group in block.groupby("method", sort=False)
            ]
            (title,) = _titles([data], [test_set])
            parts.append(f"**{title}**\n\n{markdown_table(['method', *columns], rows)}")
        parts += [shift_markdown(frame[frame["error"] == ""]).rstrip("\n"), self._note()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def shifts(self) -> pd.DataFrame:
        """Returns the scores on shifted images.

        Returns:
            One row for each data set, method, seed, kind of shift and severity, with the columns `shift`, `severity`,
            `accuracy`, `nll`, `ece` and `aurc`; the clean test data have the severity 0. Empty without shifts.
        """
        frame = self.frame
        return shift_table(frame[frame["error"] == ""])

    def detection(self) -> pd.DataFrame:
        """Returns the metrics of out-of-distribution detection by each score.

        Returns:
            One row for each data set, method, seed, out-of-distribution set and score, with the columns `test_set`,
            `score`, `auroc`, `aupr` and `fpr95`.
        """
        frame = self.frame
        return detection_table(frame[frame["error"] == ""])

    def to_csv(self, path: str | Path) -> None:
        """Writes `frame`.

        Args:
            path: The file.
        """
        self.frame.to_csv(path, index=False)

    def figures(self) -> dict[str, Figure]:
        """Draws each headline score of all methods, with standard errors, and the scores on shifted images.

        Returns:
            The figures by score.
        """
        frame = self.frame
        frame = frame[frame["error"] == ""].assign(panel=lambda rows: _titles(rows["data"], rows["test_set"]))
        figures = shift_figures(frame)
        frame = without_shifts(frame)
        for name in HEADLINES:
            if name in frame and len(scored := frame[frame[name].notna()]):
                figures[name] = plot_method_comparison(scored, [name], dataset="panel")
        return figures

    def save(self, folder: str | Path) -> None:
        """Writes `comparison.csv`, `summary.csv`, `comparison.md` and a PNG file for each figure.

        Shifted images have `shifts.csv` and `detection.csv` too.

        Args:
            folder: The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.to_csv(folder / "comparison.csv")
        self.summary().to_csv(folder / "summary.csv", index=False)
        if len(shifts := self.shifts()):
            shifts.to_csv(folder / "shifts.csv", index=False)
            self.detection().to_csv(folder / "detection.csv", index=False)
        (folder / "comparison.md").write_text(self.to_markdown())
        for name, figure in self.figures().items():
            figure.savefig(folder / f"{name}.png", dpi=150)

    def _compared(self, scores: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
        """Rows of the summary, from scores with one row for each seed and one column for each method."""
        rows = []
        higher_is_better = self.higher_is_better.get(metric)
        for method in scores.columns:
            own = estimate(scores[method])
            row = {"method": method, "mean": own.mean, "standard_error": own.standard_error, "count": own.count}
            is_compared = self.reference in scores.columns and method != self.reference
            difference = estimate(scores[method] - scores[self.reference] if is_compared else [])
            p = p_value(difference)
            is_sure = p < self.level and higher_is_better is not None
            is_larger = difference.mean > 0
            rows.append(
                row
                | {"difference": difference.mean, "difference_se": difference.standard_error, "p_value": p}
                | {"worse": is_sure and is_larger != higher_is_better}
                | {"better": is_sure and is_larger == higher_is_better}
            )
        return rows

    def _cell(self, group: pd.DataFrame, metric: str) -> str:
        row = group[group["metric"] == metric].iloc[0]
        if math.isnan(row["mean"]):
            return ""
        mark = "*" if row["worse"] and metric not in COSTS else ""
        return format_estimate(row["mean"], row["standard_error"]) + mark

    def _note(self) -> str:
        counts = Counter(run.method for run in self.runs if not run.error)
        lines = []
        if counts:
            few, many = min(counts.values()), max(counts.values())
            runs = f"{few}" if few == many else f"{few} to {many}"
            lines.append(f"Mean (standard error) over {runs} runs of each method.")
        if self.reference is not None:
            lines.append(
                f"`*`: significantly worse than {self.reference} (paired t-test, level {self.level:g}); costs are not "
                "marked."
            )
        if environment := self.environment:
            lines.append(environment)
        failed = "\n".join(
            f"- {' '.join(part for part in (run.data, run.method) if part)}, seed {run.seed}: {run.error}"
            for run in self.failures
        )
        return "\n".join(lines) + (f"\n\nFailed:\n\n{failed}" if failed else "")


def _by_seed_and_method(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Scores with one row for each seed and one column for each method."""
    return pd.DataFrame(
        {method: group.set_index("seed")[metric] for method, group in frame.groupby("method", sort=False)}
    )


def _titles(data: Iterable[Any], test_sets: Iterable[Any]) -> list[str]:
    return [", ".join(part for part in pair if part) for pair in zip(data, test_sets, strict=True)]
