"""What an uncertainty is good for, measured for any method: abstaining, and noticing foreign data."""

from lightning_vi.evaluation.detection import OODDetection, ood_detection
from lightning_vi.evaluation.scores import Loss, Score
from lightning_vi.evaluation.selective import SelectivePrediction, selective_prediction

__all__ = ["Loss", "OODDetection", "Score", "SelectivePrediction", "ood_detection", "selective_prediction"]
