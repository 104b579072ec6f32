r"""Structured approximations of the GGN, and Gaussians with precision GGN plus prior precision.

.. math:: \Sigma = (G + \delta I)^{-1}, \qquad G = Q \Lambda Q^\top

G is stored as its eigendecomposition, so that the prior precision :math:`\delta` can be changed at no cost.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_vi.curvature.base import Linearization, kronecker_product
from lightning_vi.curvature.blocks import Block
from lightning_vi.errors import InputValueError

Terms = Iterable[tuple[Linearization, Tensor, Tensor | None]]
"""Linearized batches with the square roots L [B, E, R] of their output-space Fisher information, which includes the
weights of the outputs, and these weights [B, ...], None if they are one."""

Reduction = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class Curvature(nn.Module, ABC):
    """Base class of approximations of the GGN, which is zero until `fit`.

    Args:
        blocks: Blocks of weights.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = list(blocks)
        self.num_weights = sum(block.size for block in blocks)

    @abstractmethod
    def fit(self, terms: Terms, reduction: Reduction) -> None:
        """Computes the curvature of all training data, replacing the present one.

        Args:
            terms: All batches of the training data.
            reduction: Sums a tensor over all processes.
        """

    @abstractmethod
    def eigenvalues(self) -> Tensor:
        r"""Eigenvalues :math:`\Lambda` of the GGN, nonnegative, shape [P]."""

    @abstractmethod
    def variances(self, linearization: Linearization, prior_precision: Tensor) -> Tensor:
        r"""Variances of the linearized outputs, the diagonal of :math:`J \Sigma J^\top`.

        Args:
            linearization: The linearized network on a batch.
            prior_precision: Prior precision :math:`\delta`, a scalar tensor.

        Returns:
            Shape [B, E].
        """

    @abstractmethod
    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:
        r"""Transforms standard normal noise to samples of :math:`\mathcal{N}(0, \Sigma)`.

        Args:
            noise: Standard normal noise, shape [S, P].
            prior_precision: Prior precision :math:`\delta`, a scalar tensor.

        Returns:
            Shape [S, P].
        """

    def draw_changes(self, linearization: Linearization, noise: Tensor, prior_precision: Tensor) -> Tensor:
        """Changes of linearized outputs by the samples of `draw`, which need not be made.

        Args:
            linearization: The linearized network on a batch.
            noise: Standard normal noise, shape [S, P].
            prior_precision: Prior precision, a scalar tensor.

        Returns:
            Shape [S, *shape of the outputs].
        """
        return linearization.jvp(self.draw(noise, prior_precision).to(linearization.outputs))


