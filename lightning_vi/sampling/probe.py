"""A trial pass that records how a network uses its variational layers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.layers import VariationalLayer, stochastic_parameters
from lightning_vi.sampling.attention import UnfusedAttention
from lightning_vi.sampling.network import NetworkInput, batch_size, call, evaluating
from lightning_vi.sampling.private_draws import PrivateDraws


@dataclass(frozen=True)
class Probe:
    """Use of the variational layers in one forward pass.

    Attributes:
        num_calls: Number of calls of each layer.
        several_rows: Layers after which the rows of a datum, such as its tokens, may be mixed: their input has more
            than one row for each datum, and their output is not the network's.
        last: The layer whose output is the network's, if it was called once.
        width: Elements of the widest module output for one datum, from the first stochastic module on.
    """

    num_calls: Mapping[VariationalLayer, int]
    several_rows: frozenset[VariationalLayer]
    last: VariationalLayer | None
    width: int


MAX_ROWS = 64


def probe(network: nn.Module, layers: Mapping[str, VariationalLayer], x: NetworkInput) -> Probe:
    """Runs a network once, in evaluation mode and on private random numbers, and records the calls of its layers.

    Args:
        network: The network, with weights in its slots.
        layers: The layers to record, by name.
        x: Its input; only the first rows of a tensor are used.

    Returns:
        The record.
    """
    num_rows = batch_size(x)
    if isinstance(x, Tensor) and num_rows > MAX_ROWS:
        x, num_rows = x[:MAX_ROWS], MAX_ROWS
    calls: list[tuple[VariationalLayer, int, Tensor]] = []
    widths: list[int] = []

    def measure(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and (widths or stochastic_parameters(module) is not None):
            widths.append(output.numel() // num_rows)

    def watch(layer: VariationalLayer, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].dim() if inputs else 0, output))

    handles = [module.register_forward_hook(measure) for module in network.modules()]
    handles += [layer.register_forward_hook(partial(watch, layer)) for layer in layers.values()]
    try:
        with torch.no_grad(), evaluating(network), UnfusedAttention(), PrivateDraws(0):
            output = call(network, x)
    finally:
        for handle in handles:
            handle.remove()
    num_calls = Counter(layer for layer, _, _ in calls)
    ends = {layer for layer, _, result in calls if result is output and num_calls[layer] == 1}
    several = frozenset(
        layer for layer, dim, _ in calls if isinstance(layer, nn.Linear) and dim > 2 and layer not in ends
    )
    return Probe(num_calls, several, next(iter(ends), None), max(widths, default=output.numel() // num_rows))
