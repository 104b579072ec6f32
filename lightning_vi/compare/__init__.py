"""Comparison of methods on the same data, network and budget."""

from lightning_vi.compare.api import compare
from lightning_vi.compare.result import Comparison
from lightning_vi.compare.shift_protocol import ShiftProtocol

__all__ = ["Comparison", "ShiftProtocol", "compare"]
