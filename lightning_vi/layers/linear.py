"""Variational fully connected layer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.errors import InputValueError
from lightning_vi.layers.base import VariationalLayer
from lightning_vi.layers.estimators import least_variance
from lightning_vi.layers.local_linear import can_fuse, local_linear
from lightning_vi.layers.stacked_linear import stacked_linear
from lightning_vi.posteriors import DEFAULT_STD, InitialStd
from lightning_vi.priors import Prior


class VariationalLinear(VariationalLayer, nn.Linear):
    r"""`torch.nn.Linear` with a mean-field Gaussian posterior (Blundell et al., 2015).

    :math:`y = x W^\top + b` with :math:`W_{ij} \sim \mathcal{N}(\mu_{ij}, \mathrm{softplus}(\rho_{ij})^2)`, and
    likewise for b.

    Args:
        in_features: Size of each input row.
        out_features: Size of each output row.
        bias: If True, adds a bias, which is stochastic too.
        prior: Prior of weight and bias. Default: standard Gaussian.
        estimator: ``"reparameterization"``, ``"local_reparameterization"``, ``"flipout"``, or ``"auto"``.
        init_std: Initial posterior standard deviation; the means are initialized as the weights of `torch.nn.Linear`.
        device: Device of the parameters.
        dtype: Data type of the parameters.

    Raises:
        ValueError: If the estimator is unknown, or `init_std` is not positive and finite.

    Example:
        >>> import torch
        >>> layer = VariationalLinear(3, 2)
        >>> layer(torch.ones(4, 3)).shape, layer(torch.ones(4, 3), num_samples=5).shape
        (torch.Size([4, 2]), torch.Size([5, 4, 2]))
        >>> bool(layer.kl() > 0)
        True
    """

    torch_parent = nn.Linear
    channel_dim = -1
    preferred_estimator = "local_reparameterization"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        prior: Prior | None = None,
        estimator: str = "auto",
        init_std: InitialStd = DEFAULT_STD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.convert_in_place(self, prior=prior, estimator=estimator, init_std=init_std)

    def forward(self, input: Tensor, sample: bool = True, num_samples: int | None = None) -> Tensor:  # noqa: A002
        """Applies the layer.

        Args:
            input: Input, shape [..., in_features].
            sample: If False, the posterior means are used.
            num_samples: Number of independent samples S; None for one sample without the extra dimension.

        Returns:
            Shape [..., out_features], with a leading dimension S if `num_samples` is given.

        Raises:
            ValueError: If the last dimension of the input is not `in_features`.
        """
        if input.shape[-1] != self.in_features:
            raise InputValueError(
                f"the layer takes {self.in_features} features, got an input of shape {tuple(input.shape)}"
            )
        return self._forward(input, sample=sample, num_samples=num_samples)

    @property
    def num_inputs(self) -> int:  # noqa: D102
        return self.in_features

    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:  # noqa: ARG002, D102
        return F.linear(x, weight, bias)

    def stacked_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:  # noqa: ARG002, D102
        return stacked_linear(x, weight, bias)

    def noisy_map(self, x: Tensor, noise: Callable[[Sequence[int], Tensor], Tensor], *args: Any) -> Tensor:  # noqa: D102
        if not can_fuse(x):
            return super().noisy_map(x, noise, *args)
        stochastic = self._stochastic
        mean, std = stochastic.moments("weight")
        bias, bias_std = stochastic.moments("bias") if "bias" in stochastic.names else (self._parameters["bias"], None)
        drawn = noise((*x.shape[:-1], self.out_features), x)
        return local_linear(x, mean, std, bias, bias_std, drawn, least_variance(x.dtype))

    def is_batched(self, x: Tensor) -> bool:  # noqa: D102
        return x.dim() > 1
