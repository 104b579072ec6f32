"""Evaluation: selective prediction, out-of-distribution detection, distances to a reference posterior, and figures."""

from lightning_vi.evaluation.detection import OODDetection, ood_detection
from lightning_vi.evaluation.fidelity import agreement, total_variation, wasserstein_2
from lightning_vi.evaluation.figures import method_figures
from lightning_vi.evaluation.ood_scores import OOD_SCORES, OODScores
from lightning_vi.evaluation.scores import Loss, Score
from lightning_vi.evaluation.selective import SelectivePrediction, selective_prediction

__all__ = [
    "OOD_SCORES",
    "Loss",
    "OODDetection",
    "OODScores",
    "Score",
    "SelectivePrediction",
    "agreement",
    "method_figures",
    "ood_detection",
    "selective_prediction",
    "total_variation",
    "wasserstein_2",
]
