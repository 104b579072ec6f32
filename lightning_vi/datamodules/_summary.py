"""Summaries of datamodules as text and as a table of a notebook."""

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_vi.datamodules.base import ArrayDataModule

SPLITS = {"train": "training", "val": "validation", "calib": "calibration", "test": "test"}
HEADER = ("split", "rows", "inputs", "targets")


def as_text(data: "ArrayDataModule") -> str:
    """Returns the facts about a datamodule, and a table of its splits."""
    table = [HEADER, *_splits(data)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([f"{type(data).__name__}: {_facts(data)}", *lines])


def as_html(data: "ArrayDataModule") -> str:
    """Returns the same in HTML."""
    head = "".join(f'<th style="text-align: left">{cell}</th>' for cell in HEADER)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align: left">{escape(cell)}</td>' for cell in row) + "</tr>"
        for row in _splits(data)
    )
    facts = f"<b>{escape(type(data).__name__)}</b>: {escape(_facts(data))}"
    return f"<div>{facts}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _facts(data: "ArrayDataModule") -> str:
    """Task, scaling and batch size, in words."""
    task = f"{data.num_classes} classes"
    if data.num_classes is None:
        task = "regression of 1 target" if data.n_targets == 1 else f"regression of {data.n_targets} targets"
    scaled = [name for name in ("input", "target") if getattr(data, f"{name}_mean") is not None]
    scaling = f"{' and '.join(f'{name}s' for name in scaled)} standardized" if scaled else "nothing standardized"
    return f"{task}, {scaling}, batches of {data.batch_size}"


def _splits(data: "ArrayDataModule") -> list[tuple[str, ...]]:
    """Name, number of rows, and shapes of a row's input and target of each split; without targets, labels."""
    rows: list[tuple[str, ...]] = []
    for key, name in SPLITS.items():
        inputs, targets = getattr(data, f"X_{key}"), getattr(data, f"Y_{key}")
        if inputs is None:
            rows.append((name, "0", "-", "-"))
        else:
            target = "label" if data.num_classes is not None and targets.dim() == 1 else _shape(targets.shape[1:])
            rows.append((name, str(len(inputs)), _shape(inputs.shape[1:]), target))
    return rows


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "1"
