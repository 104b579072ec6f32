"""Distances of features to those of the training data."""

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

MAX_FEATURES = 8192
"""Number of features whose covariance matrix is computed, at most."""
MAX_DISTANCES = 2**24
"""Number of distances in memory, at most."""
RIDGE = 1e-6
"""Addition to the variances, as a share of their mean."""


class ClassGaussians:
    r"""Mahalanobis distance to the nearest class mean (Lee et al., 2018).

    .. math::
        s(x) = \min_c \sqrt{(f(x) - \mu_c)^\top \Sigma^{-1} (f(x) - \mu_c)}

    with the means :math:`\mu_c` of the training features of each class, and their covariance :math:`\Sigma` around the
    means of their classes, which all classes share. The variances are increased by 1e-6 of their mean, so that the
    covariance can be inverted.

    Args:
        num_classes: Number of classes C; 1 for data without classes.

    Example:
        >>> gaussians = ClassGaussians(num_classes=1)
        >>> gaussians.update(torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 0]))
        >>> gaussians.finish()
        >>> gaussians.distances(torch.tensor([[0.0], [3.0]])).round(decimals=3)
        tensor([0., 3.])
    """

    def __init__(self, num_classes: int) -> None:
        self._counts = torch.zeros(num_classes, dtype=torch.float64)
        self._sums: Tensor | None = None
        self._squares: Tensor | None = None
        self._whitening = torch.empty(0)
        self._means = torch.empty(0)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Adds training data.

        Args:
            features: Shape [B, F].
            labels: Classes 0 to C - 1, shape [B].

        Raises:
            ValueError: If there are too many features.
        """
        width = features.shape[1]
        if width > MAX_FEATURES:
            raise InputValueError(
                f"Mahalanobis distances need at most {MAX_FEATURES} features, but the last layer has {width}: leave "
                "the score 'mahalanobis' out"
            )
        rows, labels = features.detach().cpu().double(), labels.cpu()
        if self._sums is None or self._squares is None:
            self._sums = torch.zeros(len(self._counts), width, dtype=torch.float64)
            self._squares = torch.zeros(width, width, dtype=torch.float64)
        self._counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
        self._sums.index_add_(0, labels, rows)
        self._squares += rows.T @ rows

    def finish(self) -> None:
        """Computes the means and the covariance.

        Raises:
            ValueError: If there are no data.
        """
        if self._sums is None or self._squares is None:
            raise InputValueError("training_data has no labeled data")
        seen = self._counts > 0
        counts = self._counts[seen].unsqueeze(1)
        means = self._sums[seen] / counts
        covariance = (self._squares - means.T @ (counts * means)) / counts.sum()
        ridge = RIDGE * covariance.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
        factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
        identity = torch.eye(len(covariance), dtype=torch.float64)
        self._whitening = torch.linalg.solve_triangular(factor, identity, upper=False).T
        self._means = means

    def distances(self, features: Tensor) -> Tensor:
        """Computes the distance of each row to the nearest mean.

        Args:
            features: Shape [B, F].

        Returns:
            Shape [B], float32.
        """
        # In float64: whitening multiplies rounding errors by up to 1000.
        rows = (features.detach().cpu().double() @ self._whitening).float()
        return torch.cdist(rows, (self._means @ self._whitening).float()).amin(1)


class NearestNeighbors:
    r"""Distance to the k-th nearest training datum (Sun et al., 2022).

    .. math::
        s(x) = \lVert z(x) - z_{(k)} \rVert_2, \qquad z = f / \lVert f \rVert_2

    over at most `max_rows` training data, chosen at random. Distances are computed in chunks of bounded memory.

    Args:
        num_neighbors: k.
        max_rows: Number of training data to keep.
        seed: Seed of the choice.

    Example:
        >>> neighbors = NearestNeighbors(num_neighbors=2)
        >>> neighbors.update(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        >>> neighbors.distances(torch.tensor([[3.0, 0.0]]))
        tensor([1.4142])
    """

    def __init__(self, num_neighbors: int, max_rows: int = 10_000, seed: int = 0) -> None:
        self._num_neighbors = num_neighbors
        self._max_rows = max_rows
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = torch.empty(0)
        self._keys = torch.empty(0, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Adds training data.

        Args:
            features: Shape [B, F].
        """
        rows = _unit(features)
        keys = torch.rand(len(features), generator=self._generator, device="cpu", dtype=torch.float64)
        self._rows = torch.cat([self._rows.to(rows), rows]) if len(self._rows) else rows
        self._keys = torch.cat([self._keys, keys])
        if len(self._keys) > self._max_rows:
            kept = self._keys.topk(self._max_rows).indices
            self._rows, self._keys = self._rows[kept.to(rows.device)], self._keys[kept]

    def check(self) -> None:
        """Raises a `ValueError` if there are fewer training data than neighbors."""
        if len(self._rows) < self._num_neighbors:
            raise InputValueError(
                f"num_neighbors={self._num_neighbors} needs as many training data, but there are {len(self._rows)}"
            )

    def distances(self, features: Tensor) -> Tensor:
        """Computes the distance of each row to its k-th nearest neighbor.

        Args:
            features: Shape [B, F].

        Returns:
            Shape [B], float32.
        """
        rows = _unit(features)
        chunks = torch.split(rows, max(1, MAX_DISTANCES // len(self._rows)))
        return torch.cat([torch.cdist(chunk, self._rows).kthvalue(self._num_neighbors, 1).values for chunk in chunks])


def _unit(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.detach().float(), dim=1)
