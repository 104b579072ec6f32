"""Scales that are computed when something reads them."""

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi.optim import DeferredScales, defer_scales, known_std, trained_stds

STD = 0.1
RHO = torch.tensor(STD).expm1().log().expand(6)


def deferred() -> nn.Parameter:
    rho = nn.Parameter(torch.zeros(6))
    defer_scales(rho, torch.full((6,), STD))
    return rho


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rho = deferred()


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


READS: dict[str, Callable[[Holder], Tensor]] = {
    "arithmetic": lambda holder: holder.rho + 0,
    "function": lambda holder: F.softplus(holder.rho).expm1().log(),
    "list": lambda holder: torch.stack([holder.rho, holder.rho])[1],
    "data": lambda holder: holder.rho.data,
    "detach": lambda holder: holder.rho.detach(),
    "numpy": lambda holder: torch.from_numpy(holder.rho.numpy(force=True)),
    "list of numbers": lambda holder: torch.tensor(holder.rho.tolist()),
    "state_dict": lambda holder: holder.state_dict()["rho"],
    "saved": lambda holder: saved(holder.state_dict())["rho"],
    "saved parameter": lambda holder: saved(holder.rho),
    "vector": lambda holder: nn.utils.parameters_to_vector(holder.parameters()),
    "foreach": lambda holder: torch._foreach_add([holder.rho], 0)[0],
    "deepcopy": lambda holder: copy.deepcopy(holder).rho,
    "pickle": lambda holder: pickle.loads(pickle.dumps(holder)).rho,
    "double": lambda holder: holder.double().rho.float(),
    "average": lambda holder: torch.optim.swa_utils.AveragedModel(holder).module.rho,
    "functional call": lambda holder: torch.func.functional_call(nn.Identity(), {}, (holder.rho + 0,)),
    "vmap": lambda holder: torch.vmap(lambda row: row + holder.rho)(torch.zeros(2, 6))[1],
    "inference mode": lambda holder: torch.inference_mode()(lambda: holder.rho.clone())().clone(),
}


@pytest.mark.parametrize("name", READS)
def test_whatever_reads_scales_has_them_computed(name: str) -> None:
    holder = Holder()
    parameter = holder.rho
    assert_close(READS[name](holder).detach(), RHO)
    assert type(parameter) is nn.Parameter
    assert type(holder.rho) is nn.Parameter
    assert_close(holder.rho.detach().float(), RHO)


def test_gradients_and_shapes_are_available_without_values() -> None:
    rho = deferred()
    optimizer = torch.optim.SGD([rho])
    (std,) = trained_stds([rho])
    std.square().sum().backward()
    assert_close(rho.grad, torch.full((6,), 2 * STD))
    assert (rho.shape, rho.dtype, rho.numel(), rho.requires_grad) == ((6,), torch.float32, 6, True)
    nn.utils.clip_grad_norm_([rho], 1.0)
    optimizer.zero_grad()
    assert isinstance(rho, DeferredScales)
    assert known_std(rho) is not None


@pytest.mark.parametrize("write", [Tensor.zero_, lambda rho: rho.data.zero_(), lambda rho: rho.__setitem__(2, 0.0)])
def test_scales_that_something_else_has_changed_win(write: Callable[[Tensor], Any]) -> None:
    rho = deferred()
    with torch.no_grad():
        write(rho)
    assert rho[2] == 0
    assert known_std(rho) is None
    assert trained_stds([rho])[0][2] == F.softplus(torch.zeros(()))


def test_threads_read_the_same_scales() -> None:
    rho = nn.Parameter(torch.zeros(100_000))

    def read(found: list[Tensor]) -> None:
        found.append(rho.detach().clone())

    for step in range(20):
        defer_scales(rho, torch.full((100_000,), STD + 0.01 * step))
        expected, found = torch.tensor(STD + 0.01 * step).expm1().log(), list[Tensor]()
        threads = [threading.Thread(target=read, args=(found,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 3
        for values in found:
            assert_close(values, expected.expand(100_000), rtol=1e-4, atol=1e-4)
