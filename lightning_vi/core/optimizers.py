"""Optimizers with parameter groups for weight decay and learning rates."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lightning_vi.optim import PerStep

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
LRSchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | PerStep

DEFAULT_LEARNING_RATE = 3e-3
_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
_ADAM = (torch.optim.Adam, torch.optim.AdamW)
"""The second is a subclass of the first only in recent releases of PyTorch."""


def default_optimizer(parameters: Iterable[Any]) -> Optimizer:
    """Returns Adam with a learning rate of 0.003.

    It is a named function, so that configuration files can refer to it.

    Args:
        parameters: The parameters to train.

    Returns:
        The optimizer.
    """
    return torch.optim.Adam(parameters, lr=DEFAULT_LEARNING_RATE)


def build_optimizer(
    factory: OptimizerFactory,
    parameters: Iterable[nn.Parameter],
    undecayed: Iterable[nn.Parameter],
    factors: Mapping[nn.Parameter, float],
) -> Optimizer:
    """Builds an optimizer with parameter groups for weight decay and learning rates.

    Its fused implementation is used if it has one.

    Args:
        factory: Function from an iterable of parameters to an optimizer.
        parameters: All parameters to train.
        undecayed: Parameters without weight decay.
        factors: Factors of the learning rate by parameter. Those above 1 are used with Adam only, because the steps of
            other optimizers grow with the gradient.

    Returns:
        The optimizer, with a single parameter group if all parameters are treated alike.
    """
    trained = list(parameters)
    optimizer = factory(trained)
    first = optimizer.param_groups[0]
    no_decay = {id(parameter) for parameter in undecayed} if first.get("weight_decay") else set()
    max_factor = math.inf if isinstance(optimizer, _ADAM) else 1.0
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in trained:
        factor = min(factors.get(parameter, 1.0), max_factor)
        groups.setdefault((id(parameter) in no_decay, factor), []).append(parameter)
    if set(groups) != {(False, 1.0)}:
        first["params"] = groups.pop((False, 1.0), [])
        for (is_undecayed, factor), members in groups.items():
            decay = {"weight_decay": 0.0} if is_undecayed else {}
            optimizer.add_param_group({"params": members, "lr": factor * first["lr"], **decay})
    _fuse(optimizer)
    return optimizer


def configure_scheduler(factory: LRSchedulerFactory, optimizer: Optimizer, num_steps: float) -> dict[str, Any]:
    """Makes a scheduler and Lightning's configuration of it.

    Args:
        factory: Function from the optimizer to a scheduler.
        optimizer: The optimizer.
        num_steps: Number of optimizer steps of the fit, infinite if unknown.

    Returns:
        The configuration: schedules of `PerStep`, `OneCycleLR` and `CyclicLR`, and of functions that take
        `total_steps`, are stepped after each step.
    """
    if isinstance(factory, PerStep):
        return {"scheduler": factory(optimizer, num_steps), "interval": "step"}
    if inspect.isfunction(factory) and "total_steps" in inspect.signature(factory).parameters:
        total = int(num_steps) if math.isfinite(num_steps) else None
        return {"scheduler": factory(optimizer, total_steps=total), "interval": "step"}
    try:
        scheduler = factory(optimizer)
    except ValueError as error:
        if "total_steps" not in str(error):  # `OneCycleLR` without a length
            raise
        scheduler = PerStep(factory, total_steps=int(num_steps))(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        return {"scheduler": scheduler, "monitor": getattr(scheduler, "monitor", "train_loss")}
    return {"scheduler": scheduler, "interval": "step" if isinstance(scheduler, OneCycleLR | CyclicLR) else "epoch"}


def _fuse(optimizer: Optimizer) -> None:
    """Selects the fused implementation unless the caller has selected one."""
    if not isinstance(optimizer, (*_ADAM, torch.optim.SGD)):
        return
    for group in optimizer.param_groups:
        is_unset = group["fused"] is None and group["foreach"] is None
        is_special = any(group.get(option) for option in ("capturable", "differentiable")) or isinstance(
            group["lr"], Tensor
        )
        is_supported = all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in group["params"])
        if is_unset and not is_special and is_supported:
            group["fused"] = True
