"""The trainable parameters of a module as one vector."""

import torch
from torch import Tensor, nn


class FlatParameters:
    """The trainable parameters of a module as one vector, tied ones once; complex numbers as pairs of real ones.

    Args:
        module: Any module. The parameters that are trainable now are used from then on.

    Attributes:
        num_weights: The vector's length P.
        names: Names of the parameters.

    Example:
        >>> flat = FlatParameters(nn.Linear(2, 1))
        >>> {name: value.shape for name, value in flat.split(torch.zeros(5, 3)).items()}
        {'weight': torch.Size([5, 1, 2]), 'bias': torch.Size([5, 1])}
    """

    def __init__(self, module: nn.Module) -> None:
        trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.names = frozenset(trained)
        self._complex = {name for name, value in trained.items() if value.is_complex()}
        self._shapes = {name: _real(value).shape for name, value in trained.items()}
        self.num_weights = sum(shape.numel() for shape in self._shapes.values())

    def join(self, module: nn.Module) -> Tensor:
        """Current values.

        Args:
            module: The module, or a copy of it.

        Returns:
            Shape [P].
        """
        values = [_real(module.get_parameter(name).detach()).flatten() for name in self._shapes]
        return torch.cat(values) if values else torch.empty(0)

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Splits vectors into parameters.

        Args:
            vectors: Shape [..., P].

        Returns:
            Views by name, each of shape [..., *shape of the parameter].
        """
        parts = torch.split(vectors, [shape.numel() for shape in self._shapes.values()], -1) if self._shapes else ()
        named = {
            name: part.view(*vectors.shape[:-1], *shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }
        return {n: torch.view_as_complex(v.contiguous()) if n in self._complex else v for n, v in named.items()}


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value
