"""The command `report`, which writes a page on a fitted method."""

import argparse
import sys
import warnings
from pathlib import Path

SUMMARY = "write a page on a checkpoint: data, training, scores, calibration and predictions"
DESCRIPTION = (
    "Scores the test data of a checkpoint and writes one HTML file that works offline, with data, training curves, "
    "scores and their confidence intervals, calibration, selective prediction, single rows, modules and posterior."
)


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to a parser.

    Args:
        commands: The subparsers of the console script.
    """
    parser = commands.add_parser("report", help=SUMMARY, description=DESCRIPTION)
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration of the fit")
    parser.add_argument("--ckpt_path", metavar="CHECKPOINT", help="default: the best or last of the last fit")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html beside the fit)")
    parser.add_argument("--title", help="title of the page (default: the method and the data)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Loads the checkpoint, scores the test data and writes the page.

    Args:
        options: The arguments of the command.

    Raises:
        FileNotFoundError: If there is no such file, or no folder for the page.
        ValueError: If there is no checkpoint, or it does not fit the configuration.
    """
    from lightning_vi.cli.last_fit import folder_of_fit
    from lightning_vi.cli.trainer import run_trainer
    from lightning_vi.report import write_report
    from lightning_vi.report.write import check_path

    if options.output is not None:
        check_path(options.output)
    checkpoint = [] if options.ckpt_path is None else ["--ckpt_path", options.ckpt_path]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        # Loads the checkpoint without a pass over the test data, which the report scores itself.
        cli = run_trainer(["test", "--config", options.config, *checkpoint, "--trainer.limit_test_batches", "0"])
    if not cli.trainer.is_global_zero:
        return
    used = Path(cli.config.test.ckpt_path)
    fit = folder_of_fit(used)
    page = fit / "report.html" if options.output is None else options.output
    cli.model.to(cli.trainer.strategy.root_device)
    write_report(cli.model, cli.datamodule, page, log_folder=fit, checkpoint=used, title=options.title)
    sys.stdout.write(f"{page}\n")
