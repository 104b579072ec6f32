r"""What a network is as a linear function of its weights, around the present ones.

.. math:: f_{w + \delta}(x) \approx f_w(x) + J(x)\, \delta

E is the number of a datum's outputs, P that of the weights in all blocks; J has the shape [B, E, P].
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class Linearisation(ABC):
    """A linearised network on one batch.

    Attributes:
        outputs: The network's outputs [B, ...].
    """

    outputs: Tensor

    @abstractmethod
    def outer_products(self, factor: Tensor) -> Tensor:
        r"""The generalised Gauss-Newton matrix :math:`\sum_n J_n^\top L_n L_n^\top J_n`.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            Shape [P, P].
        """

    @abstractmethod
    def squares(self, factor: Tensor) -> Tensor:
        """Its diagonal.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            Shape [P].
        """

    @abstractmethod
    def per_output_products(self, factor: Tensor) -> list[Tensor]:
        """Its blocks on the diagonal, one for the weights behind each output of a layer.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            For each block of weights the shape [outputs, inputs, inputs].
        """

    @abstractmethod
    def kronecker_factors(self, factor: Tensor) -> list[tuple[Tensor, Tensor, int]]:
        r"""Second moments of each block's inputs, and of the gradients of its outputs.

        Args:
            factor: L, shape [B, E, R].

        Returns:
            For each block the sums :math:`\sum a a^\top` and :math:`\sum b b^\top` over data and positions, of shapes
            [inputs, inputs] and [outputs, outputs], and how many inputs a were summed.
        """

    @abstractmethod
    def squared_norms(self, basis: Tensor | None, weights: Tensor) -> Tensor:
        r"""Variances of the outputs, :math:`\sum_p (J Q)_{ep}^2 v_p`.

        Args:
            basis: Q, shape [P, P], None for the identity.
            weights: v, shape [P].

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def per_output_norms(self, bases: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
        """Variances of the outputs where the weights behind each output of a layer have a basis of their own.

        Args:
            bases: For each block of weights orthogonal matrices, shape [outputs, inputs, inputs].
            weights: For each block, shape [outputs, inputs].

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def kronecker_norms(self, bases: Sequence[tuple[Tensor, Tensor]], weights: Sequence[Tensor]) -> Tensor:
        """Variances of the outputs where the basis of each block is a Kronecker product.

        Args:
            bases: For each block orthogonal matrices of its outputs [outputs, outputs] and inputs [inputs, inputs].
            weights: For each block, shape [outputs, inputs].

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def changes(self, deltas: Tensor) -> Tensor:
        r"""What changes of the weights change, :math:`J \delta`.

        Args:
            deltas: Shape [S, P].

        Returns:
            Shape [S, *shape of `outputs`].
        """
