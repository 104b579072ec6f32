r"""Variational inference with matrix-variate Gaussian posteriors.

Louizos and Welling, "Structured and efficient variational deep learning with matrix Gaussian posteriors", ICML 2016.

.. math:: q(W) = \mathcal{MN}(W \mid M, U, V), \qquad \mathrm{Cov}[W_{ij}, W_{kl}] = U_{ik} V_{jl}

for each weight matrix, extended by a standard deviation for each element as in the mean-field posterior:

.. math:: W = M + \sigma \odot (A E B^\top), \qquad E_{ij} \sim \mathcal{N}(0, 1), \qquad
    \mathrm{Cov}[W_{ij}, W_{kl}] = \sigma_{ij} \sigma_{kl}\, (A A^\top)_{ik} (B B^\top)_{jl}

The paper's posterior is :math:`\sigma_{ij} = s_i t_j` with :math:`U = \mathrm{diag}(s) A A^\top \mathrm{diag}(s)` and
:math:`V = \mathrm{diag}(t) B B^\top \mathrm{diag}(t)`; mean field is :math:`A = B = I`.

=================== =========================================================================
symbol              argument
=================== =========================================================================
:math:`W`           each weight of the modules in `stochastic_module_names`, as [fan-out, rest]
:math:`A`           unit lower triangular, correlates the rows, starts at the identity
:math:`B`           unit lower triangular, correlates the columns, starts at the identity
:math:`M`           starts at the weights of `backbone`
:math:`\sigma`      starts at `init_std`
:math:`\mathrm E_q` `num_mc_samples_train` draws of all weights
=================== =========================================================================
"""

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.posteriors import NoiseCoupling


class MatrixVariateCoupling(NoiseCoupling):
    r"""Standardized deviations :math:`A E B^\top` of each matrix; vectors and scalars stay independent.

    A and B are unit lower triangular; only the entries of `rows` and `columns` below the diagonal are used. The
    determinants are 1, and the standard deviations are the products :math:`c_{ij} = \|a_i\| \|b_j\|` of the lengths of
    their rows. The total correlation is :math:`\sum_{ij} \ln c_{ij}`.

    Args:
        shapes: Shapes of the stochastic tensors. One of shape [O, ...] is a matrix of O rows, as `flatten` orders it.
        max_mebibytes: The most memory for all A and B; the optimizer and the gradient need several times that.

    Raises:
        ValueError: If they need more memory than that.

    Example:
        >>> coupling = MatrixVariateCoupling([torch.Size([3, 2]), torch.Size([3])])
        >>> coupling(torch.randn(7, coupling.num_noise)).shape
        torch.Size([7, 9])
    """

    one: Tensor

    def __init__(self, shapes: Sequence[torch.Size], max_mebibytes: float = 256.0) -> None:
        super().__init__()
        self.sizes = [shape.numel() for shape in shapes]
        self.num_noise = sum(self.sizes)
        self.matrices = {index: (shape[0], shape[1:].numel()) for index, shape in enumerate(shapes) if len(shape) > 1}
        needed = sum(o**2 + i**2 for o, i in self.matrices.values()) * torch.get_default_dtype().itemsize / 2**20
        if needed > max_mebibytes:
            widest = max(self.matrices.values(), key=max)
            raise InputValueError(
                f"row and column covariances of {len(self.matrices)} weight matrices, the widest of shape "
                f"{list(widest)}, need {needed:.0f} MiB, but max_mebibytes={max_mebibytes:g}: select fewer modules by "
                "stochastic_module_names, or raise it"
            )
        self.rows = _factors({index: o for index, (o, _) in self.matrices.items()})
        self.columns = _factors({index: i for index, (_, i) in self.matrices.items()})
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, noise: Tensor) -> Tensor:  # noqa: D102
        parts = list(noise.to(self.one).split_with_sizes(self.sizes, 1))
        for index, shape in self.matrices.items():
            part = parts[index].view(len(noise), *shape)
            if str(index) in self.columns:
                part = part + part @ self.columns[str(index)].tril(-1).T
            if str(index) in self.rows:
                part = part + self.rows[str(index)].tril(-1) @ part
            parts[index] = part.flatten(1)
        return torch.cat(parts, 1)

    def marginals(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        scales = [self.one.expand(size) for size in self.sizes]
        for index, shape in self.matrices.items():
            scale = scales[index].view(shape)
            if str(index) in self.columns:
                scale = scale * _row_lengths(self.columns[str(index)])
            if str(index) in self.rows:
                scale = scale * _row_lengths(self.rows[str(index)]).unsqueeze(1)
            scales[index] = scale.flatten()
        joined = torch.cat(scales)
        return joined, joined.log().sum()


def _factors(sizes: Mapping[int, int]) -> nn.ParameterDict:
    """Entries below the diagonals, by index of the tensor; a 1 x 1 factor has none."""
    return nn.ParameterDict({str(index): torch.zeros(size, size) for index, size in sizes.items() if size > 1})


def _row_lengths(lower: Tensor) -> Tensor:
    return (1 + lower.tril(-1).square().sum(1)).sqrt()


class MatrixVariateVI(VariationalMethod):
    """Gaussian posteriors in which the rows of each weight matrix are correlated, and its columns.

    Any prior, any likelihood and any module can be had; the kernel of a convolution is a matrix of its flattened
    filters. Weights of different tensors are independent, and so are the elements of biases. Memory grows with the
    squares of the widths, not with the square of the number of weights as for `FullRankVI`.

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        max_mebibytes: The most memory for the factors A and B of all weights; the optimizer and the gradient need
            several times that.
        **arguments: The other arguments of `VariationalMethod`. ``estimator`` is ``"auto"`` or
            ``"reparameterization"``, because each weight is drawn as a whole.

    Raises:
        ValueError: If the factors need more memory, the estimator draws outputs, or as for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = MatrixVariateVI(MLP(1, [50], 2), HeteroscedasticGaussian())
        >>> [rows.shape for rows in method.coupling.rows.values()]
        [torch.Size([50, 50]), torch.Size([2, 2])]
    """

    draws_weights = True
    coupling_learning_rate = 0.1

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        max_mebibytes: float = 256.0,
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        self.max_mebibytes = max_mebibytes
        super().__init__(backbone, likelihood, **arguments)

    @property
    def main_factor(self) -> float:
        """Factor of the learning rate of the posterior, twice that of other posteriors for classes."""
        is_faster = self.has_default_optimizer and self.likelihood.has_bounded_gradient
        return super().main_factor * (2.0 if is_faster else 1.0)

    def make_coupling(self, shapes: Sequence[torch.Size]) -> MatrixVariateCoupling:  # noqa: D102
        return MatrixVariateCoupling(shapes, self.max_mebibytes)
