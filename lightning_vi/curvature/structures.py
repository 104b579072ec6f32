r"""Gaussians whose precision is the curvature of a likelihood plus that of an isotropic prior.

.. math:: \Sigma = (G + \delta I)^{-1}, \qquad G = Q \Lambda Q^\top

G is kept by its eigenvalues and an orthogonal basis, so that any prior precision :math:`\delta` costs nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_vi.curvature.base import Linearisation
from lightning_vi.curvature.blocks import Block

Terms = Iterable[tuple[Linearisation, Tensor]]
"""Linearised batches with the factors L [B, E, R] of their outputs' information."""

Reduction = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes."""


class Curvature(nn.Module, ABC):
    """An approximation of the generalised Gauss-Newton matrix, zero until `fit`.

    Args:
        blocks: The weights.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = list(blocks)
        self.num_weights = sum(block.size for block in blocks)

    @abstractmethod
    def fit(self, terms: Terms, reduction: Reduction) -> None:
        """Adds up the curvature of all data; what was there before is replaced at the end.

        Args:
            terms: All data.
            reduction: Adds up over processes.
        """

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        r""":math:`\Lambda`, shape [P], not negative."""

    @abstractmethod
    def variances(self, linearisation: Linearisation, prior_precision: Tensor) -> Tensor:
        r"""Variances of the linearised outputs, the diagonal of :math:`J \Sigma J^\top`.

        Args:
            linearisation: The network at some inputs.
            prior_precision: :math:`\delta`, a scalar tensor.

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:
        r"""Draws from :math:`\mathcal{N}(0, \Sigma)`.

        Args:
            noise: Standard normal, shape [S, P].
            prior_precision: :math:`\delta`, a scalar tensor.

        Returns:
            Shape [S, P].
        """


class DiagonalCurvature(Curvature):
    """The diagonal of the matrix."""

    diagonal: Tensor

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(blocks)
        self.register_buffer("diagonal", torch.zeros(self.num_weights))

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        (total,) = add_up([linearisation.squares(factor)] for linearisation, factor in terms)
        self.diagonal.copy_(reduction(total))

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return self.diagonal

    def variances(self, linearisation: Linearisation, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return linearisation.squared_norms(None, 1 / (self.diagonal + prior_precision))

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return noise / (self.diagonal + prior_precision).sqrt()


class FullCurvature(Curvature):
    """The whole matrix.

    Args:
        blocks: The weights.
        max_mebibytes: The largest matrix allowed.

    Raises:
        ValueError: If the matrix would be larger.
    """

    basis: Tensor
    values: Tensor

    def __init__(self, blocks: Sequence[Block], max_mebibytes: float = 256.0) -> None:
        super().__init__(blocks)
        _check_size("full", self.num_weights**2, self.num_weights, max_mebibytes)
        self.register_buffer("basis", torch.eye(self.num_weights))
        self.register_buffer("values", torch.zeros(self.num_weights))

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        (total,) = add_up([linearisation.outer_products(factor)] for linearisation, factor in terms)
        values, basis = symmetric_eigen(reduction(total))
        self.values.copy_(values)
        self.basis.copy_(basis)

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return self.values

    def variances(self, linearisation: Linearisation, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return linearisation.squared_norms(self.basis, 1 / (self.values + prior_precision))

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return (noise / (self.values + prior_precision).sqrt()) @ self.basis.mT


class PerOutputCurvature(Curvature):
    """The blocks of the matrix that belong to the weights behind one output of a layer each.

    In a last layer nothing is left out where the likelihood's information of the outputs is diagonal.

    Args:
        blocks: The weights.
        max_mebibytes: The largest size of all blocks together.

    Raises:
        ValueError: If they would be larger.
    """

    def __init__(self, blocks: Sequence[Block], max_mebibytes: float = 256.0) -> None:
        super().__init__(blocks)
        numbers = sum(block.size * block.shape[1] for block in blocks)
        _check_size("per_output", numbers, self.num_weights, max_mebibytes)
        for index, block in enumerate(self.blocks):
            outputs, inputs = block.shape
            self.register_buffer(f"basis_{index}", torch.eye(inputs).repeat(outputs, 1, 1))
            self.register_buffer(f"values_{index}", torch.zeros(outputs, inputs))

    def _of_blocks(self, kind: str) -> list[Tensor]:
        return [self.get_buffer(f"{kind}_{index}") for index in range(len(self.blocks))]

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        totals = add_up(linearisation.per_output_products(factor) for linearisation, factor in terms)
        for total, basis, values in zip(totals, self._of_blocks("basis"), self._of_blocks("values"), strict=True):
            eigenvalues, eigenvectors = symmetric_eigen(reduction(total))
            values.copy_(eigenvalues)
            basis.copy_(eigenvectors)

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return torch.cat([values.flatten() for values in self._of_blocks("values")])

    def variances(self, linearisation: Linearisation, prior_precision: Tensor) -> Tensor:  # noqa: D102
        weights = [1 / (values + prior_precision) for values in self._of_blocks("values")]
        return linearisation.per_output_norms(self._of_blocks("basis"), weights)

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        parts = noise.split_with_sizes([block.size for block in self.blocks], -1)
        drawn = []
        for part, values, basis in zip(parts, self._of_blocks("values"), self._of_blocks("basis"), strict=True):
            scaled = part.view(-1, *values.shape) / (values + prior_precision).sqrt()
            drawn.append((scaled.transpose(0, 1) @ basis.mT).transpose(0, 1).flatten(1))
        return torch.cat(drawn, -1)


class KroneckerCurvature(Curvature):
    r"""One Kronecker product for each layer, :math:`A \otimes B` (Martens & Grosse, 2015).

    A is the mean of the outer products of the layer's inputs, B the sum of those of the gradients of its outputs, over
    data and, where a weight is used at several positions, over these (KFAC-expand of Eschenhagen et al., 2023).
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(blocks)
        for index, block in enumerate(self.blocks):
            for role, size in zip(("outputs", "inputs"), block.shape, strict=True):
                self.register_buffer(f"{role}_basis_{index}", torch.eye(size))
                self.register_buffer(f"{role}_values_{index}", torch.zeros(size))

    def _of_blocks(self, kind: str) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.get_buffer(f"outputs_{kind}_{index}"), self.get_buffer(f"inputs_{kind}_{index}"))
            for index in range(len(self.blocks))
        ]

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        sums = add_up(
            [part for a, b, count in linearisation.kronecker_factors(factor) for part in (a, b, a.new_tensor(count))]
            for linearisation, factor in terms
        )
        sums = [reduction(tensor) for tensor in sums]
        bases, values = self._of_blocks("basis"), self._of_blocks("values")
        for inputs, outputs, count, basis, value in zip(sums[::3], sums[1::3], sums[2::3], bases, values, strict=True):
            for role, matrix in enumerate((outputs, inputs / count)):
                eigenvalues, eigenvectors = symmetric_eigen(matrix)
                value[role].copy_(eigenvalues)
                basis[role].copy_(eigenvectors)

    def _eigenvalues_of_blocks(self) -> list[Tensor]:
        return [torch.outer(outputs, inputs) for outputs, inputs in self._of_blocks("values")]

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return torch.cat([values.flatten() for values in self._eigenvalues_of_blocks()])

    def variances(self, linearisation: Linearisation, prior_precision: Tensor) -> Tensor:  # noqa: D102
        weights = [1 / (values + prior_precision) for values in self._eigenvalues_of_blocks()]
        return linearisation.kronecker_norms(self._of_blocks("basis"), weights)

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        parts = noise.split_with_sizes([block.size for block in self.blocks], -1)
        drawn = []
        for block, part, values, (of_outputs, of_inputs) in zip(
            self.blocks, parts, self._eigenvalues_of_blocks(), self._of_blocks("basis"), strict=True
        ):
            scaled = part.reshape(*part.shape[:-1], *block.shape) / (values + prior_precision).sqrt()
            drawn.append((of_outputs @ scaled @ of_inputs.mT).flatten(1))
        return torch.cat(drawn, -1)


