"""Gradients with respect to a network's input alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.locks import all_modules
from lightning_vi.sampling.network import NetworkInput, tensors


@contextmanager
def input_gradients(module: nn.Module, x: NetworkInput) -> Iterator[None]:
    """Runs its body with gradients with respect to the input, and with parameters that take none.

    The parameters are replaced by ones that share their memory, so that nothing reaches their gradients, and what they
    require stays as it is.

    Args:
        module: The module whose parameters take no gradient.
        x: Its input.

    Raises:
        TypeError: If no tensor of the input has floating-point numbers.
        ValueError: In `torch.inference_mode`, which records no gradients.
    """
    if torch.is_inference_mode_enabled():
        raise InputValueError(
            "differentiable=True records no gradients in torch.inference_mode: leave it, or use torch.no_grad"
        )
    if not any(tensor.is_floating_point() for tensor in tensors(x)):
        dtypes = sorted({str(tensor.dtype) for tensor in tensors(x)})
        raise InputTypeError(
            f"differentiable=True needs an input of floating-point numbers, got {', '.join(dtypes)}: pass what the "
            "network computes from it first, such as the embeddings"
        )
    parts = [part for part in all_modules(module) if part._parameters]
    kept = [dict(part._parameters) for part in parts]
    detached = {
        parameter: nn.Parameter(parameter.detach(), requires_grad=False)
        for own in kept
        for parameter in own.values()
        if parameter is not None and parameter.requires_grad
    }
    try:
        for part, own in zip(parts, kept, strict=True):
            part._parameters.update({name: detached[value] for name, value in own.items() if value in detached})
        with torch.enable_grad():
            yield
    finally:
        for part, own in zip(parts, kept, strict=True):
            part._parameters.update(own)
