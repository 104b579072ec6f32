"""The commands `fit`, `validate`, `test` and `predict`, which run a Trainer from a configuration file."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from lightning import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

# A configuration file may name the classes of these packages without their path: `class_path: MLP`.
import lightning_vi.backbones
import lightning_vi.datamodules
import lightning_vi.likelihoods
import lightning_vi.methods
import lightning_vi.priors  # noqa: F401
from lightning_vi.callbacks import PredictionWriter
from lightning_vi.cli.last_fit import find_last_fit, folder_of_fit
from lightning_vi.cli.method_help import options_text
from lightning_vi.cli.parser import MethodParser
from lightning_vi.core import Predictor
from lightning_vi.core.checkpoints import check_file
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.predictor import DATA_STATE, Approximation
from lightning_vi.datamodules import ArrayDataModule, TabularDataModule
from lightning_vi.datamodules.open_table import open_table
from lightning_vi.errors import InputValueError
from lightning_vi.sampling import evaluating

BESIDE_THE_FIT = "beside_the_fit"
"""Folder of predictions that stands for that of the fit."""
FILE_LOGGERS = ("CSVLogger", "TensorBoardLogger")


class TrainerCLI(LightningCLI):
    """LightningCLI with a prediction writer, and with checkpoints that supply weights but no hyperparameters."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the arguments of the prediction writer, and how predictions integrate over the posterior.

        Args:
            parser: The parser of one command.
        """
        parser.add_argument(
            "--approximation",
            type=Approximation,
            default="sampling",
            help="'sampling', or 'moments' for one pass that propagates means and variances",
        )
        parser.add_lightning_class_args(PredictionWriter, "prediction_writer")
        parser.set_defaults({"prediction_writer.output_dir": BESIDE_THE_FIT})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses the command line and hides the checkpoint's path from LightningCLI.

        LightningCLI would merge the checkpoint's hyperparameters into the configuration, and fail for a checkpoint
        that was written from Python. Here the configuration alone describes the method, and the checkpoint supplies
        the weights.

        Args:
            parser: The parser.
            args: The command and its arguments, or None for those of the process.
        """
        super().parse_arguments(parser, args)
        command = self.config[self.config.subcommand]
        self._checkpoint = command.ckpt_path
        command.ckpt_path = None

    def before_instantiate_classes(self) -> None:
        """Restores the checkpoint's path; commands other than `fit` find that of the last fit by themselves.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If a command other than `fit` finds no checkpoint, or the file is not one.
        """
        if self.subcommand != "fit" and self._checkpoint is None:
            self._checkpoint = self._last_checkpoint()
        is_file = self._checkpoint not in (None, "best", "last", "hpc") and "://" not in str(self._checkpoint)
        if is_file:
            checkpoint = check_file(Path(self._checkpoint), "--ckpt_path")
            if self.subcommand != "fit":
                self._treat_tables_as_in(checkpoint.get(DATA_STATE))
                self._write_beside(folder_of_fit(Path(self._checkpoint)))
        self.config[self.subcommand].ckpt_path = self._checkpoint
        if self.subcommand == "predict" and self.config.predict.return_predictions is None:
            self.config.predict.return_predictions = False  # the writer has them, and the memory does not

    def _last_checkpoint(self) -> str:
        """The checkpoint of the last fit of this configuration."""
        parser = self._parser(self.subcommand)
        config = yaml.safe_load(parser.dump(self.config[self.subcommand], skip_none=False))
        found = find_last_fit(config["trainer"], config["model"])
        if found is None:
            raise InputValueError(
                "--ckpt_path must name the checkpoint of a fit: there is no fit of this method with the same options "
                "in the folder of the configuration's logger"
            )
        _say(f"lightning-vi {self.subcommand}: {found.checkpoint}, the {found.which} checkpoint of the last fit\n")
        return str(found.checkpoint)

    def _write_beside(self, folder: Path) -> None:
        """Lets the command write its results into the folder of the fit instead of a log of its own."""
        config = self.config[self.subcommand]
        if config.prediction_writer.output_dir == BESIDE_THE_FIT:
            config.prediction_writer.output_dir = str(folder)
        logger = config.trainer.logger
        if logger in (None, True) or str(getattr(logger, "class_path", "")).endswith(FILE_LOGGERS):
            config.trainer.logger = False
            self.save_config_callback = None
            self._results_folder = folder

    def instantiate_classes(self) -> None:
        """Makes the method, which scores and predicts with `--approximation`, the datamodule and the Trainer."""
        super().instantiate_classes()
        self.model.approximation = self.config[self.subcommand].approximation

    def before_fit(self) -> None:
        """Runs the network on two rows, so that one of another shape than the data is refused before training.

        Raises:
            ValueError: If the network cannot take the rows.
        """
        if not isinstance(self.datamodule, ArrayDataModule):
            return
        rows = self.datamodule.X_train[:2]
        with explained(self.model, rows), evaluating(self.model), torch.no_grad():
            self.model(rows)

    def after_test(self) -> None:
        """Writes the scores to `test.csv` in the folder of the fit."""
        self._write_scores("test.csv")

    def after_validate(self) -> None:
        """Writes the scores to `validate.csv` in the folder of the fit."""
        self._write_scores("validate.csv")

    def after_predict(self) -> None:
        """Says where the predictions are."""
        writers = [each for each in self.trainer.callbacks if isinstance(each, PredictionWriter)]  # type: ignore[attr-defined]
        _say("".join(f"lightning-vi predict: {writer.path}\n" for writer in writers))

    def _write_scores(self, name: str) -> None:
        folder = getattr(self, "_results_folder", None)
        if folder is None or not self.trainer.is_global_zero:
            return
        scores = {key: float(value) for key, value in self.trainer.callback_metrics.items()}
        pd.DataFrame([scores]).to_csv(folder / name, index=False)
        _say(f"lightning-vi {self.subcommand}: {folder / name}\n")

    def _treat_tables_as_in(self, state: dict[str, Any] | None) -> None:
        """Makes a `TabularDataModule` of another table than that of the fit a `NewTableDataModule`."""
        opener = _TableOpener(state)
        self.parser.add_instantiator(opener, TabularDataModule, subclasses=False, prepend=True)


