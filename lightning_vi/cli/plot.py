"""The command `plot`, which draws figures of a fitted method."""

import argparse
import sys
import warnings
from pathlib import Path

SUMMARY = "draw predictions, calibration, selective prediction and training of a checkpoint"


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to a parser.

    Args:
        commands: The subparsers of the console script.
    """
    parser = commands.add_parser("plot", help=SUMMARY, description=f"{SUMMARY} as PNG files, and score the test data")
    parser.add_argument("--config", required=True, metavar="FILE", help="configuration of the fit")
    parser.add_argument("--ckpt_path", metavar="CHECKPOINT", help="default: the best or last of the last fit")
    parser.add_argument("--output_dir", type=Path, help="folder of the figures (default: plots/ beside the fit)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Loads the checkpoint, scores the test data and draws the figures.

    Args:
        options: The arguments of the command.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no checkpoint, or it does not fit the configuration.
    """
    from lightning_vi.cli.last_fit import folder_of_fit
    from lightning_vi.cli.trainer import run_trainer
    from lightning_vi.evaluation import method_figures

    checkpoint = [] if options.ckpt_path is None else ["--ckpt_path", options.ckpt_path]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "LightningCLI's args parameter")
        cli = run_trainer(["test", "--config", options.config, *checkpoint])
    if not cli.trainer.is_global_zero:
        return
    fit = folder_of_fit(Path(cli.config.test.ckpt_path))
    folder = fit / "plots" if options.output_dir is None else options.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    figures = method_figures(cli.model, cli.datamodule, fit, title=type(cli.model).__name__)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=150)
    sys.stdout.write(f"{folder}: {', '.join(f'{name}.png' for name in figures)}\n")
