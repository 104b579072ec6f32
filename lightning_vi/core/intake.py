"""Inputs and targets as a network takes them: tensors of its type, on its device."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.sampling import NetworkInput, map_tensors, tensors

_ACCEPTED = "a tensor, a NumPy array, a data frame, a list of numbers, or a tuple or dictionary of these"


def network_batch(x: Any, target: Any, module: nn.Module) -> tuple[NetworkInput, Tensor]:
    """Converts an input for a network, and targets for the likelihood of its outputs.

    Floating-point targets are cast to the network's type, but not below single precision.

    Args:
        x: Any input, see `network_input`.
        target: The targets.
        module: A module whose first parameter is the network's.

    Returns:
        Input and targets; `x` and `target` themselves if they are right already.

    Raises:
        TypeError: If one holds no numbers.
        ValueError: If one is a tensor on another device.
    """
    parameter = _first_parameter(module)
    x = _input(x, parameter)
    target = target if isinstance(target, Tensor) else _with_tensors(target, "the target", parameter)
    if not isinstance(target, Tensor):
        raise InputTypeError(f"the target must be a tensor, got a {type(target).__name__}")
    if parameter is not None:
        _check_device(target, parameter, "the target", "target")
        if target.is_floating_point():
            target = target.to(torch.promote_types(parameter.dtype, torch.float32))
    return x, target


def network_input(x: Any, module: nn.Module) -> NetworkInput:
    """Converts an input for a network.

    Arrays, data frames and lists of numbers become tensors on the network's device. Floating-point numbers are cast to
    the type of the network's first parameter, which is that of its first layer; integers stay integers, except in data
    frames.

    Args:
        x: Any input.
        module: A module whose first parameter is the network's.

    Returns:
        The input; `x` itself if it is right already.

    Raises:
        TypeError: If it holds no numbers.
        ValueError: If it is a tensor on another device.
    """
    return _input(x, _first_parameter(module))


def _input(x: Any, parameter: Tensor | None) -> NetworkInput:
    if not isinstance(x, Tensor):
        x = _with_tensors(x, "x", parameter)
        if isinstance(x, list | tuple) and len(x) == 1 and isinstance(x[0], Tensor):
            x = x[0]
    found = tensors(x)
    if parameter is None:
        return cast(NetworkInput, x)
    _check_device(found[0], parameter, "x", "x")
    if all(tensor.dtype == parameter.dtype or not tensor.is_floating_point() for tensor in found):
        return cast(NetworkInput, x)
    return map_tensors(lambda tensor: tensor.to(parameter.dtype) if tensor.is_floating_point() else tensor, x)


def _check_device(tensor: Tensor, parameter: Tensor, name: str, variable: str) -> None:
    if parameter.device.type not in ("meta", tensor.device.type):
        other = f", or method.to({str(tensor.device)!r})" if name == "x" else ""
        raise InputValueError(
            f"{name} is on {tensor.device}, but the network is on {parameter.device}: use "
            f"{variable}.to({str(parameter.device)!r}){other}"
        )


def _first_parameter(module: nn.Module) -> Tensor | None:
    return _first_floating_point(getattr(module, "backbone", module))


def _first_floating_point(module: nn.Module) -> Tensor | None:
    """The first of `nn.Module.parameters`, which takes several times as long."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            return parameter
    for child in module._modules.values():
        if child is not None and (found := _first_floating_point(child)) is not None:
            return found
    return None


def _with_tensors(x: Any, name: str, parameter: Tensor | None) -> Any:
    """Replaces arrays, data frames and lists of numbers in an input by tensors on the device of a parameter."""
    device = None if parameter is None else parameter.device
    converted = _converted(x, name, device)
    is_list = isinstance(converted, Sequence) and not isinstance(converted, str)
    if is_list and not any(isinstance(part, Tensor | Mapping | Sequence) for part in converted):
        return _tensor_of(converted, name, device)
    if is_list and all(isinstance(part, Sequence) and not _has_tensor(part) for part in converted):
        return _tensor_of(converted, name, device)
    if not isinstance(converted, Tensor) and not _has_tensor(converted):
        raise InputTypeError(f"{name} must be {_ACCEPTED}, got a {type(x).__name__}")
    return converted


def _converted(x: Any, name: str, device: torch.device | None) -> Any:
    """Replaces arrays and data frames by tensors; an input without any stays the same object."""
    if isinstance(x, Tensor | str):
        return x
    if hasattr(x, "to_numpy"):
        return _tensor_of(_numbers(x, name), name, device)
    if isinstance(x, np.ndarray | np.generic):
        return _tensor_of(x, name, device)
    if isinstance(x, Mapping):
        entries = {key: _converted(value, f"{name}[{key!r}]", device) for key, value in x.items()}
        return x if all(entries[key] is x[key] for key in x) else entries
    if isinstance(x, list | tuple):
        parts = [_converted(part, f"{name}[{index}]", device) for index, part in enumerate(x)]
        if all(part is old for part, old in zip(parts, x, strict=True)):
            return x
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return x


def _has_tensor(x: Any) -> bool:
    if isinstance(x, Mapping):
        return any(map(_has_tensor, x.values()))
    if isinstance(x, Sequence) and not isinstance(x, str):
        return any(map(_has_tensor, x))
    return isinstance(x, Tensor)


def _numbers(frame: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        return np.asarray(frame.to_numpy(), dtype=float)
    except (TypeError, ValueError):
        dtypes = dict(getattr(frame, "dtypes", {})) if hasattr(frame, "columns") else {}
        texts = [str(column) for column, dtype in dtypes.items() if not np.issubdtype(_numpy_dtype(dtype), np.number)]
        where = f"its columns {texts}" if texts else "some values"
        raise InputTypeError(f"{name} must hold numbers, but {where} are not numbers: encode or drop them") from None


def _numpy_dtype(dtype: Any) -> Any:
    return dtype if isinstance(dtype, np.dtype) else np.dtype(object)


def _tensor_of(values: Any, name: str, device: torch.device | None) -> Tensor:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufc":
            raise TypeError
        # A copy in the machine's byte order, because torch takes neither other orders nor negative strides.
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C")).to(device)
    except (TypeError, ValueError):
        kind = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        raise InputTypeError(f"{name} must be {_ACCEPTED}, got {kind} that does not become numbers") from None
