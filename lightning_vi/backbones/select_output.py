"""Networks whose output is not a tensor: Hugging Face outputs, dictionaries, dataclasses and tuples."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from lightning_vi.errors import InputTypeError


class SelectOutput(nn.Module):
    """Network that returns one of the tensors in another network's output.

    Methods need it for outputs of which `selected_output` cannot tell which tensor is meant.

    Args:
        network: Any network whose output is a dictionary, a dataclass or a tuple.
        key: Key of a dictionary, name of a field, or position in a tuple.

    Example:
        >>> import torch
        >>> class TwoHeads(nn.Linear):
        ...     def forward(self, x):
        ...         return {"mean": super().forward(x), "features": x}
        >>> SelectOutput(TwoHeads(3, 1), "mean")(torch.zeros(4, 3)).shape
        torch.Size([4, 1])
    """

    def __init__(self, network: nn.Module, key: str | int) -> None:
        super().__init__()
        self.network = network
        self.key = key

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Calls the network.

        Args:
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            The selected tensor.

        Raises:
            TypeError: If the output has no such tensor.
        """
        output = self.network(*args, **kwargs)
        entries = _entries(output)
        key = self.key
        if key not in entries and isinstance(key, int) and -len(entries) <= key < len(entries):
            key = list(entries)[key]
        selected = entries.get(key)
        if not isinstance(selected, Tensor):
            raise InputTypeError(
                f"key={self.key!r} is no tensor of the output of {type(self.network).__name__}, {_described(output)}"
            )
        return selected


def selected_output(output: Any) -> Tensor:
    """Returns the tensor that a network's output consists of.

    Args:
        output: A tensor; an output with a tensor `logits`, as in Hugging Face models; or a dictionary, dataclass or
            tuple with one entry that is not None, a tensor.

    Returns:
        The tensor.

    Raises:
        TypeError: If the output is something else.

    Example:
        >>> import torch
        >>> selected_output({"loss": None, "logits": torch.zeros(4, 2)}).shape
        torch.Size([4, 2])
    """
    if isinstance(output, Tensor):
        return output
    entries = {key: value for key, value in _entries(output).items() if value is not None}
    chosen = entries.get("logits", next(iter(entries.values())) if len(entries) == 1 else None)
    if isinstance(chosen, Tensor):
        return chosen
    advice = "wrap the network in lightning_vi.backbones.SelectOutput(network, key) with the key of the tensor to use"
    raise InputTypeError(
        f"the network must return a tensor, but it returns {_described(output)}"
        + (f": {advice}" if any(isinstance(value, Tensor) for value in entries.values()) else "")
    )


def _entries(output: Any) -> dict[Any, Any]:
    """Entries of an output by key, field or position; none for outputs without any."""
    if isinstance(output, Mapping):
        return dict(output)
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return output._asdict()  # type: ignore[no-any-return, attr-defined]
    return dict(enumerate(output)) if isinstance(output, tuple | list) else {}


def _described(output: Any) -> str:
    entries = _entries(output)
    kind = type(output).__name__
    if not entries:
        return f"a {kind} without a tensor"
    return f"a {kind} with " + ", ".join(f"{key!r} ({_kind(value)})" for key, value in entries.items())


def _kind(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
