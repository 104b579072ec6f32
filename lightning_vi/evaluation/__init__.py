"""Evaluation of the uncertainty of a method: selective prediction and out-of-distribution detection."""

from lightning_vi.evaluation.detection import OODDetection, ood_detection
from lightning_vi.evaluation.scores import Loss, Score
from lightning_vi.evaluation.selective import SelectivePrediction, selective_prediction

__all__ = ["Loss", "OODDetection", "Score", "SelectivePrediction", "ood_detection", "selective_prediction"]
