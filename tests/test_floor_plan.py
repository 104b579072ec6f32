"""Imports run downward only: each part of the package may use the parts below it and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_vi

PACKAGE = Path(lightning_vi.__file__).parent

LEAVES = {"errors", "functional", "backbones", "noise"}
PARTS = {"likelihoods", "priors", "posteriors", "metrics", "plots"}
CORE = LEAVES | {"likelihoods", "priors", "posteriors", "metrics"}
ALLOWED: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    **{part: {"functional"} for part in PARTS},
    "datamodules": {"functional"},
    "optim": {"noise"},
    "curvature": {"functional", "layers", "sampling", "conversion"},
    "layers": {"functional", "noise", "posteriors", "priors"},
    "sampling": {"functional", "noise", "posteriors", "priors", "layers"},
    "conversion": {"functional", "posteriors", "priors", "layers", "sampling"},
    "objectives": CORE | {"noise", "layers", "sampling", "conversion"},
    "methods": CORE | {"noise", "optim", "layers", "sampling", "conversion", "curvature", "objectives"},
    "callbacks": CORE | {"noise", "optim", "layers", "sampling", "conversion", "curvature", "objectives", "methods"},
    "evaluation": CORE | {"noise", "optim", "layers", "sampling", "conversion", "curvature", "objectives", "methods"},
    "testing": {"likelihoods", "sampling", "methods"},
}
TOP_OF_THE_HOUSE = {"__init__", "cli", "demo"}
FRAME_OF_METHODS = {
    *("arguments", "averaging_schedule", "base", "batch", "batch_norm", "calibrated", "closed_form", "conformal"),
    *("data_order", "elbo_method", "ensemble", "epoch_means", "fitted", "laplace_method", "members"),
    *("optimizers", "point", "variational", "weight_averaging"),
}


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


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downward(path: Path) -> None:
    here = room(path)
    if here in TOP_OF_THE_HOUSE:
        return
    assert here in ALLOWED, f"{here} has no place on the floor plan"
    for name in imported_modules(path):
        target = name.split(".")[0]
        assert target in {here, "errors", *ALLOWED[here]}, f"{path.name} in {here} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_a_method_never_imports_a_sibling(path: Path) -> None:
    if path.stem == "__init__":
        return
    siblings = {name.split(".")[1] for name in imported_modules(path) if name.startswith("methods.")}
    assert siblings <= FRAME_OF_METHODS, f"{path.name} imports {siblings - FRAME_OF_METHODS}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
