"""A last layer as a linear function of its weights, without any Jacobian."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.curvature.base import Linearisation


class LastLayerLinearisation(Linearisation):
    """A last layer at T places of F features each, one feature being 1 for the bias; E counts T times its outputs.

    Args:
        layer: A linear layer, or a convolution for which `is_pointwise`.
        x: Its input, shape [B, ..., F], or [B, F, ...] of a convolution.
        outputs: Its output.
        is_centred: Whether the mean over the layer's outputs is taken from each of them.
    """

    def __init__(self, layer: nn.Module, x: Tensor, outputs: Tensor, is_centred: bool = False) -> None:
        self._channels_first = not isinstance(layer, nn.Linear)
        rows = x.flatten(2).mT if self._channels_first else x.reshape(len(x), -1, x.shape[-1])
        self.features = rows if layer.bias is None else F.pad(rows, (0, 1), value=1.0)
        dim = output_dim(layer)
        self.outputs = outputs - outputs.mean(dim, keepdim=True) if is_centred else outputs
        self.width = outputs.shape[dim]
        self._is_centred = is_centred

    def _centred(self, numbers: Tensor, dim: int) -> Tensor:
        """Without their mean over the layer's outputs, where that is wanted."""
        return numbers - numbers.mean(dim, keepdim=True) if self._is_centred else numbers

    def _variances(self, independent: Tensor) -> Tensor:
        """Variances of the outputs from those of independent ones, shape [B, T, outputs of the layer]."""
        if self._is_centred:
            mean = independent.mean(-1, keepdim=True)
            independent = independent + (mean - 2 * independent) / self.width
        return self._flat(independent)

    def _per_place(self, factor: Tensor) -> Tensor:
        """The factor as [B, T, outputs of the layer, R]."""
        num_places = self.features.shape[1]
        if self._channels_first:
            by_place = factor.view(len(factor), self.width, num_places, factor.shape[-1]).transpose(1, 2)
        else:
            by_place = factor.view(len(factor), num_places, self.width, factor.shape[-1])
        return self._centred(by_place, 2)

    def _flat(self, by_place: Tensor) -> Tensor:
        """Numbers for each output, [..., T, outputs of the layer], in the order of `outputs`."""
        return (by_place.mT if self._channels_first else by_place).flatten(-2)

    def _gradients(self, factor: Tensor) -> Tensor:
        """Gradients of all directions, shape [B, R, outputs of the layer, F]."""
        return torch.einsum("btkr,btf->brkf", self._per_place(factor), self.features)

    @property
    def _has_one_place(self) -> bool:
        return self.features.shape[1] == 1

    def outer_products(self, factor: Tensor) -> Tensor:  # noqa: D102
        if not self._has_one_place:
            gradients = self._gradients(factor).flatten(0, 1).flatten(1)
            return gradients.mT @ gradients
        features, factor = self.features[:, 0], self._per_place(factor)[:, 0]
        information, width, num_features = factor @ factor.mT, self.width, features.shape[-1]
        rows = [(each.unsqueeze(-1) * features.unsqueeze(1)).flatten(1).mT @ features for each in information.unbind(1)]
        products = torch.stack(rows).view(width, width, num_features, num_features)
        return products.transpose(1, 2).reshape(width * num_features, width * num_features)

    def squares(self, factor: Tensor) -> Tensor:  # noqa: D102
        if self._has_one_place:
            return (self._per_place(factor)[:, 0].square().sum(-1).mT @ self.features[:, 0].square()).flatten()
        return self._gradients(factor).square().sum((0, 1)).flatten()

    def per_output_products(self, factor: Tensor) -> list[Tensor]:  # noqa: D102
        if self._has_one_place:
            features, roots = self.features[:, 0], self._per_place(factor)[:, 0].norm(dim=-1)
            gradients = roots.mT.unsqueeze(-1) * features
        else:
            gradients = self._gradients(factor).flatten(0, 1).transpose(0, 1)
        return [gradients.mT @ gradients]

    def kronecker_factors(self, factor: Tensor) -> list[tuple[Tensor, Tensor, int]]:  # noqa: D102
        inputs = self.features.flatten(0, 1)
        gradients = self._per_place(factor).movedim(2, -1).reshape(-1, self.width)
        return [(inputs.mT @ inputs, gradients.mT @ gradients, len(inputs))]

    def squared_norms(self, basis: Tensor | None, weights: Tensor) -> Tensor:  # noqa: D102
        num_features = self.features.shape[-1]
        if basis is None:
            return self._variances(self.features.square() @ weights.view(self.width, num_features).mT)
        by_output = self._centred(basis.view(self.width, num_features, -1), 0)
        covariances = torch.einsum("kfp,p,kgp->kfg", by_output, weights, by_output)
        return self._flat(torch.einsum("btf,kfg,btg->btk", self.features, covariances, self.features))

    def per_output_norms(self, bases: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:  # noqa: D102
        rotated = self.features.flatten(0, 1) @ bases[0]
        variances = (rotated.square() @ weights[0].unsqueeze(-1)).squeeze(-1)
        return self._variances(variances.mT.reshape(*self.features.shape[:2], self.width))

    def kronecker_norms(self, bases: Sequence[tuple[Tensor, Tensor]], weights: Sequence[Tensor]) -> Tensor:  # noqa: D102
        (of_outputs, of_inputs), (values,) = bases[0], weights
        of_outputs = self._centred(of_outputs, 0)
        return self._flat((self.features @ of_inputs).square() @ (of_outputs.square() @ values).mT)

    def changes(self, deltas: Tensor) -> Tensor:  # noqa: D102
        weights = deltas.view(len(deltas), self.width, -1)
        changes = torch.einsum("btf,skf->sbtk", self.features, weights)
        return self._flat(self._centred(changes, -1)).view(len(deltas), *self.outputs.shape)


def output_dim(layer: nn.Module) -> int:
    """The dimension of a layer's output that holds what it computes at one place.

    Args:
        layer: A linear layer or a convolution.

    Returns:
        -1 or 1.
    """
    return -1 if isinstance(layer, nn.Linear) else 1


def is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer treats each place alike and alone, a linear layer or a convolution of width 1.

    Args:
        layer: Any module.

    Returns:
        False for convolutions with a stride, padding or groups too.
    """
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        sizes = (*layer.kernel_size, *layer.stride)
        return set(sizes) == {1} and layer.groups == 1 and not any(layer._reversed_padding_repeated_twice)
    return isinstance(layer, nn.Linear)
