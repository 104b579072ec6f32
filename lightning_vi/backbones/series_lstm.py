"""LSTM for windows of a series."""

from torch import Tensor, nn

from lightning_vi.errors import InputValueError


class SeriesLSTM(nn.Module):
    """LSTM (Hochreiter & Schmidhuber, 1997) with a linear layer on its last hidden state.

    Args:
        n_inputs: Number F of values at each time of a window.
        n_outputs: Number of outputs: H * D for `Gaussian`, twice as many for `HeteroscedasticGaussian`.
        width: Number of hidden units.
        n_layers: Number of LSTM layers.
        dropout_p: Probability of dropout between the layers, and in front of the linear layer.

    Raises:
        ValueError: If a size is not positive, or `dropout_p` is not in [0, 1).

    Example:
        >>> import torch
        >>> SeriesLSTM(n_inputs=3, n_outputs=2)(torch.zeros(4, 24, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self, n_inputs: int = 1, n_outputs: int = 1, width: int = 32, n_layers: int = 1, dropout_p: float = 0.0
    ) -> None:
        sizes = {"n_inputs": n_inputs, "n_outputs": n_outputs, "width": width, "n_layers": n_layers}
        for name, size in sizes.items():
            if size < 1:
                raise InputValueError(f"{name} must be positive, got {size}")
        if not 0 <= dropout_p < 1:
            raise InputValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")
        super().__init__()
        between = dropout_p if n_layers > 1 else 0.0
        self.lstm = nn.LSTM(n_inputs, width, n_layers, batch_first=True, dropout=between)
        self.dropout = nn.Dropout(dropout_p)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the outputs of windows.

        Args:
            x: Windows, shape [B, L, F].

        Returns:
            Shape [B, n_outputs].
        """
        output: Tensor = self.head(self.dropout(self.lstm(x)[0][:, -1]))
        return output
