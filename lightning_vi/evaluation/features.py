"""Outputs and features of a method's network in one pass without sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_vi.conversion.call_order import call_order, called_last
from lightning_vi.conversion.layers import named_layers
from lightning_vi.core import Predictor, UQMethod
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.methods import CalibratedMethod, Ensemble
from lightning_vi.methods.ensembles.stacked import StackedMethod
from lightning_vi.sampling import NetworkInput, call, few_rows


@dataclass(frozen=True)
class PointPass:
    """One pass of a network.

    Attributes:
        outputs: Outputs of the network, shape [B, ...].
        features: Inputs of the layer called last, shape [B, F].
    """

    outputs: Tensor
    features: Tensor


class PointPasses:
    """Passes of a method's networks without sampling: at posterior means or averaged weights, without dropout.

    An ensemble has one pass for each network, other methods have one. A calibration has those of its method. Features
    at several positions, such as pixels or tokens, are averaged over the positions.

    Args:
        method: A method, calibration or ensemble.

    Raises:
        TypeError: If the method has no network that is known.
    """

    def __init__(self, method: Predictor) -> None:
        self._networks = _networks(method)
        self._last: list[nn.Module] = []

    def __call__(self, x: NetworkInput) -> list[PointPass]:
        """Runs the networks, in the modes that they have.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            One pass for each network.

        Raises:
            ValueError: If a network does not call its last layer with a tensor of features.
        """
        if not self._last:
            self._last = [_last_layer(network, x) for _, network in self._networks]
        pairs = zip(self._networks, self._last, strict=True)
        return [_passed(run, layer, x) for (run, _), layer in pairs]


def _networks(method: Predictor) -> list[tuple[Callable[[NetworkInput], Tensor], nn.Module]]:
    """Functions from the input to the outputs, and their networks."""
    if isinstance(method, CalibratedMethod):
        return _networks(method.method)
    if isinstance(method, Ensemble):
        return [pair for member in method.members for pair in _networks(member)]
    if isinstance(method, StackedMethod):
        return [(partial(call, network), network.eval()) for network in method.trained_networks()]
    if isinstance(method, UQMethod):
        return [(method.point_outputs, method.backbone)]
    raise InputTypeError(f"features need a method, a calibration or an ensemble, got a {type(method).__name__}")


def _last_layer(network: nn.Module, x: NetworkInput) -> nn.Module:
    layers = named_layers(network)
    if not layers:
        raise InputValueError("features need a network with a layer that has parameters")
    return layers[called_last(layers, call_order(network, few_rows(x, 1)))]


def _passed(run: Callable[[NetworkInput], Tensor], layer: nn.Module, x: NetworkInput) -> PointPass:
    found: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        found[:] = [args[0]] if args and isinstance(args[0], Tensor) else []

    handle = layer.register_forward_pre_hook(keep)
    try:
        outputs = run(x)
    finally:
        handle.remove()
    num_rows = len(outputs)
    if not found or found[0].dim() < 2 or len(found[0]) % num_rows:
        raise InputValueError(
            f"features need a last layer that is called with a tensor of {num_rows} rows, which "
            f"{type(layer).__name__} is not"
        )
    features = found[0].movedim(1, -1) if isinstance(layer, _ConvNd) else found[0]
    # Positions follow their row, and so do the rows of several components of one network.
    return PointPass(outputs, features.reshape(num_rows, -1, features.shape[-1]).mean(1))
