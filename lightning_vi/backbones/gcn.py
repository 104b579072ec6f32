"""Graph convolutional network on plain tensors."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputTypeError, InputValueError


class GCN(nn.Module):
    r"""Graph convolutional network (Kipf & Welling, 2017) with ReLU.

    .. math:: H_{l+1} = \mathrm{ReLU}(\hat A H_l W_l + b_l), \qquad \hat A = D^{-1/2} (A + I) D^{-1/2}

    The last layer has no activation function. Each layer averages over neighbors first and then is a linear layer of
    each node, so that `LastLayerVI` and `Laplace` take the last one.

    Args:
        n_inputs: Number F of features of a node.
        n_hidden: Widths of the hidden layers.
        n_outputs: Number of outputs of a node: C for `Categorical`.
        dropout_p: Probability of dropout in front of each layer but the first.

    Raises:
        ValueError: If a size is not positive, or `dropout_p` is not in [0, 1).

    Example:
        >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])  # 0 - 1 - 2
        >>> GCN(n_inputs=4, n_hidden=[8], n_outputs=3)(torch.zeros(3, 4), edge_index).shape
        torch.Size([3, 3])
    """

    def __init__(self, n_inputs: int, n_hidden: Sequence[int], n_outputs: int, dropout_p: float = 0.0) -> None:
        widths = [n_inputs, *n_hidden, n_outputs]
        if min(widths) < 1:
            raise InputValueError(
                f"n_inputs, n_hidden and n_outputs must be positive, got {n_inputs}, {list(n_hidden)}, {n_outputs}"
            )
        if not 0 <= dropout_p < 1:
            raise InputValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(dropout_p)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Computes the outputs of all nodes.

        Args:
            x: Features of the nodes, shape [N, F]; or [B, N, F] of several graphs, with adjacency matrices.
            edge_index: Edges as pairs of node numbers, int64, shape [2, E], in both directions for an undirected graph;
                or adjacency matrices, floating point, shape [N, N] or [B, N, N].

        Returns:
            Shape [N, n_outputs] or [B, N, n_outputs].

        Raises:
            ValueError: If the edges have another shape.
            TypeError: If they have another type.
        """
        for index, layer in enumerate(self.layers):
            x = layer(_averaged(x if index == 0 else self.dropout(self.activation(x)), edge_index))
        return x


def _averaged(x: Tensor, edges: Tensor) -> Tensor:
    """The normalized sum over each node and its neighbors."""
    if edges.is_floating_point():
        if edges.dim() < 2 or edges.shape[-2:] != (x.shape[-2], x.shape[-2]):
            nodes = x.shape[-2]
            raise InputValueError(
                f"adjacency matrices of {nodes} nodes must have the shape [..., {nodes}, {nodes}], "
                f"got {list(edges.shape)}"
            )
        matrix = edges + torch.eye(edges.shape[-1], dtype=edges.dtype, device=edges.device)
        scale = matrix.sum(-1, keepdim=True).rsqrt()
        return scale * (matrix @ (scale * x))
    if edges.dtype != torch.int64:
        raise InputTypeError(f"edge_index must be int64, or a floating-point adjacency matrix, got {edges.dtype}")
    if edges.dim() != 2 or edges.shape[0] != 2 or x.dim() != 2:
        raise InputValueError(
            f"edge_index must have the shape [2, E] with nodes of the shape [N, F], got {list(edges.shape)} and "
            f"{list(x.shape)}"
        )
    source, target = edges
    degree = x.new_ones(len(x)).index_add(0, target, x.new_ones(len(target)))
    scale = degree.rsqrt().unsqueeze(1)
    scaled = scale * x
    return scale * scaled.index_add(0, target, scaled[source])