def add_up(terms: Iterable[list[Tensor]]) -> list[Tensor]:
    """Sums of several tensors over several terms.

    Args:
        terms: At least one, each a list of as many new tensors; the first is used up.

    Returns:
        One sum for each tensor.
    """
    rest = iter(terms)
    totals = next(rest)
    for term in rest:
        for total, more in zip(totals, term, strict=True):
            total.add_(more)
    return totals


def _check_size(structure: str, numbers: int, num_weights: int, max_mebibytes: float) -> None:
    mebibytes = 4 * numbers / 2**20
    if mebibytes > max_mebibytes:
        raise ValueError(
            f"structure={structure!r} needs {mebibytes:.0f} MiB for {num_weights} weights, more than "
            f"max_mebibytes={max_mebibytes:g}: use 'kronecker' or 'diagonal', or choose fewer modules"
        )


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of positive semidefinite matrices, in float64 where the device has it.

    Args:
        matrix: Shape [..., n, n].

    Returns:
        Eigenvalues [..., n], negative ones set to zero, and eigenvectors as columns [..., n, n], of the matrix's type.
    """
    precise = matrix if matrix.device.type == "mps" else matrix.double()
    values, vectors = torch.linalg.eigh((precise + precise.mT) / 2)
    return values.clamp_min(0).to(matrix.dtype), vectors.to(matrix.dtype)
