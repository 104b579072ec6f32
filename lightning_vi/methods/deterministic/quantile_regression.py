r"""Quantile regression: a network that predicts quantiles of the target.

Koenker and Bassett, "Regression quantiles", Econometrica 1978.

.. math:: \mathcal{L} = \frac1N \sum_n \sum_\tau \rho_\tau\big(y_n - q_\tau(x_n)\big), \qquad
    \rho_\tau(u) = \max\big(\tau u, (\tau - 1) u\big)

=====================  ====================================================
symbol                 argument
=====================  ====================================================
:math:`q_\tau`         `backbone`, with `Quantiles`
:math:`\tau`           the likelihood's `levels`
=====================  ====================================================
"""

from dataclasses import replace

from torch import Tensor, nn

from lightning_vi.arguments import check_instance
from lightning_vi.core import (
    LRSchedulerFactory,
    OptimizerFactory,
    Predictive,
    SampledPredictive,
    TransformedPredictive,
    default_optimizer,
)
from lightning_vi.errors import InputTypeError
from lightning_vi.likelihoods import Likelihood, Quantiles
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import NetworkInput


class QuantileRegression(PointMethod):
    """Quantile regression (Koenker & Bassett, 1978) with the outermost quantiles as prediction interval.

    `pred` is the median, and `lower` and `upper` are the outermost quantiles; see `ConformalQuantileRegression` for
    intervals with guaranteed coverage. The standard deviation and the metrics are those of a Gaussian with these
    quantiles, see `Quantiles`. All uncertainty is aleatoric.

    Args:
        backbone: Any network with one output for each level and target; it is copied.
        likelihood: Has the quantile levels; it is copied.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        TypeError: If the likelihood is not `Quantiles`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> method = QuantileRegression(MLP(1, [50], 3), Quantiles(levels=(0.05, 0.5, 0.95)))
        >>> sorted(method.predict_step(torch.zeros(4, 1)))
        ['aleatoric_uct', 'epistemic_uct', 'lower', 'pred', 'pred_uct', 'upper']
    """

    likelihood: Quantiles

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Quantiles,
        *,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_instance("likelihood", likelihood, Likelihood)
        if not isinstance(likelihood, Quantiles):
            raise InputTypeError(f"likelihood must be Quantiles, got {type(likelihood).__name__}")
        super().__init__(backbone, likelihood, burnin_epochs=0, optimizer=optimizer, lr_scheduler=lr_scheduler)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        outputs, terms = super().objective(x, target, weight, num_data=num_data, kl_weight=kl_weight)
        loss = self.likelihood.point_loss(outputs, target, weight)
        return outputs, ObjectiveTerms(loss, terms.nll, terms.kl)

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: ARG002, D102
        outputs = self.point_outputs(x)
        quantiles = self.likelihood.quantiles(outputs)
        sampled = SampledPredictive(self.likelihood, lambda: [outputs.unsqueeze(0)])
        levels = self.likelihood.levels
        facts = {"center": "median", "interval_level": round(levels[-1] - levels[0], 12)}
        return TransformedPredictive(
            sampled,
            lambda prediction: replace(
                prediction,
                lower=quantiles[..., 0, :],
                upper=quantiles[..., -1, :],
                metadata=prediction.metadata | facts,
            ),
        )
