"""Transformer encoder of the backbones for series and text."""

from torch import nn

from lightning_vi.errors import InputValueError


def check_sizes(width: int, n_heads: int, dropout_p: float, **sizes: int) -> None:
    """Checks the arguments of a transformer.

    Args:
        width: Number of features, a multiple of `n_heads` and even.
        n_heads: Number of attention heads.
        dropout_p: Probability of dropout.
        **sizes: Further sizes of the network, by name.

    Raises:
        ValueError: If a size is out of range, or `dropout_p` is not in [0, 1).
    """
    for name, size in {**sizes, "n_heads": n_heads}.items():
        if size < 1:
            raise InputValueError(f"{name} must be positive, got {size}")
    if width < 2 or width % n_heads or width % 2:
        raise InputValueError(f"width must be even and a multiple of n_heads={n_heads}, got {width}")
    if not 0 <= dropout_p < 1:
        raise InputValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")


def make_encoder(width: int, n_heads: int, n_layers: int, dropout_p: float) -> nn.TransformerEncoder:
    """Makes an encoder with normalization in front, for batches in the first dimension.

    Args:
        width: Number of features.
        n_heads: Number of attention heads.
        n_layers: Number of layers.
        dropout_p: Probability of dropout.

    Returns:
        The encoder.
    """
    layer = nn.TransformerEncoderLayer(
        width, n_heads, 2 * width, dropout_p, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, n_layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)
