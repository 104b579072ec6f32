"""One LightningModule for each method."""

from lightning_vi.methods.adaptive_prediction_sets import AdaptivePredictionSets
from lightning_vi.methods.alpha_divergence_vi import AlphaDivergenceVI
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.calibrated import CalibratedMethod
from lightning_vi.methods.conformal_quantile_regression import ConformalQuantileRegression
from lightning_vi.methods.deep_ensemble import DeepEnsemble
from lightning_vi.methods.deterministic import Deterministic
from lightning_vi.methods.ensemble import Ensemble
from lightning_vi.methods.fitted import NotFittedError
from lightning_vi.methods.full_rank_vi import FullRankVI
from lightning_vi.methods.ivon import IVON
from lightning_vi.methods.laplace import Laplace
from lightning_vi.methods.last_layer_vi import LastLayerVI
from lightning_vi.methods.latent_variable_vi import LatentVariableVI
from lightning_vi.methods.low_rank_vi import LowRankVI
from lightning_vi.methods.mc_dropout import MCDropout
from lightning_vi.methods.mean_field_vi import MeanFieldVI
from lightning_vi.methods.mean_variance_estimation import MeanVarianceEstimation
from lightning_vi.methods.quantile_regression import QuantileRegression
from lightning_vi.methods.radial_vi import RadialVI
from lightning_vi.methods.rank_one_vi import RankOneVI
from lightning_vi.methods.sngp import SNGP
from lightning_vi.methods.split_conformal import SplitConformal
from lightning_vi.methods.swa import SWA
from lightning_vi.methods.swag import SWAG
from lightning_vi.methods.temperature_scaling import TemperatureScaling
from lightning_vi.methods.variance_scaling import VarianceScaling
from lightning_vi.methods.variational import VariationalMethod
from lightning_vi.methods.vbll import VBLL

__all__ = [
    "IVON",
    "SNGP",
    "SWA",
    "SWAG",
    "VBLL",
    "AdaptivePredictionSets",
    "AlphaDivergenceVI",
    "CalibratedMethod",
    "ConformalQuantileRegression",
    "DeepEnsemble",
    "Deterministic",
    "Ensemble",
    "FullRankVI",
    "Laplace",
    "LastLayerVI",
    "LatentVariableVI",
    "LowRankVI",
    "MCDropout",
    "MeanFieldVI",
    "MeanVarianceEstimation",
    "NotFittedError",
    "QuantileRegression",
    "RadialVI",
    "RankOneVI",
    "SplitConformal",
    "TemperatureScaling",
    "UQMethod",
    "VarianceScaling",
    "VariationalMethod",
]
