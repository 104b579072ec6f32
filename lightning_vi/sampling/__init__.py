"""Repeated forward passes of a network: with stochastic layers, with several sets of weights, or with dropout."""

from lightning_vi.sampling.agreement import deterministic_copy
from lightning_vi.sampling.batch_norm import KeptRows, estimate_statistics, first_rows, running_statistics
from lightning_vi.sampling.draw_cache import DrawCache
from lightning_vi.sampling.dropout import DropoutSampler
from lightning_vi.sampling.dropout_layers import (
    DropoutBehind,
    dropout_layers,
    dropout_rate,
    hooks_behind,
    set_dropout_rate,
)
from lightning_vi.sampling.dropout_mode import watch_functional_dropout, without_dropout
from lightning_vi.sampling.engine import SamplingEngine
from lightning_vi.sampling.flat import FlatParameters
from lightning_vi.sampling.input_gradients import input_gradients
from lightning_vi.sampling.member_engine import MemberEngine
from lightning_vi.sampling.memory import chunk_ranges, num_fitting
from lightning_vi.sampling.network import (
    NetworkInput,
    batch_size,
    call,
    call_with,
    evaluating,
    few_rows,
    is_hooked,
    map_tensors,
    rows_first,
    tensors,
    unroll,
)
from lightning_vi.sampling.probe import agrees, copies_stay_apart, trial
from lightning_vi.sampling.stacked import (
    StackedRunner,
    StackedVectorization,
    stack_networks,
    stacked_tensors,
    unstack_network,
)
from lightning_vi.sampling.vectorization import VECTORIZATIONS, Vectorization

__all__ = [
    "VECTORIZATIONS",
    "DrawCache",
    "DropoutBehind",
    "DropoutSampler",
    "FlatParameters",
    "KeptRows",
    "MemberEngine",
    "NetworkInput",
    "SamplingEngine",
    "StackedRunner",
    "StackedVectorization",
    "Vectorization",
    "agrees",
    "batch_size",
    "call",
    "call_with",
    "chunk_ranges",
    "copies_stay_apart",
    "deterministic_copy",
    "dropout_layers",
    "dropout_rate",
    "estimate_statistics",
    "evaluating",
    "few_rows",
    "first_rows",
    "hooks_behind",
    "input_gradients",
    "is_hooked",
    "map_tensors",
    "num_fitting",
    "rows_first",
    "running_statistics",
    "set_dropout_rate",
    "stack_networks",
    "stacked_tensors",
    "tensors",
    "trial",
    "unroll",
    "unstack_network",
    "watch_functional_dropout",
    "without_dropout",
]
