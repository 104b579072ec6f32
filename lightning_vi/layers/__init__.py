"""Layers with stochastic weights."""

from torch import nn

from lightning_vi.layers.base import SharedParameters, VariationalLayer
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
    resolve_estimator,
)
from lightning_vi.layers.linear import VariationalLinear

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
"""The variational layer for each torch layer."""

__all__ = [
    "ACTIVATION_SPACE",
    "ESTIMATORS",
    "VARIATIONAL_COUNTERPART",
    "SharedParameters",
    "VariationalConv1d",
    "VariationalConv2d",
    "VariationalConv3d",
    "VariationalConvTranspose1d",
    "VariationalConvTranspose2d",
    "VariationalConvTranspose3d",
    "VariationalLayer",
    "VariationalLinear",
    "activation_moments",
    "resolve_estimator",
]
