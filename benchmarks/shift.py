"""Tables and figures of docs/shift.md: ten methods on shifted images and out-of-distribution data.

    python benchmarks/shift.py digits --output_dir DIR
    python benchmarks/shift.py mnist --folder data/mnist --output_dir DIR
    python benchmarks/shift.py mnist --folder data/mnist --fashion data/fashion-mnist --output_dir DIR

A problem is the comparison of `configs/comparison/shift_NAME.yaml`; runs that are in the folder are not repeated.
The tables stand on the page between marks, and the figures in docs/images.
"""

import argparse
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import yaml
from reliability import replace_tables

from lightning_vi.cli.comparison_file import choose, read_comparison
from lightning_vi.compare import Comparison, compare
from lightning_vi.compare.shift_results import shift_markdown

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "shift.md"
FILES = "`comparison.md` in the folder has AUPR and FPR95 too, and there is a figure for each of the other scores."
FIGURES = ("shift_nll", "detection_auroc")


def comparison_of(problem: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the comparison of a problem."""
    text = (ROOT / "configs" / "comparison" / f"shift_{problem}.yaml").read_text()
    content = yaml.safe_load(text.replace("data/mnist", str(arguments.folder)))
    if arguments.fashion is not None:
        fashion = {"class_path": "FashionMNISTDataModule", "init_args": {"folder": str(arguments.fashion)}}
        content["ood_sets"]["Fashion-MNIST"] = fashion
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "comparison.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        found = read_comparison(path)
    if arguments.methods:
        choose(found, arguments.methods)
    if arguments.max_epochs is not None:
        found["trainer"]["max_epochs"] = arguments.max_epochs
    if arguments.seeds is not None:
        found["seeds"] = arguments.seeds
    return found


def lines_of(problem: str, comparison: Comparison, max_epochs: int) -> list[str]:
    """Returns the part of the page that the comparison fills."""
    frame = comparison.frame
    seeds, titles = frame["seed"].nunique(), {"digits": "digits", "mnist": "MNIST"}
    said = f"{seeds} seeds" if seeds > 1 else "one seed"
    title = titles[problem]
    figures = [
        f"![NLL against severity on {title}, a panel for each kind of shift](images/shift_nll_{problem}.png)",
        f"![AUROC of each score and method on {title}](images/detection_auroc_{problem}.png)",
    ]
    tables = shift_markdown(frame[frame["error"] == ""], detection=["auroc"]).strip().splitlines()
    failures = [f"`{run.method}` failed: {run.error}" for run in comparison.failures]
    said = f"{max_epochs} epochs, means over {said}, standard errors in parentheses:"
    return [said, "", *tables, "", figures[0], "", figures[1], *failures, "", comparison.environment, "", FILES]


def main() -> None:
    """Runs what is missing, and writes the tables and figures of a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=["digits", "mnist"])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs, tables and figures")
    parser.add_argument("--folder", type=Path, default=Path("data/mnist"), help="folder of the files of MNIST")
    parser.add_argument("--fashion", type=Path, help="folder of the files of Fashion-MNIST")
    parser.add_argument("--seeds", type=int, help="number of seeds; default: that of the configuration")
    parser.add_argument("--max_epochs", type=int, help="number of epochs; default: that of the configuration")
    parser.add_argument("--methods", nargs="+", help="methods; default: those of the configuration")
    arguments = parser.parse_args()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    found = comparison_of(arguments.problem, arguments)
    comparison = compare(**found, keep_checkpoints=True, output_dir=arguments.output_dir)
    lines = lines_of(arguments.problem, comparison, found["trainer"]["max_epochs"])
    PAGE.write_text(replace_tables(PAGE.read_text(), {arguments.problem: lines}))
    for name in FIGURES:
        target = PAGE.parent / "images" / f"{name}_{arguments.problem}.png"
        target.write_bytes((arguments.output_dir / f"{name}.png").read_bytes())


if __name__ == "__main__":
    main()
