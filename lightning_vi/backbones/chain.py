"""Chain of modules for configuration files."""

from torch import nn

from lightning_vi.errors import InputValueError


class Chain(nn.Sequential):
    """Modules called one after the other, given as a list: `nn.Sequential` for configuration files.

    A configuration file cannot name `nn.Sequential`, whose modules are positional arguments.

    Args:
        modules: The modules, in the order of their calls, at least one.

    Raises:
        ValueError: If there is no module.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import FourierFeatures, ResidualMLP
        >>> network = Chain([FourierFeatures([1.0, 2.0]), ResidualMLP(n_inputs=5, width=32, n_blocks=2, n_outputs=1)])
        >>> network(torch.zeros(8, 1)).shape
        torch.Size([8, 1])
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        if not modules:
            raise InputValueError("modules must have at least one module, got an empty list")
        super().__init__(*modules)
