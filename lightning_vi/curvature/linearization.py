"""Linearization of networks by automatic differentiation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn import functional as F

from lightning_vi.curvature.base import Linearization
from lightning_vi.curvature.blocks import Block
from lightning_vi.curvature.last_layer import (
    LastLayerLinearization,
    check_linear,
    is_pointwise,
    output_dim,
    weighted_moment,
)
from lightning_vi.errors import InputValueError
from lightning_vi.sampling import NetworkInput, agrees, batch_size, call, map_tensors, rows_first
from lightning_vi.sampling.attention import UnfusedAttention
from lightning_vi.sampling.network import call_with
from lightning_vi.tracing import is_exporting

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

MAX_JACOBIAN = 2**24
"""Maximum number of elements of the Jacobian computed at once."""


class NetworkLinearization(Linearization):
    """Linearization of any network in any blocks of weights, by automatic differentiation.

    Args:
        network: Any network.
        blocks: Blocks of its weights.
        x: Input, each tensor of shape [B, ...].
    """

    def __init__(self, network: nn.Module, blocks: Sequence[Block], x: NetworkInput) -> None:
        if is_exporting():
            raise InputValueError(
                "torch.export takes Laplace of a linear last layer alone, whose Jacobian is its input: leave "
                "stochastic_module_names at its default"
            )
        self.network, self.blocks, self.x = network, blocks, x
        self.outputs = call(network, x)
        self.num_weights = sum(block.size for block in blocks)
        self._cached: Tensor | None = None

    def _parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields slices of the batch with their Jacobians [rows, E, P]."""
        num_rows = len(self.outputs)
        size = max(1, MAX_JACOBIAN // max(1, self.outputs[0].numel() * self.num_weights))
        if size >= num_rows:
            self._cached = self._jacobian(slice(None)) if self._cached is None else self._cached
            yield slice(None), self._cached
            return
        for first in range(0, num_rows, size):
            rows = slice(first, first + size)
            yield rows, self._jacobian(rows)

    def _jacobian(self, rows: slice) -> Tensor:
        names = [name for block in self.blocks for name in block.names]
        parameters = {name: self.network.get_parameter(name).detach() for name in names}
        if not self._rows_stand_alone:
            return self._joined(self._jacobian_of(parameters, self.x, rows))
        needs_graph = torch.is_grad_enabled()
        try:
            # In inference mode, PyTorch 2.6 returns wrong Jacobians without an error.
            with torch.inference_mode(False), torch.set_grad_enabled(needs_graph), UnfusedAttention():
                x = map_tensors(lambda tensor: _normal(tensor[rows]), self.x)
                jacobians = torch.vmap(jacrev(self._one_row), in_dims=(None, 0))(parameters, x)
        except (RuntimeError, NotImplementedError):
            x = map_tensors(itemgetter(rows), self.x)
            each = [
                self._jacobian_of(parameters, map_tensors(itemgetter(slice(i, i + 1)), x)) for i in range(batch_size(x))
            ]
            jacobians = {name: torch.cat([row[name] for row in each]) for name in names}
        return self._joined(jacobians)

    def _joined(self, jacobians: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([block.flatten(jacobians, num_leading=2) for block in self.blocks], -1)

    def _one_row(self, parameters: dict[str, Tensor], x: NetworkInput) -> Tensor:
        batch = map_tensors(lambda tensor: tensor.unsqueeze(0), x)
        return call_with(self.network, parameters, batch).flatten()

    @cached_property
    def _rows_stand_alone(self) -> bool:
        """True if each output row is the output for its input row alone, unlike those of the nodes of a graph."""
        if not rows_first(self.x) or batch_size(self.x) != len(self.outputs):
            return False
        with torch.no_grad():
            alone = call(self.network, map_tensors(itemgetter(slice(0, 1)), self.x))
        return alone.shape == self.outputs[:1].shape and agrees(alone, self.outputs[:1])

    def _jacobian_of(
        self, parameters: Mapping[str, Tensor], x: NetworkInput, rows: slice = slice(None)
    ) -> dict[str, Tensor]:
        """Jacobian of output rows by one backward pass for each of their elements."""
        needs_graph = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {name: value.requires_grad_() for name, value in parameters.items()}
            outputs = call_with(self.network, leaves, x if needs_graph else map_tensors(torch.clone, x))[rows]
            gradients = [
                torch.autograd.grad(
                    output,
                    list(leaves.values()),
                    retain_graph=True,
                    create_graph=needs_graph,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for output in outputs.flatten()
            ]
        stacked = (torch.unflatten(torch.stack(each), 0, (len(outputs), -1)) for each in zip(*gradients, strict=True))
        return dict(zip(leaves, stacked, strict=True))

    def ggn(self, factor: Tensor) -> Tensor:  # noqa: D102
        total = factor.new_zeros(self.num_weights, self.num_weights)
        for rows, jacobian in self._parts():
            gradients = (factor[rows].mT @ jacobian).flatten(0, 1)
            total += gradients.mT @ gradients
        return total

    def ggn_diagonal(self, factor: Tensor) -> Tensor:  # noqa: D102
        parts = ((factor[rows].mT @ jacobian).square().sum((0, 1)) for rows, jacobian in self._parts())
        return torch.stack(list(parts)).sum(0)

    def _per_block(self, jacobian: Tensor) -> list[Tensor]:
        """Splits the last dimension into blocks of shape [..., outputs, inputs]."""
        parts = jacobian.split_with_sizes([block.size for block in self.blocks], -1)
        return [part.reshape(*part.shape[:-1], *block.shape) for part, block in zip(parts, self.blocks, strict=True)]

    def ggn_per_output(self, factor: Tensor) -> list[Tensor]:  # noqa: D102
        totals = [factor.new_zeros(block.shape[0], block.shape[1], block.shape[1]) for block in self.blocks]
        for rows, jacobian in self._parts():
            gradients = (factor[rows].mT @ jacobian).flatten(0, 1)
            for total, part in zip(totals, self._per_block(gradients), strict=True):
                total += part.movedim(0, -1) @ part.transpose(0, 1)
        return totals

    def kronecker_factors(  # noqa: D102
        self, factor: Tensor, weights: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        layers = [self.network.get_submodule(block.module_name) for block in self.blocks]
        outputs, calls = self._record(layers)
        inputs = [_rows_of_input(layer, x) for layer, (x, _) in zip(layers, calls, strict=True)]
        of_examples = None if weights is None else weights.flatten(1).amax(1)
        moments = [weighted_moment(rows, of_examples) for rows in inputs]
        covariances = [factor.new_zeros(block.shape[0], block.shape[0]) for block in self.blocks]
        for direction in factor.unbind(-1):
            gradients = torch.autograd.grad(
                outputs,
                [output for _, output in calls],
                direction.reshape(outputs.shape),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for layer, covariance, gradient in zip(layers, covariances, gradients, strict=True):
                rows = _rows_of_output(layer, gradient)
                covariance += rows.mT @ rows
        return [(moment, b, total) for (moment, total), b in zip(moments, covariances, strict=True)]

    def _record(self, layers: Sequence[nn.Module]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Runs a differentiable forward pass and returns the outputs, and the input and output of each layer."""
        with torch.enable_grad():
            outputs, calls = _recorded_call(self.network, layers, self.x)
        for block, seen in zip(self.blocks, calls, strict=True):
            if len(seen) != 1:
                raise InputValueError(
                    "structure='kronecker' needs layers that are called once per forward pass, but "
                    f"{block.module_name!r} is called {len(seen)} times"
                )
        for layer, block, ((x, output),) in zip(layers, self.blocks, calls, strict=True):
            check_linear(layer, block.module_name, x, output)
        return outputs, [seen[0] for seen in calls]

    def variances(self, basis: Tensor | None, weight_variances: Tensor) -> Tensor:  # noqa: D102
        parts = ((jacobian if basis is None else jacobian @ basis) for _, jacobian in self._parts())
        return torch.cat([part.square() @ weight_variances for part in parts])

    def per_output_variances(self, bases: Sequence[Tensor], weight_variances: Sequence[Tensor]) -> Tensor:  # noqa: D102
        def rotate(part: Tensor, basis: Tensor) -> Tensor:
            return torch.einsum("bekf,kfp->bekp", part, basis)

        return self._block_variances(rotate, bases, weight_variances)

    def kronecker_variances(  # noqa: D102
        self, bases: Sequence[tuple[Tensor, Tensor]], weight_variances: Sequence[Tensor]
    ) -> Tensor:
        def rotate(part: Tensor, basis: tuple[Tensor, Tensor]) -> Tensor:
            of_outputs, of_inputs = basis
            return of_outputs.mT @ part @ of_inputs

        return self._block_variances(rotate, bases, weight_variances)

    def _block_variances(
        self, rotate: Callable[[Tensor, Any], Tensor], bases: Sequence[Any], weight_variances: Sequence[Tensor]
    ) -> Tensor:
        """Sums the variances [B, E] of all blocks, after rotating the Jacobian of each block to its basis."""
        variances = []
        for _, jacobian in self._parts():
            terms = [
                rotate(part, basis).square().mul(values).sum((-2, -1))
                for part, basis, values in zip(self._per_block(jacobian), bases, weight_variances, strict=True)
            ]
            variances.append(torch.stack(terms).sum(0))
        return torch.cat(variances)

    def jvp(self, deltas: Tensor) -> Tensor:  # noqa: D102
        parts = [jacobian @ deltas.mT for _, jacobian in self._parts()]
        return torch.cat(parts).movedim(-1, 0).reshape(len(deltas), *self.outputs.shape)


def _recorded_call(
    network: nn.Module, layers: Sequence[nn.Module], x: NetworkInput
) -> tuple[Tensor, list[list[tuple[Tensor, Tensor]]]]:
    """Calls a network and returns its outputs, and the input and output of each call of each layer."""
    calls: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]

    def record(seen: list[tuple[Tensor, Tensor]], _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.append((inputs[0], output))

    handles = [layer.register_forward_hook(partial(record, seen)) for layer, seen in zip(layers, calls, strict=True)]
    try:
        return call(network, x), calls
    finally:
        for handle in handles:
            handle.remove()


def _normal(tensor: Tensor) -> Tensor:
    """Returns a tensor that can be saved for a gradient, outside of inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _rows_of_input(layer: nn.Module, x: Tensor) -> Tensor:
    """Inputs of the weight matrix, shape [examples times positions, inputs]."""
    rows = x.reshape(-1, x.shape[-1]) if isinstance(layer, nn.Linear) else _patches(cast(Convolution, layer), x)
    return rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)


def _rows_of_output(layer: nn.Module, gradient: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return gradient.reshape(-1, gradient.shape[-1])
    return gradient.flatten(2).mT.flatten(0, 1)


def _patches(layer: Convolution, x: Tensor) -> Tensor:
    """Inputs under the kernel, shape [examples times positions, channels times kernel elements]."""
    padding = layer._reversed_padding_repeated_twice
    x = F.pad(x, padding, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    num_dims = len(layer.kernel_size)
    for dim, (size, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2
    ):
        x = x.unfold(dim, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.movedim(1, 1 + num_dims).flatten(1 + num_dims).flatten(0, num_dims)


class _Centered(nn.Module):
    """A network that subtracts the mean of its outputs over one dimension."""

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network, self.dim = network, dim

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        outputs = call(self.network, kwargs or (args[0] if len(args) == 1 else args))
        return outputs - outputs.mean(self.dim, keepdim=True)


def linearize(
    network: nn.Module, blocks: Sequence[Block], x: NetworkInput, centered_dim: int | None = None
) -> Linearization:
    """Linearizes a network in its weights.

    Args:
        network: Any network, in evaluation mode.
        blocks: Blocks of weights in which the network is linearized.
        x: Input, each tensor of shape [B, ...].
        centered_dim: Dimension over which the mean of the outputs is subtracted, such as the softmax dimension.

    Returns:
        The linearized network. It needs no Jacobian if the only block is the last layer and this is a linear layer or
        a convolution of kernel size 1.
    """
    if len(blocks) == 1 and blocks[0].is_matrix:
        layer = network.get_submodule(blocks[0].module_name)
        if is_pointwise(layer):
            outputs, (calls,) = _recorded_call(network, [layer], x)
            is_last_layer = len(calls) == 1 and calls[0][1] is outputs
            if is_last_layer:
                check_linear(layer, blocks[0].module_name, *calls[0])
            if is_last_layer and (centered_dim is None or (centered_dim - output_dim(layer)) % outputs.dim() == 0):
                return LastLayerLinearization(layer, calls[0][0], outputs, centered_dim is not None)
    if centered_dim is None:
        return NetworkLinearization(network, blocks, x)
    return NetworkLinearization(_Centered(network, centered_dim), [block.with_prefix("network") for block in blocks], x)
