"""Adjustments of methods to a network and a likelihood that were chosen for others.

Each entry says only what is needed; everything else is a default of the method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_vi.compare.reshaping import activation_classes, with_outputs
from lightning_vi.conversion import largest_rank
from lightning_vi.core import Predictor
from lightning_vi.likelihoods import ChannelsFirst, HeteroscedasticGaussian, Likelihood, Quantiles
from lightning_vi.methods import LowRankWeightsVI, MCDropout, MeanVarianceEstimation, QuantileRegression
from lightning_vi.sampling import dropout_layers, dropout_rate

DROPOUT_P = 0.1
RANK = 8


def _unchanged(likelihood: Likelihood) -> Likelihood:
    return likelihood


def _nothing(network: nn.Module) -> dict[str, Any]:  # noqa: ARG001
    return {}


@dataclass(frozen=True)
class Adjustment:
    """Needs of one method.

    Attributes:
        likelihood: Turns the likelihood of the comparison into one that the method takes. The last layer of the network
            gets the width that it needs.
        options: Options that the network makes necessary.
    """

    likelihood: Callable[[Likelihood], Likelihood] = _unchanged
    options: Callable[[nn.Module], dict[str, Any]] = _nothing


def _quantiles(likelihood: Likelihood) -> Likelihood:
    if isinstance(likelihood, Quantiles) or likelihood.task != "regression":
        return likelihood
    return Quantiles(num_targets=likelihood.num_predictions)


def _heteroscedastic(likelihood: Likelihood) -> Likelihood:
    if isinstance(likelihood.unwrapped, HeteroscedasticGaussian) or likelihood.task != "regression":
        return likelihood
    found = HeteroscedasticGaussian(num_targets=likelihood.num_predictions)
    return ChannelsFirst(found) if isinstance(likelihood, ChannelsFirst) else found


def _dropout(network: nn.Module) -> dict[str, Any]:
    """Dropout behind the activations of a network without dropout, or behind all layers but the last."""
    if any(dropout_rate(layer) > 0 for layer in dropout_layers(network)):
        return {}
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    places: list[Any] = activation_classes(network) or list(range(len(layers) - 1))
    return {"dropout_p": DROPOUT_P, "dropout_module_names": places} if places else {}


def _rank(network: nn.Module) -> dict[str, Any]:
    """A rank with which a layer of a small network becomes smaller."""
    largest = largest_rank(network)
    return {"rank": largest} if 0 < largest < RANK else {}


ADJUSTMENTS: Mapping[type[Predictor], Adjustment] = {
    LowRankWeightsVI: Adjustment(options=_rank),
    MCDropout: Adjustment(options=_dropout),
    MeanVarianceEstimation: Adjustment(likelihood=_heteroscedastic),
    QuantileRegression: Adjustment(likelihood=_quantiles),
}


def adjusted(
    method: type[Predictor], network: nn.Module, likelihood: Likelihood, options: Mapping[str, Any]
) -> tuple[nn.Module, Likelihood, dict[str, Any]]:
    """Adjusts a network, a likelihood and options to a method.

    Args:
        method: The method's class.
        network: The network of the comparison, which may be changed.
        likelihood: The likelihood of the comparison.
        options: The options given for the method, which win.

    Returns:
        Network, likelihood and options.

    Example:
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> network, likelihood, _ = adjusted(QuantileRegression, MLP(1, [8], 1), Gaussian(), {})
        >>> type(likelihood).__name__, network[-1].out_features
        ('Quantiles', 3)
    """
    adjustment = next((ADJUSTMENTS[kind] for kind in method.__mro__ if kind in ADJUSTMENTS), Adjustment())
    needed = adjustment.likelihood(likelihood)
    if needed.num_outputs != likelihood.num_outputs:
        network = with_outputs(network, needed.num_outputs)
    return network, needed, {**adjustment.options(network), **options}
