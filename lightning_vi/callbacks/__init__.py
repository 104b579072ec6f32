"""Callbacks of the Trainer."""

from lightning_vi.callbacks.figure_logger import FigureLogger
from lightning_vi.callbacks.prediction_writer import PredictionWriter

__all__ = ["FigureLogger", "PredictionWriter"]
