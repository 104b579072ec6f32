"""Imports run downward only: a room of the package uses rooms on lower floors, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_vi

PACKAGE = Path(lightning_vi.__file__).parent
FLOORS = (
    {"errors", "locks", "version"},
    {"tracing"},
    {"arguments", "functional", "noise", "backbones"},
    {"kernels", "likelihoods", "priors", "posteriors", "metrics", "plots", "datamodules"},
    {"layers"},
    {"sampling"},
    {"conversion"},
    {"curvature", "moments", "objectives", "optim"},
    {"core"},
    {"calibration", "diagnostics"},
    {"methods"},
    {"callbacks", "evaluation", "export", "testing"},
    {"compare"},
    {"demo", "report"},
    {"cli", "__init__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Yields the dotted name of each module of the package that `path` imports, without the package name."""
    package = path.relative_to(PACKAGE.parent).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) + "." if node.level else ""
            names = [f"{base}{node.module or ''}".rstrip(".") + f".{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("lightning_vi.") for name in names if name.startswith("lightning_vi."))


@pytest.mark.parametrize("here", sorted({room(path) for path in FILES}))
def test_imports_run_downward(here: str) -> None:
    assert here in FLOOR, f"{here} has no place on the floor plan"
    for path in FILES:
        if room(path) != here:
            continue
        for name in imported_modules(path):
            target = name.split(".")[0]
            assert target == here or FLOOR[target] < FLOOR[here], f"{path.name} in {here} imports {name}"
