"""The constructor arguments that become hyperparameters of a checkpoint."""

import inspect
from collections.abc import Mapping
from types import FrameType
from typing import Any

from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin, _given_hyperparameters
from lightning.pytorch.utilities.parsing import collect_init_args

OBJECTS = {"prior", "lr_scheduler", "inference_network"}
"""Arguments that hold an object, or None, which must be given again when a checkpoint is loaded."""


def is_plain(value: Any) -> bool:
    """Tells whether a value consists of numbers, strings and containers, which any checkpoint can hold.

    Args:
        value: A hyperparameter.

    Returns:
        False for classes, functions and other objects.
    """
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def unsaved_arguments(cls: type, frame: FrameType) -> list[str]:
    """Constructor arguments that are no hyperparameters: objects, and arguments of base classes alone.

    LightningCLI describes all arguments, objects too, in plain values; nothing is left out then.

    Args:
        cls: The class that is instantiated.
        frame: The frame of the ``__init__`` of one of its base classes, from which the others are found.

    Returns:
        Their names.
    """
    if _given_hyperparameters.get() is not None:
        return []
    parameters = inspect.signature(cls).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments: dict[str, Any] = {}
    for own in collect_init_args(frame, [], classes=(HyperparametersMixin,)):
        arguments.update(own)
    return [
        name
        for name, value in arguments.items()
        if name in OBJECTS or not is_plain(value) or not (takes_any or name in parameters)
    ]
