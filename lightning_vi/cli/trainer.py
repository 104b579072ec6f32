"""The commands `fit`, `validate`, `test` and `predict`, which run a Trainer from a configuration file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

# A configuration file may name the classes of these packages without their path: `class_path: MLP`.
import lightning_vi.backbones
import lightning_vi.datamodules
import lightning_vi.likelihoods
import lightning_vi.methods
import lightning_vi.priors  # noqa: F401
from lightning_vi.callbacks import PredictionWriter
from lightning_vi.core import Predictor
from lightning_vi.core.checkpoints import check_file
from lightning_vi.core.predictor import DATA_STATE
from lightning_vi.datamodules import TabularDataModule
from lightning_vi.datamodules.open_table import open_table
from lightning_vi.errors import InputValueError


class TrainerCLI(LightningCLI):
    """LightningCLI with a prediction writer, and with checkpoints that supply weights but no hyperparameters."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the arguments of the prediction writer.

        Args:
            parser: The parser of one command.
        """
        parser.add_lightning_class_args(PredictionWriter, "prediction_writer")
        parser.set_defaults({"prediction_writer.output_dir": "outputs"})

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
        """Restores the checkpoint's path and requires one for every command other than `fit`.

        Raises:
            FileNotFoundError: If the checkpoint does not exist.
            ValueError: If a command other than `fit` has no checkpoint, or the file is not one.
        """
        if self.subcommand != "fit" and self._checkpoint is None:
            raise InputValueError("--ckpt_path must name the checkpoint of a fit")
        is_file = self._checkpoint not in (None, "best", "last", "hpc") and "://" not in str(self._checkpoint)
        if is_file:
            checkpoint = check_file(Path(self._checkpoint), "--ckpt_path")
            if self.subcommand != "fit":
                self._treat_tables_as_in(checkpoint.get(DATA_STATE))
        self.config[self.subcommand].ckpt_path = self._checkpoint
        if self.subcommand == "predict" and self.config.predict.return_predictions is None:
            self.config.predict.return_predictions = False  # the writer has them, and the memory does not

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
    usage = {
        command: {"usage": f"lightning-vi {command} --config FILE [--KEY VALUE ...]"}
        for command in TrainerCLI.subcommands()
    }
    return TrainerCLI(
        Predictor,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "lightning-vi", **usage},
        save_config_kwargs={"overwrite": True},
        args=None if args is None else list(args),
    )
