"""S forward passes of a network: with stochastic layers, or with weights drawn outside of it."""

from lightning_vi.sampling.draw_cache import MAX_KEPT_NUMBERS, DrawCache
from lightning_vi.sampling.dropout import DropoutSampler
from lightning_vi.sampling.dropout_calls import without_dropout
from lightning_vi.sampling.dropout_layers import (
    DropoutBehind,
    dropout_layers,
    dropout_rate,
    hooks_behind,
    set_dropout_rate,
)
from lightning_vi.sampling.dropout_survey import watch_functional_dropout
from lightning_vi.sampling.engine import SamplingEngine
from lightning_vi.sampling.network import NetworkInput, call, evaluating, map_tensors, tensors
from lightning_vi.sampling.options import VECTORIZATIONS, Vectorization
from lightning_vi.sampling.stacked import (
    StackedRunner,
    StackedVectorization,
    stack_networks,
    stacked_tensors,
    unstack_network,
)

__all__ = [
    "MAX_KEPT_NUMBERS",
    "VECTORIZATIONS",
    "DrawCache",
    "DropoutBehind",
    "DropoutSampler",
    "NetworkInput",
    "SamplingEngine",
    "StackedRunner",
    "StackedVectorization",
    "Vectorization",
    "call",
    "dropout_layers",
    "dropout_rate",
    "evaluating",
    "hooks_behind",
    "map_tensors",
    "set_dropout_rate",
    "stack_networks",
    "stacked_tensors",
    "tensors",
    "unstack_network",
    "watch_functional_dropout",
    "without_dropout",
]
