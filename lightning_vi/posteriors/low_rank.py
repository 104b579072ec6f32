"""Gaussian posterior whose covariance is diagonal plus low-rank."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError
from lightning_vi.posteriors.coupling import NoiseCoupling

INITIAL_FACTOR = 1e-3
"""Scale of the initial factor. At zero its gradient vanishes."""


class LowRankCoupling(NoiseCoupling):
    r"""Covariance :math:`\Sigma = \mathrm{diag}(\sigma) (I + V V^\top)\, \mathrm{diag}(\sigma)`, V of shape [P, R].

    That is a diagonal plus a matrix :math:`U U^\top` of low rank with :math:`U = \mathrm{diag}(\sigma) V` (Ong, Nott
    and Smith, "Gaussian variational approximation with a factor covariance structure", 2018). With the matrix
    determinant lemma the total correlation is
    :math:`\tfrac12 \sum_i \ln(1 + \|v_i\|^2) - \tfrac12 \ln\det(I + V^\top V)`.

    Args:
        shapes: Shapes of the stochastic tensors; P is their number of elements.
        rank: R.

    Raises:
        ValueError: If `rank` is not positive.

    Example:
        >>> coupling = LowRankCoupling([torch.Size([3, 1]), torch.Size([2])], rank=2)
        >>> coupling(torch.randn(7, coupling.num_noise)).shape
        torch.Size([7, 5])
    """

    def __init__(self, shapes: Sequence[torch.Size], rank: int) -> None:
        super().__init__()
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise InputValueError(f"rank must be an integer of at least 1, got {rank!r}")
        self.num_weights = sum(shape.numel() for shape in shapes)
        self.num_shared = rank
        self.num_noise = self.num_weights + rank
        self.factor = nn.Parameter(INITIAL_FACTOR * torch.randn(self.num_weights, rank))

    def forward(self, noise: Tensor) -> Tensor:  # noqa: D102
        noise = noise.to(self.factor)
        return torch.addmm(noise[:, : self.num_weights], noise[:, self.num_weights :], self.factor.T)

    def conditional_means(self, shared: Tensor) -> Tensor:  # noqa: D102
        return shared.to(self.factor) @ self.factor.T

    def marginals(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        with torch.autocast(self.factor.device.type, enabled=False):
            factor = self.factor.to(torch.promote_types(self.factor.dtype, torch.float32))
            gram = factor.T @ factor
            root = torch.linalg.cholesky(gram + torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        scale = (1 + factor.square().sum(1)).sqrt()
        return scale, scale.log().sum() - root.diagonal().log().sum()
