"""Gaussian prior with empirical-Bayes variances."""

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache, partial
from typing import Literal

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional import moment_divergence
from lightning_vi.functional.constants import kept_constant
from lightning_vi.functional.divergence import OfMoments
from lightning_vi.priors.base import Prior, check_number


class EmpiricalBayesPrior(Prior):
    r"""Zero-mean Gaussian prior whose variances are optimized in closed form.

    The variance :math:`s^2` of a group of m weights has an inverse-gamma hyperprior. The variance that minimizes KL
    divergence minus log hyperprior is (Wu et al., "Deterministic variational inference for robust Bayesian neural
    networks", ICLR 2019)

    .. math:: s^{2*} = \frac{\sum_i (\sigma_i^2 + \mu_i^2) + 2 \beta}{m + 2 \alpha + 2}.

    `kl_from_gaussian` returns the KL divergence to :math:`\mathcal{N}(0, s^{2*})` minus the log hyperprior
    :math:`\ln p(s^{2*})`. Without a hyperprior the posterior of a deep network collapses to the prior.

    Args:
        alpha: Shape of the inverse-gamma hyperprior.
        beta: Scale of the inverse-gamma hyperprior, in squared units of the weights. Wu et al. use 10.
        per: ``"tensor"``: one variance per parameter tensor. ``"unit"``: one variance per input of a matrix or
            convolution (automatic relevance determination; MacKay, 1994, and Neal, 1996) and one per vector.

    Raises:
        ValueError: If `alpha` or `beta` is not positive and finite, or `per` is unknown.

    Example:
        >>> import torch
        >>> prior = EmpiricalBayesPrior(alpha=1.0, beta=10.0)
        >>> prior.variance(torch.zeros(6), torch.ones(6))
        tensor(2.6000)
    """

    def __init__(self, alpha: float = 1.0, beta: float = 30.0, per: Literal["tensor", "unit"] = "tensor") -> None:
        super().__init__()
        self.alpha = check_number("alpha", alpha, positive=True)
        self.beta = check_number("beta", beta, positive=True)
        if per not in ("tensor", "unit"):
            raise InputValueError(f"per must be 'tensor' or 'unit', got {per!r}")
        self.per: Literal["tensor", "unit"] = per
        self.num_dims = 1

    def for_parameter(self, name: str, parameter: Tensor, num_inputs: int) -> "EmpiricalBayesPrior":  # noqa: ARG002, D102
        prior = EmpiricalBayesPrior(self.alpha, self.beta, self.per)
        prior.num_dims = parameter.dim()
        return prior

    @property
    def depends_on_moments_only(self) -> bool:  # noqa: D102
        return True

    def variance(self, mean: Tensor, std: Tensor) -> Tensor:
        r"""Optimal prior variances :math:`s^{2*}`.

        Args:
            mean: Posterior means, shape of the parameter.
            std: Posterior standard deviations, shape of the parameter.

        Returns:
            Scalar tensor, or shape [inputs] if `per` is ``"unit"``.
        """
        return self._variance(mean * mean + std * std)

    def std_for(self, mean: Tensor, std: Tensor) -> Tensor:  # noqa: D102
        return self._variance(mean * mean + std * std, keepdim=True).sqrt()

    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:
        """KL divergence minus log hyperprior at the optimal variances.

        Args:
            mean: Posterior means, shape of the parameter.
            std: Posterior standard deviations, shape of the parameter.

        Returns:
            Scalar tensor in nats.
        """
        if len(self._dims(mean)) == mean.dim():
            return moment_divergence(mean, std, partial(self._of_moments, sizes=[mean.numel()]))
        second_moments = (mean * mean + std * std).sum(self._dims(mean))
        value, _ = self._of_moments(second_moments, [mean.numel() // second_moments.numel()] * second_moments.numel())
        return value - std.log().sum()

    @property
    def joint_key(self) -> Hashable:  # noqa: D102
        return (EmpiricalBayesPrior, self.alpha, self.beta) if self.per == "tensor" else None

    def joint_kl(self, mean: Tensor, std: Tensor, sizes: Sequence[int]) -> Tensor:  # noqa: D102
        return moment_divergence(mean, std, partial(self._of_moments, sizes=sizes), sizes)

    def of_moments(self, sizes: Sequence[int]) -> OfMoments | None:  # noqa: D102
        return partial(self._of_moments, sizes=sizes) if self.per == "tensor" else None

    def _of_moments(self, second_moments: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
        r"""KL divergence of groups of weights without the log stds, from sums over the groups, and the precisions.

        With n weights of second moments m in a group, :math:`s^{2*} = (m + 2 \beta) / (n + 2 \alpha + 2)` makes
        :math:`(m / 2 + \beta) / s^{2*}` a constant, so that the logarithm of the optimum alone is left. The gradient
        is that for the prior at the optimum.
        """
        groups = tuple(sizes), self.alpha, self.beta
        constants = _constants if torch.compiler.is_compiling() else _kept_constants
        halves, least, factors, constant = constants(*groups, second_moments.dtype, second_moments.device)
        variances = torch.addcmul(least, factors, second_moments.view(-1))
        return halves.dot(variances.log()) + constant, variances.reciprocal().view(second_moments.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each element, with the optimal variances for the values themselves.

        Args:
            value: Shape of the parameter, with any leading dimensions.

        Returns:
            Log density in nats, the shape of `value`.
        """
        squares = value * value
        variance = self._variance(squares, keepdim=True)
        return -0.5 * (squares / variance + (2 * math.pi * variance).log())

    def _dims(self, values: Tensor) -> tuple[int, ...]:
        """Dimensions of `values` over which a variance is shared."""
        first = values.dim() - self.num_dims
        is_shared = self.per == "tensor" or self.num_dims == 1
        return tuple(dim for dim in range(first, values.dim()) if is_shared or dim != first + 1)

    def _variance(self, squares: Tensor, keepdim: bool = False) -> Tensor:
        dims = self._dims(squares)
        return self._optimum(squares.sum(dims, keepdim=keepdim), math.prod(squares.shape[dim] for dim in dims))

    def _optimum(self, sums: Tensor, size: int) -> Tensor:
        return (sums + 2 * self.beta) / (size + 2 * self.alpha + 2)

    def extra_repr(self) -> str:  # noqa: D102
        return f"alpha={self.alpha}, beta={self.beta}, per={self.per!r}"


def _constants(
    sizes: tuple[int, ...], alpha: float, beta: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Numbers of each group that stay the same in all steps, and the constant of the divergence."""
    halves = [0.5 * size + alpha + 1 for size in sizes]
    columns = halves, [beta / half for half in halves], [0.5 / half for half in halves]
    first, second, third = (kept_constant(tuple(column), dtype, device) for column in columns)
    return first, second, third, len(sizes) * (alpha + 1 - alpha * math.log(beta) + math.lgamma(alpha))


_kept_constants = lru_cache(maxsize=256)(_constants)
