"""Draws the floor plan of the package from its imports.

    python docs/floor_plan.py

Each room stands one level above the highest room that it imports. Lines show imports, except those that follow from
others.
"""

import ast
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lightning_vi"
TARGET = ROOT / "docs" / "images" / "floor_plan.svg"
COLORS = {"methods": "#cfe3f5", "calibration": "#cfe3f5", "core": "#ffe3b3"}


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "lightning_vi":
            names |= {f"lightning_vi.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("lightning_vi.")}


def import_graph() -> dict[str, set[str]]:
    """Rooms that each room imports, except `errors`, which all may import."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            graph.setdefault(room, set()).update(imported_rooms(path) - {room, "errors"})
    return graph


def below(room: str, graph: dict[str, set[str]]) -> set[str]:
    """All rooms that a room imports, directly or not."""
    return set().union(*({target} | below(target, graph) for target in graph[room]))


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    return {room: len(longest_path(room, graph)) for room in graph}


def longest_path(room: str, graph: dict[str, set[str]]) -> list[str]:
    return max(([room, *longest_path(target, graph)] for target in graph[room]), key=len, default=[room])


def essential_imports(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that do not follow from others."""
    return [
        (room, target)
        for room, targets in graph.items()
        for target in sorted(targets)
        if not any(target in below(other, graph) for other in targets)
    ]


def columns(rows: list[list[str]], graph: dict[str, set[str]]) -> dict[str, float]:
    """Horizontal positions from 0 to 1, near those of the rooms that each room is connected with."""
    position = {room: (index + 0.5) / len(row) for row in rows for index, room in enumerate(row)}
    links = essential_imports(graph)
    for row in [*rows, *reversed(rows)] * 10:
        near = {}
        for room in row:
            linked = [position[b if a == room else a] for a, b in links if room in (a, b)]
            near[room] = sum(linked) / len(linked) if linked else position[room]
        for index, room in enumerate(sorted(row, key=lambda name: (near[name], name))):
            position[room] = (index + 0.5) / len(row)
    return position


def draw() -> Figure:
    graph = import_graph()
    level = levels(graph)
    rows = [[room for room in graph if level[room] == number] for number in range(1, max(level.values()) + 1)]
    x = columns(rows, graph)
    width = min(0.12, 0.92 / max(map(len, rows)))
    figure = Figure(figsize=(10, 6.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0.4, len(rows) + 0.6))
    axes.axis("off")
    for room, target in essential_imports(graph):
        axes.plot([x[room], x[target]], [level[room] - 0.25, level[target] + 0.25], color="#9aa4ae", lw=0.8, zorder=1)
    for room in graph:
        box = FancyBboxPatch(
            (x[room] - width / 2, level[room] - 0.2),
            width,
            0.4,
            boxstyle="round,pad=0.004",
            facecolor=COLORS.get(room, "#eef1f4"),
            edgecolor="#5b6670",
            zorder=2,
        )
        axes.add_patch(box)
        axes.text(x[room], level[room], room, ha="center", va="center", fontsize=11, zorder=3)
    return figure


if __name__ == "__main__":
    with mpl.rc_context({"svg.hashsalt": "floor plan", "svg.fonttype": "none", "font.family": "sans-serif"}):
        draw().savefig(TARGET, metadata={"Date": None})
