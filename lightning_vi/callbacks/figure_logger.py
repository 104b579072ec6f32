"""Callback that draws figures of validation and test data into the Trainer's loggers."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi import plots
from lightning_vi.arguments import check_at_least
from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch, to_device
from lightning_vi.core.element_rows import element_rows
from lightning_vi.core.intake import network_batch
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import map_tensors, tensors

FigureFunction: TypeAlias = Callable[[Any, dict[str, Tensor], Tensor], Figure]
"""Function from the inputs, the dictionary of `predict_step` and the targets to a figure."""


class FigureLogger(Callback):
    """Logs figures of the predictions for validation data after a fit, and for test data after a test.

    For a regression they are `calibration`, `predicted_observed`, `pit` and `error_uncertainty`; for a classifier,
    `reliability` and `error_uncertainty`. With a `CSVLogger`, `objective` shows the training.

    A logger whose experiment has `add_figure`, such as `TensorBoardLogger`, gets the figures, with names such as
    `test/pit`, and so does one with `log_image`, such as `WandbLogger`. For `CSVLogger` and others they become files
    `figures/test_pit.png` in the folder of the run; without a logger, in the Trainer's `default_root_dir`.

    The first rows of each dataloader are predicted once more, so that memory is bounded. Functions of your own get the
    inputs as one tensor, or as a list of batches if they are not tensors. In distributed runs, only the
    first process draws, from its share of the data. A figure that cannot be drawn is a warning.

    Args:
        max_targets: Maximal number of targets (rows, times positions such as pixels) of a dataloader to draw from. At
            least one row is drawn.
        every_n_epochs: Number of epochs between figures of validation data during a fit, whose names and files have the
            epoch. None: after the fit only.
        figures: Functions of the inputs, the dictionary of `predict_step` and the targets that return a figure, by
            name, in place of the default ones; for example ``{"images": plot_image_grid}``.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from lightning import Trainer
        >>> from lightning.pytorch.loggers import CSVLogger
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.callbacks import FigureLogger
        >>> from lightning_vi.likelihoods import Gaussian
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> method = MeanFieldVI(MLP(1, [8], 1), Gaussian())
        >>> loader = DataLoader(TensorDataset(torch.randn(9, 1), torch.randn(9, 1)), batch_size=9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     options = {"callbacks": [FigureLogger()], "logger": CSVLogger(folder), "enable_progress_bar": False}
        ...     _ = Trainer(**options).test(method, loader, verbose=False)
        ...     sorted(path.name for path in Path(folder).rglob("*.png"))
        ['test_calibration.png', 'test_error_uncertainty.png', 'test_pit.png', 'test_predicted_observed.png']
    """

    def __init__(
        self,
        max_targets: int = 5000,
        every_n_epochs: int | None = None,
        figures: Mapping[str, FigureFunction] | None = None,
    ) -> None:
        super().__init__()
        check_at_least("max_targets", max_targets, 1)
        if every_n_epochs is not None:
            check_at_least("every_n_epochs", every_n_epochs, 1)
        self.max_targets = max_targets
        self.every_n_epochs = every_n_epochs
        self.figures = None if figures is None else dict(figures)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the validation data every few epochs, and after a validation without a fit."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._log(trainer, pl_module, "val", trainer.val_dataloaders)
        elif self.every_n_epochs is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._log(trainer, pl_module, "val", trainer.val_dataloaders, f"epoch_{trainer.current_epoch:04d}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the training and the validation data after a fit."""
        self._log(trainer, pl_module, "val", trainer.val_dataloaders)
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                logger.save()
                self._draw(trainer, "train", "objective", partial(plots.plot_objective, logger.log_dir))
                break

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the test data."""
        self._log(trainer, pl_module, "test", trainer.test_dataloaders)

    def _log(self, trainer: Trainer, method: LightningModule, stage: str, dataloaders: Any, suffix: str = "") -> None:
        if not isinstance(method, Predictor) or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if dataloaders is None or method.unmet_requirement:
            return
        loaders = CombinedLoader(dataloaders).flattened
        for index, loader in enumerate(loaders):
            with private_random_state(0, method.device), torch.no_grad():
                data = self._collect(method, loader)
            if data is None:
                continue
            parts = [f"dataloader_{index}"] if len(loaders) > 1 else []
            for name, function in (self.figures or default_figures(method)).items():
                tag = "_".join([name, *parts, *([suffix] if suffix else [])])
                self._draw(trainer, stage, tag, partial(function, *data))

    def _collect(self, method: Predictor, loader: Any) -> tuple[Any, dict[str, Tensor], Tensor] | None:
        """Inputs, predictions and targets of the first rows, on the CPU; None if there are no labeled rows."""
        inputs: list[Any] = []
        predictions: list[dict[str, Tensor]] = []
        targets: list[Tensor] = []
        budget = self.max_targets
        for batch in loader:
            x, target = split_batch(to_device(method, batch))
            if target is None:
                return None
            x, target = network_batch(x, target, method)
            per_row = max(target[:1].numel(), 1)
            rows = max(budget // per_row, 0 if targets else 1)
            if rows == 0:
                break
            if rows < len(target) and all(len(tensor) == len(target) for tensor in tensors(x)):
                x, target = map_tensors(partial(_first, rows), x), target[:rows]
            predictions.append({key: value.cpu() for key, value in method.predict(x).as_dict().items()})
            targets.append(target.cpu())
            if self.figures is not None:
                inputs.append(map_tensors(Tensor.cpu, x))
            budget -= target.numel()
        if not targets:
            return None
        joined = {key: torch.cat([each[key] for each in predictions]) for key in predictions[0]}
        is_tensor = bool(inputs) and all(isinstance(x, Tensor) for x in inputs)
        return torch.cat(inputs) if is_tensor else inputs, joined, torch.cat(targets)

    def _draw(self, trainer: Trainer, stage: str, name: str, draw: Callable[[], Figure]) -> None:
        try:
            figure = draw()
        except (ValueError, TypeError, FileNotFoundError) as error:
            rank_zero_warn(f"FigureLogger could not draw {stage}/{name}: {error}")
            return
        loggers: list[Logger | None] = [*trainer.loggers]
        for logger in loggers or [None]:
            write_figure(figure, f"{stage}/{name}", logger, trainer)


def _first(rows: int, tensor: Tensor) -> Tensor:
    return tensor[:rows]


def write_figure(figure: Figure, tag: str, logger: Logger | None, trainer: Trainer) -> None:
    """Gives a figure to a logger, or writes a file into the folder of its run.

    Args:
        figure: The figure.
        tag: Its name.
        logger: Logger of the Trainer; None if it has none.
        trainer: The Trainer.
    """
    experiment = getattr(logger, "experiment", None)
    if experiment is not None and hasattr(experiment, "add_figure"):
        experiment.add_figure(tag, figure, global_step=trainer.global_step, close=False)
        return
    if logger is not None and hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[figure], step=trainer.global_step)
        return
    root = getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir
    path = Path(root) / "figures" / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', tag)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def default_figures(method: Predictor) -> dict[str, FigureFunction]:
    """Returns the figures of a regression or of a classifier, over the observed targets.

    Args:
        method: The method.

    Returns:
        Functions by name.
    """
    if method.likelihood.task == "classification":
        return {
            "reliability": _of_observed(method, plots.plot_reliability_diagram),
            "error_uncertainty": _of_observed(method, plots.plot_error_uncertainty),
        }
    return {
        "calibration": _of_observed(method, lambda p, y: plots.plot_calibration(p["pred"], p["pred_uct"], y)),
        "predicted_observed": _of_observed(method, plots.plot_predicted_observed),
        "pit": _of_observed(method, plots.plot_pit),
        "error_uncertainty": _of_observed(method, plots.plot_error_uncertainty),
    }


def _of_observed(method: Predictor, function: Callable[[dict[str, Tensor], Tensor], Figure]) -> FigureFunction:
    """A figure of the positions whose targets are all observed."""

    def draw(x: Any, prediction: dict[str, Tensor], target: Tensor) -> Figure:  # noqa: ARG001
        return function(*element_rows(prediction, target, method.likelihood))

    return draw
