"""HTML of the parts of a report: sections, tables, figures and images. All text is escaped."""

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.image import imsave

from lightning_vi.errors import InputError
from lightning_vi.plots._images import as_images

MAX_SVG_BYTES = 400_000
PIXELS_PER_INCH = 80
MAX_SHRINK = 0.7
"""Figures shrink to this share of their width on narrow screens, and scroll in their box if they are still wider."""
THUMBNAIL = 72


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        key: Name of its anchor.
        title: Its heading.
        how: One sentence that says how to read it.
        body: Its content.
    """

    key: str
    title: str
    how: str
    body: Html


def text(value: Any) -> Html:
    """Returns a value as HTML: numbers with four digits and their exact value, other values escaped."""
    if isinstance(value, Html):
        return value
    if isinstance(value, bool | np.bool_):
        return Html("yes" if value else "no")
    if isinstance(value, float | np.floating):
        return number(float(value))
    return Html(escape(str(value)))


def number(value: float) -> Html:
    """Returns a number with four digits, and with its exact value for programs."""
    return Html(f'<data value="{value!r}">{escape(rounded(value))}</data>')


def rounded(value: float) -> str:
    """Returns a number with four significant digits."""
    if math.isnan(value):
        return "-"
    return f"{value:.4g}"


def join(parts: Iterable[str]) -> Html:
    """Returns pieces of HTML one after the other."""
    return Html("\n".join(parts))


def paragraph(content: Any, kind: str = "") -> Html:
    """Returns a paragraph of a CSS class."""
    attribute = f' class="{kind}"' if kind else ""
    return Html(f"<p{attribute}>{text(content)}</p>")


def heading(content: Any) -> Html:
    """Returns a heading within a section."""
    return Html(f"<h3>{text(content)}</h3>")


def table(header: Sequence[Any], rows: Iterable[Sequence[Any]], *, highlighted: Sequence[bool] = ()) -> Html:
    """Returns a table, which scrolls in its box if it is wide. Columns of numbers are aligned to the right.

    Args:
        header: The names of the columns.
        rows: The cells of each row.
        highlighted: Whether each row stands out.
    """
    cells = [list(row) for row in rows]
    is_number = [all(_is_number(row[place]) for row in cells) for place in range(len(header))]

    def line(row: Sequence[Any], tag: str, kind: str = "") -> str:
        parts = [
            f'<{tag} class="n">{text(cell)}</{tag}>' if right else f"<{tag}>{text(cell)}</{tag}>"
            for cell, right in zip(row, is_number, strict=True)
        ]
        return f"<tr{kind}>{''.join(parts)}</tr>"

    marks = [*highlighted, *([False] * (len(cells) - len(highlighted)))]
    body = "".join(line(row, "td", ' class="hit"' if mark else "") for row, mark in zip(cells, marks, strict=True))
    head = line(header, "th")
    return Html(f'<div class="scroll" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>')


def _is_number(cell: Any) -> bool:
    if isinstance(cell, Html):
        return cell.startswith("<data")
    return isinstance(cell, int | float | np.number) and not isinstance(cell, bool | np.bool_)


def figure(draw: Callable[[], Figure], caption: str, *, is_picture: bool = False) -> Html:
    """Draws a figure; nothing if the data do not allow it.

    Args:
        draw: Makes the figure.
        caption: What it shows.
        is_picture: Whether the colors are those of images or maps, which stay on a dark screen.
    """
    try:
        drawn = draw()
    except InputError:
        return Html("")
    width = drawn.get_figwidth() * PIXELS_PER_INCH
    size = f"width:{width:.0f}px;min-width:{MAX_SHRINK * width:.0f}px"
    kind = "picture" if is_picture else "drawing"
    words, source = escape(caption), _figure_uri(drawn, transparent=not is_picture)
    return Html(
        f'<figure class="{kind}" style="max-width:min(100%,{width:.0f}px)"><div class="scroll" tabindex="0">'
        f'<img style="{size}" alt="{words}" src="{source}"></div><figcaption>{words}</figcaption></figure>'
    )


def _figure_uri(drawn: Figure, *, transparent: bool) -> str:
    buffer = BytesIO()
    drawn.savefig(buffer, format="svg", transparent=transparent, metadata={"Date": None})
    if len(buffer.getvalue()) <= MAX_SVG_BYTES:
        return _uri("svg+xml", buffer)
    buffer = BytesIO()
    drawn.savefig(buffer, format="png", dpi=150, transparent=transparent)
    return _uri("png", buffer)


def thumbnails(images: torch.Tensor) -> list[Html]:
    """Returns images [N, H, W], [N, 1, H, W] or [N, 3, H, W] as HTML, with one scale of gray or color for all."""
    found = []
    for image in as_images(images, "images"):
        buffer = BytesIO()
        imsave(buffer, image, format="png", cmap="gray", vmin=0.0, vmax=1.0)
        height = round(THUMBNAIL * image.shape[0] / image.shape[1])
        found.append(
            Html(f'<img class="thumb" alt="image" width="{THUMBNAIL}" height="{height}" src="{_uri("png", buffer)}">')
        )
    return found


def _uri(kind: str, buffer: BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def histogram(values: np.ndarray, name: Any, bins: int = 24) -> Html:
    """Returns a histogram of finite numbers as SVG, in the colors of the page."""
    counts, edges = np.histogram(values, bins=bins)
    top, width = max(int(counts.max()), 1), 100 / bins
    bars = "".join(
        f'<rect x="{place * width + 0.3:.2f}%" y="{100 - 100 * count / top:.2f}%" width="{width - 0.6:.2f}%" '
        f'height="{100 * count / top:.2f}%"><title>{rounded(edges[place])} to {rounded(edges[place + 1])}: {count}'
        "</title></rect>"
        for place, count in enumerate(counts)
        if count
    )
    ends = f"<span>{rounded(edges[0])}</span><span>{text(name)}</span><span>{rounded(edges[-1])}</span>"
    return Html(f'<div class="hist"><svg role="img" aria-label="histogram">{bars}</svg><div>{ends}</div></div>')


def bars(names: Sequence[Any], counts: Sequence[int]) -> Html:
    """Returns a bar for each count."""
    top = max([*counts, 1])
    rows = "".join(
        f'<div><span>{text(name)}</span><i style="width:{100 * count / top:.1f}%"></i><b>{count}</b></div>'
        for name, count in zip(names, counts, strict=True)
    )
    return Html(f'<div class="bars">{rows}</div>')
