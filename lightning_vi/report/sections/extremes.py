"""Section on the least and the most certain rows of the test set."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_vi.plots import plot_field, plot_segmentation
from lightning_vi.report.facts import Facts
from lightning_vi.report.inputs import as_pictures, input_columns, row_names, rows_at
from lightning_vi.report.loaders import test_loaders
from lightning_vi.report.markup import Html, Section, figure, heading, join, table, thumbnails
from lightning_vi.report.scoring import ScoredSet

NUM_ROWS = 5
MAX_SHOWN_TARGETS = 4
BAND_STDS = 2


def extremes_section(facts: Facts) -> Section | None:
    """Writes the section.

    Args:
        facts: What is known.
    """
    scored = facts.first
    order = torch.argsort(scored.uncertainty, descending=True, stable=True)
    if scored.observed is not None:
        order = order[scored.observed.reshape(len(order), -1).any(1)[order]]
    count = min(NUM_ROWS, len(order) // 2)
    if count == 0:
        return None
    parts: list[Html] = []
    for title, places in (
        ("The least certain rows", order[:count].tolist()),
        ("The most certain rows", order[-count:].flip(0).tolist()),
    ):
        x = rows_at(next(iter(test_loaders(facts.datamodule).values())), places)
        parts += [heading(title), _rows(facts, scored, x, places), *_maps(facts, scored, x, places, title)]
    what = "the predicted class is wrong" if facts.is_classifier else "the target is outside the interval"
    how = f"Rows are sorted by the uncertainty of their prediction; marked are those where {what}."
    return Section("extremes", "The least and the most certain rows", how, join(part for part in parts if part))


def _rows(facts: Facts, scored: ScoredSet, x: Tensor | None, places: list[int]) -> Html:
    id_name, ids = row_names(facts, places)
    header, cells = [id_name], [[each] for each in ids]
    images = None if x is None else as_pictures(facts.data, x)
    if images is not None:
        header, cells = [*header, "image"], [[*row, each] for row, each in zip(cells, thumbnails(images), strict=True)]
    elif x is not None:
        names, values = input_columns(facts, x, places)
        header, cells = [*header, *names], [[*row, *each] for row, each in zip(cells, values, strict=True)]
    describe = _class_cells if facts.is_classifier else _target_cells
    names, found, marks = describe(facts, scored, places)
    return table([*header, *names], [[*a, *b] for a, b in zip(cells, found, strict=True)], highlighted=marks)


def _class_cells(facts: Facts, scored: ScoredSet, places: list[int]) -> tuple[list[str], list[list[Any]], list[bool]]:
    probs, target, names = scored.prediction.mean, scored.target, facts.class_names
    uncertainty = scored.uncertainty
    if target.dim() > 1:
        right = 1 - scored.loss
        cells = [[float(right[place]), float(uncertainty[place])] for place in places]
        return ["share of right labels", "mean entropy (nats)"], cells, []
    sets = scored.prediction.pred_set
    header = ["predicted", "probability", "second", "probability", "entropy (nats)", "true class"]
    cells, marks = [], []
    for place in places:
        top = probs[place].topk(2)
        first, second = top.indices.tolist()
        label = int(target[place])
        shown = names[label] if 0 <= label < len(names) else "-"
        row = [
            names[first],
            float(top.values[0]),
            names[second],
            float(top.values[1]),
            float(uncertainty[place]),
            shown,
        ]
        if sets is not None:
            row.append(", ".join(name for name, inside in zip(names, sets[place].tolist(), strict=True) if inside))
        cells.append(row)
        marks.append(first != label)
    return [*header, *(["prediction set"] if sets is not None else [])], cells, marks


def _target_cells(facts: Facts, scored: ScoredSet, places: list[int]) -> tuple[list[str], list[list[Any]], list[bool]]:
    prediction, target = scored.prediction, scored.target
    if target.dim() > 2:
        cells = [[float(scored.uncertainty[place]), float(scored.loss[place]) ** 0.5] for place in places]
        return ["root mean variance", "root mean squared error"], cells, []
    mean, std = prediction.mean, prediction.total_var.sqrt()
    given = prediction.lower is not None and prediction.upper is not None
    low = prediction.lower if prediction.lower is not None and given else mean - BAND_STDS * std
    high = prediction.upper if prediction.upper is not None and given else mean + BAND_STDS * std
    level = prediction.metadata.get("interval_level")
    interval = f"{level:.0%} interval" if given and level else "interval" if given else f"mean ± {BAND_STDS} std"
    center = prediction.metadata.get("center", "prediction")
    names = facts.target_names[:MAX_SHOWN_TARGETS]
    header: list[str] = []
    for name in names:
        suffix = f" of {name}" if len(facts.target_names) > 1 else ""
        header += [f"true value{suffix}", f"{center}{suffix}", f"std{suffix}", f"{interval}: low", "high"]
    cells = []
    for place in places:
        row: list[Any] = []
        for each in range(len(names)):
            values = (target, mean, std, low, high)
            row += [float(value[place].reshape(-1)[each]) for value in values]
        cells.append(row)
    inside = ((low <= target) & (target <= high)) | target.isnan()
    return header, cells, [not bool(inside[place].all()) for place in places]


def _maps(facts: Facts, scored: ScoredSet, x: Tensor | None, places: list[int], title: str) -> list[Html]:
    """Maps of the first of the rows, if targets are fields or segmented images."""
    place = places[:1]
    values = {key: value[place] for key, value in scored.prediction.as_dict().items() if key != "samples"}
    target = scored.target[place]
    if facts.is_classifier and target.dim() == 3 and x is not None:
        ignored = getattr(facts.method.likelihood, "ignore_index", None)
        draw = partial(plot_segmentation, x[:1], values, target, class_names=facts.class_names, ignore_index=ignored)
        return [figure(draw, f"{title}: the first one.", is_picture=True)]
    if not facts.is_classifier and target.dim() == 4:
        found, is_image = [], facts.method.likelihood.prediction_dim == 1
        for number, name in enumerate(facts.target_names[:MAX_SHOWN_TARGETS]):
            draw = partial(plot_field, values, target, target=number, label=name, is_image=is_image)
            found.append(figure(draw, f"{title}: {name} of the first one.", is_picture=True))
        return found
    return []
