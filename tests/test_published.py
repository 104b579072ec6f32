"""Our rows on the page of published results are those of the benchmarks."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PUBLISHED, BENCHMARKS = (DOCS / "published.md").read_text(), (DOCS / "benchmarks.md").read_text()


def column(text: str, title: str) -> dict[str, str]:
    """Cells of the first table with a column of that title, by the first cell of their row, without bold type."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    start = next(index for index, row in enumerate(rows) if title in row[1:])
    place = rows[start].index(title)
    found: dict[str, str] = {}
    for row in rows[start + 2 :]:
        if len(row) != len(rows[start]) or row[0] in ("method", *found):
            break
        found[row[0]] = row[place].replace("**", "")
    return found


@pytest.mark.parametrize(("section", "title"), [("MNIST, LeNet-5", "MNIST"), ("Toy regression", "toy")])
def test_our_rows_are_those_of_the_benchmarks(section: str, title: str) -> None:
    ours = {
        method: score
        for method, score in column(PUBLISHED.split(f"## {section}")[1], "NLL").items()
        if method.startswith("`")
    }
    measured = column(BENCHMARKS, title)
    assert len(ours) >= 3
    assert ours == {method: measured[method] for method in ours}


@pytest.mark.parametrize("name", re.findall(r"start-after: (<!-- .* -->)", PUBLISHED))
def test_included_sections_have_a_start_and_an_end(name: str) -> None:
    end = name.replace("published", "end of published")
    assert BENCHMARKS.count(name) == BENCHMARKS.count(end) == PUBLISHED.count(end) == 1
    included = BENCHMARKS.split(name)[1].split(end)[0]
    assert "\n| method |" in included
    assert "\n#" not in included


def test_every_publication_in_a_table_has_a_source() -> None:
    tables, sources = PUBLISHED.split("## Sources")
    for author in (
        "Lobato",
        "Ghahramani",
        "Lakshminarayanan",
        "Mukhoti",
        "Wu",
        "Havasi",
        "Foong",
        "Izbicki",
        "Hollmann",
    ):
        assert author in sources
    assert len(re.findall(r"arXiv:\d{4}\.\d{5}|doi:", sources)) >= 10
    assert "uncertainty-baselines" in tables
