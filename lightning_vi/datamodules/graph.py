"""Datamodule of one graph, some of whose nodes have labels."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Unpack

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_vi.datamodules._checks import check_int
from lightning_vi.datamodules.base import LoaderOptions, loader_settings
from lightning_vi.errors import InputTypeError, InputValueError

Split = Literal["train", "val", "test", "calib"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "calib")
IGNORED = -100


class GraphDataModule(LightningDataModule):
    """One graph with labels or real numbers at its nodes, for transductive learning.

    Each dataloader has one batch, ``{"input": {"x": nodes, "edge_index": edges}, "target": targets}``: all nodes and
    all edges, and the targets of the split's nodes. Those of all other nodes are ignored: labels are `ignore_index`,
    for ``Categorical(num_classes, ignore_index=-100)``, and numbers are NaN, for ``Gaussian(missing="ignore")``. The
    size N of the training set is the number of all nodes, as it is for other missing targets.

    Args:
        x: Features of the nodes, shape [N, F] floating point.
        edge_index: Edges as pairs of node numbers, shape [2, E] int64, in both directions for an undirected graph.
        target: Labels, shape [N] int64, or numbers, shape [N, D] floating point.
        nodes: Numbers of the nodes of each split, `train`, `test` and, if there are any, `val` and `calib`.
        num_classes: Number of classes C of the labels 0..C-1; None for regression.
        ignore_index: Label of the nodes of other splits.
        **loader_options: `num_workers`, `pin_memory`, see `LoaderOptions`.

    Attributes:
        x, edge_index, target: The graph.
        nodes: Numbers of the nodes of each split, int64.
        num_classes: Number of classes C; None for regression.

    Raises:
        TypeError: If a tensor has the wrong type.
        ValueError: If shapes do not match, node numbers or labels are out of range, a split is empty, or a node is in
            two splits.

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> dm = GraphDataModule(
        ...     torch.eye(3), edge_index, torch.tensor([0, 1, 1]), {"train": [0, 1], "test": [2]}, num_classes=2
        ... )
        >>> next(iter(dm.train_dataloader()))["target"]
        tensor([   0,    1, -100])
    """

    def __init__(
        self,
        x: Tensor,
        edge_index: Tensor,
        target: Tensor,
        nodes: Mapping[Split, Sequence[int] | Tensor],
        *,
        num_classes: int | None = None,
        ignore_index: int = IGNORED,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        settings = loader_settings(type(self).__name__, 1, loader_options)
        self._loader_options = {"num_workers": settings["num_workers"], "pin_memory": settings["pin_memory"]}
        self.num_classes = None if num_classes is None else check_int("num_classes", num_classes, at_least=2)
        _check_graph(x, edge_index, target, self.num_classes)
        self.x, self.edge_index, self.target = x, edge_index, target
        self.ignore_index = ignore_index
        self.nodes = _checked_nodes(nodes, len(x))
        labels = target[torch.cat(list(self.nodes.values()))]
        if self.num_classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise InputValueError(
                f"target must hold labels from 0 to {self.num_classes - 1} at the nodes of the splits, got "
                f"{int(labels.min())} to {int(labels.max())}."
            )

    @property
    def n_inputs(self) -> int:
        """Number of features F of a node."""
        return self.x.shape[1]

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns the graph with the training targets."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """Returns the graph with the validation targets; an empty list if there are none."""
        return self._loader("val") if "val" in self.nodes else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns the graph with the test targets."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns the graph with the test targets; all nodes are predicted."""
        return self._loader("test")

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Returns the graph with the calibration targets.

        Raises:
            ValueError: If there are none.
        """
        if "calib" not in self.nodes:
            raise InputValueError(f"{type(self).__name__} has no calibration nodes: give nodes['calib'].")
        return self._loader("calib")

    def targets_of(self, split: Split) -> Tensor:
        """Returns the targets of all nodes, of which those outside of a split are ignored.

        Args:
            split: The split.

        Returns:
            Shape [N] or [N, D].
        """
        ignored = torch.nan if self.num_classes is None else self.ignore_index
        targets = torch.full_like(self.target, ignored)
        targets[self.nodes[split]] = self.target[self.nodes[split]]
        return targets

    def _loader(self, split: Split) -> DataLoader[Any]:
        batch = {"input": {"x": self.x, "edge_index": self.edge_index}, "target": self.targets_of(split)}
        graph = _WholeGraph(batch, len(self.x))
        return DataLoader(
            graph,
            batch_size=len(graph),
            collate_fn=_only,
            persistent_workers=self._loader_options["num_workers"] > 0,
            generator=torch.Generator(),
            **self._loader_options,
        )


class _WholeGraph(Dataset[Any]):
    """Data set of the nodes of a graph; whichever are asked for, the batch is the whole graph."""

    def __init__(self, batch: dict[str, Any], num_nodes: int) -> None:
        self.batch = batch
        self.num_nodes = num_nodes

    def __len__(self) -> int:
        return self.num_nodes

    def __getitem__(self, index: int) -> Any:
        return self.batch

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return [self.batch]


def _only(batches: list[Any]) -> Any:
    return batches[0]


def _check_graph(x: Tensor, edge_index: Tensor, target: Tensor, num_classes: int | None) -> None:
    for name, tensor in (("x", x), ("edge_index", edge_index), ("target", target)):
        if not isinstance(tensor, Tensor):
            raise InputTypeError(f"{name} must be a tensor, got a {type(tensor).__name__}.")
    if x.dim() != 2 or not x.is_floating_point() or not bool(x.isfinite().all()):
        raise InputValueError(f"x must be finite, floating point, of shape [N, F], got {x.dtype} {list(x.shape)}.")
    num_nodes = len(x)
    if edge_index.dtype != torch.int64 or edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise InputValueError(
            f"edge_index must be int64 of shape [2, E], got {edge_index.dtype} {list(edge_index.shape)}."
        )
    if edge_index.numel() and not (int(edge_index.min()) >= 0 and int(edge_index.max()) < num_nodes):
        raise InputValueError(
            f"edge_index must hold node numbers from 0 to {num_nodes - 1}, got {int(edge_index.min())} to "
            f"{int(edge_index.max())}."
        )
    wanted = "int64 labels [N]" if num_classes is not None else "floating point [N, D] when num_classes is None"
    is_right = target.dtype == torch.int64 if num_classes is not None else target.is_floating_point()
    if not is_right or target.dim() != (2 if num_classes is None else 1) or len(target) != num_nodes:
        raise InputValueError(
            f"target must be {wanted} for {num_nodes} nodes, got {target.dtype} {list(target.shape)}."
        )


def _checked_nodes(nodes: Mapping[Split, Sequence[int] | Tensor], num_nodes: int) -> dict[Split, Tensor]:
    if unknown := [name for name in nodes if name not in SPLITS]:
        raise InputValueError(f"nodes must have the keys {list(SPLITS)}, got {unknown}.")
    if missing := [name for name in ("train", "test") if name not in nodes]:
        raise InputValueError(f"nodes must name those of the splits 'train' and 'test', got none for {missing}.")
    found = {name: torch.as_tensor(numbers, dtype=torch.int64) for name, numbers in nodes.items()}
    for name, numbers in found.items():
        if numbers.dim() != 1 or len(numbers) == 0 or int(numbers.min()) < 0 or int(numbers.max()) >= num_nodes:
            raise InputValueError(f"nodes[{name!r}] must be node numbers from 0 to {num_nodes - 1}, at least one.")
    total = torch.cat(list(found.values()))
    if int(total.bincount().max()) > 1:
        raise InputValueError("nodes must have each node in one split alone, got some twice.")
    return found
