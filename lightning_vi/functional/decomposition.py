"""Decompositions of uncertainty into epistemic and aleatoric parts."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vi.functional.special import flat_at_zero


class RunningMoments:
    """Mean and population variance of samples, updated in chunks (Chan et al., 1983).

    Memory does not grow with the number of samples. The variance of one sample is zero.

    Example:
        >>> import torch
        >>> moments = RunningMoments()
        >>> moments.update(torch.tensor([[1.0], [3.0]]))
        >>> moments.update(torch.tensor([[5.0]]))
        >>> moments.mean, moments.variance
        (tensor([3.]), tensor([2.6667]))
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self._sum_of_squares = torch.zeros(())

    def update(self, samples: Tensor) -> None:
        """Adds samples.

        Args:
            samples: Shape [S, ...], of the same trailing shape in every call.
        """
        mean = samples.mean(0)
        self.merge(samples.shape[0], mean, (samples - mean).square().mean(0))

    def merge(self, count: int, mean: Tensor, variance: Tensor) -> None:
        """Adds samples that are known by their moments.

        Args:
            count: Number of samples.
            mean: Their mean, the shape of one sample.
            variance: Their population variance, the shape of one sample.
        """
        sum_of_squares = variance * count
        if self.count == 0:
            self.count, self.mean, self._sum_of_squares = count, mean, sum_of_squares
            return
        total = self.count + count
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self._sum_of_squares = self._sum_of_squares + sum_of_squares + shift.square() * (self.count * count / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Population variance of the samples so far, the shape of one sample."""
        return self._sum_of_squares / max(self.count, 1)


def entropy(probs: Tensor, dim: int = -1) -> Tensor:
    r"""Shannon entropy :math:`-\sum_c p_c \ln p_c` in nats, with :math:`0 \ln 0 = 0`.

    The gradient at a probability of zero is zero.

    Args:
        probs: Probabilities that sum to one along `dim`.
        dim: The class dimension.

    Returns:
        Entropies, the shape of `probs` without `dim`.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([0.5, 0.5]))
        tensor(0.6931)
    """
    return flat_at_zero(torch.special.entr, probs).sum(dim)


class EntropyDecomposition(NamedTuple):
    """Entropies in nats, each of the shape of one prediction without the class dimension."""

    mutual_information: Tensor
    expected_entropy: Tensor
    predictive_entropy: Tensor


def decompose_entropy(mean_probs: Tensor, expected_entropy: Tensor, dim: int = -1) -> EntropyDecomposition:
    r"""Predictive entropy as expected entropy plus mutual information (Depeweg et al., 2018).

    .. math:: \mathrm{H}[\bar p] = \mathrm{E}_s \mathrm{H}[p_s] + \mathrm{I}[y; w]

    Where rounding makes the difference of the two entropies negative, the mutual information is zero. The predictive
    entropy is the sum of the two parts.

    Args:
        mean_probs: Class probabilities averaged over samples.
        expected_entropy: Entropies averaged over samples, the shape of `mean_probs` without `dim`.
        dim: The class dimension.

    Returns:
        Mutual information (epistemic), expected entropy (aleatoric) and their sum.

    Example:
        >>> import torch
        >>> decompose_entropy(torch.tensor([0.5, 0.5]), torch.tensor(0.0)).mutual_information
        tensor(0.6931)
    """
    mutual_information = (entropy(mean_probs, dim) - expected_entropy).clamp_min(0)
    return EntropyDecomposition(mutual_information, expected_entropy, mutual_information + expected_entropy)