class DiagonalCurvature(Curvature):
    """Diagonal of the GGN."""

    diagonal: Tensor

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(blocks)
        self.register_buffer("diagonal", torch.zeros(self.num_weights))

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        (total,) = accumulate([linearization.ggn_diagonal(factor)] for linearization, factor, _ in terms)
        self.diagonal.copy_(reduction(total))

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return self.diagonal

    def variances(self, linearization: Linearization, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return linearization.variances(None, 1 / (self.diagonal + prior_precision))

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return noise / (self.diagonal + prior_precision).sqrt()


class FullCurvature(Curvature):
    """Full GGN.

    Args:
        blocks: Blocks of weights.
        max_mebibytes: Maximum size of the matrix.

    Raises:
        ValueError: If the matrix exceeds `max_mebibytes`.
    """

    basis: Tensor
    values: Tensor

    def __init__(self, blocks: Sequence[Block], max_mebibytes: float = 256.0) -> None:
        super().__init__(blocks)
        _check_size("full", self.num_weights**2, self.num_weights, max_mebibytes)
        self.register_buffer("basis", torch.eye(self.num_weights))
        self.register_buffer("values", torch.zeros(self.num_weights))

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        (total,) = accumulate([linearization.ggn(factor)] for linearization, factor, _ in terms)
        values, basis = symmetric_eigen(reduction(total))
        self.values.copy_(values)
        self.basis.copy_(basis)

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return self.values

    def variances(self, linearization: Linearization, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return linearization.variances(self.basis, 1 / (self.values + prior_precision))

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return (noise / (self.values + prior_precision).sqrt()) @ self.basis.mT


class PerOutputCurvature(Curvature):
    """Block-diagonal GGN with one block for the weights of each output of a layer.

    For a last layer this is exact if the output-space Fisher information is diagonal.

    Args:
        blocks: Blocks of weights.
        max_mebibytes: Maximum total size of the matrices.

    Raises:
        ValueError: If the matrices exceed `max_mebibytes`.
    """

    def __init__(self, blocks: Sequence[Block], max_mebibytes: float = 256.0) -> None:
        super().__init__(blocks)
        num_elements = sum(block.size * block.shape[1] for block in blocks)
        _check_size("per_output", num_elements, self.num_weights, max_mebibytes)
        for index, block in enumerate(self.blocks):
            outputs, inputs = block.shape
            self.register_buffer(f"basis_{index}", torch.eye(inputs).repeat(outputs, 1, 1))
            self.register_buffer(f"values_{index}", torch.zeros(outputs, inputs))

    def _buffers_of_blocks(self, kind: str) -> list[Tensor]:
        return [self.get_buffer(f"{kind}_{index}") for index in range(len(self.blocks))]

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        totals = accumulate(linearization.ggn_per_output(factor) for linearization, factor, _ in terms)
        for total, basis, values in zip(
            totals, self._buffers_of_blocks("basis"), self._buffers_of_blocks("values"), strict=True
        ):
            eigenvalues, eigenvectors = symmetric_eigen(reduction(total))
            values.copy_(eigenvalues)
            basis.copy_(eigenvectors)

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return torch.cat([values.flatten() for values in self._buffers_of_blocks("values")])

    def variances(self, linearization: Linearization, prior_precision: Tensor) -> Tensor:  # noqa: D102
        weights = [1 / (values + prior_precision) for values in self._buffers_of_blocks("values")]
        return linearization.per_output_variances(self._buffers_of_blocks("basis"), weights)

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        parts = noise.split_with_sizes([block.size for block in self.blocks], -1)
        drawn = []
        for part, values, basis in zip(
            parts, self._buffers_of_blocks("values"), self._buffers_of_blocks("basis"), strict=True
        ):
            scaled = part.view(-1, *values.shape) / (values + prior_precision).sqrt()
            drawn.append((scaled.transpose(0, 1) @ basis.mT).transpose(0, 1).flatten(1))
        return torch.cat(drawn, -1)


class KroneckerCurvature(Curvature):
    r"""Kronecker-factored GGN, :math:`A \otimes B` for each layer (Martens & Grosse, 2015).

    A is the mean of the outer products of the layer inputs, B the sum of the outer products of the gradients of the
    layer outputs, over examples and positions (KFAC-expand, Eschenhagen et al., 2023).

    Args:
        blocks: Blocks of weights.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__(blocks)
        for index, block in enumerate(self.blocks):
            for role, size in zip(("outputs", "inputs"), block.shape, strict=True):
                self.register_buffer(f"{role}_basis_{index}", torch.eye(size))
                self.register_buffer(f"{role}_values_{index}", torch.zeros(size))

    def _buffers_of_blocks(self, kind: str) -> list[tuple[Tensor, Tensor]]:
        return [
            (self.get_buffer(f"outputs_{kind}_{index}"), self.get_buffer(f"inputs_{kind}_{index}"))
            for index in range(len(self.blocks))
        ]

    def fit(self, terms: Terms, reduction: Reduction) -> None:  # noqa: D102
        sums = accumulate(
            [part for parts in linearization.kronecker_factors(factor, weights) for part in parts]
            for linearization, factor, weights in terms
        )
        sums = [reduction(tensor) for tensor in sums]
        bases, values = self._buffers_of_blocks("basis"), self._buffers_of_blocks("values")
        for inputs, outputs, count, basis, value in zip(sums[::3], sums[1::3], sums[2::3], bases, values, strict=True):
            for role, matrix in enumerate((outputs, inputs / count.clamp_min(torch.finfo(count.dtype).tiny))):
                eigenvalues, eigenvectors = symmetric_eigen(matrix)
                value[role].copy_(eigenvalues)
                basis[role].copy_(eigenvectors)

    def _eigenvalues_of_blocks(self) -> list[Tensor]:
        return [torch.outer(outputs, inputs) for outputs, inputs in self._buffers_of_blocks("values")]

    def eigenvalues(self) -> Tensor:  # noqa: D102
        return torch.cat([values.flatten() for values in self._eigenvalues_of_blocks()])

    def variances(self, linearization: Linearization, prior_precision: Tensor) -> Tensor:  # noqa: D102
        weights = [1 / (values + prior_precision) for values in self._eigenvalues_of_blocks()]
        return linearization.kronecker_variances(self._buffers_of_blocks("basis"), weights)

    def draw(self, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        return kronecker_product(self._buffers_of_blocks("basis"), self._scaled(noise, prior_precision))

    def draw_changes(self, linearization: Linearization, noise: Tensor, prior_precision: Tensor) -> Tensor:  # noqa: D102
        scaled = [part.to(linearization.outputs) for part in self._scaled(noise, prior_precision)]
        return linearization.kronecker_jvp(self._buffers_of_blocks("basis"), scaled)

    def _scaled(self, noise: Tensor, prior_precision: Tensor) -> list[Tensor]:
        """Noise [S, P] divided by the roots of the eigenvalues, as one matrix [S, outputs, inputs] for each block."""
        parts = noise.split_with_sizes([block.size for block in self.blocks], -1)
        return [
            part.reshape(len(noise), *block.shape) / (values + prior_precision).sqrt()
            for block, part, values in zip(self.blocks, parts, self._eigenvalues_of_blocks(), strict=True)
        ]


def accumulate(terms: Iterable[list[Tensor]]) -> list[Tensor]:
    """Sums lists of tensors elementwise.

    Args:
        terms: Lists of the same length, at least one. The tensors of the first list are modified in place.

    Returns:
        The sums, one for each position in the lists.
    """
    rest = iter(terms)
    totals = next(rest)
    for term in rest:
        for total, tensor in zip(totals, term, strict=True):
            total.add_(tensor)
    return totals


def _check_size(structure: str, num_elements: int, num_weights: int, max_mebibytes: float) -> None:
    mebibytes = 4 * num_elements / 2**20
    if mebibytes > max_mebibytes:
        raise InputValueError(
            f"structure={structure!r} needs {mebibytes:.0f} MiB for {num_weights} weights, more than "
            f"max_mebibytes={max_mebibytes:g}: use 'kronecker' or 'diagonal', or select fewer modules"
        )


def symmetric_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition of positive semidefinite matrices, computed in float64 if the device supports it.

    Args:
        matrix: Shape [..., n, n].

    Returns:
        Eigenvalues [..., n], with negative ones set to zero, and eigenvectors [..., n, n] as columns, in the data type
        of `matrix`.
    """
    precise = matrix if matrix.device.type == "mps" else matrix.double()
    values, vectors = torch.linalg.eigh((precise + precise.mT) / 2)
    return values.clamp_min(0).to(matrix.dtype), vectors.to(matrix.dtype)
