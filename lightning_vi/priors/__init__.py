"""Priors over weights."""

from lightning_vi.priors.base import Prior
from lightning_vi.priors.empirical_bayes import EmpiricalBayesPrior
from lightning_vi.priors.gaussian import GaussianPrior
from lightning_vi.priors.laplace import LaplacePrior
from lightning_vi.priors.scale_mixture import ScaleMixturePrior

__all__ = ["EmpiricalBayesPrior", "GaussianPrior", "LaplacePrior", "Prior", "ScaleMixturePrior"]
