"""Strategies of a Trainer that cannot run a method."""

from lightning import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

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
