"""Gradient estimators: how a layer with random weights turns noise into outputs.

All of them take the layer, its input and the number of samples S, and return draws of the layer's output:
of the shape of the output for ``num_samples=None``, with a leading dimension S otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from lightning_vi.noise import antithetic_pairs
from lightning_vi.posteriors import MeanFieldGaussian


class StochasticAffineMap(Protocol):
    """A layer that is linear in its weight and its bias; the weight has a posterior, and the bias may have one."""

    channel_dim: ClassVar[int]

    @property
    def stochastic_names(self) -> tuple[str, ...]:
        """``"weight"``, and ``"bias"`` if that has a posterior."""

    @property
    def deterministic_bias(self) -> Tensor | None:
        """The bias if it has no posterior."""

    @property
    def num_copies(self) -> int | None:
        """S if the batch consists of S copies that need noise of their own, copy after copy."""

    @property
    def is_antithetic(self) -> bool:
        """Whether the noise of every second copy is the negative of the one before."""

    def posterior(self, name: str) -> MeanFieldGaussian:
        """The posterior of one parameter."""

    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """The layer's operation with the given weights."""

    def stacked_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """The operation with S inputs [S, B, ...] and S weights [S, ...]."""

    def is_batched(self, x: Tensor) -> bool:
        """Whether the first dimension of `x` is the batch."""


Estimator = Callable[..., Tensor]