class _TableOpener:
    """Makes the datamodule of a table for the commands that have a checkpoint, for jsonargparse."""

    def __init__(self, state: dict[str, Any] | None) -> None:
        self.state = state

    def __call__(
        self,
        datamodule: type[TabularDataModule],
        *,
        applied_instantiation_links: Any,  # noqa: ARG002
        **arguments: Any,
    ) -> LightningDataModule:
        if self.state is None or self.state["kind"] != TabularDataModule.kind_of_data:
            rank_zero_warn(
                "The checkpoint does not say how its training data were treated, so the table is standardized by its "
                "own rows. Predictions are wrong unless it is the table of the fit: fit again for a new table."
            )
            return datamodule(**arguments)
        return open_table(self.state, **arguments)


def run_trainer(args: Sequence[str] | None = None) -> TrainerCLI:
    """Runs one command.

    Args:
        args: The command and its arguments. Default: those of the process.

    Returns:
        The CLI, with its `trainer`, `model` and `datamodule`.
    """
    given = sys.argv[1:] if args is None else list(args)
    asks_for_help = bool({"-h", "--help"} & set(given))
    appendix = options_text(_named_method(given)) if asks_for_help else ""
    usage = {
        command: {"usage": f"lightning-vi {command} --config FILE [--KEY VALUE ...]", "appendix": appendix}
        for command in TrainerCLI.subcommands()
    }
    return TrainerCLI(
        Predictor,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_class=MethodParser,
        parser_kwargs={"prog": "lightning-vi", **usage},
        save_config_kwargs={"overwrite": True},
        args=None if args is None else list(args),
    )


def _named_method(args: Sequence[str]) -> str | None:
    """The class that a command line names by `--model` or in its configuration, if any."""
    values: dict[str, str] = {}
    for argument, following in zip(args, [*args[1:], ""], strict=True):
        option, separator, value = argument.partition("=")
        if option in ("--model", "--config", "-c"):
            values[option.lstrip("-")] = value if separator else following
    path = values.get("config", values.get("c"))
    if "model" in values or path is None or not Path(path).is_file():
        return values.get("model")
    content = yaml.safe_load(Path(path).read_text())
    model = content.get("model") if isinstance(content, dict) else None
    return model.get("class_path") if isinstance(model, dict) else model


@rank_zero_only
def _say(text: str) -> None:
    sys.stderr.write(text)
