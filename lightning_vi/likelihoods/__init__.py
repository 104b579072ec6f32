"""Observation models p(y | f)."""

from lightning_vi.likelihoods.base import Likelihood, Missing, Support, Task
from lightning_vi.likelihoods.channels_first import ChannelsFirst
from lightning_vi.likelihoods.classification import Bernoulli, Categorical
from lightning_vi.likelihoods.counts import NegativeBinomial, Poisson
from lightning_vi.likelihoods.gaussian import Gaussian
from lightning_vi.likelihoods.heteroscedastic import HeteroscedasticGaussian
from lightning_vi.likelihoods.joining import join_chunks, join_members
from lightning_vi.likelihoods.multi_label import MultiLabel
from lightning_vi.likelihoods.ordinal import Ordinal
from lightning_vi.likelihoods.prediction import Prediction
from lightning_vi.likelihoods.quantiles import Quantiles
from lightning_vi.likelihoods.regression import RegressionLikelihood
from lightning_vi.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "ChannelsFirst",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "Missing",
    "MultiLabel",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "Prediction",
    "Quantiles",
    "RegressionLikelihood",
    "StudentT",
    "Support",
    "Task",
    "join_chunks",
    "join_members",
]
