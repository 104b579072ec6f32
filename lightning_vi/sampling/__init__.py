"""The one engine: S forward passes of a network with stochastic weights."""

from lightning_vi.sampling.engine import VECTORIZATIONS, SamplingEngine, Vectorization
from lightning_vi.sampling.network import NetworkInput, call, evaluating, tensors

__all__ = ["VECTORIZATIONS", "NetworkInput", "SamplingEngine", "Vectorization", "call", "evaluating", "tensors"]
