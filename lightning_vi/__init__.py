"""Uncertainty quantification by variational inference, on PyTorch Lightning."""
