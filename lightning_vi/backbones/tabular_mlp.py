"""Multilayer perceptron on numbers and embedded categories."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_vi.backbones.mlp import MLP
from lightning_vi.errors import InputValueError


class CategoryEmbeddings(nn.Module):
    r"""Embeddings of the categories of a table, whose numbers are the last features.

    The output has the other features first, then the embeddings.

    Args:
        cardinalities: Number of levels of each column of categories.
        embedding_dims: Sizes of the embeddings: one for all columns or one for each; None for
            :math:`\lceil \sqrt{L} \rceil` of a column with L levels.

    Raises:
        ValueError: If there is no cardinality, or a number is not positive.

    Example:
        >>> embeddings = CategoryEmbeddings([7, 3], embedding_dims=2)
        >>> embeddings(torch.tensor([[0.5, 6.0, 0.0]])).shape, embeddings.num_features(n_inputs=3)
        (torch.Size([1, 5]), 5)
    """

    def __init__(self, cardinalities: Sequence[int], embedding_dims: int | Sequence[int] | None = None) -> None:
        super().__init__()
        sizes = list(cardinalities)
        if embedding_dims is None:
            dims = [math.ceil(math.sqrt(size)) for size in sizes]
        else:
            dims = [embedding_dims] * len(sizes) if isinstance(embedding_dims, int) else list(embedding_dims)
        if not sizes or min(sizes + dims) < 1 or len(dims) != len(sizes):
            raise InputValueError(
                "cardinalities must be one or more positive numbers, and embedding_dims as many, got "
                f"{list(cardinalities)} and {embedding_dims}"
            )
        self.embeddings = nn.ModuleList(nn.Embedding(size, dim) for size, dim in zip(sizes, dims, strict=True))
        self._width = sum(dims)

    def num_features(self, n_inputs: int) -> int:
        """Returns the number of features of the output.

        Args:
            n_inputs: Number of features of the input.
        """
        return n_inputs - len(self.embeddings) + self._width

    def forward(self, x: Tensor) -> Tensor:
        """Embeds the last features.

        Args:
            x: Features, shape [..., F].

        Returns:
            Features, shape [..., num_features(F)].
        """
        n_numbers = x.shape[-1] - len(self.embeddings)
        parts = [x[..., :n_numbers]]
        parts += [table(x[..., n_numbers + k].long()) for k, table in enumerate(self.embeddings)]
        return torch.cat(parts, dim=-1)


class TabularMLP(nn.Sequential):
    r"""Multilayer perceptron on the features of a `TabularDataModule` with ``encoding="ordinal"``.

    Categories are embedded (Guo and Berkhahn, "Entity embeddings of categorical variables", 2016); an `MLP` follows.
    Module 0 has the embeddings, and module 1 is the `MLP`. Numbers of levels above 256 need inputs in float32:
    precision ``"bf16-true"`` rounds them.

    Args:
        n_inputs: Number of features F, the categories included; `datamodule.n_inputs`.
        cardinalities: Number of levels of each column of categories; `datamodule.cardinalities`.
        n_hidden: Widths of the hidden layers.
        n_outputs: Number of outputs: D for `Gaussian`, 2 D for `HeteroscedasticGaussian`, C for `Categorical`.
        embedding_dims: Sizes of the embeddings: one for all columns or one for each; None for
            :math:`\lceil \sqrt{L} \rceil` of a column with L levels.
        dropout_p: Dropout probability of the hidden units; 0 for no dropout layers.
        activation_fn: Activation, copied for each layer; None for ReLU.

    Raises:
        ValueError: If there are fewer inputs than cardinalities, or a number is out of range.

    Example:
        >>> network = TabularMLP(n_inputs=3, cardinalities=[7, 3], n_hidden=[50], n_outputs=2)
        >>> network(torch.tensor([[0.5, 6.0, 0.0]])).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        n_inputs: int,
        cardinalities: Sequence[int],
        n_hidden: Sequence[int],
        n_outputs: int,
        embedding_dims: int | Sequence[int] | None = None,
        dropout_p: float = 0.0,
        activation_fn: nn.Module | None = None,
    ) -> None:
        if n_inputs < len(cardinalities):
            raise InputValueError(f"n_inputs must count the {len(cardinalities)} categories too, got {n_inputs}")
        embeddings = CategoryEmbeddings(cardinalities, embedding_dims)
        width = embeddings.num_features(n_inputs)
        super().__init__(embeddings, MLP(width, n_hidden, n_outputs, dropout_p, activation_fn))
