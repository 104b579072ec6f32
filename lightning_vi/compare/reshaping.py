"""Networks with a last layer of another width, and their activation functions."""

from torch import nn

from lightning_vi.conversion.last_layer import replace_layer
from lightning_vi.conversion.layers import named_layers
from lightning_vi.errors import InputValueError

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Softplus)


def with_outputs(network: nn.Module, num_outputs: int) -> nn.Module:
    """Gives a network a last layer of another width, with new weights.

    Args:
        network: A network whose last layer is linear; it is changed.
        num_outputs: The width.

    Returns:
        The network.

    Raises:
        ValueError: If the last layer is not linear.

    Example:
        >>> with_outputs(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)), 3)[-1]
        Linear(in_features=8, out_features=3, bias=True)
    """
    last = list(named_layers(network).values())[-1]
    if type(last) is not nn.Linear:
        raise InputValueError(f"the last layer must be nn.Linear to get {num_outputs} outputs, got {last}")
    if last.out_features == num_outputs:
        return network
    return replace_layer(network, last, nn.Linear(last.in_features, num_outputs, last.bias is not None))


def activation_classes(network: nn.Module) -> list[type[nn.Module]]:
    """Finds the classes of activation functions in a network.

    Args:
        network: Any network.

    Returns:
        The classes, each once.
    """
    return list(dict.fromkeys(type(module) for module in network.modules() if isinstance(module, ACTIVATIONS)))
