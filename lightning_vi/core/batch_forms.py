"""Which elements of a batch are inputs of the network, and whether the other one can be its target."""

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Prediction


class InputForm(NamedTuple):
    """How a network takes its inputs.

    Attributes:
        network: Class of the network.
        num_required: Number of positional arguments that its `forward` requires.
        takes_more: True if it takes a second one.
        was_tensor: True if it was trained on single tensors, False if on tuples or dictionaries, None if unknown.
    """

    network: type[nn.Module]
    num_required: int
    takes_more: bool
    was_tensor: bool | None


def input_form(network: nn.Module, was_tensor: bool | None) -> InputForm:
    """Returns how a network takes its inputs.

    Args:
        network: Any network.
        was_tensor: See `InputForm`.

    Returns:
        The form.

    Example:
        >>> input_form(nn.Linear(2, 1), None).takes_more
        False
    """
    required, takes_more = _positional_arguments(type(network).forward)
    return InputForm(type(network), required, takes_more, was_tensor)


@lru_cache(maxsize=256)
def _positional_arguments(forward: Callable[..., Any]) -> tuple[int, bool]:
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in positional)
    return required, len(positional) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def check_prediction_batch(batch: Any, form: InputForm, prediction: Prediction | None = None) -> None:
    """Checks that the second element of a pair is a target, where the network could take it as an input.

    A pair is input and target. That would drop the second input of ``(x, mask)``.

    Args:
        batch: A batch for a prediction.
        form: How the network takes its inputs.
        prediction: The prediction of the first element, to compare the second one with; None before there is one.

    Raises:
        ValueError: If it is not a target, or may be an input.
    """
    is_pair = isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) == 2
    if not (is_pair and form.takes_more and isinstance(batch[0], Tensor)):
        return
    name = f"{form.network.__name__}.forward"
    if form.num_required > 1:
        raise InputValueError(f"{name} needs {form.num_required} inputs, but a pair is input and target: {_REMEDY}")
    if form.was_tensor is False:
        raise InputValueError(
            f"the method was trained on several inputs, but a pair is input and target, so that {name} would get the "
            f"first element alone: {_REMEDY}"
        )
    if prediction is None or form.was_tensor:
        return
    try:
        check_target(prediction, batch[1])
    except (InputValueError, InputTypeError) as error:
        raise InputValueError(
            f"a pair is input and target, but its second element is no target ({error}), and {name} takes several "
            f"inputs: {_REMEDY}"
        ) from None


_REMEDY = (
    "give ((x, mask), y), or {'input': (x, mask)} without targets; for a single input without targets give the tensor"
)


def check_target(prediction: Prediction, target: Tensor) -> None:
    """Raises an error if targets do not match a prediction.

    Args:
        prediction: The prediction.
        target: Targets, shape [B, ..., D], or labels [B, ...].

    Raises:
        ValueError: If the shapes differ.
        TypeError: If the targets have the wrong type.
    """
    if not isinstance(target, Tensor):
        raise InputTypeError(f"the predictions need targets that are a tensor, got a {type(target).__name__}")
    is_regression = prediction.probs is None
    shape = prediction.mean.shape if is_regression else prediction.mean[:, 0].shape
    if target.shape != shape:
        raise InputValueError(f"the predictions need targets of shape {tuple(shape)}, got {tuple(target.shape)}")
    if target.is_floating_point() != is_regression:
        wanted = "floating-point targets" if is_regression else "integer labels"
        raise InputTypeError(f"the predictions need {wanted}, got {target.dtype}")
