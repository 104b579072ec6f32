"""Small stand-ins for the families of architectures that people have, each with an input."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.sampling import NetworkInput

ROWS = 4


class VisionTransformer(nn.Module):
    """Patches and a block whose attention reads the weight of ``qkv`` itself, with functional dropout."""

    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 4, 2, stride=2)
        self.norm = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)
        self.proj = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.patch(x).flatten(2).mT
        query, key, value = F.linear(self.norm(hidden), self.qkv.weight, self.qkv.bias).chunk(3, -1)
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.p if self.training else 0.0)
        output: Tensor = self.head((hidden + self.proj(attended)).mean(1))
        return output


class QKVReadByParent(nn.Module):
    """A single layer whose parent reads its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.qkv.weight)


class TiedAutoencoder(nn.Module):
    """A layer that is called once, and whose weight its parent reads once more."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(F.linear(self.encode(x).tanh(), self.encode.weight.T))
        return output


class SharedEmbedding(nn.Module):
    """One embedding for an encoder, a decoder and the output, with normalization by the root mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(5, 4)
        self.encoder = nn.ModuleDict({"embed": self.shared, "scale": nn.RMSNorm(4), "wi": nn.Linear(4, 4, bias=False)})
        self.decoder = nn.ModuleDict({"embed": self.shared, "wo": nn.Linear(4, 4, bias=False)})
        self.lm_head = nn.Linear(4, 5, bias=False)
        self.lm_head.weight = self.shared.weight

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        memory = self.encoder["wi"](self.encoder["scale"](self.encoder["embed"](input_ids))).relu()
        hidden = self.decoder["embed"](decoder_input_ids).to(self.decoder["wo"].weight.dtype)
        hidden = self.decoder["wo"](hidden + F.scaled_dot_product_attention(hidden, memory, memory))
        output: Tensor = self.lm_head(hidden.mean(1) * 4**-0.5)
        return output


class ConvNext(nn.Module):
    """A depthwise convolution, channels last, two linear layers with GELU, and a scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 2, stride=2)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4)
        self.widen = nn.Linear(4, 8)
        self.narrow = nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        change = self.norm(self.depthwise(hidden).permute(0, 2, 3, 1))
        change = self.scale * self.narrow(F.gelu(self.widen(change)))
        output: Tensor = self.head((hidden + change.permute(0, 3, 1, 2)).mean((2, 3)))
        return output


class ResNet(nn.Module):
    """Convolutions, batch normalization and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm1(self.stem(x)).relu()
        output: Tensor = self.fc((hidden + self.norm2(self.conv(hidden))).relu().mean((2, 3)))
        return output


class GraphNetwork(nn.Module):
    """Two rounds of messages along the edges of a graph, with an output for each node or for each graph."""

    def __init__(self, pooled: bool = False, normalized: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8) if normalized else nn.Identity()
        self.drop = nn.Dropout(0.2)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.pooled = pooled

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.gather(self.first(x), edge_index)).relu()
        hidden = self.gather(self.second(self.drop(hidden)), edge_index).relu()
        if self.pooled:
            groups = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
            hidden = hidden.new_zeros(int(groups.max()) + 1, hidden.shape[1]).index_add(0, groups, hidden)
        output: Tensor = self.head(hidden)
        return output

    @staticmethod
    def gather(x: Tensor, edge_index: Tensor) -> Tensor:
        source, target = edge_index
        return x + torch.zeros_like(x).index_add(0, target, x[source])


class Sequence(nn.Module):
    """A bidirectional LSTM, on padded sequences or on packed ones."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, batch_first=True, bidirectional=True)
        self.head = nn.Linear(6, 2)
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        if self.packed:
            lengths = torch.full((len(x),), x.shape[1])
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)  # type: ignore[assignment]
            states = nn.utils.rnn.pad_packed_sequence(self.lstm(x)[0], batch_first=True)[0]
        else:
            states = self.lstm(x)[0]
        output: Tensor = self.head(states.mean(1))
        return output


class Siamese(nn.Module):
    """One encoder for both inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.head((self.encode(left) - self.encode(right)).abs())
        return output


