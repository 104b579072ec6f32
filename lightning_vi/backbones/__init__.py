"""Deterministic networks to build methods on."""

from lightning_vi.backbones.fourier_features import FourierFeatures
from lightning_vi.backbones.lenet import LeNet
from lightning_vi.backbones.mlp import MLP
from lightning_vi.backbones.residual_mlp import ResidualBlock, ResidualMLP

__all__ = ["MLP", "FourierFeatures", "LeNet", "ResidualBlock", "ResidualMLP"]
