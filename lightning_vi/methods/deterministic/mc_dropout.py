r"""Monte Carlo dropout.

Gal and Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in deep learning", ICML 2016.

.. math:: q(w):\ W_l = M_l \operatorname{diag}(z_l), \quad z_l \sim \mathrm{Bernoulli}(1 - p) / (1 - p), \qquad
    p(y \mid x) \approx \frac1S \sum_{s=1}^S p(y \mid f_{w_s}(x)), \quad w_s \sim q

====================== =====================================================================
symbol                 argument
====================== =====================================================================
:math:`M_l`            the weights of `backbone`, by maximum likelihood with dropout switched on
:math:`z_l`            its dropout layers, and those of `dropout_module_names`
:math:`p`              `dropout_p`, or the layers' own
:math:`S`              `num_mc_samples_test`
prior                  weight decay in `optimizer`
====================== =====================================================================
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_vi.conversion import ModuleSelector, put_dropout_behind
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.moments import propagated
from lightning_vi.sampling import (
    DropoutSampler,
    NetworkInput,
    call,
    dropout_layers,
    dropout_rate,
    set_dropout_rate,
    watch_functional_dropout,
    without_dropout,
)


class MCDropout(PointMethod):
    """A network whose dropout stays on at prediction (Gal & Ghahramani, 2016).

    Each sample is one thinned network: its masks depend on the seed, the sample's index and the dropout's place in the
    forward pass, and are the same for every row. Everything except dropout is in evaluation mode. `forward` in
    evaluation mode is the network without dropout.

    Dropout layers are `torch.nn`'s, and the dropout of `nn.MultiheadAttention`, `nn.LSTM`, `nn.GRU` and `nn.RNN`.
    Functional dropout, such as `F.dropout`, is sampled at prediction as well, whatever its `training` argument, with a
    warning, because `dropout_p` does not set its rate. If it is called in training mode only, predictions are without
    it, and a warning says so.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        dropout_p: Probability that a unit is dropped, which replaces the rate of each dropout layer; None keeps the
            rates of the network.
        dropout_module_names: Modules behind which dropout is added, by name, glob, index among the layers with
            parameters, class or predicate. Their children are not included. Names in the state dictionary stay as they
            are.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, with dropout.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If `dropout_p` lies outside [0, 1), is missing where modules are named, or a selector matches
            nothing.

    Warns:
        UserWarning: If no layer drops units, so that there is no epistemic uncertainty.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = MCDropout(MLP(1, [50, 50], 1, dropout_p=0.1), Gaussian())
        >>> method.predict(torch.zeros(8, 1)).epistemic_var.shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        dropout_p: float | None = None,
        dropout_module_names: Sequence[ModuleSelector] | None = None,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        if dropout_p is not None and not _is_rate(dropout_p):
            raise InputValueError(f"dropout_p must be None or a number in [0, 1), got {dropout_p!r}")
        if dropout_module_names is not None and dropout_p is None:
            raise InputValueError("dropout_module_names needs dropout_p, the rate of the new dropout layers")
        super().__init__(
            backbone,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        if dropout_p is not None:
            put_dropout_behind(self.backbone, dropout_module_names or (), dropout_p)
            for layer in dropout_layers(self.backbone):
                set_dropout_rate(layer, dropout_p)
        if not any(dropout_rate(layer) > 0 for layer in dropout_layers(self.backbone)):
            warnings.warn(_NO_DROPOUT, stacklevel=2)
        self.sampler = DropoutSampler(self.backbone)
        self._seen_in_training: frozenset[str] | None = None
        self._pointed_out: frozenset[str] = frozenset()

    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Outputs of one forward pass, with dropout in training mode, without any in evaluation mode.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        if torch.compiler.is_compiling():
            return super().point_outputs(x)
        if not self.training:
            with without_dropout(self.backbone):
                return super().point_outputs(x)
        if self._seen_in_training is not None:
            return super().point_outputs(x)
        with watch_functional_dropout(self.backbone) as seen:
            outputs = super().point_outputs(x)
        self._seen_in_training = frozenset(seen)
        self._point_out(seen, _FUNCTIONAL)
        return outputs

    def propagated_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        return propagated(self.backbone, lambda: call(self.backbone, x), drops_units=True)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        sampled = self.sampler.functional_dropout(x)
        self._point_out(sampled, _FUNCTIONAL)
        self._point_out((self._seen_in_training or frozenset()) - sampled, _IN_TRAINING_ALONE)
        yield from self.sampler.prediction_samples(x, num_samples, seed)

    def _point_out(self, calls: Iterable[str], message: str) -> None:
        for text in sorted({message.format(each) for each in calls} - self._pointed_out):
            self._pointed_out |= {text}
            warnings.warn(text, stacklevel=2)


_NO_DROPOUT = (
    "no layer of the network drops anything, so that predictions have no epistemic uncertainty unless its forward "
    "calls functional dropout: give it nn.Dropout layers of a positive rate, or give dropout_p with "
    "dropout_module_names"
)
_FUNCTIONAL = (
    "{} drops units outside of a dropout layer: dropout_p does not reach it, and predictions sample it at the rate "
    "of the call. To choose the rate, set it where the module takes it, such as attention_dropout or "
    "attention_probs_dropout_prob of a transformers configuration, or make it an nn.Dropout"
)
_IN_TRAINING_ALONE = (
    "{} dropped units in training and is not called at prediction, so that it is not sampled: call it with "
    "training=self.training instead of in training alone, as transformers models do that are loaded with "
    "attn_implementation='eager', or make it an nn.Dropout"
)


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value < 1
