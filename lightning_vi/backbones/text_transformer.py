"""Transformer for sequences of tokens."""

import torch
from torch import Tensor, nn

from lightning_vi.backbones._encoder import check_sizes, make_encoder
from lightning_vi.backbones.series_transformer import position_encoding


class TextTransformer(nn.Module):
    """Transformer encoder (Vaswani et al., 2017) with a linear layer on the mean of the tokens that are not padding.

    The arguments of `forward` have the names of Hugging Face models, so that both take the same batches.

    Args:
        vocab_size: Number of tokens.
        n_outputs: Number of outputs: C for `Categorical`.
        width: Number of features of a token, a multiple of `n_heads` and even.
        n_heads: Number of attention heads.
        n_layers: Number of encoder layers.
        dropout_p: Probability of dropout within the encoder.

    Raises:
        ValueError: If a size is out of range, or `dropout_p` is not in [0, 1).

    Example:
        >>> network = TextTransformer(vocab_size=50, n_outputs=3)
        >>> tokens, mask = torch.tensor([[1, 7, 0], [1, 8, 9]]), torch.tensor([[1, 1, 0], [1, 1, 1]])
        >>> network(tokens, mask).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        vocab_size: int,
        n_outputs: int,
        width: int = 32,
        n_heads: int = 2,
        n_layers: int = 1,
        dropout_p: float = 0.0,
    ) -> None:
        check_sizes(width, n_heads, dropout_p, vocab_size=vocab_size, n_outputs=n_outputs, n_layers=n_layers)
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.encoder = make_encoder(width, n_heads, n_layers, dropout_p)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Computes the outputs of sequences.

        Args:
            input_ids: Numbers of the tokens, int64, shape [B, L].
            attention_mask: 1 for tokens and 0 for padding, shape [B, L]; None if there is no padding.

        Returns:
            Shape [B, n_outputs].
        """
        hidden = self.embed(input_ids)
        hidden = hidden + position_encoding(hidden.shape[1], hidden.shape[2]).flip(0).to(hidden)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.encoder(hidden, src_key_padding_mask=mask == 0)
        weights = mask.to(hidden).unsqueeze(-1)
        output: Tensor = self.head((weights * hidden).sum(1) / weights.sum(1).clamp(min=1))
        return output
