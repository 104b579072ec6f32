r"""Posterior covariance of a Gaussian process with inducing inputs.

Titsias, "Variational learning of inducing variables in sparse Gaussian processes", AISTATS 2009, for the covariance;
Wilson et al., "Efficiently sampling functions from Gaussian process posteriors", ICML 2020, for the samples.

.. math:: v(x) = k(x, x) - a^\top a + a^\top (I + B)^{-1} a, \qquad a = L^{-1} k(Z, x), \quad L L^\top = k(Z, Z), \quad
    B = \sum_n \lambda_n a_n a_n^\top
"""

import torch
from torch import Tensor

from lightning_vi.kernels.algebra import JITTER, cholesky, precise
from lightning_vi.kernels.base import Kernel, ResizedOnLoading

CHUNK = 1024
"""Rows of a sum over the data at a time."""
MAX_CANDIDATES = 8192
SPECTRUM_SEED = 0


def choose_inducing(kernel: Kernel, x: Tensor, size: int) -> Tensor:
    """Chooses rows by a pivoted Cholesky decomposition: each has the largest variance given those before.

    Args:
        kernel: The kernel.
        x: Inputs, shape [N, F]; at most 8192 evenly spaced ones are looked at.
        size: Maximum number M of rows.

    Returns:
        Shape [M, F], or fewer where the others are determined by them.
    """
    x = x[:: -(-len(x) // MAX_CANDIDATES)]
    variance = kernel.variance.to(x).expand(len(x)).clone()
    columns = x.new_zeros(len(x), min(size, len(x)))
    chosen: list[int] = []
    threshold = JITTER * float(kernel.variance)
    for position in range(columns.shape[1]):
        pivot = int(variance.argmax())
        if variance[pivot] <= threshold:
            break
        chosen.append(pivot)
        column = kernel(x, x[pivot : pivot + 1])[:, 0] - columns @ columns[pivot]
        columns[:, position] = column / variance[pivot].sqrt()
        variance = variance - columns[:, position].square()
    return x[chosen]


class FunctionPosterior(ResizedOnLoading):
    r"""Posterior covariance of E independent functions with one prior.

    Its buffers are M inducing inputs, the Cholesky factors of their prior covariance and of I + B of each function,
    coefficients of the means, and R frequencies of the prior's spectrum. The frequencies make samples that are
    functions: a prior function in random Fourier features, whose values at the inducing inputs are replaced by
    posterior ones.

    Args:
        num_frequencies: R.
    """

    inducing: Tensor
    prior_root: Tensor
    roots: Tensor
    shifts: Tensor
    frequencies: Tensor

    def __init__(self, num_frequencies: int) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        for name in ("inducing", "prior_root", "roots", "shifts", "frequencies"):
            self.register_buffer(name, torch.empty(0))

    @property
    def noise_size(self) -> int:
        """Number of normal numbers of a sample."""
        num_functions, num_inducing, _ = self.roots.shape
        return num_functions * (num_inducing + 2 * len(self.frequencies) + 1)

    def place(self, kernel: Kernel, inducing: Tensor) -> None:
        """Sets the inducing inputs.

        Args:
            kernel: The kernel.
            inducing: Shape [M, F].
        """
        inducing = precise(inducing)
        generator = torch.Generator().manual_seed(SPECTRUM_SEED)
        frequencies = kernel.sample_frequencies(self.num_frequencies, inducing.shape[1], generator)
        self._store("inducing", inducing)
        self._store("prior_root", cholesky(kernel(inducing, inducing)))
        self._store("frequencies", frequencies.to(inducing))

    def information(self, kernel: Kernel, x: Tensor, precisions: Tensor) -> Tensor:
        r"""Sums :math:`\lambda_n a_n a_n^\top` over data.

        Args:
            kernel: The kernel.
            x: Inputs, shape [N, F].
            precisions: Fisher information of the outputs, shape [N, E].

        Returns:
            B, shape [E, M, M].
        """
        size = len(self.inducing)
        total = precise(self.inducing).new_zeros(precisions.shape[1], size, size)
        for rows, weights in zip(torch.split(x, CHUNK), torch.split(precisions, CHUNK), strict=True):
            whitened = self._whitened(kernel, precise(rows))
            weighted = whitened * precise(weights).mT.unsqueeze(1)
            total += weighted @ whitened.mT
        return total

    def projections(self, kernel: Kernel, x: Tensor, residuals: Tensor) -> Tensor:
        r"""Sums :math:`\lambda_n r_n a_n` over data.

        Args:
            kernel: The kernel.
            x: Inputs, shape [N, F].
            residuals: Targets minus prior means, times the precisions of the targets, shape [N, E].

        Returns:
            Shape [E, M].
        """
        chunks = zip(torch.split(x, CHUNK), torch.split(residuals, CHUNK), strict=True)
        parts = [(self._whitened(kernel, precise(rows)) @ precise(values)).mT for rows, values in chunks]
        return torch.stack(parts).sum(0)

    def condition(self, information: Tensor, projections: Tensor | None = None) -> None:
        """Sets the posterior.

        Args:
            information: B, shape [E, M, M].
            projections: See the method of this name; None for functions of mean zero.
        """
        eye = torch.eye(information.shape[-1], dtype=information.dtype, device=information.device)
        roots = torch.linalg.cholesky(information + eye)
        self._store("roots", roots)
        shifts = roots.new_empty(0)
        if projections is not None:
            shifts = torch.cholesky_solve(projections.unsqueeze(-1), roots).squeeze(-1)
        self._store("shifts", shifts)

    def means(self, kernel: Kernel, x: Tensor) -> Tensor | None:
        """Posterior means.

        Args:
            kernel: The kernel.
            x: Inputs, shape [B, F].

        Returns:
            Shape [B, E], in the precision of the algebra; None if they are zero.
        """
        if not self.shifts.numel():
            return None
        means: Tensor = self._whitened(kernel, precise(x)).mT @ precise(self.shifts).mT
        return means

    def _store(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.to(torch.promote_types(getattr(self, name).dtype, torch.float32)))

    def _whitened(self, kernel: Kernel, x: Tensor) -> Tensor:
        """Returns a, shape [M, N]."""
        covariances = kernel(precise(self.inducing), x)
        solved: Tensor = torch.linalg.solve_triangular(precise(self.prior_root), covariances, upper=False)
        return solved

    def variances(self, kernel: Kernel, x: Tensor) -> Tensor:
        """Posterior variances.

        Args:
            kernel: The kernel.
            x: Inputs, shape [B, F].

        Returns:
            Shape [B, E], in the precision of the algebra.
        """
        whitened = self._whitened(kernel, precise(x))
        known = torch.linalg.solve_triangular(precise(self.roots), whitened.unsqueeze(0), upper=False)
        rest = (precise(kernel.variance) - whitened.square().sum(0)).clamp_min(0)
        variances: Tensor = (rest + known.square().sum(1)).mT
        return variances

    def draws(self, kernel: Kernel, x: Tensor, noise: Tensor) -> Tensor:
        """Values of sampled functions.

        Args:
            kernel: The kernel.
            x: Inputs, shape [B, F].
            noise: Standard normal, shape [S, noise_size].

        Returns:
            Shape [S, B, E], in the precision of the algebra.
        """
        num_functions, num_inducing, _ = self.roots.shape
        noise = precise(noise).to(x.device).view(len(noise), num_functions, -1)
        values, weights = noise[..., :num_inducing], noise[..., num_inducing:]
        whitened = self._whitened(kernel, precise(x))
        at_inducing = torch.linalg.solve_triangular(
            precise(self.prior_root), self._features(kernel, precise(self.inducing)), upper=False
        )
        rest = self._features(kernel, precise(x)) - whitened.mT @ at_inducing
        known = torch.linalg.solve_triangular(precise(self.roots).mT, values.movedim(0, -1), upper=True)
        return torch.einsum("br,ser->sbe", rest, weights) + torch.einsum("mb,ems->sbe", whitened, known)

    def _features(self, kernel: Kernel, x: Tensor) -> Tensor:
        """Random Fourier features of the prior, shape [B, 2 R + 1]."""
        angles = kernel.scaled(x) @ precise(self.frequencies).mT
        scale = kernel.std.to(x) / self.num_frequencies**0.5
        offset = x.new_full((x.shape[0], 1), kernel.offset_std)
        return torch.cat([scale * angles.cos(), scale * angles.sin(), offset], 1)
