"""`torch.vmap` over a network, with another way for networks that it cannot trace."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.sampling.attention import UnfusedAttention
from lightning_vi.sampling.network import no_slow_fallback


class NetworkVmap:
    """`torch.vmap` over passes of a network, which remembers whether it can trace them.

    Args:
        network: The network.
        is_required: Whether a network that cannot be traced is an error, and slow operations are allowed.
    """

    def __init__(self, network: nn.Module, is_required: bool) -> None:
        self._is_required = is_required
        self._recurs = any(isinstance(module, nn.RNNBase) for module in network.modules())
        self._works: dict[bool, bool] = {}

    @property
    def works(self) -> bool:
        """False if the network could not be traced, with or without gradients as now, or is recurrent."""
        return self._works.get(torch.is_grad_enabled(), not self._recurs)

    @property
    def is_tried(self) -> bool:
        """True after the first pass, with or without gradients as now."""
        return torch.is_grad_enabled() in self._works

    def __call__(
        self, run: Callable[..., Tensor], in_dims: Any, *given: Any, otherwise: Callable[[], Tensor]
    ) -> Tensor:
        """Maps a pass over its arguments.

        Args:
            run: One pass.
            in_dims: The mapped dimension of each argument, see `torch.vmap`.
            *given: Arguments, with the mapped dimension.
            otherwise: Computes the result without vmap.

        Returns:
            Outputs of all passes, stacked.
        """
        has_gradients = torch.is_grad_enabled()
        is_new = not self.is_tried
        try:
            with UnfusedAttention(), no_slow_fallback(is_new and not self._is_required):
                outputs: Tensor = torch.vmap(run, in_dims=in_dims, randomness="different")(*given)
        except (RuntimeError, NotImplementedError, UserWarning):
            if self._is_required:
                raise
        else:
            self._works[has_gradients] = True
            return outputs
        outputs = otherwise()
        self._works[has_gradients] = False
        return outputs
