"""Tables and figures of shifted images and of out-of-distribution detection."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lightning_vi.compare.markdown import format_estimate, markdown_table
from lightning_vi.compare.shift_protocol import DETECTION_DIRECTIONS, detection_columns
from lightning_vi.compare.statistics import estimate
from lightning_vi.datamodules.shifts import SEVERITIES, SHIFTS
from lightning_vi.evaluation import OOD_SCORES
from lightning_vi.plots import plot_detection, plot_shift

SHIFT_METRICS = {"accuracy": "Accuracy", "nll": "NLL [nats]", "ece": "ECE", "aurc": "AURC"}
"""Scores against severity, and their labels."""
KEYS = ["data", "method", "seed"]
SHIFTED = {f"{shift}_{severity}": (shift, severity) for shift in SHIFTS for severity in SEVERITIES}
"""Kind and severity by the name of the test set."""


def shift_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Collects the scores on shifted images.

    Args:
        frame: All scores, one row for each data set, method, seed and test set.

    Returns:
        One row for each data set, method, seed, kind of shift and severity; the clean test data have the severity 0.
        It is empty if there are no shifts.
    """
    metrics = [name for name in SHIFT_METRICS if name in frame]
    rows: list[dict[str, Any]] = []
    for key, group in frame.groupby(KEYS, sort=False):
        sets = group.set_index("test_set")[metrics]
        shifts = [SHIFTED[name] for name in sets.index if name in SHIFTED]
        for shift in dict.fromkeys(shift for shift, _ in shifts):
            severities = sorted(severity for each, severity in shifts if each == shift)
            for severity in (0, *severities):
                scores = sets.loc["test" if severity == 0 else f"{shift}_{severity}"]
                rows.append(dict(zip(KEYS, key, strict=True)) | {"shift": shift, "severity": severity, **scores})
    return pd.DataFrame(rows, columns=[*KEYS, "shift", "severity", *metrics])


def detection_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Collects the metrics of out-of-distribution detection.

    Args:
        frame: All scores, one row for each data set, method, seed and test set.

    Returns:
        One row for each data set, method, seed, out-of-distribution set and score, with the columns `auroc`, `aupr` and
        `fpr95`.
    """
    parts = []
    for score in OOD_SCORES:
        columns = {column: metric for metric, column in detection_columns(score).items() if column in frame}
        if columns:
            own = frame[[*KEYS, "test_set", *columns]].dropna(subset=list(columns), how="all").rename(columns=columns)
            parts.append(own.assign(score=score))
    if not parts:
        return pd.DataFrame(columns=[*KEYS, "test_set", "score", *DETECTION_DIRECTIONS])
    order = frame[[*KEYS, "test_set"]].drop_duplicates().reset_index(drop=True).reset_index(names="place")
    joined = pd.concat(parts).merge(order, on=[*KEYS, "test_set"])
    known = [name for name in DETECTION_DIRECTIONS if name in joined]
    return joined.sort_values("place", kind="stable", ignore_index=True)[[*KEYS, "test_set", "score", *known]]


def shift_markdown(frame: pd.DataFrame, detection: Sequence[str] = tuple(DETECTION_DIRECTIONS)) -> str:
    """Writes a table of each score against the severity, and tables of the detection of each data set.

    Args:
        frame: All scores.
        detection: Metrics of detection, of `auroc`, `aupr` and `fpr95`.

    Returns:
        Markdown; empty if there are no shifts.
    """
    shifted, parts = shift_table(frame), []
    if shifted.empty:
        return ""
    kinds = list(dict.fromkeys(shifted["shift"]))
    by_seed = shifted.drop(columns="shift").groupby([*KEYS, "severity"], sort=False).mean().reset_index()
    for data, group in by_seed.groupby("data", sort=False):
        severities = sorted(set(group["severity"]))
        for metric in (name for name in SHIFT_METRICS if name in group):
            rows = [
                [str(method), *(_cell(own.loc[own["severity"] == severity, metric]) for severity in severities)]
                for method, own in group.groupby("method", sort=False)
            ]
            title = _title(str(data), f"{SHIFT_METRICS[metric]} by severity, mean over {_kinds(kinds)}")
            parts.append(f"{title}\n\n{markdown_table(['method', *map(str, severities)], rows)}")
    detected = detection_table(frame)
    for (name, test_set), group in detected.groupby(["data", "test_set"], sort=False) if len(detected) else ():
        scores = list(dict.fromkeys(group["score"]))
        for metric in (each for each in detection if each in group):
            rows = [
                [str(method), *(_cell(own.loc[own["score"] == score, metric]) for score in scores)]
                for method, own in group.groupby("method", sort=False)
            ]
            title = _title(str(name), f"{metric.upper()} of {test_set}")
            header = ["method", *(score.replace("_", " ") for score in scores)]
            parts.append(f"{title}\n\n{markdown_table(header, rows)}")
    return "\n\n".join(parts) + "\n"


def shift_figures(frame: pd.DataFrame) -> dict[str, Figure]:
    """Draws each score against the severity, and the detection of each data set.

    Args:
        frame: All scores.

    Returns:
        The figures by name; none if there are no shifts.
    """
    figures: dict[str, Figure] = {}
    shifted, detected = shift_table(frame), detection_table(frame)
    for data in dict.fromkeys(map(str, shifted["data"])):
        own = shifted[shifted["data"] == data]
        for metric, label in SHIFT_METRICS.items():
            if metric in own and own[metric].notna().any():
                figures[_name("shift", data, metric)] = plot_shift(own, metric, label=label, title=data or None)
        found = detected[detected["data"] == data]
        for metric in (name for name in DETECTION_DIRECTIONS if name in found and len(found)):
            figures[_name("detection", data, metric)] = plot_detection(found, metric, title=data or None)
    return figures


def without_shifts(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of test sets that are not shifted ones.

    Args:
        frame: Any table with the column `test_set`.
    """
    return frame[~frame["test_set"].isin(SHIFTED)]


def _kinds(kinds: list[str]) -> str:
    return ", ".join(kinds) if len(kinds) < len(SHIFTS) else f"all {len(kinds)} kinds of shifts"


def _cell(values: pd.Series) -> str:
    found = estimate(values)
    return format_estimate(found.mean, found.standard_error) if found.count else ""


def _title(data: str, text: str) -> str:
    return f"**{', '.join(part for part in (data, text) if part)}**"


def _name(*parts: str) -> str:
    words: Iterable[str] = (str(part) for part in parts if part)
    return "_".join("".join(letter if letter.isalnum() else "-" for letter in word) for word in words)
