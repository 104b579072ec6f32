"""Scores of validation and test data, one result for each dataloader."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_vi.core.loader_rows import num_unrepeated_rows
from lightning_vi.likelihoods import Prediction

Stage = Literal["val", "test"]


class Scoreboard:
    """Metrics of the dataloaders of one stage.

    With one dataloader, the metrics are logged by their names at the end of the epoch. With several, each has metrics
    of its own, and Lightning computes and logs them as `val_nll/dataloader_idx_0` and so on.

    Args:
        stage: ``"val"`` or ``"test"``.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage: Stage = stage
        self._metrics: dict[int, MetricCollection] = {}
        self._rows_left: dict[int, int | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"stage": self.stage, "_metrics": {}, "_rows_left": {}}

    def rows_to_count(self, module: LightningModule, num_rows: int, batch_idx: int, dataloader_idx: int) -> int:
        """Returns how many of the first rows of a batch no distributed sampler has repeated.

        Args:
            module: The module that scores.
            num_rows: Number of rows of the batch.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the dataloader.

        Returns:
            Between 0 and `num_rows`.
        """
        trainer = module._trainer
        if trainer is None or trainer.world_size == 1:
            return num_rows
        if batch_idx == 0:
            self._rows_left[dataloader_idx] = num_unrepeated_rows(self._loader(trainer, dataloader_idx))
        left = self._rows_left.get(dataloader_idx)
        if left is None:
            return num_rows
        self._rows_left[dataloader_idx] = max(left - num_rows, 0)
        return min(left, num_rows)

    def metrics(
        self, module: LightningModule, own: MetricCollection, batch_idx: int, dataloader_idx: int
    ) -> MetricCollection:
        """Returns the metrics of a dataloader.

        Args:
            module: The module that scores.
            own: The module's metrics.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the dataloader.

        Returns:
            The module's metrics if there is one dataloader, else a copy for each.
        """
        if not self.has_several_loaders(module):
            return own
        if batch_idx == 0 or dataloader_idx not in self._metrics:
            fresh = own.clone().to(module.device)
            fresh.reset()
            self._metrics[dataloader_idx] = fresh
        return self._metrics[dataloader_idx]

    def log(self, module: LightningModule, metrics: MetricCollection) -> None:
        """Logs the metrics of the present dataloader in a step, if there are several dataloaders.

        Args:
            module: The module that scores.
            metrics: The metrics of the dataloader.
        """
        if not self.has_several_loaders(module):
            return
        for name, metric in metrics.items():
            if isinstance(metric, Metric):
                module.log(name, metric, on_step=False, on_epoch=True, metric_attribute=name)

    def has_several_loaders(self, module: LightningModule) -> bool:
        """Returns True if the module's trainer scores several dataloaders."""
        trainer = module._trainer
        if trainer is None:
            return False
        return len(trainer.num_test_batches if self.stage == "test" else trainer.num_val_batches) > 1

    def _loader(self, trainer: Trainer, dataloader_idx: int) -> Any:
        loaders: Any = trainer.test_dataloaders if self.stage == "test" else trainer.val_dataloaders
        if isinstance(loaders, Mapping):
            return list(loaders.values())[dataloader_idx]
        return loaders[dataloader_idx] if isinstance(loaders, list | tuple) else loaders


def uncertainty_inputs(prediction: Prediction) -> dict[str, Tensor]:
    """Returns the inputs of metrics that measure the uncertainty of a prediction.

    Args:
        prediction: The prediction.

    Returns:
        `epistemic_var` and `total_var`, and for classification `mutual_information` and `predictive_entropy`.
    """
    inputs = {"epistemic_var": prediction.epistemic_var, "total_var": prediction.total_var}
    if prediction.mutual_information is None or prediction.predictive_entropy is None:
        return inputs
    entropies = {
        "mutual_information": prediction.mutual_information,
        "predictive_entropy": prediction.predictive_entropy,
    }
    return inputs | entropies


@torch.compiler.disable  # type: ignore[untyped-decorator]
def update(metrics: MetricCollection, inputs: Mapping[str, Any], observed: Tensor | None) -> None:
    """Updates metrics with a batch.

    Args:
        metrics: The metrics.
        inputs: Their arguments, see `Likelihood.metric_inputs`.
        observed: True for the elements of the target that are not missing; None if none can be.
    """
    metrics.update(**inputs, **({} if observed is None else {"observed": observed}))
