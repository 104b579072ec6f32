"""Methods of uncertainty quantification, and calibrations of any of them."""

from lightning_vi.calibration import (
    AdaptivePredictionSets,
    CalibratedMethod,
    ConformalQuantileRegression,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.core import Predictor, UQMethod
from lightning_vi.errors import NotFittedError
from lightning_vi.methods.averaging.swa import SWA
from lightning_vi.methods.averaging.swag import SWAG
from lightning_vi.methods.deterministic.deterministic import Deterministic
from lightning_vi.methods.deterministic.mc_dropout import MCDropout
from lightning_vi.methods.deterministic.mean_variance_estimation import MeanVarianceEstimation
from lightning_vi.methods.deterministic.quantile_regression import QuantileRegression
from lightning_vi.methods.ensembles.deep_ensemble import DeepEnsemble
from lightning_vi.methods.ensembles.ensemble import Ensemble
from lightning_vi.methods.laplace.laplace import Laplace
from lightning_vi.methods.laplace.sngp import SNGP
from lightning_vi.methods.variational.alpha_divergence_vi import AlphaDivergenceVI
from lightning_vi.methods.variational.base import VariationalMethod
from lightning_vi.methods.variational.full_rank_vi import FullRankVI
from lightning_vi.methods.variational.ivon import IVON
from lightning_vi.methods.variational.last_layer_vi import LastLayerVI
from lightning_vi.methods.variational.latent_variable_vi import LatentVariableVI
from lightning_vi.methods.variational.low_rank_vi import LowRankVI
from lightning_vi.methods.variational.mean_field_vi import MeanFieldVI
from lightning_vi.methods.variational.radial_vi import RadialVI
from lightning_vi.methods.variational.rank_one_vi import RankOneVI
from lightning_vi.methods.variational.vbll import VBLL

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
    "Predictor",
    "QuantileRegression",
    "RadialVI",
    "RankOneVI",
    "SplitConformal",
    "TemperatureScaling",
    "UQMethod",
    "VarianceScaling",
    "VariationalMethod",
]
