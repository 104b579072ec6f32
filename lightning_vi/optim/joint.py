"""One optimizer that consists of several."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_vi.errors import InputValueError


class JointOptimizer(Optimizer):
    """Several optimizers of different parameters that step together.

    Its parameter groups and its state are those of the parts, so that learning rate schedules, gradient scalers and
    checkpoints take it like any optimizer.

    Args:
        parts: The optimizers.

    Raises:
        ValueError: If there are none.

    Example:
        >>> weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
        >>> joint = JointOptimizer([torch.optim.SGD([weights[0]], lr=0.1), torch.optim.Adam([weights[1]], lr=0.2)])
        >>> sum(weights).backward()
        >>> joint.step()
        >>> [round(weight.item(), 3) for weight in weights]
        [0.9, 0.8]
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        if not parts:
            raise InputValueError("parts must hold at least one optimizer, got none")
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            self.state.update(part.state)
        self._share()

    def _share(self) -> None:
        """Gives the groups and the state to the parts."""
        first = 0
        for part in self.parts:
            stop = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:stop], self.state
            first = stop

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads groups and state.

        Args:
            state_dict: Result of `state_dict` of a joint optimizer of the same parts.
        """
        super().load_state_dict(state_dict)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps with each part.

        Args:
            closure: Computes the gradients and returns the loss.

        Returns:
            The loss returned by `closure`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss
