"""What mixtures of predictive distributions share."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional.mixture import Mixture, join_mixtures
from lightning_vi.functional.scoring import mixture_log_prob
from lightning_vi.likelihoods import Likelihood


def join_metric_inputs(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What metrics need of a mixture of predictive distributions with the same weight.

    Args:
        parts: What `Likelihood.metric_inputs` returned for each of them, of any numbers of components.

    Returns:
        The same of the mixture.
    """
    joined = {
        "preds": torch.stack([part["preds"] for part in parts]).mean(0),
        "log_prob": torch.stack([mixture_log_prob(part["log_prob"]) for part in parts]),
        "target": parts[0]["target"],
    }
    if "means" not in parts[0]:
        return joined
    size = math.lcm(*(len(part["means"]) for part in parts))
    for name in ("means", "stds"):
        joined[name] = torch.cat(
            [part[name].repeat(_copies(part, size), *[1] * (part[name].ndim - 1)) for part in parts]
        )
    if all("mixture" not in part for part in parts):
        return joined
    mixtures = [mixture for part in parts for mixture in [_mixture(part)] * _copies(part, size)]
    return joined | {"mixture": join_mixtures(mixtures)}


def _copies(part: Mapping[str, Any], size: int) -> int:
    return size // len(part["means"])


def _mixture(part: Mapping[str, Any]) -> Mixture:
    given: Mixture | None = part.get("mixture")
    if given is not None:
        return given
    means, stds = part["means"], part["stds"]
    return Mixture(partial(_gaussian_cdf, means, stds), means, stds)


def _gaussian_cdf(means: Tensor, stds: Tensor, values: Tensor) -> Tensor:
    cdf: Tensor = torch.special.ndtr((values - means) / stds)
    return cdf


def disagreement(predictions: Tensor, likelihood: Likelihood) -> Tensor:
    r"""How far apart the members of an ensemble are, averaged over pairs of members and over data.

    Args:
        predictions: Each member's means [M, B, ..., D] or class probabilities [M, B, C, ...].
        likelihood: Tells classification from regression.

    Returns:
        A scalar tensor: the share of pairs whose most probable classes differ (Fort et al., "Deep ensembles: a loss
        landscape perspective", 2019), or the root mean square distance of two means, in target units; 0 for one member.
    """
    num_members = len(predictions)
    pairs = max(num_members * (num_members - 1), 1)
    if likelihood.task == "regression":
        return (2 * num_members * num_members / pairs * predictions.var(0, correction=0).mean()).sqrt()
    votes = torch.nn.functional.one_hot(predictions.argmax(2), predictions.shape[2]).sum(0)
    agreeing = (votes * (votes - 1)).sum(-1)
    return 1 - agreeing.to(predictions.dtype).mean() / pairs if num_members > 1 else predictions.new_zeros(())
