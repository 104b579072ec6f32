"""Callback that writes predictions to a CSV file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_vi.callbacks._spool import PredictionRows
from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods.prediction_columns import prediction_columns


class PredictionWriter(BasePredictionWriter):
    """Writes the predictions of ``Trainer.predict`` to a CSV file, one row per datum.

    The columns are

    - `dataloader`: index of the dataloader, if there are several;
    - `index`: index of the datum in its dataset, by which rows are sorted; it is omitted for iterable datasets. With a
      `TabularDataModule` or `NewTableDataModule`, it is the number of the row in the table, from 0, or the column of
      the table that the datamodule's `id_column` names;
    - `class`: the most probable class, in classification: its name or label in the table that the method was trained
      on, or the number of the class;
    - `pred`, `pred_uct`, `epistemic_uct` and `aleatoric_uct` (see `Predictor.predict_step`), and `probs_var` in
      classification. Quantities with several elements per datum have one column per element: `pred_0`, `pred_1`, ...;
    - `target`, if the batches have targets; labels as in `class`.

    In distributed prediction, one file with the rows of all ranks is written. An existing file is replaced. Memory does
    not grow with the number of rows if they come in order in one process, and if `Trainer.predict` is called with
    ``return_predictions=False``, as the console script does.

    Args:
        output_dir: Folder of the file; created if it does not exist.
        filename: Name of the file.
        include_targets: If True, writes the targets, too.

    Raises:
        ValueError: If `filename` is empty or contains a folder.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from lightning import Trainer
        >>> from torch.utils.data import DataLoader
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method, loader = MeanFieldVI(MLP(1, [8], 1), Gaussian()), DataLoader(torch.zeros(5, 1), batch_size=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     writer = PredictionWriter(folder)
        ...     trainer = Trainer(callbacks=[writer], logger=False, enable_progress_bar=False)
        ...     _ = trainer.predict(method, loader)
        ...     list(pd.read_csv(writer.path))
        ['index', 'pred', 'pred_uct', 'epistemic_uct', 'aleatoric_uct']
    """

    def __init__(self, output_dir: str | Path, filename: str = "predictions.csv", include_targets: bool = True) -> None:
        super().__init__(write_interval="batch")
        if Path(filename).name != filename or not filename:
            raise InputValueError(f"filename must be a file name without a folder, got {filename!r}")
        self.path = Path(output_dir) / filename
        self.include_targets = include_targets
        self._rows = PredictionRows()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Discards the rows of an interrupted run."""
        self._rows.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Discards the rows of an interrupted run."""
        self._rows.clear()

    def write_on_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int,
    ) -> None:
        """Stores the rows of a batch.

        Args:
            trainer: Not used.
            pl_module: Method that predicted.
            prediction: Dictionary of its `predict_step`.
            batch_indices: Indices of the data in their dataset, if Lightning knows them.
            batch: Batch.
            batch_idx: Not used.
            dataloader_idx: Index of the dataloader.
        """
        position = {"dataloader": dataloader_idx, "index": list(batch_indices) if batch_indices else pd.NA}
        is_classifier = isinstance(pl_module, Predictor) and pl_module.likelihood.task == "classification"
        state = (getattr(pl_module, "data_state", None) or {}) if is_classifier else {}
        classes = state.get("class_names") or state.get("classes")
        target = split_batch(batch)[1] if self.include_targets else None
        columns = prediction_columns(prediction, is_classifier=is_classifier, target=target, classes=classes)
        self._rows.append(pd.DataFrame(position | columns))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Writes the rows of all batches and ranks.

        Args:
            trainer: Trainer.
            pl_module: Not used.
        """
        rows = self._gather(trainer)
        if trainer.is_global_zero and rows.dataloaders:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w", newline="") as file:
                for number, part in enumerate(rows.sorted_parts()):
                    table = part if len(rows.dataloaders) > 1 else part.drop(columns="dataloader")
                    if rows.has_index:
                        table = _with_row_ids(table, getattr(trainer, "datamodule", None))
                    else:
                        table = table.drop(columns="index")
                    table.to_csv(file, index=False, header=number == 0)
            rank_zero_info(f"Predictions are in {self.path}")
        rows.clear()
        self._rows.clear()

    def _gather(self, trainer: Trainer) -> PredictionRows:
        if trainer.world_size == 1:
            return self._rows
        gathered: list[list[pd.DataFrame]] = [[]] * trainer.world_size
        torch.distributed.all_gather_object(gathered, list(self._rows.parts()))
        every = PredictionRows()
        for table in (table for tables in gathered for table in tables):
            every.append(table)
        return every


def _with_row_ids(table: pd.DataFrame, datamodule: Any) -> pd.DataFrame:
    """Replaces the indices of the dataset by the row identifiers of a datamodule that has them."""
    row_ids = getattr(datamodule, "predict_row_ids", None)
    if row_ids is None:
        return table
    name, values = row_ids
    position = list(table).index("index")
    numbers = table.pop("index").to_numpy(dtype=int)
    table.insert(position, name if name not in table else f"{name}_id", values[numbers])
    return table
