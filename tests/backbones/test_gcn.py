"""Graph convolutions against matrices in NumPy."""

import numpy as np
import pytest
import torch
from helpers import normal
from torch.testing import assert_close

from lightning_vi.backbones import GCN

EDGES = torch.tensor([[0, 1, 1, 2, 3, 0], [1, 0, 2, 1, 0, 3]])


def adjacency(edges: torch.Tensor, size: int) -> torch.Tensor:
    matrix = torch.zeros(size, size)
    matrix[edges[1], edges[0]] = 1.0
    return matrix


def test_layers_average_over_neighbors() -> None:
    network, x = GCN(3, [4], 2), normal(5, 3)  # node 4 has no neighbors
    matrix = adjacency(EDGES, 5).numpy() + np.eye(5)
    scale = np.diag(matrix.sum(1) ** -0.5)
    hidden = x.numpy()
    for index, layer in enumerate(network.layers):
        hidden = scale @ matrix @ scale @ hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        hidden = np.maximum(hidden, 0) if index == 0 else hidden
    assert_close(network(x, EDGES), torch.tensor(hidden, dtype=torch.float32))
    assert_close(network(x, adjacency(EDGES, 5)), network(x, EDGES))
    graphs = torch.stack([x, 2 * x])
    matrices = torch.stack([adjacency(EDGES, 5), torch.zeros(5, 5)])
    outputs = network(graphs, matrices)
    assert_close(outputs[0], network(x, EDGES))
    assert_close(outputs[1], network(2 * x, EDGES[:, :0]))


def test_errors() -> None:
    network = GCN(3, [4], 2)
    for arguments, message in (
        ((3, [0], 2), r"n_inputs, n_hidden and n_outputs must be positive, got 3, \[0\], 2"),
        ((3, [4], 2, 1.0), r"dropout_p must lie in \[0, 1\), got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            GCN(*arguments)
    with pytest.raises(
        ValueError, match=r"adjacency matrices of 5 nodes must have the shape \[..., 5, 5\], got \[4, 4\]"
    ):
        network(normal(5, 3), torch.eye(4))
    with pytest.raises(ValueError, match=r"edge_index must have the shape \[2, E\] .* got \[6, 2\] and \[5, 3\]"):
        network(normal(5, 3), EDGES.T)
    with pytest.raises(TypeError, match="edge_index must be int64, or a floating-point adjacency matrix"):
        network(normal(5, 3), EDGES.int())
