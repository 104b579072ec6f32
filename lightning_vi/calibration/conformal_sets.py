"""Base class of conformal sets of classes."""

from abc import abstractmethod
from dataclasses import replace

from torch import Tensor

from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.likelihoods import Prediction
from lightning_vi.noise import row_uniforms
from lightning_vi.sampling import NetworkInput, tensors


class ConformalSets(ConformalMethod):
    """Base class of sets of the classes whose score does not exceed the quantile.

    Predictions have the set in `pred_set`, a boolean for each class, shape [B, C, ...], and are otherwise unchanged.
    Every set contains the most probable class, even if its score is too large, which can only increase the coverage.

    Subclasses implement `class_scores`.
    """

    task = "classification"
    other_task_advice = "SplitConformal or ConformalQuantileRegression"

    @abstractmethod
    def class_scores(self, x: NetworkInput, prediction: Prediction) -> Tensor:
        """Computes the score of each class, which is small for probable classes.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's prediction.

        Returns:
            Shape [B, C, ...].
        """

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: D102
        scores = self.class_scores(x, self.checked_prediction(predictive, target))
        return scores.gather(1, target.long().unsqueeze(1)).squeeze(1)

    def region(self, x: NetworkInput, prediction: Prediction, quantile: Tensor) -> Prediction:  # noqa: D102
        scores = self.class_scores(x, prediction)
        chosen = scores <= quantile.to(scores.dtype)
        return replace(prediction, pred_set=chosen.scatter(1, prediction.mean.argmax(1, keepdim=True), True))


def uniforms_of(x: NetworkInput, probs: Tensor) -> Tensor:
    """Returns a number between 0 and 1 for each label, a hash of the input.

    Args:
        x: Input, each tensor of shape [B, ...]; others, such as the edges of a graph, have no part in it.
        probs: Class probabilities, shape [B, C, ...].

    Returns:
        Shape [B, 1, ...].
    """
    places = probs[:, :1]
    rows = [tensor for tensor in tensors(x) if tensor.shape[0] == probs.shape[0]]
    return row_uniforms(rows, places[0].numel()).view_as(places)
