"""Linearization of a last layer without computing Jacobians."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.curvature.base import Linearization
from lightning_vi.errors import InputValueError
from lightning_vi.sampling import agrees


class LastLayerLinearization(Linearization):
    """Linearization of a last layer that is applied at T positions.

    F is the number of input features, including the constant feature of a bias. E is T times the number of outputs of
    the layer.

    Args:
        layer: A linear layer or convolution, see `is_pointwise`.
        x: Input of the layer, shape [B, ..., F], or [B, F, ...] for convolutions.
        outputs: Output of the layer.
        is_centered: If True, the mean over the outputs of the layer is subtracted from each output.
    """

    def __init__(self, layer: nn.Module, x: Tensor, outputs: Tensor, is_centered: bool = False) -> None:
        self._channels_first = not isinstance(layer, nn.Linear)
        rows = x.flatten(2).mT if self._channels_first else x.reshape(x.shape[0], -1, x.shape[-1])
        self.features = rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)
        dim = output_dim(layer)
        self.outputs = outputs - outputs.mean(dim, keepdim=True) if is_centered else outputs
        self.width = outputs.shape[dim]
        self._is_centered = is_centered

    def _centered(self, values: Tensor, dim: int) -> Tensor:
        """Subtracts the mean over the outputs of the layer if `is_centered`."""
        return values - values.mean(dim, keepdim=True) if self._is_centered else values

    def _centered_variances(self, independent: Tensor) -> Tensor:
        """Variances of the outputs from variances [B, T, outputs of the layer] of independent outputs."""
        if self._is_centered:
            mean = independent.mean(-1, keepdim=True)
            independent = independent + (mean - 2 * independent) / self.width
        return self._flat(independent)

    def _per_position(self, factor: Tensor) -> Tensor:
        """The factor reshaped to [B, T, outputs of the layer, R]."""
        num_positions = self.features.shape[1]
        if self._channels_first:
            by_position = factor.view(len(factor), self.width, num_positions, factor.shape[-1]).transpose(1, 2)
        else:
            by_position = factor.view(len(factor), num_positions, self.width, factor.shape[-1])
        return self._centered(by_position, 2)

    def _flat(self, by_position: Tensor) -> Tensor:
        """Flattens a tensor [..., T, outputs of the layer] in the order of `outputs`."""
        return (by_position.mT if self._channels_first else by_position).flatten(-2)

    def _gradients(self, factor: Tensor) -> Tensor:
        r"""Weight gradients :math:`L^\top J`, shape [B, R, outputs of the layer, F]."""
        return torch.einsum("btkr,btf->brkf", self._per_position(factor), self.features)

    @property
    def _has_one_position(self) -> bool:
        return self.features.shape[1] == 1

    def ggn(self, factor: Tensor) -> Tensor:  # noqa: D102
        if not self._has_one_position:
            gradients = self._gradients(factor).flatten(0, 1).flatten(1)
            return gradients.mT @ gradients
        features, factor = self.features[:, 0], self._per_position(factor)[:, 0]
        information, width, num_features = factor @ factor.mT, self.width, features.shape[-1]
        rows = [(each.unsqueeze(-1) * features.unsqueeze(1)).flatten(1).mT @ features for each in information.unbind(1)]
        products = torch.stack(rows).view(width, width, num_features, num_features)
        return products.transpose(1, 2).reshape(width * num_features, width * num_features)

    def ggn_diagonal(self, factor: Tensor) -> Tensor:  # noqa: D102
        if self._has_one_position:
            return (self._per_position(factor)[:, 0].square().sum(-1).mT @ self.features[:, 0].square()).flatten()
        return self._gradients(factor).square().sum((0, 1)).flatten()

    def ggn_per_output(self, factor: Tensor) -> list[Tensor]:  # noqa: D102
        if self._has_one_position:
            features, roots = self.features[:, 0], self._per_position(factor)[:, 0].norm(dim=-1)
            gradients = roots.mT.unsqueeze(-1) * features
        else:
            gradients = self._gradients(factor).flatten(0, 1).transpose(0, 1)
        return [gradients.mT @ gradients]

    def kronecker_factors(  # noqa: D102
        self, factor: Tensor, weights: Tensor | None = None
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        inputs = self.features.flatten(0, 1)
        of_positions = None
        if weights is not None:
            by_output = weights.flatten(2).mT if self._channels_first else weights.reshape(len(weights), -1, self.width)
            of_positions = by_output.amax(-1).flatten()
        moment, total = weighted_moment(inputs, of_positions)
        gradients = self._per_position(factor).movedim(2, -1).reshape(-1, self.width)
        return [(moment, gradients.mT @ gradients, total)]

    def variances(self, basis: Tensor | None, weight_variances: Tensor) -> Tensor:  # noqa: D102
        num_features = self.features.shape[-1]
        if basis is None:
            return self._centered_variances(self.features.square() @ weight_variances.view(self.width, num_features).mT)
        by_output = self._centered(basis.view(self.width, num_features, -1), 0)
        covariances = torch.einsum("kfp,p,kgp->kfg", by_output, weight_variances, by_output)
        return self._flat(torch.einsum("btf,kfg,btg->btk", self.features, covariances, self.features))

    def per_output_variances(self, bases: Sequence[Tensor], weight_variances: Sequence[Tensor]) -> Tensor:  # noqa: D102
        rotated = self.features.flatten(0, 1) @ bases[0]
        variances = (rotated.square() @ weight_variances[0].unsqueeze(-1)).squeeze(-1)
        return self._centered_variances(variances.mT.reshape(*self.features.shape[:2], self.width))

    def kronecker_variances(self, bases: Sequence[tuple[Tensor, Tensor]], weight_variances: Sequence[Tensor]) -> Tensor:  # noqa: D102
        (of_outputs, of_inputs), (values,) = bases[0], weight_variances
        of_outputs = self._centered(of_outputs, 0)
        return self._flat((self.features @ of_inputs).square() @ (of_outputs.square() @ values).mT)

    def kronecker_jvp(self, bases: Sequence[tuple[Tensor, Tensor]], rotated: Sequence[Tensor]) -> Tensor:  # noqa: D102
        num_rows, num_features = self.features.shape[0] * self.features.shape[1], self.features.shape[-1]
        if num_rows >= num_features:
            return super().kronecker_jvp(bases, rotated)
        # With fewer rows than features, applying the basis of the outputs last is cheaper.
        (of_outputs, of_inputs), (matrix,) = bases[0], rotated
        features = (self.features @ of_inputs).flatten(0, 1)
        changes = (features @ matrix.mT) @ self._centered(of_outputs, 0).mT
        by_position = changes.view(len(matrix), *self.features.shape[:2], self.width)
        return self._flat(by_position).view(len(matrix), *self.outputs.shape)

    def jvp(self, deltas: Tensor) -> Tensor:  # noqa: D102
        weights = deltas.view(len(deltas), self.width, -1)
        changes = torch.einsum("btf,skf->sbtk", self.features, weights)
        return self._flat(self._centered(changes, -1)).view(len(deltas), *self.outputs.shape)


def weighted_moment(rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    r"""Weighted sum of the outer products of rows.

    Args:
        rows: Rows a, shape [n, F].
        weights: Weights w of groups of successive rows, shape [g] where g divides n; 1 by default.

    Returns:
        :math:`\sum w a a^\top` of shape [F, F], and the sum of the weights, a scalar tensor.
    """
    if weights is None:
        return rows.mT @ rows, rows.new_tensor(len(rows))
    of_rows = weights.to(rows.dtype).repeat_interleave(len(rows) // max(1, len(weights)))
    return (of_rows.unsqueeze(-1) * rows).mT @ rows, of_rows.sum()


def output_dim(layer: nn.Module) -> int:
    """Feature dimension of the output of a linear layer (-1) or convolution (1)."""
    return -1 if isinstance(layer, nn.Linear) else 1


def is_pointwise(layer: nn.Module) -> bool:
    """Returns True for linear layers and for convolutions of kernel size 1 without stride, padding and groups."""
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        sizes = (*layer.kernel_size, *layer.stride)
        return set(sizes) == {1} and layer.groups == 1 and not any(layer._reversed_padding_repeated_twice)
    return isinstance(layer, nn.Linear)


def check_linear(layer: nn.Module, name: str, x: Tensor, output: Tensor) -> None:
    """Checks that a layer with a forward of its own computes what the torch layer does.

    Args:
        layer: A linear layer or convolution, or an instance of a subclass.
        name: Its name, for the error message.
        x: Its input.
        output: Its output.

    Raises:
        ValueError: If the output is another one.
    """
    parent: Any = next(kind for kind in type(layer).__mro__ if kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    if type(layer).forward is parent.forward:
        return
    with torch.no_grad():
        expected = parent.forward(layer, x.to(cast(Tensor, layer.weight).dtype))
    if not agrees(output, expected):
        raise InputValueError(
            f"{name or 'the root'!r} ({type(layer).__name__}) has a forward of its own, whose output is not that of "
            f"nn.{parent.__name__}: use structure='diagonal' or 'full', which need no linear layer"
        )
