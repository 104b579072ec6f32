"""Which weights a Gaussian around a trained network covers, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_vi.conversion import ModuleSelector, named_layers, reading_parent, select_layers

KRONECKER_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Block:
    """The weights of one module: a matrix for linear layers and convolutions, a vector elsewhere.

    A bias is the last column of the matrix.

    Attributes:
        module_name: The module's name in the network.
        names: Names of its parameters in the network.
        shape: (outputs, inputs) of the matrix, or (1, length) of the vector.
        is_matrix: Which of the two it is.
    """

    module_name: str
    names: tuple[str, ...]
    shape: tuple[int, int]
    is_matrix: bool

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    def within(self, parent: str) -> "Block":
        """The same weights in a network of which this one is a part.

        Args:
            parent: The part's name.

        Returns:
            With longer names.
        """
        module_name = f"{parent}.{self.module_name}".rstrip(".")
        return replace(self, module_name=module_name, names=tuple(f"{parent}.{name}" for name in self.names))

    def join(self, tensors: Mapping[str, Tensor], num_leading: int = 0) -> Tensor:
        """Tensors of the parameters' shapes as one.

        Args:
            tensors: By parameter name, each of shape [..., *parameter's shape].
            num_leading: Number of dimensions in front of the parameter's.

        Returns:
            Shape [..., size].
        """
        if not self.is_matrix:
            return torch.cat([tensors[name].flatten(num_leading) for name in self.names], -1)
        columns = [tensors[name].flatten(num_leading + 1) for name in self.names[:1]]
        columns += [tensors[name].unsqueeze(-1) for name in self.names[1:]]
        return torch.cat(columns, -1).flatten(num_leading)


def choose_blocks(
    network: nn.Module, wanted: Sequence[ModuleSelector] | None, *, matrices_only: bool = False
) -> list[Block]:
    """The trainable weights of the chosen modules.

    Args:
        network: Any network.
        wanted: Selectors of modules; None for all.
        matrices_only: Whether every module must be a linear layer or a convolution without groups that the network
            calls; with None the others are left out.

    Returns:
        One block for each module, in the network's order. Tied weights belong to the first of their modules.

    Raises:
        ValueError: If a selector matches nothing, no weight is left, or a chosen module is not of the right kind.
    """
    layers = named_layers(network)
    chosen = set(layers)
    if wanted is not None:
        chosen = {name for _, found in select_layers(network, layers, wanted) for name in found}
    seen: set[Tensor] = set()
    blocks: list[Block] = []
    for name in (name for name in layers if name in chosen):
        own = {key: p for key, p in layers[name].named_parameters(recurse=False) if p.requires_grad and p not in seen}
        is_whole = len(own) == sum(True for _ in layers[name].parameters(recurse=False))
        is_matrix = _is_matrix(network, name, layers[name]) and is_whole
        seen |= set(own.values())
        if matrices_only and not is_matrix:
            if wanted is not None:
                raise ValueError(
                    f"structure='kronecker' needs linear layers and convolutions without groups whose weights are "
                    f"trained and their own, but {name or 'the root'!r} ({type(layers[name]).__name__}) is none"
                )
            continue
        if own:
            blocks.append(_block(name, own, is_matrix))
    if not blocks:
        raise ValueError(f"stochastic_module_names={wanted!r} leaves no trainable weight")
    return blocks


def _is_matrix(network: nn.Module, name: str, layer: nn.Module) -> bool:
    kind = next((kind for kind in KRONECKER_LAYERS if isinstance(layer, kind)), None)
    if kind is None or type(layer).forward is not kind.forward or getattr(layer, "groups", 1) != 1:
        return False
    names = {key for key, parameter in layer._parameters.items() if parameter is not None}
    return names in ({"weight"}, {"weight", "bias"}) and reading_parent(network, name) is None


def _block(name: str, own: Mapping[str, Tensor], is_matrix: bool) -> Block:
    names = tuple(f"{name}.{key}" if name else key for key in own)
    if not is_matrix:
        return Block(name, names, (1, sum(tensor.numel() for tensor in own.values())), is_matrix)
    weight = own["weight"]
    return Block(name, names, (len(weight), weight[0].numel() + len(own) - 1), is_matrix)


def flat_weights(network: nn.Module, blocks: Sequence[Block]) -> Tensor:
    """The present weights of all blocks.

    Args:
        network: The network.
        blocks: Its blocks.

    Returns:
        Shape [P], differentiable.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return torch.cat([block.join(parameters) for block in blocks])
