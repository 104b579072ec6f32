"""S forward passes of a network: with stochastic layers, or with weights drawn outside of it."""

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
    "VECTORIZATIONS",
    "NetworkInput",
    "SamplingEngine",
    "StackedRunner",
    "StackedVectorization",
    "Vectorization",
    "call",
    "evaluating",
    "map_tensors",
    "stack_networks",
    "stacked_tensors",
    "tensors",
    "unstack_network",
]