class UNet(nn.Module):
    """Down and up again, with a skip connection; an output for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 3, 3, padding=1)
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.up = nn.ConvTranspose2d(3, 3, 2, stride=2)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x).relu()
        output: Tensor = self.head(torch.cat([skip, self.up(self.inner(F.max_pool2d(skip, 2)).relu())], 1))
        return output


class Experts(nn.Module):
    """Sends each row to one of two layers, so that their numbers of rows depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 2)
        self.experts = nn.ModuleList([nn.Linear(3, 4) for _ in range(2)])
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.gate(x).softmax(-1)
        choice = scores.argmax(-1)
        hidden = x.new_zeros(len(x), 4)
        for index, expert in enumerate(self.experts):
            rows = (choice == index).nonzero()[:, 0]
            hidden = hidden.index_add(0, rows, expert(x[rows]) * scores[rows, index, None])
        output: Tensor = self.head(hidden.tanh())
        return output


class FlattenedTokens(nn.Module):
    """Flattens rows and tokens to one dimension, and pools the tokens afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x.reshape(-1, 3)).view(*x.shape[:2], 3)
        output: Tensor = self.head(hidden.mean(1))
        return output


class BatchSum(nn.Module):
    """Compares each row with the sum of all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.inner(x) - 0.1 * x.sum(0))
        return output


def ring(num_nodes: int) -> Tensor:
    """Edges from each node to the next one and back."""
    nodes = torch.arange(num_nodes)
    there = torch.stack([nodes, nodes.roll(1)])
    return torch.cat([there, there.flip(0)], 1)


def graph(num_nodes: int = 8) -> dict[str, Any]:
    return {"x": torch.randn(num_nodes, 3), "edge_index": ring(num_nodes)}


def graphs() -> dict[str, Any]:
    """Four graphs of two nodes each."""
    return {**graph(), "batch": torch.arange(4).repeat_interleave(2)}


@dataclass(frozen=True)
class Architecture:
    """A network, its input, and whether each tensor of the input has the batch as its first dimension."""

    make: Callable[[], nn.Module]
    make_input: Callable[[], NetworkInput]
    rows_first: bool = True
    pixels: bool = False


ARCHITECTURES = {
    "vision transformer, weight of qkv read": Architecture(VisionTransformer, lambda: torch.randn(ROWS, 1, 4, 4)),
    "layer that only its parent reads": Architecture(QKVReadByParent, lambda: torch.randn(ROWS, 3)),
    "tied autoencoder": Architecture(TiedAutoencoder, lambda: torch.randn(ROWS, 3)),
    "T5, shared embedding": Architecture(
        SharedEmbedding,
        lambda: {"input_ids": torch.randint(0, 5, (ROWS, 3)), "decoder_input_ids": torch.randint(0, 5, (ROWS, 3))},
    ),
    "ConvNeXt": Architecture(ConvNext, lambda: torch.randn(ROWS, 1, 4, 4)),
    "ResNet": Architecture(ResNet, lambda: torch.randn(ROWS, 1, 4, 4)),
    "graph network, nodes": Architecture(GraphNetwork, graph, rows_first=False),
    "graph network, nodes, batch normalization": Architecture(
        lambda: GraphNetwork(normalized=True), graph, rows_first=False
    ),
    "graph network, graphs": Architecture(lambda: GraphNetwork(pooled=True), graphs, rows_first=False),
    "graph network, positional": Architecture(
        GraphNetwork, lambda: (graph()["x"], graph()["edge_index"]), rows_first=False
    ),
    "LSTM": Architecture(lambda: Sequence(packed=False), lambda: torch.randn(ROWS, 3, 2)),
    "LSTM, packed": Architecture(lambda: Sequence(packed=True), lambda: torch.randn(ROWS, 3, 2)),
    "siamese network": Architecture(Siamese, lambda: (torch.randn(ROWS, 3), torch.randn(ROWS, 3))),
    "U-Net": Architecture(UNet, lambda: torch.randn(ROWS, 1, 4, 4), pixels=True),
    "mixture of experts": Architecture(Experts, lambda: torch.randn(7, 3)),
    "flattened tokens": Architecture(FlattenedTokens, lambda: torch.randn(ROWS, 5, 3)),
    "sum over the batch": Architecture(BatchSum, lambda: torch.randn(ROWS, 3), rows_first=True),
}
