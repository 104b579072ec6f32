"""Variational layers and other building blocks."""

from torch import nn

from lightning_vi.layers.adapted import AdaptedAttention, AdaptedLayer
from lightning_vi.layers.base import VariationalLayer
from lightning_vi.layers.bayesian_last_layer import (
    BayesianLastLayer,
    DenseLastLayer,
    DiagonalLastLayer,
    LowRankLastLayer,
)
from lightning_vi.layers.conv import (
    VariationalConv1d,
    VariationalConv2d,
    VariationalConv3d,
    VariationalConvTranspose1d,
    VariationalConvTranspose2d,
    VariationalConvTranspose3d,
)
from lightning_vi.layers.estimators import (
    ACTIVATION_SPACE,
    ESTIMATORS,
    activation_moments,
    check_estimator,
)
from lightning_vi.layers.factors import make_factors, make_linear_factors, matrix_shape, put_factors
from lightning_vi.layers.linear import VariationalLinear
from lightning_vi.layers.low_rank import LowRankAttention, LowRankLayer, dense_layer
from lightning_vi.layers.module import VariationalModule, make_variational, num_inputs_of
from lightning_vi.layers.parameters import SharedParameters, StochasticParameters, stochastic_parameters
from lightning_vi.layers.random_features import RandomFourierFeatures
from lightning_vi.layers.rank_one import SCALES, RankOneModule, make_rank_one
from lightning_vi.layers.spectral_norm import BoundedModule, bound_spectral_norm, can_be_bounded

VARIATIONAL_COUNTERPART: dict[type[nn.Module], type[VariationalLayer]] = {
    layer.torch_parent: layer
    for layer in (
        VariationalLinear,
        VariationalConv1d,
        VariationalConv2d,
        VariationalConv3d,
        VariationalConvTranspose1d,
        VariationalConvTranspose2d,
        VariationalConvTranspose3d,
    )
}
"""Maps each supported torch layer to its variational counterpart."""

__all__ = [
    "ACTIVATION_SPACE",
    "ESTIMATORS",
    "SCALES",
    "VARIATIONAL_COUNTERPART",
    "AdaptedAttention",
    "AdaptedLayer",
    "BayesianLastLayer",
    "BoundedModule",
    "DenseLastLayer",
    "DiagonalLastLayer",
    "LowRankAttention",
    "LowRankLastLayer",
    "LowRankLayer",
    "RandomFourierFeatures",
    "RankOneModule",
    "SharedParameters",
    "StochasticParameters",
    "VariationalConv1d",
    "VariationalConv2d",
    "VariationalConv3d",
    "VariationalConvTranspose1d",
    "VariationalConvTranspose2d",
    "VariationalConvTranspose3d",
    "VariationalLayer",
    "VariationalLinear",
    "VariationalModule",
    "activation_moments",
    "bound_spectral_norm",
    "can_be_bounded",
    "check_estimator",
    "dense_layer",
    "make_factors",
    "make_linear_factors",
    "make_rank_one",
    "make_variational",
    "matrix_shape",
    "num_inputs_of",
    "put_factors",
    "stochastic_parameters",
]
