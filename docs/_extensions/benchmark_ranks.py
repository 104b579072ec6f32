"""Role that writes the mean rank of a method in the first table of ``docs/benchmarks.md``.

``:mean-rank:`MeanFieldVI``` is the mean, over the columns, of its rank among the methods of the table, 1 for the lowest
negative log-likelihood. Equal numbers share their mean rank.
"""

from pathlib import Path
from statistics import mean

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxRole

PAGE = Path(__file__).parents[1] / "benchmarks.md"


def read_table(text: str) -> dict[str, list[float]]:
    """Scores by method of the first table, without standard errors and marks."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    scores = {}
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        scores[name.strip("`")] = [float(cell.split()[0]) for cell in cells]
    return scores


def mean_ranks(scores: dict[str, list[float]]) -> dict[str, float]:
    """Mean rank of each method over the columns."""
    columns = list(zip(*scores.values(), strict=True))

    def rank(score: float, column: tuple[float, ...]) -> float:
        return sum(other < score for other in column) + (column.count(score) + 1) / 2

    return {
        name: mean(rank(score, column) for score, column in zip(row, columns, strict=True))
        for name, row in scores.items()
    }


class MeanRank(SphinxRole):
    """The mean rank of a method as text."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        ranks = mean_ranks(read_table(PAGE.read_text()))
        self.env.note_dependency(str(PAGE))
        if self.text not in ranks:
            raise ExtensionError(f"the first table of {PAGE.name} has no row {self.text}")
        return [nodes.Text(f"{ranks[self.text]:.1f}")], []


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_role("mean-rank", MeanRank())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
