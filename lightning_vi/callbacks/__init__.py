"""Callbacks of the Trainer."""

from lightning_vi.callbacks.prediction_writer import PredictionWriter

__all__ = ["PredictionWriter"]
