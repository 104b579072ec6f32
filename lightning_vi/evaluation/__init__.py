"""Evaluation of a method: selective prediction, out-of-distribution detection, and the usual figures."""

from lightning_vi.evaluation.detection import OODDetection, ood_detection
from lightning_vi.evaluation.figures import method_figures
from lightning_vi.evaluation.scores import Loss, Score
from lightning_vi.evaluation.selective import SelectivePrediction, selective_prediction

__all__ = [
    "Loss",
    "OODDetection",
    "Score",
    "SelectivePrediction",
    "method_figures",
    "ood_detection",
    "selective_prediction",
]
