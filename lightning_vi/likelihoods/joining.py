"""Joins the inputs of metrics over chunks of samples and over the members of an ensemble."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional.mixture import Mixture, join_mixtures
from lightning_vi.functional.scoring import mixture_log_prob

__all__ = ["join_chunks", "join_members"]


def join_chunks(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins the metric inputs of chunks of samples; each sample has the same weight.

    Args:
        parts: Outputs of `Likelihood.metric_inputs` for the same targets, at least one, of any numbers of samples.

    Returns:
        The metric inputs of all samples; the part itself if there is only one.

    Example:
        >>> import torch
        >>> from lightning_vi.likelihoods import Categorical
        >>> logits, target = torch.randn(5, 4, 3), torch.tensor([0, 1, 2, 0])
        >>> parts = [Categorical(3).metric_inputs(chunk, target) for chunk in logits.split([2, 3])]
        >>> join_chunks(parts)["log_prob"].shape
        torch.Size([5, 4])
    """
    if len(parts) == 1:
        return parts[0]
    log_prob = torch.cat([part["log_prob"] for part in parts])
    preds = torch.stack([part["preds"] * (len(part["log_prob"]) / len(log_prob)) for part in parts]).sum(0)
    joined = {"preds": preds, "log_prob": log_prob, "target": parts[0]["target"]}
    if "means" not in parts[0]:
        return joined
    return joined | _joined_components(parts, [1] * len(parts))


def join_members(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins the metric inputs of an ensemble's members; each member has the same weight.

    Components are repeated to the least common multiple of their numbers.

    Args:
        parts: Outputs of `Likelihood.metric_inputs` of the members for the same targets, at least one, of any numbers
            of components.

    Returns:
        The metric inputs of the ensemble, with one `log_prob` for each member.

    Example:
        >>> import torch
        >>> from lightning_vi.likelihoods import Gaussian
        >>> parts = [Gaussian(0.5).metric_inputs(torch.randn(size, 4, 1), torch.zeros(4, 1)) for size in (2, 3)]
        >>> joined = join_members(parts)
        >>> joined["log_prob"].shape, joined["means"].shape
        (torch.Size([2, 4]), torch.Size([12, 4, 1]))
    """
    joined = {
        "preds": torch.stack([part["preds"] for part in parts]).mean(0),
        "log_prob": torch.stack([mixture_log_prob(part["log_prob"]) for part in parts]),
        "target": parts[0]["target"],
    }
    if "means" not in parts[0]:
        return joined
    size = math.lcm(*(len(part["means"]) for part in parts))
    return joined | _joined_components(parts, [size // len(part["means"]) for part in parts])


def _joined_components(parts: Sequence[Mapping[str, Any]], copies: Sequence[int]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for name in ("means", "stds"):
        joined[name] = torch.cat(
            [part[name].repeat(count, *[1] * (part[name].ndim - 1)) for part, count in zip(parts, copies, strict=True)]
        )
    if any("mixture" in part for part in parts):
        mixtures = [m for part, count in zip(parts, copies, strict=True) for m in [_mixture(part)] * count]
        joined["mixture"] = join_mixtures(mixtures)
    return joined


def _mixture(part: Mapping[str, Any]) -> Mixture:
    given: Mixture | None = part.get("mixture")
    if given is not None:
        return given
    means, stds = part["means"], part["stds"]
    return Mixture(partial(_gaussian_cdf, means, stds), means, stds)


def _gaussian_cdf(means: Tensor, stds: Tensor, values: Tensor) -> Tensor:
    cdf: Tensor = torch.special.ndtr((values - means) / stds)
    return cdf
