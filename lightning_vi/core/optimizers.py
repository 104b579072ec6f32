"""Optimizers with parameter groups for weight decay and learning rates."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
LRSchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


def default_optimizer(parameters: Iterable[Any]) -> Optimizer:
    """Makes Adam with a learning rate of 0.003; a named function, so that a configuration file can hold it.

    Args:
        parameters: The parameters to train.

    Returns:
        The optimizer.
    """
    return torch.optim.Adam(parameters, lr=3e-3)


def build_optimizer(
    factory: OptimizerFactory,
    parameters: Iterable[nn.Parameter],
    undecayed: Iterable[nn.Parameter],
    factors: Mapping[nn.Parameter, float],
) -> Optimizer:
    """Builds an optimizer with groups for parameters without weight decay and with other learning rates.

    Its fused implementation is chosen if it has one.

    Args:
        factory: Makes the optimizer from an iterable of parameters.
        parameters: All parameters to train.
        undecayed: Parameters without weight decay.
        factors: Factors of the learning rate. Those above 1 are ignored for optimizers other than Adam, whose steps
            grow with the gradient.

    Returns:
        The optimizer, with one parameter group if all parameters are treated alike.
    """
    trained = list(parameters)
    optimizer = factory(trained)
    first = optimizer.param_groups[0]
    exempt = {id(parameter) for parameter in undecayed} if first.get("weight_decay") else set()
    largest = math.inf if isinstance(optimizer, torch.optim.Adam) else 1.0
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in trained:
        factor = min(factors.get(parameter, 1.0), largest)
        groups.setdefault((id(parameter) in exempt, factor), []).append(parameter)
    if set(groups) != {(False, 1.0)}:
        first["params"] = groups.pop((False, 1.0), [])
        for (is_exempt, factor), members in groups.items():
            decay = {"weight_decay": 0.0} if is_exempt else {}
            optimizer.add_param_group({"params": members, "lr": factor * first["lr"], **decay})
    _fuse(optimizer)
    return optimizer


def _fuse(optimizer: Optimizer) -> None:
    """Chooses the fused implementation unless the caller has chosen one."""
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.SGD):
        return
    for group in optimizer.param_groups:
        left_open = group["fused"] is None and group["foreach"] is None
        special = any(group.get(option) for option in ("capturable", "differentiable"))
        able = all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in group["params"])
        if left_open and not special and able and not isinstance(group["lr"], Tensor):
            group["fused"] = True


_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
