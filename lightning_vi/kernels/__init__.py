"""Covariance functions of Gaussian process priors, their hyperparameters and posteriors."""

from lightning_vi.kernels.algebra import cholesky, precise
from lightning_vi.kernels.base import Kernel, LengthScale
from lightning_vi.kernels.classes import CONCENTRATIONS, concentration_scores, dirichlet_targets, fit_class_kernel
from lightning_vi.kernels.evidence import fit_kernel, gap_score, log_marginal_likelihood
from lightning_vi.kernels.periodic import Periodic
from lightning_vi.kernels.posterior import FunctionPosterior, choose_inducing
from lightning_vi.kernels.stationary import RBF, IsotropicKernel, Matern, RationalQuadratic

__all__ = [
    "CONCENTRATIONS",
    "RBF",
    "FunctionPosterior",
    "IsotropicKernel",
    "Kernel",
    "LengthScale",
    "Matern",
    "Periodic",
    "RationalQuadratic",
    "cholesky",
    "choose_inducing",
    "concentration_scores",
    "dirichlet_targets",
    "fit_class_kernel",
    "fit_kernel",
    "gap_score",
    "log_marginal_likelihood",
    "precise",
]
