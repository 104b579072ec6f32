"""Optimizers for networks some of whose parameters must not decay."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
LRSchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


def default_optimizer(parameters: Iterable[Any]) -> Optimizer:
    """Adam with a learning rate of 0.003; a function with a name, so that a configuration file can hold it.

    Args:
        parameters: The parameters to train.

    Returns:
        The optimizer.
    """
    return torch.optim.Adam(parameters, lr=3e-3)


def build_optimizer(
    factory: OptimizerFactory, parameters: Iterable[nn.Parameter], undecayed: Iterable[nn.Parameter]
) -> Optimizer:
    """An optimizer whose weight decay leaves some parameters alone, with its fused implementation if it has one.

    Args:
        factory: Makes the optimizer from an iterable of parameters.
        parameters: All parameters to train.
        undecayed: Those among them that take no weight decay.

    Returns:
        The optimizer, with a second parameter group if its weight decay is not zero.
    """
    trained = list(parameters)
    optimizer = factory(trained)
    exempt = {id(parameter) for parameter in undecayed}
    if optimizer.param_groups[0].get("weight_decay") and exempt:
        optimizer.param_groups[0]["params"] = [p for p in trained if id(p) not in exempt]
        optimizer.add_param_group({"params": [p for p in trained if id(p) in exempt], "weight_decay": 0.0})
    _fuse(optimizer)
    return optimizer


def _fuse(optimizer: Optimizer) -> None:
    """Chooses the implementation that updates all parameters in one call, where the caller left the choice open."""
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        left_open = group["fused"] is None and group["foreach"] is None
        special = any(group.get(option) for option in ("capturable", "differentiable"))
        able = all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in group["params"])
        if left_open and not special and able and not isinstance(group["lr"], Tensor):
            group["fused"] = True


_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
