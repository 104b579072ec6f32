r"""Joint conformal prediction regions for several targets: boxes that contain all targets at once.

The largest score: Messoudi, Destercke and Rousseau, "Copula-based conformal prediction for multi-target regression",
Pattern Recognition 2021; the largest rank: Timans, Straehle, Sakmann and Nalisnick, "Max-Rank: Efficient Multiple
Testing for Conformal Prediction", AISTATS 2025; Bonferroni's inequality.

.. math:: P(y_d \in [\mu_d - q_d \sigma_d, \mu_d + q_d \sigma_d] \text{ for all } d) \ge \mathrm{coverage}, \qquad
    s_{id} = \frac{|y_{id} - \mu_d(x_i)|}{\sigma_d(x_i)}

=================  ==========================================================================
`kind`             :math:`q_d` from the scores :math:`s_{id}` of n data
=================  ==========================================================================
``"max"``          conformal quantile of :math:`\max_d s_{id}`, the same for all targets
``"rank"``         k-th smallest score of target d, with the conformal quantile k of the
                   largest rank :math:`\max_d r_{id}` among the scores of the same target
``"bonferroni"``   conformal quantile of target d at :math:`1 - (1 - \mathrm{coverage}) / D`
=================  ==========================================================================
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_vi.calibration.conformal import warn_if_too_few
from lightning_vi.calibration.split_conformal import SplitConformal
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.functional.calibration import conformal_quantile
from lightning_vi.metrics import PredictionRegionCoverage

Kind = Literal["max", "rank", "bonferroni"]


class JointConformal(SplitConformal):
    r"""Prediction intervals of several targets that contain all of them with probability at least `coverage`.

    `SplitConformal` has the coverage for each target by itself; all targets at once are covered less often. Predictions
    have the ends of the box in `lower` and `upper`. The kinds need no copula or other model of the dependence:

    - ``"rank"`` gives all targets the same coverage, and adapts to their dependence. Targets may have errors of
      different size or units.
    - ``"max"`` has one quantile for all targets, and the exact guarantee of a conformal method. It suits standardized
      scores of the same distribution; otherwise the target with the largest scores determines all widths.
    - ``"bonferroni"`` is valid for any dependence and too wide for dependent targets; it needs D times more data.

    Missing targets of a datum have no part in its largest score. See `ConformalMethod` for the guarantee and its
    conditions; ``"rank"`` has it up to about D / n.

    Args:
        method: The fitted method; it is copied. Its likelihood is for regression.
        coverage: Probability that all targets of a datum are covered, strictly between 0 and 1.
        kind: ``"rank"``, ``"max"`` or ``"bonferroni"``.
        normalised: Whether the width is proportional to the predictive standard deviation.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `coverage` is out of range, `kind` is unknown, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = Deterministic(torch.nn.Identity(), Gaussian(noise_std=1.0, num_targets=2))
        >>> conformal = JointConformal(method, coverage=0.5, kind="max")
        >>> conformal.calibrate([(torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]))])
        >>> conformal.quantile
        tensor([2., 2.])
    """

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float = 0.9,
        kind: Kind = "rank",
        normalised: bool = True,
        method_checkpoint: str | None = None,
    ) -> None:
        if kind not in get_args(Kind):
            raise InputValueError(f"kind must be one of {list(get_args(Kind))}, got {kind!r}")
        super().__init__(method, coverage=coverage, normalised=normalised, method_checkpoint=method_checkpoint)
        self.kind: Kind = kind
        self.test_metrics.add_metrics(
            {"conformal_joint_coverage": PredictionRegionCoverage(self.likelihood.prediction_dim)}
        )

    def use_scores(self, scores: Tensor) -> None:
        """Computes the quantile of each target.

        Args:
            scores: Shape [N, ..., D].
        """
        rows = scores.reshape(-1, *self.quantile.shape)
        num_targets = rows.shape[1]
        if self.kind == "bonferroni":
            coverage = 1 - (1 - self.coverage) / num_targets
            self.quantile.copy_(conformal_quantile(rows, coverage))
            warn_if_too_few(int((~rows.isnan()).sum(0).min()), coverage)
            return
        warn_if_too_few(int((~rows.isnan()).any(1).sum()), self.coverage)
        if self.kind == "max":
            self.quantile.copy_(conformal_quantile(_largest(rows), self.coverage).expand(num_targets))
            return
        ordered = rows.nan_to_num(torch.inf).sort(0).values
        counts = (~rows.isnan()).sum(0)
        # Ranks as shares of the data of a target, because these may be of different number.
        ranks = torch.searchsorted(ordered.T.contiguous(), rows.T.contiguous()).T + 1
        shares = torch.where(rows.isnan(), torch.nan, ranks.to(rows.dtype) / counts)
        share = conformal_quantile(_largest(shares), self.coverage)
        position = (share * counts).round().nan_to_num(torch.inf).clamp(1, len(rows)).long() - 1
        found = ordered.gather(0, position.unsqueeze(0))[0]
        self.quantile.copy_(torch.where(share.isinf(), torch.inf, found))


def _largest(rows: Tensor) -> Tensor:
    """Largest of the numbers of each row that are not NaN, [N, D] to [N]; NaN if there is none."""
    largest = rows.nan_to_num(-torch.inf, posinf=torch.inf).amax(1)
    return torch.where(rows.isnan().all(1), torch.nan, largest)
