"""The page of a report."""

import datetime
import platform
from collections.abc import Sequence
from html import escape

from lightning_vi.datamodules import TabularDataModule
from lightning_vi.datamodules._files import TableSource
from lightning_vi.report.bootstrap import LEVEL
from lightning_vi.report.facts import Facts
from lightning_vi.report.markup import Html, Section, number, paragraph, text
from lightning_vi.report.names import name_of
from lightning_vi.report.sections.method import chain_name
from lightning_vi.report.style import STYLE
from lightning_vi.version import version_of

PACKAGES = ("lightning-vi", "torch", "lightning")


def page(facts: Facts, sections: Sequence[Section], title: str | None) -> str:
    """Writes the page.

    Args:
        facts: What is known.
        sections: The sections, in their order.
        title: Title of the page; None names the method and the data.

    Returns:
        A HTML document that needs nothing else.
    """
    name = title or f"{chain_name(facts.method)} on {type(facts.data).__name__}"
    links = "".join(f'<a href="#{each.key}">{text(each.title)}</a>' for each in sections)
    body = "\n".join(
        f'<section id="{each.key}"><h2>{text(each.title)}</h2>{paragraph(each.how, "how")}\n{each.body}</section>'
        for each in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(name)}</title>'
        f"<style>{STYLE}</style></head>\n<body><header><h1>{escape(name)}</h1>\n{_headline(facts)}\n"
        f"<nav>{links}</nav></header>\n<main>{body}</main></body></html>\n"
    )


def _headline(facts: Facts) -> Html:
    first = facts.first
    seen = first.observed
    num_rows = len(first.target) if seen is None else int(seen.reshape(len(seen), -1).any(1).sum())
    how = f"Scores of {num_rows} test rows, with {LEVEL:.0%} confidence intervals from resampled rows."
    tiles = "".join(_tile(metric, first.scores[metric], first.intervals.get(metric)) for metric in first.scores)
    described = "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in _described(facts).items())
    return Html(f'<dl>{described}</dl>{paragraph(how, "how")}<div class="tiles">{tiles}</div>')


def _tile(metric: str, value: float, interval: tuple[float, float] | None) -> str:
    ends = "" if interval is None else f"<span>{number(interval[0])} to {number(interval[1])}</span>"
    name, key = text(name_of(metric)), escape(metric)
    return f'<div class="tile" data-metric="{key}"><span>{name}</span><b>{number(value)}</b>{ends}</div>'


def _described(facts: Facts) -> dict[str, str]:
    data = facts.data
    source: TableSource | None = data._data if isinstance(data, TabularDataModule) else None
    file = f", {source}" if isinstance(source, str) else ""
    versions = ", ".join(f"{name} {version_of(name)}" for name in PACKAGES)
    found = {
        "Method": chain_name(facts.method),
        "Data": f"{type(data).__name__}{file}",
        "Date": f"{datetime.datetime.now().astimezone():%d %B %Y, %H:%M %Z}",
        "Versions": f"{versions}, Python {platform.python_version()}",
    }
    return found if facts.checkpoint is None else {**found, "Checkpoint": str(facts.checkpoint)}
