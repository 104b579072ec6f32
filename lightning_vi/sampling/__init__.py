"""The one engine: S forward passes of a network with stochastic weights."""

from lightning_vi.sampling.engine import SamplingEngine
from lightning_vi.sampling.network import NetworkInput, call, evaluating, map_tensors, tensors
from lightning_vi.sampling.options import VECTORIZATIONS, Vectorization

__all__ = [
    "VECTORIZATIONS",
    "NetworkInput",
    "SamplingEngine",
    "Vectorization",
    "call",
    "evaluating",
    "map_tensors",
    "tensors",
]
