"""The console script `lightning-vi`."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from lightning_vi.cli import compare, configs, init, plot, report
from lightning_vi.errors import InputError
from lightning_vi.version import version_of

# Exceptions whose message is enough for the user. The last four are a file that is missing or in the way.
INPUT_ERRORS = (InputError, FileNotFoundError, FileExistsError, NotADirectoryError, PermissionError)
# Beginnings of PyTorch's messages about a checkpoint of another method.
OTHER_WEIGHTS = ("Error(s) in loading state_dict", "loaded state dict contains a parameter group")

TRAINER_COMMANDS = {
    "fit": "train the method of a configuration file",
    "validate": "score a checkpoint on the validation data",
    "test": "score a checkpoint on the test data",
    "predict": "write a checkpoint's predictions to a CSV file",
}
EXAMPLES = """\
examples:
  lightning-vi demo
  lightning-vi init --data table.csv --target price --output config.yaml
  lightning-vi configs
  lightning-vi fit --config configs/regression/mean_field_vi.yaml
  lightning-vi test --config configs/regression/mean_field_vi.yaml
  lightning-vi plot --config configs/regression/mean_field_vi.yaml
  lightning-vi report --config configs/regression/mean_field_vi.yaml --output report.html
  lightning-vi fit --help
  lightning-vi compare --config configs/regression/mean_field_vi.yaml --methods MeanFieldVI Deterministic
"""


def main(args: Sequence[str] | None = None) -> None:
    """Runs one command.

    Modules that import PyTorch are imported by the command that needs them, so that help is fast.

    Args:
        args: The command line without the program's name. Default: that of the process.

    Raises:
        SystemExit: With status 2 after a message on standard error, if the user's input is wrong; with status 0 after
            help.
    """
    parser = _build_parser()
    # The arguments of a trainer command remain unparsed here; LightningCLI parses them.
    given = configs.with_shipped_configs(sys.argv[1:] if args is None else args)
    options, rest = parser.parse_known_args(given)
    if options.command not in TRAINER_COMMANDS and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}{_meant(parser, options.command, rest)}")
    try:
        if options.command == "demo":
            from lightning_vi.demo import run_demo

            run_demo(options.output_dir, quick=options.quick, every_method=options.all)
        elif options.command in TRAINER_COMMANDS:
            from lightning_vi.cli.trainer import run_trainer

            if args is None:
                sys.argv[1:] = given  # LightningCLI wants them there
            run_trainer(None if args is None else given)
        else:
            options.run(options)
    except Exception as error:
        input_error = _find_input_error(error)
        if input_error is None:
            raise
        parser.exit(2, f"lightning-vi {options.command}: error: {' '.join(str(input_error).split())}\n")


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lightning-vi",
        description="Uncertainty quantification by variational inference.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version_of('lightning-vi')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name, summary in TRAINER_COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    init.add_command(commands)
    configs.add_command(commands)
    compare.add_command(commands)
    plot.add_command(commands)
    report.add_command(commands)
    demo_summary = "compare methods on three data sets in tables and figures (about two minutes)"
    demo = commands.add_parser("demo", help=demo_summary, description=demo_summary)
    demo.add_argument(
        "--output-dir",
        type=Path,
        default=Path("outputs"),
        help="folder for tables and figures (default: %(default)s)",
    )
    demo.add_argument("--all", action="store_true", help="compare all methods, not only the headline methods")
    demo.add_argument("--quick", action="store_true", help="train for two epochs only, as a smoke test")
    return parser


def _meant(parser: argparse.ArgumentParser, command: str, rest: Sequence[str]) -> str:
    """Returns the end of an error message that names the option that the first unknown one may be meant to be."""
    subparsers = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    known = list(subparsers.choices[command]._option_string_actions)
    close = get_close_matches(rest[0].partition("=")[0], known, n=1)
    return f": did you mean {close[0]}?" if close else ""


def _find_input_error(error: BaseException | None) -> BaseException | None:
    """Returns the first error of a chain of causes that the user's input explains, or None."""
    while error is not None and not (isinstance(error, INPUT_ERRORS) or str(error).startswith(OTHER_WEIGHTS)):
        error = error.__cause__
    return error
