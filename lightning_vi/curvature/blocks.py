"""Blocks of weights covered by a Gaussian around a trained network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_vi.conversion import ModuleSelector, named_layers, reading_parent, select_layers
from lightning_vi.errors import InputValueError

KRONECKER_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Block:
    """Weights of one module, as a matrix for linear layers and convolutions and as a vector for other modules.

    A bias is the last column of the matrix.

    Attributes:
        module_name: Name of the module in the network.
        names: Names of the parameters in the network.
        shape: Shape (outputs, inputs) of the matrix, or (1, length) of the vector.
        is_matrix: If True, the block is a matrix.
    """

    module_name: str
    names: tuple[str, ...]
    shape: tuple[int, int]
    is_matrix: bool

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.shape[0] * self.shape[1]

    def with_prefix(self, prefix: str) -> "Block":
        """Returns the block of the same weights in a network that contains this one under the name `prefix`."""
        module_name = f"{prefix}.{self.module_name}".rstrip(".")
        return replace(self, module_name=module_name, names=tuple(f"{prefix}.{name}" for name in self.names))

    def flatten(self, tensors: Mapping[str, Tensor], num_leading: int = 0) -> Tensor:
        """Flattens and concatenates tensors of the shapes of the parameters.

        Args:
            tensors: Tensors by parameter name, each of shape [..., *shape of the parameter].
            num_leading: Number of leading dimensions.

        Returns:
            Shape [..., size].
        """
        if not self.is_matrix:
            return torch.cat([tensors[name].flatten(num_leading) for name in self.names], -1)
        columns = [tensors[name].flatten(num_leading + 1) for name in self.names[:1]]
        columns += [tensors[name].unsqueeze(-1) for name in self.names[1:]]
        return torch.cat(columns, -1).flatten(num_leading)


def choose_blocks(
    network: nn.Module, selectors: Sequence[ModuleSelector] | None, *, matrices_only: bool = False
) -> list[Block]:
    """Selects blocks of trainable weights.

    Args:
        network: Any network.
        selectors: Selectors of modules; None selects all modules.
        matrices_only: If True, only linear layers and convolutions without groups are allowed. If `selectors` is None,
            other modules are skipped.

    Returns:
        One block per module, in the order of the network. Tied weights belong to their first module.

    Raises:
        ValueError: If a selector matches no module, no weight is trainable, or a selected module is not supported.
    """
    layers = named_layers(network)
    chosen = set(layers)
    if selectors is not None:
        chosen = {name for _, found in select_layers(network, layers, selectors) for name in found}
    seen: set[Tensor] = set()
    blocks: list[Block] = []
    for name in (name for name in layers if name in chosen):
        own = {key: p for key, p in layers[name].named_parameters(recurse=False) if p.requires_grad and p not in seen}
        if any(parameter.is_complex() for parameter in own.values()):
            if selectors is not None:
                raise InputValueError(
                    f"{name or 'the root'!r} ({type(layers[name]).__name__}) has complex weights, whose posterior is "
                    "not supported: select other modules with stochastic_module_names"
                )
            continue
        is_whole = len(own) == sum(True for _ in layers[name].parameters(recurse=False))
        is_matrix = _is_matrix(network, name, layers[name]) and is_whole
        seen |= set(own.values())
        if matrices_only and not is_matrix:
            if selectors is not None:
                raise InputValueError(
                    "structure='kronecker' needs linear layers and convolutions without groups whose weights are "
                    f"trained and not tied, but got {name or 'the root'!r} ({type(layers[name]).__name__})"
                )
            continue
        if own:
            blocks.append(_block(name, own, is_matrix))
    if not blocks:
        raise InputValueError(f"stochastic_module_names={selectors!r} leaves no trainable weight")
    return blocks


def _is_matrix(network: nn.Module, name: str, layer: nn.Module) -> bool:
    owned = {key for key, parameter in layer._parameters.items() if parameter is not None}
    is_supported = isinstance(layer, KRONECKER_LAYERS) and "weight" in owned and owned <= {"weight", "bias"}
    is_supported = is_supported and getattr(layer, "groups", 1) == 1
    return is_supported and reading_parent(network, name) is None


def _block(name: str, own: Mapping[str, Tensor], is_matrix: bool) -> Block:
    names = tuple(f"{name}.{key}" if name else key for key in own)
    if not is_matrix:
        return Block(name, names, (1, sum(tensor.numel() for tensor in own.values())), is_matrix)
    weight = own["weight"]
    return Block(name, names, (len(weight), weight[0].numel() + len(own) - 1), is_matrix)


def flat_weights(network: nn.Module, blocks: Sequence[Block]) -> Tensor:
    """Flattens the weights of all blocks.

    Args:
        network: The network.
        blocks: Blocks of its weights.

    Returns:
        Shape [P], differentiable.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return torch.cat([block.flatten(parameters) for block in blocks])
