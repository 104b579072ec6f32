"""Helpers of the tests of reports: fitted methods, and a parser of pages."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from helpers import normal

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule, TabularDataModule
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian
from lightning_vi.methods import Predictor
from lightning_vi.report import write_report

VOID = {"meta", "img", "br", "rect"}
ADDRESSES = {"src", "href", "srcset", "data", "action", "poster", "xlink:href"}


class Page(HTMLParser):
    """A page: its addresses, headings, tables and numbers, and whether all tags are closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.sections: list[str] = []
        self.tiles: dict[str, list[float]] = {}
        self.tables: list[list[list[str]]] = []
        self.words = ""
        self._open: list[str] = []
        self._tile: list[float] | None = None
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(value) for name, value in attrs if name in ADDRESSES]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self.sections.append(str(given["id"]))
        if "data-metric" in given:
            self._tile = self.tiles.setdefault(str(given["data-metric"]), [])
        elif tag == "data" and self._tile is not None:
            self._tile.append(float(str(given["value"])))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag
        if tag == "section" or (tag == "div" and self._tile is not None):
            self._tile = None

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words += data
        if self._open and self._open[-1] in ("td", "th", "data") and "table" in self._open:
            self.tables[-1][-1][-1] += data

    def tables_with(self, column: str) -> list[list[list[str]]]:
        return [table for table in self.tables if column in table[0]]


def trained(method: Predictor) -> Any:
    method.is_trained = True  # type: ignore[misc]
    return method


def classifier(data: ArrayDataModule, classes: int = 3) -> Any:
    torch.manual_seed(0)
    network = MLP(data.n_inputs, [8], classes)
    return trained(MeanFieldVI(network, Categorical(classes), num_mc_samples_test=3))


def regressor(data: ArrayDataModule, targets: int = 1) -> Any:
    torch.manual_seed(0)
    network = MLP(data.n_inputs, [8], 2 * targets)
    return trained(MeanFieldVI(network, HeteroscedasticGaussian(targets), num_mc_samples_test=3))


def table(rows: int = 120) -> pd.DataFrame:
    x, y = normal(rows, 2), normal(rows, 1)
    return pd.DataFrame(
        {
            "<script>alert(1)</script>": x[:, 0].numpy(),
            "color": ["red", "<b>blue</b>", None] * (rows // 3),
            "id": [f"row {number} & more" for number in range(rows)],
            "y": (2 * x[:, 0] + 0.3 * y[:, 0]).numpy(),
        }
    )


def tabular(**options: Any) -> TabularDataModule:
    return TabularDataModule(table(), "y", "regression", missing="impute", id_column="id", **options)


def written(method: Predictor, data: Any, folder: Path, **options: Any) -> Page:
    return Page(write_report(method, data, folder / "report.html", progress=False, **options))
