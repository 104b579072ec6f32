"""The console script `lightning-vi`."""

import argparse
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

TRAINER_COMMANDS = {
    "fit": "train the method of a configuration file",
    "validate": "score a checkpoint on the validation data",
    "test": "score a checkpoint on the test data",
    "predict": "write a checkpoint's predictions to a CSV file",
}
EXAMPLES = """\
examples:
  lightning-vi demo
  lightning-vi fit --config configs/regression/mean_field_vi.yaml
  lightning-vi test --config configs/regression/mean_field_vi.yaml --ckpt_path CHECKPOINT
  lightning-vi fit --help
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command.

    Args:
        args: The command line without the program's name; `sys.argv` has it by default.

    Raises:
        SystemExit: With status 2 after a message to standard error, if the input is at fault; with status 0 after
            help.
    """
    parser = _build_parser()
    # What follows a command of the trainer is left over here, for LightningCLI to parse.
    options, rest = parser.parse_known_args(args)
    if options.command == "demo" and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if options.command == "demo":
            from lightning_vi.demo import run_demo

            run_demo(options.output_dir, quick=options.quick)
        else:
            from lightning_vi.cli.trainer import run_trainer

            run_trainer(args)
    except Exception as error:
        origin = _first_cause(error)
        if not _is_about_input(origin):
            raise
        parser.exit(2, f"lightning-vi {options.command}: error: {origin}\n")


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-vi",
        description="Uncertainty quantification by variational inference.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('lightning-vi')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name, summary in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    demo_summary = "fit every method to three data sets, and compare them in tables and figures; about five minutes"
    demo = commands.add_parser("demo", help=demo_summary, description=demo_summary)
    demo.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="folder of predictions and figures (%(default)s)"
    )
    demo.add_argument("--quick", action="store_true", help="train for a few epochs only, to see that it runs")
    return parser


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_about_input(error: BaseException) -> bool:
    """Whether an error's message says it all: a file that is missing or in the way, or a refusal of this package."""
    if isinstance(error, FileNotFoundError | FileExistsError | NotADirectoryError | PermissionError):
        return True
    *_, origin = traceback.extract_tb(error.__traceback__)
    return Path(origin.filename).is_relative_to(PACKAGE) and (origin.line or "").startswith("raise ")
