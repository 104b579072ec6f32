"""Gaussian approximations around the weights of a trained network, with linearized predictions."""

from lightning_vi.methods.laplace.laplace import Laplace as Laplace
from lightning_vi.methods.laplace.sngp import SNGP as SNGP
