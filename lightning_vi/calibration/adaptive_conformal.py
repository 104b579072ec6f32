r"""Adaptive conformal inference: intervals of a series that hold their coverage while the data drift.

Gibbs and Candes, "Adaptive conformal inference under distribution shift", NeurIPS 2021, arXiv 2106.00170.

.. math:: C_t = \{y : s(x_t, y) \le q_t\}, \qquad
    q_t = \Big\lceil (n + 1)(1 - \alpha_t) \Big\rceil\text{-th smallest score}, \qquad
    \alpha_{t+1} = \alpha_t + \gamma\, (\alpha - 1\{y_t \notin C_t\})

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`s`              scores of `method`, a conformal method
:math:`1 - \alpha`     `coverage`
:math:`\gamma`         `gamma`
:math:`n`              the calibration data, or the last `window` scores
:math:`\alpha_t`       `alpha`, one for each of D targets, which starts at :math:`\alpha`
=====================  ====================================================================
"""

import math

from torch import Tensor

from lightning_vi.arguments import check_at_least, check_positive
from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.calibration.sequential import SequentialConformal
from lightning_vi.calibration.split_conformal import SplitConformal
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputTypeError, InputValueError


class AdaptiveConformal(SequentialConformal):
    r"""Prediction intervals of a series whose level adapts to the misses so far (Gibbs & Candes, 2021).

    After a miss the next intervals are wider, after a hit slightly narrower. For every series, however it drifts, the
    share of missed targets in T rows differs from 1 - `coverage` by at most
    :math:`(\max(\alpha, 1 - \alpha) + \gamma) / (\gamma T)`. A large `gamma` adapts fast, and its intervals fluctuate;
    they are infinite where :math:`\alpha_t` falls below 1 / (n + 1), and have no width where it reaches 1.

    Each target has its own level. With several positions in a row, [B, ..., D], the share of missed positions takes the
    place of the miss.

    See `SequentialConformal` for tests, online use with `update`, and predictions.

    Args:
        method: The fitted method, which gets the intervals of `SplitConformal`; or a conformal method for regression,
            such as ``ConformalQuantileRegression(method)``. It is copied.
        coverage: Share of covered targets in the long run, strictly between 0 and 1; by default that of the conformal
            method, or 0.9.
        gamma: Step size, positive.
        window: Number of the last scores that quantiles are taken of, at first those of the calibration data; None for
            all calibration data and no others.
        delay: Number of rows after a row until its targets are known: H - 1 for forecasts of H steps from every row.
        method_checkpoint: Path of a Lightning checkpoint to load the weights of `method` from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If an argument is out of range, or the checkpoint is not one of `method`.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = Deterministic(torch.nn.Identity(), Gaussian(noise_std=1.0))
        >>> adaptive = AdaptiveConformal(method, coverage=0.5, gamma=0.2)
        >>> adaptive.calibrate([(torch.zeros(9, 1), torch.arange(1.0, 10.0).unsqueeze(1))])
        >>> adaptive.update(torch.zeros(2, 1), torch.tensor([[7.0], [2.0]])).upper  # wider after a miss
        tensor([[5.],
                [6.]])
    """

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float | None = None,
        gamma: float = 0.01,
        window: int | None = None,
        delay: int = 0,
        method_checkpoint: str | None = None,
    ) -> None:
        check_positive("gamma", gamma)
        if window is not None:
            check_at_least("window", window, 1)
        if not isinstance(method, ConformalMethod):
            method = SplitConformal(
                method, coverage=0.9 if coverage is None else coverage, method_checkpoint=method_checkpoint
            )
            method_checkpoint = None
        elif type(method).use_scores is not ConformalMethod.use_scores or method.task != "regression":
            raise InputTypeError(
                "method must be a conformal method for regression with one quantile for each target, such as "
                f"SplitConformal(method), got a {type(method).__name__}"
            )
        elif coverage is not None and not math.isclose(coverage, method.coverage):
            raise InputValueError(
                f"coverage={coverage} differs from that of {type(method).__name__}, {method.coverage}: give one of them"
            )
        super().__init__(
            method, gamma=gamma, is_rolling=window is not None, delay=delay, method_checkpoint=method_checkpoint
        )
        self.window = window

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        self.start(scores if self.window is None else scores[-self.window :])
