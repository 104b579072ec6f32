"""Networks of many kinds, each with an input and with the estimators that its modules allow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_vi.backbones import MLP
from lightning_vi.sampling import NetworkInput

ROWS = 3


class Block(nn.Module):
    """Layers of several kinds under nested names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.norm(x + self.inner(x)))
        return output


class Residual(nn.Module):
    """Convolutions, batch normalization and a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(4)
        self.block = nn.Conv2d(4, 4, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first_norm(self.stem(x)).relu()
        hidden = (hidden + self.second_norm(self.block(hidden))).relu()
        output: Tensor = self.head(hidden.mean((2, 3)))
        return output


class Attending(nn.Module):
    """A transformer encoder with a head on its mean token."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(x).mean(1))
        return output


class Recurrent(nn.Module):
    """A recurrent network with a head on its last state."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.recurrent = kind(2, 3, num_layers=2, bidirectional=True, batch_first=True, **options)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return output


class TiedLanguage(nn.Module):
    """An embedding that shares its weight with the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.mix = nn.Linear(3, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.mix(self.embed(tokens).mean(1)).tanh())
        return output


class CalledTwice(nn.Module):
    """Calls one module twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.encode(self.encode(x).tanh()).tanh())
        return output


class RawParameters(nn.Module):
    """Has parameters at the root and in lists, besides layers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))
        self.prior = "an attribute of the network"
        self.matrices = nn.ParameterList([nn.Parameter(torch.randn(3, 3)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.randn(3))})
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for matrix in self.matrices:
            x = (x @ matrix).tanh()
        output: Tensor = self.head(x * self.scale + self.named["shift"])
        return output


class Bags(nn.Module):
    """Summed embeddings of one input, embeddings with a padding row of the other, and their bilinear form."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode="sum")
        self.embed = nn.Embedding(5, 3, padding_idx=0)
        self.pair = nn.Bilinear(3, 3, 2)
        self.act = nn.PReLU()

    def forward(self, words: Tensor, tokens: Tensor) -> Tensor:
        output: Tensor = self.act(self.pair(self.bag(words), self.embed(tokens).mean(1)))
        return output


class FromDictionary(nn.Module):
    """Takes one dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv1d(2, 3, 3, padding=1)
        self.numbers = nn.Linear(2, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.image(batch["image"]).mean(-1) + self.numbers(batch["numbers"])
        output: Tensor = self.head(hidden.tanh())
        return output


def convolutional() -> nn.Module:
    """Groups, dilation, padding by reflection, a transposed convolution and group normalization."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", groups=2),
        nn.GroupNorm(2, 4),
        nn.SiLU(),
        nn.Conv2d(4, 4, 3, stride=2, dilation=2, padding=2, bias=False),
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(50, 2),
    )


def weight_normalized() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(3, 4)), nn.Tanh(), weight_norm(nn.Linear(4, 2)))


def tokens() -> Tensor:
    return torch.randint(0, 5, (ROWS, 4))


@dataclass(frozen=True)
class Example:
    """A network, its input, the estimators that its modules allow, and whether pickle can store it."""

    make: Callable[[], nn.Module]
    make_input: Callable[[], NetworkInput]
    estimators: tuple[str, ...] = ("auto", "reparameterization")
    picklable: bool = True


ALL = ("auto", "reparameterization", "local_reparameterization", "flipout")

EXAMPLES = {
    "MLP": Example(lambda: MLP(3, [4], 2), lambda: torch.randn(ROWS, 3), ALL),
    "MLP on tokens": Example(lambda: MLP(3, [4], 2), lambda: torch.randn(ROWS, 4, 3), ALL),
    "plain convolution": Example(
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2)),
        lambda: torch.randn(ROWS, 2, 5),
        ALL,
    ),
    "options of convolutions": Example(convolutional, lambda: torch.randn(ROWS, 2, 5, 5)),
    "ResNet with BatchNorm": Example(Residual, lambda: torch.randn(ROWS, 2, 4, 4)),
    "TransformerEncoder": Example(Attending, lambda: torch.randn(ROWS, 4, 4)),
    "LSTM": Example(lambda: Recurrent(nn.LSTM, proj_size=0), lambda: torch.randn(ROWS, 4, 2)),
    "GRU": Example(lambda: Recurrent(nn.GRU), lambda: torch.randn(ROWS, 4, 2)),
    "embedding with a tied head": Example(TiedLanguage, tokens),
    "module called twice": Example(CalledTwice, lambda: torch.randn(ROWS, 3)),
    "weight_norm": Example(weight_normalized, lambda: torch.randn(ROWS, 3), picklable=False),
    "raw parameters": Example(RawParameters, lambda: torch.randn(ROWS, 3)),
    "two inputs": Example(Bags, lambda: (tokens(), tokens())),
    "keyword inputs": Example(Bags, lambda: {"tokens": tokens(), "words": tokens()}),
    "one dictionary": Example(
        FromDictionary, lambda: {"image": torch.randn(ROWS, 2, 4), "numbers": torch.randn(ROWS, 2)}, ALL
    ),
}

each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
each_example_and_estimator = pytest.mark.parametrize(
    ("example", "estimator"),
    [(example, estimator) for example in EXAMPLES.values() for estimator in example.estimators],
    ids=[f"{name}-{estimator}" for name, example in EXAMPLES.items() for estimator in example.estimators],
)
