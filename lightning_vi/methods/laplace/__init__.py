"""Gaussian approximations around a trained network, with the linearized network for predictions."""

from lightning_vi.methods.laplace.laplace import Laplace as Laplace
from lightning_vi.methods.laplace.sngp import SNGP as SNGP
