"""LeNet, a small convolutional network."""

from torch import nn

from lightning_vi.errors import InputValueError


class LeNet(nn.Sequential):
    """LeNet: two convolutional layers with max pooling and three linear layers, with ReLU (after LeCun et al., 1998).

    Args:
        n_channels: Number of input channels.
        n_outputs: Number of outputs: C for `Categorical`.
        image_size: Height and width of the input, a multiple of 4 and at least 12.

    Raises:
        ValueError: If a size is out of range.

    Example:
        >>> import torch
        >>> LeNet(n_channels=1, n_outputs=10)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, n_channels: int = 1, n_outputs: int = 10, image_size: int = 28) -> None:
        if n_channels < 1 or n_outputs < 1:
            raise InputValueError(f"n_channels and n_outputs must be positive, got {n_channels} and {n_outputs}")
        if image_size < 12 or image_size % 4:
            raise InputValueError(f"image_size must be a multiple of 4 and at least 12, got {image_size}")
        width = image_size // 4 - 2
        super().__init__(
            nn.Conv2d(n_channels, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width * width, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, n_outputs),
        )
