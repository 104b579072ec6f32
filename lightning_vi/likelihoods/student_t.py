"""Heavy-tailed noise."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.functional.mixture import Mixture
from lightning_vi.functional.special import inverse_softplus, log_gamma_ratio, student_t_cdf
from lightning_vi.likelihoods.base import Missing
from lightning_vi.likelihoods.location_scale import (
    LOG_SQRT_TWO_PI,
    LocationScaleLikelihood,
    diagonal_factor,
    one_for_each_target,
)

# The variance is infinite at 2, and 2 + softplus(rho) would round to it.
_SMALLEST_LEARNED_DF = 2.01


class StudentT(LocationScaleLikelihood):
    r"""Homoscedastic noise with the tails of Student's t, for targets with outliers (Lange et al., 1989).

    .. math:: y_d = f_d + \tau_d\, t, \qquad p(t) = \frac{\Gamma(\frac{\nu_d + 1}{2})}{\Gamma(\frac{\nu_d}{2})
        \sqrt{\nu_d \pi}} \Big(1 + \frac{t^2}{\nu_d}\Big)^{-\frac{\nu_d + 1}{2}}

    `noise_scale` is the scale parameter :math:`\tau`. The standard deviation, `noise_std`, is
    :math:`\tau \sqrt{\nu / (\nu - 2)}`; it is the aleatoric uncertainty, and finite for more than two degrees of
    freedom :math:`\nu`. Burn-in trains the location on the squared error. Metrics score the mixture of Student's t
    distributions; its CRPS is integrated numerically, see `lightning_vi.functional.mixture.mixture_crps`.

    Lange, Little and Taylor, "Robust statistical modeling using the t distribution", 1989.

    Args:
        df: Degrees of freedom :math:`\nu`: a number larger than 2, one for each target, or None to learn one for each
            target, above 2.01.
        noise_scale: Scale :math:`\tau` in the units that the network predicts (standardized units where the datamodule
            standardizes the target): a number, one number for each target, or None to learn one for each target.
        num_targets: D, the width of the network's output.
        initial_df: Initial value of learned degrees of freedom, above 2.01.
        initial_noise_scale: Initial value of a learned scale.
        scale_targets: Whether a fit on plain dataloaders, or on a datamodule without `target_mean` and `target_std`,
            standardizes the targets by the training data, unless they are of order one. No effect where `noise_scale`
            is given, so that it is in the units of such targets.
        missing: ``"ignore"`` if NaN stands for targets that were not observed: they have no part in losses, metrics,
            calibrations and curvature. By default NaN is an error.

    Raises:
        ValueError: If degrees of freedom are too small, a scale is not positive, there is not one for each
            target, or `missing` is unknown.

    Example:
        >>> import torch
        >>> likelihood = StudentT(df=4.0, noise_scale=0.5)
        >>> likelihood.log_prob(torch.zeros(1, 2, 1), torch.tensor([[0.0], [5.0]]))
        tensor([[-0.2877, -8.4329]])
        >>> likelihood.noise_std
        tensor([0.7071])
    """

    df_rho: nn.Parameter | None
    df_given: Tensor | None
    noise_scale_given: Tensor | None

    def __init__(
        self,
        df: float | Sequence[float] | None = None,
        noise_scale: float | Sequence[float] | None = None,
        num_targets: int = 1,
        initial_df: float = 5.0,
        initial_noise_scale: float = 0.5,
        scale_targets: bool = True,
        missing: Missing = "error",
    ) -> None:
        super().__init__(num_targets, missing, scale_targets=scale_targets and noise_scale is None)
        if df is None:
            start = one_for_each_target("initial_df", initial_df, num_targets, above=_SMALLEST_LEARNED_DF)
            self.df_rho = nn.Parameter(inverse_softplus(start - _SMALLEST_LEARNED_DF))
            self.register_buffer("df_given", None)
        else:
            self.df_rho = None
            self.register_buffer("df_given", one_for_each_target("df", df, num_targets, above=2.0))
        label, value = (
            ("initial_noise_scale", initial_noise_scale) if noise_scale is None else ("noise_scale", noise_scale)
        )
        scale = one_for_each_target(label, value, num_targets)
        self.noise_rho = nn.Parameter(inverse_softplus(scale)) if noise_scale is None else None
        self.register_buffer("noise_scale_given", None if noise_scale is None else scale)

    @property
    def df(self) -> Tensor:
        """Degrees of freedom, shape [D]."""
        if self.df_rho is not None:
            return _SMALLEST_LEARNED_DF + F.softplus(self.df_rho)
        return self.get_buffer("df_given")

    @property
    def noise_scale(self) -> Tensor:
        r"""Scale :math:`\tau` of the noise in the network's units, shape [D]."""
        if self.noise_rho is not None:
            return F.softplus(self.noise_rho)
        return self.get_buffer("noise_scale_given")

    @property
    def noise_std(self) -> Tensor:
        """Standard deviation of the noise in the network's units, shape [D]."""
        df = self.df
        return self.noise_scale * (df / (df - 2)).sqrt()

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return self.num_targets

    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return outputs, self.noise_std.to(outputs.dtype)

    def information_factor(self, outputs: Tensor) -> Tensor:
        r"""Square root of the Fisher information, which is diagonal: :math:`(\nu + 1) / ((\nu + 3) \tau^2)`.

        Args:
            outputs: Outputs of one network, shape [B, ..., D].

        Returns:
            Shape [B, E, E].
        """
        df = self.df
        return diagonal_factor((((df + 1) / (df + 3)).sqrt() / self.noise_scale).expand_as(outputs))

    def standardized_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        df, scale = self.df, self.noise_scale
        residual = (target - outputs) / scale
        at_zero = log_gamma_ratio(df / 2, df.new_full((), 0.5)) - LOG_SQRT_TWO_PI - scale.log()
        return at_zero - (df + 1) / 2 * (residual.square() / df).log1p()

    def mixture(self, outputs: Tensor) -> Mixture:  # noqa: D102
        means, variances = self.predictive_moments(outputs)
        df, scale = self.df, self.noise_scale * self.target_std
        return Mixture(lambda value: student_t_cdf((value - means) / scale, df), means, variances.sqrt())
