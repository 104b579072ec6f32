"""U-Net, a convolutional network from images to images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.errors import InputValueError


class UNet(nn.Module):
    """Small U-Net for segmentation and image-to-image regression (after Ronneberger, Fischer & Brox, 2015).

    Each of `n_levels` levels has two 3 x 3 convolutions with ReLU. Going down, max pooling halves height and width, and
    the number of features doubles; going up, features are repeated to twice the size and joined with those of the same
    level. The last layer, `head`, is a 1 x 1 convolution. Height and width stay as they are, whether or not they can be
    halved evenly, and there is no batch normalization.

    Args:
        n_channels: Number of input channels.
        n_outputs: Number of output channels: C for `Categorical`, D for `Gaussian`, 2 D for `HeteroscedasticGaussian`.
        n_features: Number of features of the first level.
        n_levels: Number of levels, at least 1. Height and width must be at least ``2 ** (n_levels - 1)``.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> import torch
        >>> UNet(n_channels=3, n_outputs=2, n_features=4)(torch.zeros(5, 3, 18, 20)).shape
        torch.Size([5, 2, 18, 20])
    """

    def __init__(self, n_channels: int = 1, n_outputs: int = 2, n_features: int = 16, n_levels: int = 3) -> None:
        super().__init__()
        for name, value in {
            "n_channels": n_channels,
            "n_outputs": n_outputs,
            "n_features": n_features,
            "n_levels": n_levels,
        }.items():
            if value < 1:
                raise InputValueError(f"{name} must be positive, got {value}")
        widths = [n_features * 2**level for level in range(n_levels)]
        self.n_channels = n_channels
        self.down = nn.ModuleList(
            _block(before, width) for before, width in zip([n_channels, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(_block(3 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(n_features, n_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Computes an image from an image.

        Args:
            x: Shape [B, n_channels, H, W].

        Returns:
            Shape [B, n_outputs, H, W].

        Raises:
            ValueError: If the images have another number of channels, or are too small.
        """
        smallest = 2 ** len(self.up)
        if x.dim() != 4 or x.shape[1] != self.n_channels or min(x.shape[2:]) < smallest:
            raise InputValueError(
                f"UNet(n_channels={self.n_channels}) needs images of shape [B, {self.n_channels}, H, W], of at least "
                f"{smallest} x {smallest} pixels, got {list(x.shape)}"
            )
        levels = [self.down[0](x)]
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for block in self.up:
            skipped = levels.pop()
            enlarged = F.interpolate(features, size=skipped.shape[2:], mode="nearest")
            features = block(torch.cat([enlarged, skipped], dim=1))
        output: Tensor = self.head(features)
        return output


def _block(n_inputs: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_inputs, n_outputs, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(n_outputs, n_outputs, 3, padding=1),
        nn.ReLU(),
    )
