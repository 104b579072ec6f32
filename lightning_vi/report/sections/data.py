"""Section on the data: splits, columns, targets."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lightning_vi.datamodules import ArrayDataModule, TabularDataModule
from lightning_vi.report.facts import Facts
from lightning_vi.report.inputs import as_pictures
from lightning_vi.report.markup import (
    Html,
    Section,
    bars,
    heading,
    histogram,
    join,
    paragraph,
    rounded,
    table,
    text,
    thumbnails,
)

SPLITS = {
    "train": "training",
    "val": "validation",
    "calib": "calibration",
    "test": "test",
    "ood": "out of distribution",
}
MAX_COLUMNS = 60
MAX_CLASSES = 30
MAX_TARGETS = 6
NUM_IMAGES = 20


def data_section(facts: Facts) -> Section:
    """Writes the section.

    Args:
        facts: What is known.
    """
    data = facts.data
    parts = [_splits(facts)]
    if isinstance(data, TabularDataModule):
        parts += [heading("Columns"), _columns(data)]
    parts += _targets(facts)
    if isinstance(data, ArrayDataModule) and (images := as_pictures(data, data.X_train[:NUM_IMAGES])) is not None:
        labels = _labels(facts, data.Y_train[:NUM_IMAGES])
        pairs = zip(thumbnails(images), labels, strict=True)
        gallery = "".join(f"<div>{image}{text(label)}</div>" for image, label in pairs)
        parts += [heading("The first training images"), Html(f'<div class="gallery">{gallery}</div>')]
    how = "The method was trained on the training rows alone; the scores are those of test rows, which it has not seen."
    return Section("data", "Data", how, join(part for part in parts if part))


def _splits(facts: Facts) -> Html:
    data = facts.data
    if not isinstance(data, ArrayDataModule):
        return table(("test set", "rows"), [(name, len(scored.target)) for name, scored in facts.own.items()])
    rows = []
    for key, name in SPLITS.items():
        inputs, targets = getattr(data, f"X_{key}"), getattr(data, f"Y_{key}")
        if inputs is not None:
            rows.append((name, len(inputs), _shape(inputs), "label" if targets.dim() == 1 else _shape(targets)))
    return table(("split", "rows", "numbers per input", "numbers per target"), rows)


def _shape(rows: Tensor) -> str | int:
    return rows.shape[1] if rows.dim() == 2 else " x ".join(map(str, rows.shape[1:])) or 1


def _columns(data: TabularDataModule) -> Html:
    frame = data.table()
    rows = [(name, *_column(frame[name])) for name in [*data.input_names, *data.target_names][:MAX_COLUMNS]]
    roles = dict.fromkeys(data.input_names, "input") | dict.fromkeys(data.target_names, "target")
    cells = [(row[0], roles[row[0]], *row[1:]) for row in rows]
    shown = table(("column", "role", "kind", "missing", "values"), cells)
    total = len(data.input_names) + len(data.target_names)
    if total > MAX_COLUMNS:
        return join([shown, paragraph(f"The first {MAX_COLUMNS} of {total} columns are shown.", "note")])
    return shown


def _column(values: "pd.Series[Any]") -> tuple[str, int, str]:
    missing = int(values.isna().sum())
    present = values.dropna()
    numbers = pd.to_numeric(present, errors="coerce")
    if len(present) and not numbers.isna().any() and values.dtype != bool:
        low, middle, high = (float(numbers.quantile(level)) for level in (0, 0.5, 1))
        return "numbers", missing, f"{rounded(low)} to {rounded(high)}, median {rounded(middle)}"
    counts = present.astype(str).value_counts()
    shown = ", ".join(f"{level} ({count})" for level, count in counts.iloc[:4].items())
    more = f", {len(counts) - 4} more" if len(counts) > 4 else ""
    return f"{len(counts)} categories", missing, shown + more


def _targets(facts: Facts) -> list[Html]:
    data = facts.data
    of_training = isinstance(data, ArrayDataModule)
    target = data.Y_train if of_training else facts.first.target
    rows = "training" if of_training else "test"
    observed = facts.method.likelihood.observed(target)
    if facts.is_classifier:
        labels = target.flatten() if observed is None else target[observed]
        counts = torch.bincount(labels.long(), minlength=len(facts.class_names)).tolist()
        return [heading(f"Classes of the {rows} rows"), bars(facts.class_names[:MAX_CLASSES], counts[:MAX_CLASSES])]
    target = target.movedim(facts.method.likelihood.prediction_dim, -1) if of_training else target
    columns = target.reshape(-1, target.shape[-1]).double().numpy()
    parts = [heading(f"Distribution of the {rows} targets")]
    for name, column in list(zip(facts.target_names, columns.T, strict=True))[:MAX_TARGETS]:
        finite = column[np.isfinite(column)]
        if len(finite):
            parts.append(histogram(finite, name))
    return parts


def _labels(facts: Facts, target: Tensor) -> list[str]:
    if facts.is_classifier and target.dim() == 1:
        return [facts.class_names[int(label)] for label in target]
    return [""] * len(target)
