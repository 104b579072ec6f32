"""Predictions and targets with one row per pixel or position, as figures take them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_vi.likelihoods import Likelihood

SHAPED_AS_MEAN = ("pred", "pred_uct", "epistemic_uct", "aleatoric_uct", "lower", "upper")


def element_rows(
    prediction: Mapping[str, Tensor], target: Tensor, likelihood: Likelihood
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns predictions and targets with one row per datum, pixel or position whose targets are all observed.

    Args:
        prediction: Dictionary of `predict_step`.
        target: Targets, shape [B, ...].
        likelihood: Likelihood of the method.

    Returns:
        Probabilities [R, C] as ``"pred"`` and labels [R]; or means, standard deviations and intervals [R, D] and
        targets [R, D].
    """
    observed = likelihood.observed(target)
    observed = torch.ones_like(target, dtype=torch.bool) if observed is None else observed
    dim = likelihood.prediction_dim
    if likelihood.task == "classification":
        keep = observed.flatten()
        probs = prediction["pred"].movedim(1, -1).flatten(0, -2)
        return {"pred": probs[keep]}, likelihood.metric_target(target).flatten()[keep]

    def rows(value: Tensor) -> Tensor:
        moved = value.movedim(dim, -1)
        return moved.reshape(-1, moved.shape[-1])

    keep = rows(observed).all(-1)
    return {key: rows(value)[keep] for key, value in prediction.items() if key in SHAPED_AS_MEAN}, rows(target)[keep]
