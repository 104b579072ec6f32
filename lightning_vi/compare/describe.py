"""Descriptions of arguments, by which a changed comparison is recognized."""

import hashlib
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None))
_MAX_DEPTH = 6


def describe(value: Any, depth: int = 0) -> Any:
    """Describes a value by numbers, strings, lists and dictionaries.

    Equal descriptions mean equal behavior as far as it can be told: functions are described by their code, the values
    that they enclose and the constants of their module that they read; tensors and networks by their values.

    Args:
        value: Any value.
        depth: Number of objects that the value is inside of; parts of deep structures are described by their class.

    Returns:
        A description that JSON can store.

    Example:
        >>> describe({"lr": 0.1, "kind": int})
        {'lr': 0.1, 'kind': 'builtins.int'}
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if depth > _MAX_DEPTH:
        return _class_name(value)
    if isinstance(value, Mapping):
        return {str(key): describe(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [describe(each, depth + 1) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return _describe_object(value, depth + 1)


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Lists the parts in which two descriptions differ.

    Args:
        before: A description.
        now: Another one.
        name: Name of what they describe.

    Returns:
        One phrase for each difference.

    Example:
        >>> differences({"trainer": {"max_epochs": 2}}, {"trainer": {"max_epochs": 3}})
        ['trainer.max_epochs: 2, now 3']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        parts = ((before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return [phrase for part in parts for phrase in differences(*part)]
    return [] if before == now else [f"{name}: {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _describe_object(value: Any, depth: int) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        return f"{array.dtype}{list(array.shape)}#{_hash(array.tobytes())}"
    if depth > _MAX_DEPTH:
        return _class_name(value)
    if isinstance(value, partial):
        bound = {"args": value.args, "keywords": value.keywords}
        return {"partial": describe(value.func, depth), **describe(bound, depth)}
    if isinstance(value, MethodType):
        return {"method": describe(value.__func__, depth), "of": describe(value.__self__, depth)}
    if isinstance(value, FunctionType):
        return _describe_function(value, depth)
    if isinstance(value, nn.Module):
        attributes = {name: _public(module) for name, module in value.named_modules()}
        plain = {
            f"{name}.{key}".lstrip("."): each
            for name, own in attributes.items()
            for key, each in own.items()
            if _is_plain(each)
        }
        return {"module": repr(value), **describe({"state": value.state_dict(), "attributes": plain}, depth)}
    if (state := getattr(value, "data_state", None)) is not None:
        return {"class": _class_name(value), "data": describe(state, depth)}
    return {"class": _class_name(value), **describe(_public(value), depth)}


def _public(value: Any) -> dict[str, Any]:
    return {name: each for name, each in getattr(value, "__dict__", {}).items() if not name.startswith("_")}


def _is_plain(value: Any) -> bool:
    return isinstance(value, (*_PLAIN, list, tuple))


def _describe_function(function: FunctionType, depth: int) -> dict[str, Any]:
    read = inspect.getclosurevars(function)
    constants = {name: each for name, each in read.globals.items() if _is_plain(each)}
    enclosed = {name: each for name, each in read.nonlocals.items() if each is not function}
    facts = {"reads": {**constants, **enclosed}, "defaults": [function.__defaults__, function.__kwdefaults__]}
    return {
        "function": f"{function.__module__}.{function.__qualname__}#{_hash(_code_bytes(function.__code__))}",
        **describe(facts, depth),
    }


def _code_bytes(code: CodeType) -> bytes:
    constants = [_code_bytes(each) if isinstance(each, CodeType) else repr(each).encode() for each in code.co_consts]
    return b"\0".join([code.co_code, repr(code.co_names).encode(), *constants])


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
