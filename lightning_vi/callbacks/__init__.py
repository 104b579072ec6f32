"""Callbacks of the Trainer."""

from lightning_vi.callbacks.figure_logger import FigureLogger
from lightning_vi.callbacks.prediction_writer import PredictionWriter
from lightning_vi.diagnostics import VariationalDiagnostics

__all__ = ["FigureLogger", "PredictionWriter", "VariationalDiagnostics"]
