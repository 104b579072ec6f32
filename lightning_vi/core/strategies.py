"""Strategies of a Trainer: those that cannot run a method, and what distributed ones need."""

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor

from lightning_vi.errors import InputValueError


def check_strategy(trainer: Trainer) -> None:
    """Raises if the strategy divides the parameters of a network among devices.

    A method draws weights from whole tensors of means and scales, and sums the KL divergence over them. A strategy that
    leaves a part of each tensor on each device would draw different networks on each of them.

    Args:
        trainer: The Trainer, before its strategy has changed the method.

    Raises:
        ValueError: If the strategy is FSDP, tensor parallelism or DeepSpeed.
    """
    strategy = trainer.strategy
    if isinstance(strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        name = type(strategy).__name__
        raise InputValueError(
            f"strategy={name} divides the network's parameters among devices, but methods draw and sum over whole "
            "parameters: use strategy='ddp', which has all parameters on each device"
        )


def involving_all_parameters(loss: Tensor, module: LightningModule) -> Tensor:
    """Gives a gradient to each parameter, which distributed processes exchange.

    Args:
        loss: A scalar tensor.
        module: The module that is trained.

    Returns:
        The same value.
    """
    if module.trainer.world_size > 1:
        loss = loss + 0.0 * sum(p.sum() for p in module.parameters() if p.requires_grad)
    return loss
