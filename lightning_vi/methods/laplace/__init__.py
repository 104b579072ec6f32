"""Gaussian approximations around a trained network, with the linearized network for predictions."""
