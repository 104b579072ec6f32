"""Variational convolutions and transposed convolutions."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_vi.layers.base import VariationalLayer
from lightning_vi.posteriors import DEFAULT_STD, InitialStd
from lightning_vi.priors import Prior


class _VariationalConvolution(VariationalLayer, _ConvNd):
    channel_dim = 1
    preferred_estimator = "reparameterization"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        *args: Any,
        prior: Prior | None = None,
        estimator: str = "auto",
        init_std: InitialStd = DEFAULT_STD,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)  # type: ignore[arg-type]
        self.convert_in_place(self, prior=prior, estimator=estimator, init_std=init_std)

    def is_batched(self, x: Tensor) -> bool:
        return x.dim() == len(self.kernel_size) + 2

    def stacked_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        per_sample = bias is not None and bias.dim() > 1
        if x.device.type == "cpu":
            biases = bias if bias is not None and per_sample else [bias] * len(x)
            return torch.stack([self.linear_map(*parts, *args) for parts in zip(x, weight, biases, strict=True)])
        mapped: Tensor = torch.vmap(self.linear_map, in_dims=(0, 0, 0 if per_sample else None, *[None] * len(args)))(
            x, weight, bias, *args
        )
        return mapped


class _VariationalConv(_VariationalConvolution):
    def forward(self, input: Tensor, sample: bool = True, num_samples: int | None = None) -> Tensor:  # noqa: A002
        """Applies the layer.

        Args:
            input: Input, shape [B, in_channels, ...].
            sample: If False, the posterior means are used.
            num_samples: Number of independent samples S; None for one sample without the extra dimension.

        Returns:
            Shape [B, out_channels, ...], with a leading dimension S if `num_samples` is given.
        """
        return self._forward(input, sample=sample, num_samples=num_samples)

    @property
    def num_inputs(self) -> int:
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:  # noqa: ARG002
        convolved: Tensor = self._conv_forward(x, weight, bias)
        return convolved


class _VariationalConvTranspose(_VariationalConvolution, _ConvTransposeNd):
    def forward(
        self,
        input: Tensor,  # noqa: A002
        output_size: list[int] | None = None,
        sample: bool = True,
        num_samples: int | None = None,
    ) -> Tensor:
        """Applies the layer.

        Args:
            input: Input, shape [B, in_channels, ...].
            output_size: Spatial size of the output, see `torch.nn.ConvTranspose2d`.
            sample: If False, the posterior means are used.
            num_samples: Number of independent samples S; None for one sample without the extra dimension.

        Returns:
            Shape [B, out_channels, ...], with a leading dimension S if `num_samples` is given.
        """
        return self._forward(input, output_size, sample=sample, num_samples=num_samples)

    @property
    def num_inputs(self) -> int:
        covered = math.prod(self.kernel_size) // math.prod(self.stride)
        return max(1, self.in_channels // self.groups * covered)

    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        dimensions = len(self.kernel_size)
        padding = cast("tuple[int, ...]", self.padding)
        output_padding = self._output_padding(
            x,
            args[0] if args else None,
            list(self.stride),
            list(padding),
            list(self.kernel_size),
            dimensions,
            list(self.dilation),
        )
        transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        return transposed(x, weight, bias, self.stride, padding, output_padding, self.groups, self.dilation)


class VariationalConv1d(_VariationalConv, nn.Conv1d):
    """`torch.nn.Conv1d` with a mean-field Gaussian posterior, see `VariationalConv2d`."""

    torch_parent = nn.Conv1d


class VariationalConv2d(_VariationalConv, nn.Conv2d):
    """`torch.nn.Conv2d` with a mean-field Gaussian posterior (Blundell et al., 2015).

    Accepts all arguments of `torch.nn.Conv2d`, and additionally:

    Args:
        prior: Prior of weight and bias. Default: standard Gaussian.
        estimator: ``"reparameterization"``, ``"local_reparameterization"``, ``"flipout"``, or ``"auto"``.
        init_std: Initial posterior standard deviation.

    Raises:
        ValueError: If the estimator is unknown, or `init_std` is not positive and finite.

    Example:
        >>> import torch
        >>> layer = VariationalConv2d(1, 4, kernel_size=3, padding=1, estimator="flipout")
        >>> layer(torch.ones(2, 1, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    torch_parent = nn.Conv2d


class VariationalConv3d(_VariationalConv, nn.Conv3d):
    """`torch.nn.Conv3d` with a mean-field Gaussian posterior, see `VariationalConv2d`."""

    torch_parent = nn.Conv3d


class VariationalConvTranspose1d(_VariationalConvTranspose, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with a mean-field Gaussian posterior, see `VariationalConv2d`."""

    torch_parent = nn.ConvTranspose1d


class VariationalConvTranspose2d(_VariationalConvTranspose, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with a mean-field Gaussian posterior, see `VariationalConv2d`."""

    torch_parent = nn.ConvTranspose2d


class VariationalConvTranspose3d(_VariationalConvTranspose, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` with a mean-field Gaussian posterior, see `VariationalConv2d`."""

    torch_parent = nn.ConvTranspose3d
