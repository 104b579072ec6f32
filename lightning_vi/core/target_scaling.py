"""Scaling of targets that is found in the training data."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_vi.core.diagnosis import explained
from lightning_vi.core.training_sample import find_scaling
from lightning_vi.sampling import NetworkInput, evaluating

if TYPE_CHECKING:
    from lightning_vi.core.prepared import PreparedPredictor

Batches = Iterable[tuple[NetworkInput, Tensor]]


def scale_targets(method: "PreparedPredictor", targets: Tensor, batches: Batches) -> None:
    """Scales the targets of a method, unless its network already predicts them in their own units.

    Args:
        method: A method of a Trainer.
        targets: Targets to find the scaling from, which may be few, shape [n, ..., D].
        batches: Some of the training data.
    """
    scaling = find_scaling(targets, method.likelihood.num_predictions)
    if scaling is not None and _explains(method, batches, *scaling):
        scaling = None
    if method.trainer.world_size > 1:
        scaling = method.trainer.strategy.broadcast(scaling)
    if scaling is not None:
        method.likelihood.set_target_scaling(*scaling)


@torch.no_grad()
def _explains(method: "PreparedPredictor", batches: Batches, mean: Tensor, std: Tensor) -> bool:
    """Tells whether the network explains a quarter of the variance of all targets that would be scaled."""
    is_scaled = (mean != 0) | (std != 1)
    if not is_scaled.any():
        return True
    errors, total = torch.zeros_like(mean), torch.zeros_like(mean)
    with evaluating(method):
        for x, target in batches:
            with explained(method, x):
                outputs = method.point_outputs(x).unsqueeze(0)
            method.likelihood.check(outputs, target)
            dim = method.likelihood.prediction_dim
            error = (method.mean_prediction(outputs) - target).movedim(dim, -1)
            target = target.movedim(dim, -1)
            errors += error.float().cpu().flatten(0, -2).square().sum(0)
            total += (target.float().cpu() - mean).flatten(0, -2).square().sum(0)
    return bool((errors < 0.75 * total)[is_scaled].all())
