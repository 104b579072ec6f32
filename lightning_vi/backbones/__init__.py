"""Plain networks."""

from lightning_vi.backbones.mlp import MLP

__all__ = ["MLP"]