def reparameterization(layer: StochasticAffineMap, x: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""One weight draw shared by the batch (Kingma & Welling, 2014): :math:`w = \mu + \sigma \epsilon`.

    Args:
        layer: The layer.
        x: Input, shape [B, ...].
        num_samples: S independent weight draws, or None for one.
        *args: Further arguments of the layer's operation.

    Returns:
        Shape [B, ...] or [S, B, ...].
    """
    draws = {}
    for name in layer.stochastic_names:
        posterior = layer.posterior(name)
        noise = _noise(posterior.mu.shape, posterior.mu, num_samples, layer.is_antithetic)
        draws[name] = posterior.rsample(noise)
    bias = draws.get("bias", layer.deterministic_bias)
    if num_samples is None:
        return layer.linear_map(x, draws["weight"], bias, *args)
    return layer.stacked_map(x.expand(num_samples, *x.shape), draws["weight"], bias, *args)


def activation_moments(layer: StochasticAffineMap, x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation of each output of a layer with independent Gaussian weights.

    .. math:: \mathrm{E}[a] = x \mu^\top + \mu_b, \qquad \mathrm{Var}[a] = x^2 (\sigma^2)^\top + \sigma_b^2

    and the same with convolutions.

    Args:
        layer: The layer.
        x: Input, shape [B, ...].
        *args: Further arguments of the layer's operation.

    Returns:
        Mean and standard deviation, each of the shape of the layer's output.
    """
    weight = layer.posterior("weight")
    if "bias" in layer.stochastic_names:
        bias = layer.posterior("bias")
        mean = layer.linear_map(x, weight.mean, bias.mean, *args)
        bias_variance = bias.std.square() + _least_variance(mean)
    else:
        mean = layer.linear_map(x, weight.mean, layer.deterministic_bias, *args)
        bias_variance = mean.new_full((mean.shape[layer.channel_dim],), _least_variance(mean))
    return mean, layer.linear_map(x.square(), weight.std.square(), bias_variance, *args).sqrt()


def _mean(layer: StochasticAffineMap, x: Tensor, *args: Any) -> Tensor:
    bias = layer.posterior("bias").mean if "bias" in layer.stochastic_names else layer.deterministic_bias
    return layer.linear_map(x, layer.posterior("weight").mean, bias, *args)


def _least_variance(mean: Tensor) -> float:
    """The smallest variance whose root has a finite gradient."""
    return 1e-7 if mean.dtype == torch.float16 else torch.finfo(mean.dtype).tiny


def local_reparameterization(layer: StochasticAffineMap, x: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""Noise on the pre-activations, independent for each row (Kingma et al., 2015).

    .. math:: a = \mathrm{E}[a] + \sqrt{\mathrm{Var}[a]}\, \epsilon

    For convolutions the noise is independent for each pixel.

    Args:
        layer: The layer.
        x: Input, shape [B, ...].
        num_samples: S draws for each row, or None for one.
        *args: Further arguments of the layer's operation.

    Returns:
        Shape [B, ...] or [S, B, ...].
    """
    mean, std = activation_moments(layer, x, *args)
    if num_samples is None and layer.num_copies is not None:
        rows = mean.shape[0] // layer.num_copies
        noise = _noise((rows, *mean.shape[1:]), mean, layer.num_copies, layer.is_antithetic).flatten(0, 1)
    else:
        noise = _noise(mean.shape, mean, num_samples, layer.is_antithetic)
    return torch.addcmul(mean, std, noise)


def flipout(layer: StochasticAffineMap, x: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""A shared weight perturbation with random signs for each example (Wen et al., 2018).

    .. math:: a = x \mu^\top + \big((x \circ r) (\sigma \circ \epsilon)^\top\big) \circ s, \qquad r, s \in \{-1, 1\}

    The signs are drawn for each example and channel and are constant over space. The bias, to which no input
    sign applies, has independent noise for each example.

    Args:
        layer: The layer.
        x: Input, shape [B, ...].
        num_samples: S perturbations with signs of their own, or None for one.
        *args: Further arguments of the layer's operation.

    Returns:
        Shape [B, ...] or [S, B, ...].

    Raises:
        ValueError: If `x` has no batch dimension.
    """
    if not layer.is_batched(x):
        raise ValueError(f"flipout needs a batch of inputs, got one of shape {tuple(x.shape)}")
    stacked = layer.num_copies if num_samples is None else num_samples
    mean = _mean(layer, x, *args)
    shared_input = num_samples is not None
    if shared_input:
        mean = mean.expand(num_samples, *mean.shape)  # type: ignore[arg-type]
        x = x.expand(num_samples, *x.shape)  # type: ignore[arg-type]
    elif stacked is not None:
        mean, x = mean.reshape(stacked, -1, *mean.shape[1:]), x.reshape(stacked, -1, *x.shape[1:])
    leading = () if stacked is None else (stacked,)
    std = layer.posterior("weight").std
    perturbation = std * torch.randn(leading + std.shape, dtype=std.dtype, device=std.device)
    apply = layer.linear_map if stacked is None else layer.stacked_map
    deviation = apply(x * _signs(x, layer.channel_dim, len(leading)), perturbation, None, *args)
    deviation = deviation * _signs(mean, layer.channel_dim, len(leading))
    if "bias" in layer.stochastic_names:
        shape = _per_channel(mean, layer.channel_dim, len(leading))
        bias_shape = [1] * len(leading) + _per_channel(mean, layer.channel_dim, len(leading))[len(leading) :]
        bias_shape[len(leading)] = 1
        noise = torch.randn(shape, dtype=mean.dtype, device=mean.device)
        deviation = deviation + layer.posterior("bias").std.view(bias_shape) * noise
    outputs = mean + deviation
    return outputs if stacked is None or shared_input else outputs.flatten(0, 1)


ESTIMATORS: Mapping[str, Estimator] = {
    "reparameterization": reparameterization,
    "local_reparameterization": local_reparameterization,
    "flipout": flipout,
}
"""Estimators by name."""

ACTIVATION_SPACE = frozenset({"local_reparameterization", "flipout"})
"""Estimators whose noise differs between the rows of a batch."""


def check_estimator(name: str) -> None:
    """Refuses a name that stands for no estimator.

    Args:
        name: One of `ESTIMATORS`, or ``"auto"``.

    Raises:
        ValueError: If there is no such estimator.
    """
    if name != "auto" and name not in ESTIMATORS:
        raise ValueError(f"estimator must be 'auto' or one of {sorted(ESTIMATORS)}, got {name!r}")


def _noise(shape: Sequence[int], like: Tensor, num_samples: int | None, is_antithetic: bool) -> Tensor:
    """Standard normal noise of a shape, with a leading dimension S if that is given."""
    if num_samples is None:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    if not is_antithetic:
        return torch.randn((num_samples, *shape), dtype=like.dtype, device=like.device)
    half = torch.randn(((num_samples + 1) // 2, *shape), dtype=like.dtype, device=like.device)
    return antithetic_pairs(half, num_samples)


def _per_channel(x: Tensor, channel_dim: int, num_leading: int) -> list[int]:
    """The shape [S, B, 1, ..., C, ..., 1] that holds one number for each sample, example and channel."""
    shape = [*x.shape[: num_leading + 1], *[1] * (x.dim() - num_leading - 1)]
    position = channel_dim if channel_dim < 0 else channel_dim + num_leading
    shape[position] = x.shape[position]
    return shape


def _signs(x: Tensor, channel_dim: int, num_leading: int) -> Tensor:
    bits = torch.randint(0, 2, _per_channel(x, channel_dim, num_leading), device=x.device)
    return bits.to(x.dtype) * 2 - 1
