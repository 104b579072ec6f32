"""The dropout layers of a network, and dropout put behind any module."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle


class DropoutBehind:
    """A forward hook that drops units of a module's output while the module is in training mode.

    It is no child of the module: names in the state dictionary stay as they are, and containers that run their
    children do not run it twice.

    Args:
        module: Whose output.
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
        # The handle keeps the hook's number taken in a process that unpickles the module.
        self.handle: RemovableHandle = module.register_forward_hook(self)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:  # noqa: ARG002
        """Drops units of a tensor, or of the first entry of a tuple.

        Args:
            module: Whose output.
            inputs: Not used.
            output: A tensor, or a tuple that begins with one.

        Returns:
            What takes the output's place.

        Raises:
            TypeError: If the output is neither.
        """
        self.dropout.training = module.training
        if isinstance(output, Tensor):
            return self.dropout(output)
        if isinstance(output, tuple) and isinstance(output[0], Tensor) and not hasattr(output, "_fields"):
            return (self.dropout(output[0]), *output[1:])
        raise TypeError(
            f"dropout behind {type(module).__name__} needs an output that is a tensor or a tuple that begins with one, "
            f"got {type(output).__name__}"
        )


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """The modules that drop units: dropout layers, those behind other modules, attention, and recurrent networks.

    Args:
        network: Any network.

    Returns:
        Modules whose rate `dropout_rate` gives, each once.
    """
    modules = list(network.modules())
    behind = [hook.dropout for module in modules for hook in hooks_behind(module)]
    return [module for module in (*modules, *behind) if _rate_name(module)]


def hooks_behind(module: nn.Module) -> list[DropoutBehind]:
    """The dropout that was put behind a module.

    Args:
        module: Any module.

    Returns:
        At most one hook, unless somebody added more.
    """
    return [hook for hook in module._forward_hooks.values() if isinstance(hook, DropoutBehind)]


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
    """The attribute with a module's rate; empty if it drops nothing."""
    if isinstance(module, _DropoutNd):
        return "p"
    drops_between_layers = isinstance(module, nn.RNNBase) and module.num_layers > 1
    return "dropout" if drops_between_layers or isinstance(module, nn.MultiheadAttention) else ""
