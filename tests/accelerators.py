"""The accelerators on which the tests run: the simulated one, and those of the machine."""

import os
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SIMULATED = "sim"
_DRAWING = frozenset(
    {
        *("bernoulli", "bernoulli_", "exponential_", "multinomial", "native_dropout", "normal", "normal_", "poisson"),
        *("rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random_", "uniform_"),
        *("_standard_gamma", "randperm"),
    }
)

_READING = frozenset({"_local_scalar_dense", "_unique2", "equal", "masked_select", "nonzero", "unique_dim"})


def available() -> Sequence[str]:
    """Names of the simulated device, and of the accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return [SIMULATED] if accelerator is None else [SIMULATED, accelerator.type]


_ASKED: dict[int, str] = {}


class CPUGenerator(torch.Generator):
    """A generator of the CPU, whatever device is asked for, which may draw only there."""

    def __new__(cls, device: Any = "cpu") -> "CPUGenerator":
        generator = super().__new__(cls, "cpu")
        _ASKED[generator._cdata] = torch.device(device).type  # other Python objects stand for it later
        return generator


class CPUDraws(TorchDispatchMode):
    """Takes random numbers from the CPU's generators, so that they are the same on every device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = torch.device(kwargs.get("device") or (tensors[0].device if tensors else "cpu"))
        if func.overloadpacket.__name__ not in _DRAWING or device.type in ("cpu", "meta"):
            return func(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None and (asked := _ASKED.get(generator._cdata, "cpu")) != device.type:
            raise RuntimeError(f"Expected a {device.type} generator, got one of {asked}")
        moved = kwargs if kwargs.get("device") is None else {**kwargs, "device": torch.device("cpu")}
        there = tree_map(lambda leaf: leaf.to("cpu") if isinstance(leaf, Tensor) else leaf, (args, moved))
        result = func(*there[0], **there[1])
        if func._schema.is_mutable:
            args[0].copy_(result)
            return args[0]
        return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, result)


class Waits(TorchDispatchMode):
    """Counts what makes the CPU wait for a device, while `counts` is set: numbers that are read, and copies."""

    counts: Counter[str] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self.counts is not None and _waits(func.overloadpacket.__name__, args, kwargs, result):
            frames = [frame for frame in traceback.extract_stack() if f"{os.sep}lightning_vi{os.sep}" in frame.filename]
            if frames:  # not in the Trainer
                self.counts[f"{frames[-1].filename}:{frames[-1].lineno}"] += 1
        return result


def _waits(name: str, args: Any, kwargs: Any, result: Any) -> bool:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    found = {tensor.device.type for tensor in given if tensor.device.type != "cpu"}
    if name in _READING:
        return bool(found)
    if name in ("index", "index_put", "index_put_"):
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        return bool(found) and any(index.dtype == torch.bool or index.device.type == "cpu" for index in indices)
    if name in ("_to_copy", "copy_"):
        devices = {tensor.device.type for tensor in [*given, result]}
        return len(devices) > 1 and not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)))
    return False
