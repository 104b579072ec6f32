"""One LightningModule for each method."""

from lightning_vi.methods.alpha_divergence_vi import AlphaDivergenceVI
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.deterministic import Deterministic
from lightning_vi.methods.last_layer_vi import LastLayerVI
from lightning_vi.methods.mean_field_vi import MeanFieldVI
from lightning_vi.methods.mean_variance_estimation import MeanVarianceEstimation
from lightning_vi.methods.variational import VariationalMethod

__all__ = [
    "AlphaDivergenceVI",
    "Deterministic",
    "LastLayerVI",
    "MeanFieldVI",
    "MeanVarianceEstimation",
    "UQMethod",
    "VariationalMethod",
]
