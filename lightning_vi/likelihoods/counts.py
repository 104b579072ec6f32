"""Poisson and negative binomial counts."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.errors import InputValueError
from lightning_vi.functional.mixture import Mixture
from lightning_vi.functional.special import (
    inverse_softplus,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    poisson_cdf,
)
from lightning_vi.likelihoods.base import Missing
from lightning_vi.likelihoods.location_scale import diagonal_factor, one_for_each_target
from lightning_vi.likelihoods.regression import RegressionLikelihood

Link = Literal["log", "softplus"]

_SMALLEST_MEAN = 1e-30


class CountLikelihood(RegressionLikelihood):
    r"""Base class of distributions over 0, 1, 2, ... with the mean :math:`\mu_d` for each of D targets.

    Counts are floating-point tensors. A network predicts their mean, so the targets must not be standardized.

    Args:
        num_targets: D, the width of the network's output.
        link: ``"log"`` for :math:`\mu = e^{f}`, ``"softplus"`` for :math:`\mu = \ln(1 + e^{f})`.
        missing: What NaN among the targets is, ``"error"`` or ``"ignore"``.

    Raises:
        ValueError: If `num_targets` is not positive, or `link` or `missing` is unknown.
    """

    support = "counts"

    def __init__(self, num_targets: int = 1, link: Link = "log", missing: Missing = "error") -> None:
        super().__init__(num_targets, missing)
        if link not in get_args(Link):
            raise InputValueError(f"link must be one of {list(get_args(Link))}, got {link!r}")
        self.link = link

    @abstractmethod
    def variance(self, mean: Tensor) -> Tensor:
        """Variance of the counts.

        Args:
            mean: Shape [..., D].

        Returns:
            The shape of `mean`.
        """

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return self.num_targets

    def set_target_scaling(self, mean: Tensor, std: Tensor) -> None:  # noqa: D102
        if not ((mean == 0).all() and (std == 1).all()):
            raise InputValueError(
                f"{type(self).__name__} needs counts that are not standardized, but the targets have "
                f"mean {mean.tolist()} and std {std.tolist()}: use standardise_targets=False of the datamodule"
            )

    def check_values(self, target: Tensor) -> None:  # noqa: D102
        super().check_values(target)
        target = self.fill(target)
        wrong = (target < 0) | (target != target.floor())
        if wrong.any():
            raise InputValueError(
                f"{type(self).__name__} needs counts 0, 1, 2, ..., got {target[wrong][0].item()} among the targets"
            )

    def target_features(self, target: Tensor) -> Tensor:
        """Logarithms of the counts plus one.

        Args:
            target: Shape [B, D].

        Returns:
            Shape [B, D].
        """
        return target.log1p()

    def mean(self, outputs: Tensor) -> Tensor:
        r"""Mean of the counts.

        Args:
            outputs: Network outputs f, shape [..., D].

        Returns:
            :math:`\mu`, the shape of `outputs`, at least in float32.
        """
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        mean = outputs.exp() if self.link == "log" else F.softplus(outputs)
        return mean.clamp_min(_SMALLEST_MEAN)

    def information_factor(self, outputs: Tensor) -> Tensor:
        r"""Square root of the Fisher information, which is diagonal.

        Its elements are :math:`(\partial \mu / \partial f)^2` over the variance.

        Args:
            outputs: Outputs of one network, shape [B, ..., D].

        Returns:
            Shape [B, E, E].
        """
        mean = self.mean(outputs)
        slope = mean if self.link == "log" else torch.sigmoid(outputs.to(mean.dtype))
        return diagonal_factor(slope / self.variance(mean).sqrt())

    def elementwise_point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Negative log-likelihood of a Poisson variable, which depends on the mean alone.

        Args:
            outputs: Network outputs, shape [S, B, ..., D].
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [S, B, ..., D].
        """
        return -poisson_log_prob(target, self.mean(outputs))

    def point_prediction(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return self.mean(outputs).mean(0)

    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean = self.mean(outputs)
        return mean, self.variance(mean)


def poisson_log_prob(value: Tensor, rate: Tensor) -> Tensor:
    r"""Log probability of a Poisson variable, :math:`k \ln \lambda - \lambda - \ln k!`.

    Args:
        value: k, not negative, any shape.
        rate: :math:`\lambda`, positive, of a shape that broadcasts with `value`.

    Returns:
        Nats, the broadcast shape.
    """
    return value * rate.log() - rate - torch.lgamma(value + 1)


class Poisson(CountLikelihood):
    r"""Counts of independent events, :math:`p(y = k) = \lambda^k e^{-\lambda} / k!`.

    The network predicts the log rate, :math:`\lambda = e^{f}`, the canonical link of McCullagh and Nelder, "Generalized
    linear models", 1989, or with ``link="softplus"`` the rate before a softplus, which grows linearly where sampled
    networks extrapolate. The variance is the rate. Burn-in has the same negative log-likelihood. Coverage and width of
    intervals are those of the mixture of Poisson distributions; its CRPS is a numerical sum, see
    `lightning_vi.functional.mixture.mixture_crps`.

    Args:
        num_targets: D, the width of the network's output.
        link: ``"log"`` or ``"softplus"``.
        missing: ``"ignore"`` if NaN stands for targets that were not observed: they have no part in losses, metrics,
            calibrations and curvature. By default NaN is an error.

    Raises:
        ValueError: If `num_targets` is not positive, or `link` or `missing` is unknown.

    Example:
        >>> import torch
        >>> Poisson().log_prob(torch.zeros(1, 2, 1), torch.tensor([[0.0], [2.0]]))
        tensor([[-1.0000, -1.6931]])
    """

    def variance(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean

    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return poisson_log_prob(target, self.mean(outputs))

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Exact with the log link, :math:`y_d m_d - e^{m_d + v_d / 2} - \ln y_d!`, else by quadrature.

        Args:
            mean: Means m of the network's outputs, shape [B, ..., D].
            variance: Their variances v, the shape of `mean`.
            target: Counts, shape [B, ..., D].

        Returns:
            Nats, the shape of `target`.
        """
        if self.link != "log":
            return super().elementwise_expected_log_prob(mean, variance, target)
        return target * mean - torch.exp(mean + 0.5 * variance) - torch.lgamma(target + 1)

    def mixture(self, outputs: Tensor) -> Mixture:  # noqa: D102
        rate = self.mean(outputs)
        return Mixture(
            lambda value: poisson_cdf(value, rate),
            rate,
            rate.sqrt(),
            lambda value: poisson_log_prob(value, rate).exp(),
        )


class NegativeBinomial(CountLikelihood):
    r"""Overdispersed counts, with the variance :math:`\mu_d + \alpha_d \mu_d^2`.

    .. math:: p(y = k) = \frac{\Gamma(k + 1/\alpha)}{\Gamma(1/\alpha)\, k!}
        \Big(\frac{1}{1 + \alpha\mu}\Big)^{1/\alpha} \Big(\frac{\alpha\mu}{1 + \alpha\mu}\Big)^{k}

    A Poisson variable with a gamma distributed rate (Lawless, "Negative binomial and mixed Poisson regression",
    1987); :math:`\alpha \to 0` is `Poisson`. The network predicts :math:`\mu` by the same links, and burn-in has
    the Poisson negative log-likelihood, without the dispersion. Coverage and width of intervals are
    those of the mixture of negative binomial distributions; its CRPS is a numerical sum, see
    `lightning_vi.functional.mixture.mixture_crps`.

    Args:
        dispersion: :math:`\alpha`: a number, one number for each target, or None to learn one for each target.
        num_targets: D, the width of the network's output.
        link: ``"log"`` for :math:`\mu = e^{f}`, ``"softplus"`` for :math:`\mu = \ln(1 + e^{f})`.
        initial_dispersion: Initial value of a learned dispersion.
        missing: ``"ignore"`` if NaN stands for targets that were not observed: they have no part in losses, metrics,
            calibrations and curvature. By default NaN is an error.

    Raises:
        ValueError: If a dispersion is not positive, there is not one for each target, `num_targets` is not positive, or
            `link` or `missing` is unknown.

    Example:
        >>> import torch
        >>> likelihood = NegativeBinomial(dispersion=1.0)
        >>> likelihood.log_prob(torch.zeros(1, 2, 1), torch.tensor([[0.0], [2.0]])).exp()
        tensor([[0.5000, 0.1250]])
    """

    dispersion_given: Tensor | None

    def __init__(
        self,
        dispersion: float | Sequence[float] | None = None,
        num_targets: int = 1,
        link: Link = "log",
        initial_dispersion: float = 0.5,
        missing: Missing = "error",
    ) -> None:
        super().__init__(num_targets, link, missing)
        label, value = ("initial_dispersion", initial_dispersion) if dispersion is None else ("dispersion", dispersion)
        alpha = one_for_each_target(label, value, num_targets)
        self.dispersion_rho = nn.Parameter(inverse_softplus(alpha)) if dispersion is None else None
        self.register_buffer("dispersion_given", None if dispersion is None else alpha)

    @property
    def dispersion(self) -> Tensor:
        r"""Dispersion :math:`\alpha`, shape [D]."""
        if self.dispersion_rho is not None:
            return F.softplus(self.dispersion_rho)
        return self.get_buffer("dispersion_given")

    def variance(self, mean: Tensor) -> Tensor:  # noqa: D102
        return mean + self.dispersion * mean.square()

    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return negative_binomial_log_prob(target, self.mean(outputs), self.dispersion)

    def mixture(self, outputs: Tensor) -> Mixture:  # noqa: D102
        mean, variance = self.predictive_moments(outputs)
        dispersion = self.dispersion
        return Mixture(
            lambda value: negative_binomial_cdf(value, mean, dispersion),
            mean,
            variance.sqrt(),
            lambda value: negative_binomial_log_prob(value, mean, dispersion).exp(),
        )
