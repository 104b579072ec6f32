"""Toy graph: communities of a stochastic block model with noisy features."""

from typing import Unpack

import torch

from lightning_vi.datamodules._checks import check_int, check_not_negative, check_seed
from lightning_vi.datamodules.base import LoaderOptions
from lightning_vi.datamodules.graph import GraphDataModule

FRACTIONS = {"train": 0.1, "val": 0.1, "calib": 0.2, "test": 0.6}
PROBABILITY_WITHIN, PROBABILITY_BETWEEN = 8.0, 1.0
"""Expected numbers of neighbors within the node's community, and in each other one."""


class ToyGraphDataModule(GraphDataModule):
    """Classification of the nodes of a graph: to which of its communities does a node belong?

    A stochastic block model: a node has 8 neighbors in its own community on average, and 1 in each other one. The
    features of a node are a random direction of its community and Gaussian noise, so that the neighbors tell more than
    the features. 10% of the nodes are for training, 10% for validation, 20% for calibration and 60% for testing.

    Args:
        n_nodes: Number of nodes N, at least 50.
        n_features: Number of features F.
        num_classes: Number of communities C.
        noise_std: Standard deviation of the noise of the features, whose signal has the length 1.
        data_seed: Seed of the graph and the split.
        **loader_options: `num_workers`, `pin_memory`, see `LoaderOptions`.

    Attributes:
        x: Features, [N, F] float32.
        edge_index: Edges in both directions, [2, E] int64.
        target: Communities, [N] int64.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ToyGraphDataModule()
        >>> dm.x.shape, dm.num_classes, len(dm.nodes["train"])
        (torch.Size([600, 16]), 4, 60)
    """

    def __init__(
        self,
        n_nodes: int = 600,
        *,
        n_features: int = 16,
        num_classes: int = 4,
        noise_std: float = 0.7,
        data_seed: int = 0,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_nodes = check_int("n_nodes", n_nodes, at_least=50)
        n_features = check_int("n_features", n_features, at_least=1)
        num_classes = check_int("num_classes", num_classes, at_least=2)
        check_not_negative("noise_std", noise_std)
        random = torch.Generator().manual_seed(check_seed("data_seed", data_seed))
        labels = torch.arange(n_nodes) % num_classes
        labels = labels[torch.randperm(n_nodes, generator=random)]
        directions = torch.nn.functional.normalize(torch.randn(num_classes, n_features, generator=random), dim=1)
        x = directions[labels] + noise_std * torch.randn(n_nodes, n_features, generator=random)
        neighbors = torch.where(labels[:, None] == labels, PROBABILITY_WITHIN, PROBABILITY_BETWEEN)
        is_edge = torch.rand(n_nodes, n_nodes, generator=random) < neighbors * num_classes / n_nodes
        upper = is_edge.triu(1)
        edge_index = (upper | upper.T).nonzero().T.contiguous()
        order = torch.randperm(n_nodes, generator=random)
        sizes = [round(fraction * n_nodes) for fraction in FRACTIONS.values()][:-1]
        parts = torch.split(order, [*sizes, n_nodes - sum(sizes)])
        super().__init__(
            x,
            edge_index,
            labels,
            dict(zip(FRACTIONS, parts, strict=True)),  # type: ignore[arg-type]
            num_classes=num_classes,
            **loader_options,
        )
