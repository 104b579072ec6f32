"""A simulated accelerator named "sim", for tests of devices without a GPU.

Importing this module registers a PyTorch backend in Python. A tensor on "sim" holds its numbers in CPU memory, so that
results can be compared with the CPU's. An operation that mixes it with a CPU tensor of one or more dimensions raises as
on a GPU (CPU scalars and CPU index tensors are allowed, as there).

    import simulated_device
    method.to("sim"); method.predict(x.to("sim"))
    Trainer(accelerator=simulated_device.SimulatedAccelerator(), devices=1,
            strategy=SingleDeviceStrategy(device=simulated_device.DEVICE), inference_mode=False)

Known limits: checkpoints of it are loaded to the CPU; no inference mode, no DataLoader pinning, no autocast kernels of
its own, no fork; random numbers are the CPU's. Import it in a process of its own: a backend cannot be taken back.
"""

from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("sim")
DEVICE = torch.device("sim:0")
_FACTORIES = (
    *("empty.memory_format", "empty_strided", "_copy_from", "_copy_from_and_resize", "arange", "arange.start"),
    *("arange.start_step", "linspace", "logspace", "range.step", "randperm", "randperm.generator", "eye", "eye.m"),
    *("triu_indices", "tril_indices"),
)
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


class SimulatedTensor(Tensor):
    """A tensor that says it is on "sim" and keeps its numbers in `raw`, a CPU tensor."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> "SimulatedTensor":
        tensor = Tensor._make_wrapper_subclass(
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        tensor.raw = raw
        return tensor

    def __repr__(self) -> str:
        return f"SimulatedTensor({self.raw})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.raw.detach().__reduce_ex__(protocol)  # a checkpoint is loaded to the CPU

    def new_tensor(self, data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        return SimulatedTensor(torch.tensor(_unwrap(data), dtype=dtype or self.dtype)).requires_grad_(requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _unwrap(value: Any) -> Any:
    return value.raw if isinstance(value, SimulatedTensor) else value


def _wrap(value: Any) -> Any:
    return SimulatedTensor(value) if isinstance(value, Tensor) and not isinstance(value, SimulatedTensor) else value


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    flat, _ = tree_flatten((args, kwargs))
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    moves = name in {"copy_", "_to_copy", "_copy_from", "_copy_from_and_resize"} or device is not None
    strangers = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, SimulatedTensor) and t.dim() > 0]
    if strangers and not moves and name not in _INDEXING and any(isinstance(t, SimulatedTensor) for t in flat):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got cpu and {DEVICE}")
    if name == "copy_":
        _unwrap(args[0]).copy_(_unwrap(args[1]))
        return args[0]
    if name in {"_copy_from", "_copy_from_and_resize"}:
        _unwrap(args[1]).copy_(_unwrap(args[0]))
        return args[1]
    stays = device.type == "sim" if device is not None else name != "_to_copy" or isinstance(args[0], SimulatedTensor)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    result = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
    if func._schema.is_mutable:  # in-place results are the arguments themselves
        known = {id(t.raw): t for t in flat if isinstance(t, SimulatedTensor)}
        return tree_map(lambda t: known.get(id(t), _wrap(t)), result)
    return tree_map(_wrap, result) if stays else result


_library = torch.library.Library("aten", "IMPL")
for _name in _FACTORIES:
    _packet, _, _overload = _name.partition(".")
    _op = getattr(getattr(torch.ops.aten, _packet), _overload or "default")
    _library.impl(_name, lambda *args, _op=_op, **kwargs: _run(_op, args, kwargs), "PrivateUse1")


torch.sim.default_generators = [torch.Generator()]
torch.sim.get_rng_state = lambda device=0: torch.sim.default_generators[0].get_state()
torch.sim.set_rng_state = lambda state, device=0: torch.sim.default_generators[0].set_state(state)
torch.sim.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]


class SimulatedAccelerator(Accelerator):
    """Lets a Lightning Trainer use "sim"."""

    def setup_device(self, device: torch.device) -> None: ...

    def teardown(self) -> None: ...

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:
        return [DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return "sim"
