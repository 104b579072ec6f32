"""Callbacks of the Trainer."""

from lightning_vi.callbacks.prediction_writer import PredictionWriter
from lightning_vi.diagnostics import VariationalDiagnostics

__all__ = ["PredictionWriter", "VariationalDiagnostics"]
