r"""Variational inference over low-rank factors of the weights.

Toure and Stephens, "Singular Bayesian neural networks", ICML 2026, arXiv 2602.00387.

.. math:: W = A B^\top, \qquad q(A, B) = \prod_{ik} \mathcal{N}(A_{ik} \mid \mu_{ik}, \sigma_{ik}^2)
    \prod_{jk} \mathcal{N}(B_{jk} \mid \nu_{jk}, \tau_{jk}^2)

The elements of W are dependent, and their distribution has mass on matrices of rank r alone. Their variance is

.. math:: \mathrm{Var}[W_{ij}] = \sum_k \mu_{ik}^2 \tau_{jk}^2 + \sigma_{ik}^2 \nu_{jk}^2 + \sigma_{ik}^2 \tau_{jk}^2

======================================= ======================================================
symbol                                  argument
======================================= ======================================================
:math:`A` [m, r], :math:`B` [n, r]      start from the weight of `backbone`, see `init`
:math:`r`                               `rank`
:math:`p(A, B)`                         `prior`, of the parameters `up.weight` and `down.weight`
:math:`\sigma, \tau`                    start at `init_std`
======================================= ======================================================
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Unpack

from torch import nn

from lightning_vi.conversion import (
    ConversionReport,
    FactorInit,
    LastLayerCheck,
    ModuleSelector,
    convert,
    factor_names,
    factorized,
    last_selected,
    low_rank_obstacles,
    much_smaller,
    named_layers,
    nothing_smaller,
    select_layers,
    weight_shape,
)
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.posteriors import InitialStd
from lightning_vi.priors import Prior


class LowRankWeightsVI(VariationalMethod):
    r"""Gaussian posteriors of low-rank factors of each weight, with fewer parameters than a deterministic network.

    A layer with m outputs and n inputs has 2 r (m + n) variational parameters instead of 2 m n. It computes
    :math:`A (B^\top x)` and never forms W. Both steps of a linear layer sample their outputs in training (local
    reparameterization), which is exact for independent factors; other modules and predictions sample the factors.

    Linear layers, convolutions without groups, embeddings and the input projection of `torch.nn.MultiheadAttention`
    have factors where these have at most half of the parameters of the weight; if that is so for no selected module,
    where they have fewer. The other selected modules have a posterior as in `MeanFieldVI`.
    `LowRankVI` is another method: a covariance of low rank of weights with full rank.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        rank: The rank r of the factors, the same for all layers.
        init: ``"svd"``: the means of the factors start at the best approximation of each weight; ``"random"``: at
            random factors whose product has the scale of the weight, for networks that are not trained.
        **arguments: The other arguments of `VariationalMethod`. Names of priors are those of the factors, such as
            ``"0.down.weight"``.

    Raises:
        ValueError: If no selected layer would become smaller with this rank, `init` is unknown, or as for
            `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = LowRankWeightsVI(MLP(1, [50, 50], 2), HeteroscedasticGaussian(), rank=8)
        >>> print(method.conversion)
        module  kind    parameters  stochastic  estimator                 why
        0       Linear  100         yes         local_reparameterization  selected
        2.down  Linear  400         yes         local_reparameterization  selected; rank 8 of 50 x 50
        2.up    Linear  450         yes         local_reparameterization  selected; rank 8 of 50 x 50
        4       Linear  102         yes         local_reparameterization  selected
        total           1052        1052
    """

    max_share = 0.5
    """Largest share of the parameters of a weight that its factors have: larger ones restrict it and save little."""

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        rank: int = 8,
        init: FactorInit = "svd",
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        # used by convert_backbone, which the base constructor calls
        self.rank = rank
        self.init = init
        super().__init__(backbone, likelihood, **arguments)
        selectors = arguments.get("stochastic_module_names")
        if selectors is None:
            return
        layers = named_layers(backbone)
        selected = _selected(backbone, layers, selectors)
        self.hparams["stochastic_module_names"] = [place for place, name in enumerate(layers) if name in selected]
        last = last_selected(backbone, selectors)
        if last is not None and last in self._factored:
            last = factor_names(self.backbone, last)[1]
        self.engine.check_input = LastLayerCheck(self.backbone, last)

    def convert_backbone(  # noqa: D102
        self,
        backbone: nn.Module,
        stochastic_module_names: Sequence[ModuleSelector] | None,
        *,
        prior: Prior | Mapping[str, Prior] | None,
        estimator: str,
        init_std: InitialStd,
        stochastic_biases: bool,
    ) -> tuple[nn.Module, ConversionReport]:
        layers = named_layers(backbone)
        selected = _selected(backbone, layers, stochastic_module_names)
        reasons = low_rank_obstacles(backbone, layers, self.rank)
        obstacles = {name: why for name, why in reasons.items() if name in selected}
        possible = {name: layers[name] for name, why in obstacles.items() if why is None}
        if not possible:
            raise nothing_smaller(self.rank, obstacles)
        self._factored = much_smaller(possible, self.rank, self.max_share)
        network = factorized(copy.deepcopy(backbone), self._factored, self.rank, self.init)
        factors = {part: name for name in self._factored for part in factor_names(network, name)}
        network, report = convert(
            network,
            None if stochastic_module_names is None else [lambda name, _: name in selected or name in factors],
            prior=prior,
            estimator=estimator,
            init_std=init_std,
            stochastic_biases=stochastic_biases,
        )
        rows = list(report.modules)
        for place, row in enumerate(rows):
            if row.name in factors:
                num_outputs, num_inputs = weight_shape(layers[factors[row.name]])
                rows[place] = replace(row, reason=f"{row.reason}; rank {self.rank} of {num_outputs} x {num_inputs}")
        return network, replace(report, modules=tuple(rows))


def _selected(
    network: nn.Module, layers: Mapping[str, nn.Module], selectors: Sequence[ModuleSelector] | None
) -> set[str]:
    if selectors is None:
        return set(layers)
    return {name for _, found in select_layers(network, layers, selectors) for name in found}
