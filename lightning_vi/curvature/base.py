r"""Base class of networks linearized in their weights.

.. math:: f_{w + \delta}(x) \approx f_w(x) + J(x)\, \delta

E is the number of outputs per example and P the number of weights in all blocks; J has shape [B, E, P]. The generalized
Gauss-Newton matrix (GGN) is :math:`\sum_n J_n^\top L_n L_n^\top J_n`, where L of shape [B, E, R] is the square root of
the output-space Fisher information.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor


class Linearization(ABC):
    """A linearized network on one batch.

    Attributes:
        outputs: Outputs of the network, shape [B, ...].
    """

    outputs: Tensor

    @abstractmethod
    def ggn(self, factor: Tensor) -> Tensor:
        """GGN of the batch.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            Shape [P, P].
        """

    @abstractmethod
    def ggn_diagonal(self, factor: Tensor) -> Tensor:
        """Diagonal of the GGN.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            Shape [P].
        """

    @abstractmethod
    def ggn_per_output(self, factor: Tensor) -> list[Tensor]:
        """Diagonal blocks of the GGN, one for the weights of each output of a layer.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            One tensor of shape [outputs, inputs, inputs] per block of weights.
        """

    @abstractmethod
    def kronecker_factors(self, factor: Tensor, weights: Tensor | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
        r"""Kronecker factors of the GGN of each block, before normalization.

        Args:
            factor: L, shape [B, E, R], with the roots of the weights.
            weights: Weights of the outputs, shape [B, ...], that of `outputs`; 1 by default. An input a of the layer
                has the largest weight of its example's outputs, or of its position's where the two correspond.

        Returns:
            For each block of weights, :math:`\sum a a^\top` of shape [inputs, inputs] over the layer inputs a,
            :math:`\sum b b^\top` of shape [outputs, outputs] over the gradients b of the layer outputs, and the number
            of inputs a, or the sum of their weights. Sums run over examples and positions.
        """

    @abstractmethod
    def variances(self, basis: Tensor | None, weight_variances: Tensor) -> Tensor:
        r"""Variances of the outputs, :math:`\sum_p (J Q)_{ep}^2 v_p`.

        Args:
            basis: Orthogonal matrix Q, shape [P, P]; None for the identity.
            weight_variances: Variances v of the weights in this basis, shape [P].

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def per_output_variances(self, bases: Sequence[Tensor], weight_variances: Sequence[Tensor]) -> Tensor:
        """Variances of the outputs with a separate basis for the weights of each output of a layer.

        Args:
            bases: Orthogonal matrices of each block, shape [outputs, inputs, inputs].
            weight_variances: Variances of the weights of each block, shape [outputs, inputs].

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def kronecker_variances(self, bases: Sequence[tuple[Tensor, Tensor]], weight_variances: Sequence[Tensor]) -> Tensor:
        """Variances of the outputs with a Kronecker-factored basis of each block.

        Args:
            bases: Orthogonal matrices of each block, shapes [outputs, outputs] and [inputs, inputs].
            weight_variances: Variances of the weights of each block, shape [outputs, inputs].

        Returns:
            Shape [B, E].
        """

    def kronecker_jvp(self, bases: Sequence[tuple[Tensor, Tensor]], rotated: Sequence[Tensor]) -> Tensor:
        r"""Jacobian-vector products with changes :math:`Q_o R Q_i^\top` of the weights of each block.

        Args:
            bases: Orthogonal matrices :math:`Q_o, Q_i` of each block, shapes [outputs, outputs] and [inputs, inputs].
            rotated: R of each block, shape [S, outputs, inputs].

        Returns:
            Changes of the outputs, shape [S, *shape of `outputs`].
        """
        return self.jvp(kronecker_product(bases, rotated))

    @abstractmethod
    def jvp(self, deltas: Tensor) -> Tensor:
        r"""Jacobian-vector products :math:`J \delta`.

        Args:
            deltas: Changes of the weights, shape [S, P].

        Returns:
            Changes of the outputs, shape [S, *shape of `outputs`].
        """


def kronecker_product(bases: Sequence[tuple[Tensor, Tensor]], rotated: Sequence[Tensor]) -> Tensor:
    r"""Weights :math:`Q_o R Q_i^\top` of each block.

    Args:
        bases: Matrices :math:`Q_o, Q_i` of each block, shapes [outputs, outputs] and [inputs, inputs].
        rotated: R of each block, shape [S, outputs, inputs].

    Returns:
        Shape [S, P].
    """
    parts = zip(rotated, bases, strict=True)
    return torch.cat([(of_outputs @ part @ of_inputs.mT).flatten(1) for part, (of_outputs, of_inputs) in parts], -1)
