"""Distances between predictive distributions."""

import torch
from torch import Tensor


def top_class_agreement(probs: Tensor, reference: Tensor) -> Tensor:
    """Fraction of the data for which two classifiers have the same most probable class.

    Args:
        probs: Class probabilities, shape [B, C, ...].
        reference: The same shape.

    Returns:
        A scalar tensor from 0 to 1.

    Example:
        >>> top_class_agreement(torch.tensor([[0.6, 0.4], [0.1, 0.9]]), torch.tensor([[0.9, 0.1], [0.7, 0.3]]))
        tensor(0.5000)
    """
    return (probs.argmax(1) == reference.argmax(1)).float().mean()


def total_variation_distance(probs: Tensor, reference: Tensor) -> Tensor:
    r"""Total variation distance of class probabilities, :math:`\frac12 \sum_c |p_c - q_c|`.

    Args:
        probs: Class probabilities, shape [B, C, ...].
        reference: The same shape.

    Returns:
        Shape [B, ...], from 0 to 1.

    Example:
        >>> total_variation_distance(torch.tensor([[0.6, 0.4]]), torch.tensor([[0.9, 0.1]]))
        tensor([0.3000])
    """
    return 0.5 * (probs - reference).abs().sum(1)


def gaussian_wasserstein_2(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    r"""Wasserstein-2 distance between univariate Gaussians, :math:`\sqrt{(m - m')^2 + (s - s')^2}`.

    Args:
        mean: Means, any shape.
        std: Standard deviations, the shape of `mean`.
        other_mean: Means of the other Gaussians, the same shape.
        other_std: Their standard deviations, the same shape.

    Returns:
        Shape of `mean`, in its units.

    Example:
        >>> gaussian_wasserstein_2(*map(torch.tensor, (0.0, 1.0, 3.0, 5.0)))
        tensor(5.)
    """
    return torch.hypot(mean - other_mean, std - other_std)


def sample_wasserstein_2(samples: Tensor, other: Tensor) -> Tensor:
    r"""Wasserstein-2 distance between the empirical distributions of univariate samples.

    It is the root mean square difference of their quantile functions; for equally many samples, that of the sorted
    samples.

    Args:
        samples: Shape [S, ...].
        other: Samples of the other distribution, shape [R, ...].

    Returns:
        Shape [...], in the units of the samples.

    Example:
        >>> sample_wasserstein_2(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 2.0, 3.0, 0.0]))
        tensor(0.7071)
    """
    num_samples, num_other = len(samples), len(other)
    # The steps of both quantile functions, as integers in units of 1 / (S R).
    steps = torch.unique(
        torch.cat([torch.arange(num_samples + 1) * num_other, torch.arange(num_other + 1) * num_samples])
    )
    starts, widths = steps[:-1], steps.diff().to(samples) / (num_samples * num_other)
    own = samples.sort(0).values[(starts // num_other).to(samples.device)]
    theirs = other.sort(0).values[(starts // num_samples).to(other.device)]
    mean_square: Tensor = torch.tensordot(widths, (own - theirs).square(), dims=1)
    return mean_square.sqrt()
