"""Layers with a low-rank change of their weight."""

from typing import cast

from torch import Tensor, nn

from lightning_vi.layers.factors import product
from lightning_vi.layers.low_rank import LowRankLayer


class AdaptedLayer(nn.Module):
    r"""A layer with a low-rank change of its weight, :math:`W = W_0 + s A B^\top` (Hu et al., "LoRA", ICLR 2022).

    The dense product is never formed: :math:`y = W_0 x + b + A (s B^\top x)`.

    Args:
        base: A linear layer, convolution or embedding.
        down: Layer without bias whose weight is :math:`B^\top`.
        up: Layer without bias whose weight is A.
        scale: The factor s.
    """

    def __init__(self, base: nn.Module, down: nn.Module, up: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.down = down
        self.up = up
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: Input of the base layer.

        Returns:
            The shape of the base layer's output.
        """
        output: Tensor = self.base(x) + self.up(self.scale * self.down(x))
        return output

    @property
    def weight(self) -> Tensor:
        """The changed weight, in the shape of the base layer's."""
        return cast(Tensor, self.base.weight) + self.scale * product(self.down, self.up)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base layer, or None."""
        return cast(Tensor | None, self.base.bias)

    def extra_repr(self) -> str:  # noqa: D102
        return f"scale={self.scale}"


class AdaptedAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with a low-rank change of its input projection, which is added in each pass.

    Attributes:
        in_proj_base: The projection as it was.
        in_proj_adapter: The factors, which are read and never called.
        scale: See `AdaptedLayer`.
    """

    in_proj_base: nn.Parameter
    in_proj_adapter: LowRankLayer
    scale: float

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The changed projection, shape [3 E, E]."""
        return self.in_proj_base + self.scale * self.in_proj_adapter.weight
