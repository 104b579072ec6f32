"""Deterministic networks to build methods on."""

from lightning_vi.backbones.chain import Chain
from lightning_vi.backbones.fourier_features import FourierFeatures
from lightning_vi.backbones.lenet import LeNet
from lightning_vi.backbones.mlp import MLP
from lightning_vi.backbones.residual_mlp import ResidualBlock, ResidualMLP
from lightning_vi.backbones.select_output import SelectOutput, selected_output

__all__ = [
    "MLP",
    "Chain",
    "FourierFeatures",
    "LeNet",
    "ResidualBlock",
    "ResidualMLP",
    "SelectOutput",
    "selected_output",
]
