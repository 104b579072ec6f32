"""Finds regressions on images whose channels are where the likelihood expects the last dimension of positions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import NetworkInput, evaluating, tensors


def check_targets_last(
    network: nn.Module, likelihood: Likelihood, x: NetworkInput, run: Callable[[NetworkInput], Tensor]
) -> None:
    """Raises an error if the targets of a regression are the channels of a convolution, in dimension 1.

    A regression has its D targets in the last dimension. If a network ends in a convolution, this is a dimension of
    positions, such as the columns of an image, and each of them would get noise of its own.

    Args:
        network: The network.
        likelihood: The observation model.
        x: Input, each tensor of shape [B, ...].
        run: Computes the network's output, shape [B, ...].

    Raises:
        ValueError: If the network's output is that of a convolution.
    """
    last: list[tuple[nn.Module, Tensor]] = []

    def record(layer: nn.Module, _: object, output: Any) -> None:
        if isinstance(output, Tensor):
            last[:] = [(layer, output)]

    layers = [part for part in network.modules() if any(True for _ in part.parameters(recurse=False))]
    if (
        likelihood.task != "regression"
        or likelihood.prediction_dim == 1
        or not any(isinstance(layer, _ConvNd) for layer in layers)
    ):
        return
    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        with torch.no_grad(), evaluating(network), private_random_state(0, tensors(x)[0].device):
            output = run(x)
    finally:
        for handle in handles:
            handle.remove()
    if not last or not isinstance(last[0][0], _ConvNd):
        return
    result = last[0][1]
    is_moved = result.shape[-output.dim() :] != output.shape or output.stride() != result.stride()[-output.dim() :]
    if output.dim() < 3 or (output is not result and is_moved):
        return
    name, width, channels = type(likelihood).__name__, likelihood.num_predictions, output.shape[1]
    num_targets = max(1, channels * width // likelihood.num_outputs)
    raise InputValueError(
        f"num_targets={width} of {name} counts the last dimension of the network's output {list(output.shape)}, but "
        f"the network ends in a convolution, whose {channels} channels are dimension 1: for a regression at each "
        f"position, use ChannelsFirst({name}(num_targets={num_targets})); or use {name}(num_targets={num_targets}), "
        "end the network with output.movedim(1, -1), and give target.movedim(1, -1)"
    )
