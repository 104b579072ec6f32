"""The number of operations that a training step launches, which is what small networks and GPUs take time for."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_vi import IVON, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.methods import VariationalMethod


class CountedOperations(TorchDispatchMode):
    """Counts operations that compute something, not views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        is_view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        self.count += not is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("kind", "most"), [(MeanFieldVI, 150), (IVON, 125)])
def test_a_step_launches_few_operations(kind: type[VariationalMethod], most: int) -> None:
    """Limits a few above what it takes, so that operations do not come back unnoticed."""
    method = kind(MLP(8, [50, 50], 2), HeteroscedasticGaussian(), num_data=1000)
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    optimizer = method.make_optimizer()
    for _ in range(3):
        with CountedOperations() as operations:
            optimizer.zero_grad()
            method.elbo(x, y).loss.backward()
            optimizer.step()
    assert operations.count <= most
