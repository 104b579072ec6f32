"""Gaussian posterior with a full covariance matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError
from lightning_vi.posteriors.coupling import NoiseCoupling


class FullRankCoupling(NoiseCoupling):
    r"""Covariance :math:`\Sigma = L L^\top` with the Cholesky factor :math:`L = \mathrm{diag}(\sigma) (I + N)`.

    N is strictly lower triangular; only the entries of `lower` below the diagonal are used. The total correlation is
    :math:`\tfrac12 \sum_i \ln(1 + \sum_j N_{ij}^2)`.

    Args:
        shapes: Shapes of the stochastic tensors; P is their number of elements.
        max_mebibytes: The most memory for the P x P matrix; the optimizer and the gradient need several times that.

    Raises:
        ValueError: If the matrix needs more memory than that.

    Example:
        >>> coupling = FullRankCoupling([torch.Size([3, 1]), torch.Size([2])])
        >>> coupling(torch.randn(7, coupling.num_noise)).shape
        torch.Size([7, 5])
    """

    def __init__(self, shapes: Sequence[torch.Size], max_mebibytes: float = 256.0) -> None:
        super().__init__()
        self.num_noise = sum(shape.numel() for shape in shapes)
        needed = self.num_noise**2 * torch.get_default_dtype().itemsize / 2**20
        if needed > max_mebibytes:
            raise InputValueError(
                f"a full covariance of {self.num_noise} stochastic weights needs {needed:.0f} MiB, but "
                f"max_mebibytes={max_mebibytes:g}: select fewer modules by stochastic_module_names, or raise it"
            )
        self.lower = nn.Parameter(torch.zeros(self.num_noise, self.num_noise))

    def forward(self, noise: Tensor) -> Tensor:  # noqa: D102
        noise = noise.to(self.lower)
        return torch.addmm(noise, noise, self.lower.tril(-1).T)

    def marginals(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        scale = (1 + self.lower.tril(-1).square().sum(1)).sqrt()
        return scale, scale.log().sum()
