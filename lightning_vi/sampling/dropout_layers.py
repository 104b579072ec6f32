"""Dropout layers of a network, their rates, and dropout behind modules."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from lightning_vi.errors import InputTypeError


class DropoutBehind:
    """Forward hook that drops units of a module's output while the module is in training mode.

    It is not a child of the module, so that names in the state dictionary stay as they are, and containers that run
    their children do not run it twice.

    Args:
        module: The module, on which the hook is registered.
        p: Probability that a unit is dropped.

    Example:
        >>> import torch
        >>> layer = nn.Linear(2, 3)
        >>> hook = DropoutBehind(layer, p=0.5)
        >>> sorted(layer.state_dict()), hook.dropout.p
        (['bias', 'weight'], 0.5)
    """

    def __init__(self, module: nn.Module, p: float) -> None:
        self.dropout = nn.Dropout(p)
        # A pickled handle reserves the hook's number in the process that unpickles it.
        self.handle: RemovableHandle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG002
        """Drops units of a tensor, or of the first entry of a tuple.

        Args:
            module: The module.
            inputs: Not used.
            output: A tensor, or a tuple that begins with one.

        Returns:
            The new output.

        Raises:
            TypeError: If the output is neither.
        """
        self.dropout.training = module.training
        if isinstance(output, Tensor):
            return self.dropout(output)
        if isinstance(output, tuple) and isinstance(output[0], Tensor) and not hasattr(output, "_fields"):
            return (self.dropout(output[0]), *output[1:])
        raise InputTypeError(
            f"dropout behind {type(module).__name__} needs an output that is a tensor or a tuple that begins with one, "
            f"got {type(output).__name__}"
        )


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """Modules that drop units: dropout layers, those behind other modules, attention, and recurrent networks.

    Args:
        network: Any network.

    Returns:
        The modules, each once.
    """
    modules = list(network.modules())
    behind = [hook.dropout for module in modules for hook in hooks_behind(module)]
    return [module for module in (*modules, *behind) if is_dropout_layer(module)]


def hooks_behind(module: nn.Module) -> list[DropoutBehind]:
    """Hooks that drop units of a module's output.

    Args:
        module: Any module.

    Returns:
        The hooks in the order of their registration.
    """
    return [hook for hook in module._forward_hooks.values() if isinstance(hook, DropoutBehind)]


def is_dropout_layer(module: nn.Module) -> bool:
    """Returns True if a module has a dropout rate.

    Args:
        module: Any module.

    Returns:
        True for dropout layers, attention, and recurrent networks with several layers.
    """
    return bool(_rate_name(module))


def dropout_rate(layer: nn.Module) -> float:
    """Probability that a unit is dropped.

    Args:
        layer: One of `dropout_layers`.

    Returns:
        From 0 to 1.
    """
    return float(getattr(layer, _rate_name(layer)))


def set_dropout_rate(layer: nn.Module, p: float) -> None:
    """Replaces the rate of a dropout layer.

    Args:
        layer: One of `dropout_layers`.
        p: Probability that a unit is dropped.
    """
    setattr(layer, _rate_name(layer), p)


def _rate_name(module: nn.Module) -> str:
    """Name of the attribute with a module's rate; empty if it has none."""
    if isinstance(module, _DropoutNd):
        return "p"
    drops_between_layers = isinstance(module, nn.RNNBase) and module.num_layers > 1
    return "dropout" if drops_between_layers or isinstance(module, nn.MultiheadAttention) else ""
