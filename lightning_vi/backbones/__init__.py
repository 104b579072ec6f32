"""Deterministic networks to build methods on."""

from lightning_vi.backbones.chain import Chain
from lightning_vi.backbones.fourier_features import FourierFeatures
from lightning_vi.backbones.gcn import GCN
from lightning_vi.backbones.lenet import LeNet
from lightning_vi.backbones.mlp import MLP
from lightning_vi.backbones.residual_mlp import ResidualBlock, ResidualMLP
from lightning_vi.backbones.select_output import SelectOutput, selected_output
from lightning_vi.backbones.series_lstm import SeriesLSTM
from lightning_vi.backbones.series_transformer import SeriesTransformer
from lightning_vi.backbones.tabular_mlp import CategoryEmbeddings, TabularMLP
from lightning_vi.backbones.text_transformer import TextTransformer
from lightning_vi.backbones.unet import UNet

__all__ = [
    "GCN",
    "MLP",
    "CategoryEmbeddings",
    "Chain",
    "FourierFeatures",
    "LeNet",
    "ResidualBlock",
    "ResidualMLP",
    "SelectOutput",
    "SeriesLSTM",
    "SeriesTransformer",
    "TabularMLP",
    "TextTransformer",
    "UNet",
    "selected_output",
]
