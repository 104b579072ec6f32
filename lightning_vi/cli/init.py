"""The command `init`, which writes a first configuration file for a table."""

import argparse
import sys
from pathlib import Path

SUMMARY = "write a configuration file for a table of your own"
DESCRIPTION = (
    "Looks at a table and writes a configuration file for `lightning-vi fit`: task, likelihood, network, encoding of "
    "the columns and length of the training. What is guessed is printed, with the option that says otherwise."
)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to a parser.

    Args:
        commands: The subparsers of the console script.
    """
    parser = commands.add_parser("init", help=SUMMARY, description=DESCRIPTION)
    needed = parser.add_argument_group("the table")
    needed.add_argument("--data", required=True, metavar="FILE", help="a table: .csv, .tsv, .parquet, .xlsx and others")
    needed.add_argument("--target", required=True, nargs="+", metavar="COLUMN", help="target column or columns")
    needed.add_argument("--output", type=Path, default=Path("config.yaml"), help="the file (default: %(default)s)")
    needed.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    needed.add_argument("--sep", help="separator of the columns of a text file")
    guesses = parser.add_argument_group("instead of the guesses")
    guesses.add_argument("--task", choices=["regression", "classification"], help="by default guessed from the target")
    guesses.add_argument("--method", default="MeanFieldVI", help="any method of the package (default: %(default)s)")
    guesses.add_argument("--missing", choices=["refuse", "drop", "impute"], help="treatment of missing values")
    guesses.add_argument("--encoding", choices=["one_hot", "ordinal"], default="one_hot", help="of categories")
    guesses.add_argument("--categorical_columns", nargs="+", metavar="COLUMN", help="columns of categories")
    guesses.add_argument("--drop_columns", nargs="+", metavar="COLUMN", default=[], help="columns that are no inputs")
    guesses.add_argument("--id_column", metavar="COLUMN", help="column that identifies the rows of predictions")
    guesses.add_argument("--group_column", metavar="COLUMN", help="column whose values stay in one split")
    guesses.add_argument("--time_column", metavar="COLUMN", help="column by which earlier and later rows are split")
    guesses.add_argument("--max_epochs", type=int, help="largest number of epochs")
    guesses.add_argument("--batch_size", type=int, help="number of rows per batch")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Writes the file and prints what is in it, and the next commands.

    Args:
        options: The arguments of the command.

    Raises:
        FileExistsError: If the file exists.
        FileNotFoundError: If there is no such table.
        ValueError: If the table has faults, or an option does not fit.
    """
    from lightning_vi.cli.starter import make_starter

    output: Path = options.output
    if output.exists() and not options.overwrite:
        raise FileExistsError(f"--output: {output} exists already: pass --overwrite to replace it")
    chosen = {name: value for name, value in vars(options).items() if name not in ("command", "run", "overwrite")}
    starter = make_starter(**chosen)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(starter.text)
    facts = [f"  {line}" for line in starter.facts]
    sys.stdout.write("\n".join([f"{output}:", *facts, "next:", *starter.commands, ""]))
