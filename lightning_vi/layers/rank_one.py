"""Layers with a deterministic weight and a random rank-one factor."""

from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from lightning_vi.layers.module import VariationalModule, make_variational
from lightning_vi.posteriors import InitialStd
from lightning_vi.priors import Prior

SCALES = ("input_scale", "output_scale")


class RankOneModule(VariationalModule):
    r"""Mixin for a linear layer or convolution with random scales r of its inputs and s of its outputs.

    .. math:: y = \big(W (x \odot r) + b\big) \odot s \qquad \text{or} \qquad y = W (x \odot r) \odot s + b

    This is a layer with weight :math:`W \odot s r^\top`. The posteriors of the scales have K components, which are
    assigned to the examples of a batch in turn.
    """

    class_prefix: ClassVar[str] = "RankOne"
    scales_bias: bool

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """Applies the layer.

        Args:
            x: Shape [B, ...].
            *args: Further arguments of the torch layer.

        Returns:
            Shape [B, ...].
        """
        forward: Callable[..., Tensor] = super().forward
        output = forward(self._scaled(x, self.input_scale), *args)
        bias = cast(Tensor | None, self.bias)
        if bias is None or self.scales_bias:
            return self._scaled(output, self.output_scale)
        bias = bias.view(-1, *[1] * (output.dim() - 2)) if isinstance(self, nn.modules.conv._ConvNd) else bias
        return self._scaled(output - bias, self.output_scale) + bias

    def _scaled(self, x: Tensor, scale: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise TypeError(f"expected an input of {scale.dtype}, got {x.dtype}")  # the product would convert it
        dim = 1 if isinstance(self, nn.modules.conv._ConvNd) else -1
        if len(scale) > 1:
            scale = scale.repeat(-(-x.shape[0] // len(scale)), 1)[: x.shape[0]]
        shape = [scale.shape[0], *[1] * (x.dim() - 1)]
        shape[dim] = scale.shape[1]
        return x * scale.view(shape)


def make_rank_one(
    module: nn.Module,
    *,
    num_components: int,
    component_std: float,
    prior: dict[str, Prior],
    init_std: InitialStd,
    scales_bias: bool,
) -> None:
    """Adds random scales of inputs and outputs to a linear layer or convolution in place.

    Args:
        module: The layer; its weight and bias are not changed.
        num_components: Number of components K.
        component_std: Standard deviation of the initial means around 1 if K > 1. A single component starts at 1.
        prior: Priors of ``input_scale`` and ``output_scale``.
        init_std: Initial posterior standard deviation.
        scales_bias: If True, the output scale multiplies the bias too.

    Raises:
        ValueError: If the shape of a prior does not match, or `init_std` is not positive and finite.
    """
    weight = cast(Tensor, module.weight)
    if isinstance(module, nn.Linear):
        sizes = (module.in_features, module.out_features)
    else:
        sizes = (cast(int, module.in_channels), cast(int, module.out_channels))
    for name, size in zip(SCALES, sizes, strict=True):
        means = torch.ones(num_components, size, dtype=weight.dtype, device=weight.device)
        if num_components > 1:
            means += component_std * torch.randn_like(means)
        module.register_parameter(name, nn.Parameter(means))
    make_variational(module, RankOneModule, SCALES, num_inputs=dict.fromkeys(SCALES, 1), prior=prior, init_std=init_std)
    cast(RankOneModule, module).scales_bias = scales_bias
