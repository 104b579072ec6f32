"""The command `compare`, which trains several methods on the same data and network."""

import argparse
import sys
from pathlib import Path

from lightning_vi.errors import InputValueError

SUMMARY = "train several methods on the same data and network, and compare their scores"
DESCRIPTION = (
    "Trains several methods on the data, with the network, likelihood and training of a configuration file, and writes "
    "comparison.csv, summary.csv, comparison.md and figures. A second call runs only what is missing."
)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to a parser.

    Args:
        commands: The subparsers of the console script.
    """
    parser = commands.add_parser("compare", help=SUMMARY, description=DESCRIPTION)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="of a fit, or of a comparison")
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME", help="methods; 'A + B' is method A with calibration B (default: FILE's)"
    )
    parser.add_argument("--all", action="store_true", help="compare all methods")
    parser.add_argument("--seeds", type=int, metavar="N", help="number of seeds or splits (default: FILE's, else 5)")
    parser.add_argument("--max_epochs", type=int, metavar="N", help="number of epochs (default: FILE's)")
    parser.add_argument("--reference", metavar="NAME", help="method that the others are compared with")
    parser.add_argument("--shifts", action="store_true", help="score shifted images, and more scores of ood_sets")
    parser.add_argument("--keep_checkpoints", action="store_true", help="keep a checkpoint of each fitted method")
    parser.add_argument("--output_dir", type=Path, default=Path("comparison"), help="folder (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="repeat the runs that are in the folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Runs what is missing and prints the tables.

    Args:
        options: The arguments of the command.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or an option is wrong, or all runs fail.
    """
    from lightning_vi.cli.comparison_file import choose, read_comparison
    from lightning_vi.compare import compare
    from lightning_vi.compare.entries import method_names

    if options.all and options.methods:
        raise InputValueError("--all and --methods exclude each other")
    arguments = read_comparison(options.config)
    if names := method_names() if options.all else options.methods:
        choose(arguments, names)
    arguments |= {key: getattr(options, key) for key in ("seeds", "reference") if getattr(options, key) is not None}
    if options.max_epochs is not None:
        arguments["trainer"]["max_epochs"] = options.max_epochs
    if options.shifts and not arguments["shifts"]:
        arguments["shifts"] = True
    comparison = compare(
        **arguments,
        keep_checkpoints=options.keep_checkpoints,
        output_dir=options.output_dir,
        overwrite=options.overwrite,
    )
    if len(comparison.failures) == len(comparison.runs):
        raise InputValueError(f"all runs failed, the first one with: {comparison.failures[0].error}")
    sys.stdout.write(f"{comparison.to_markdown()}\nTables and figures: {options.output_dir}\n")
