"""Gradient estimators: how a layer with random weights turns noise into outputs.

All of them take the layer, its input and the number of samples S, and return draws of the layer's output:
of the shape of the output for ``num_samples=None``, with a leading dimension S otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_vi.posteriors import MeanFieldGaussian


class StochasticAffineMap(Protocol):
    """A layer that is linear in its weight and its bias, both of which have posteriors."""

    channel_dim: int
    stochastic_names: tuple[str, ...]

    def posterior(self, name: str) -> MeanFieldGaussian:
        """The posterior of one parameter."""

    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """The layer's operation with the given weights."""

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
    leading = () if num_samples is None else (num_samples,)
    draws = []
    for name in layer.stochastic_names:
        posterior = layer.posterior(name)
        noise = torch.randn(leading + posterior.mu.shape, dtype=posterior.mu.dtype, device=posterior.mu.device)
        draws.append(posterior.rsample(noise))
    if num_samples is None:
        return _apply(layer, x, draws, args)
    stacked: Tensor = torch.vmap(lambda *weights: _apply(layer, x, weights, args))(*draws)
    return stacked


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
    posteriors = [layer.posterior(name) for name in layer.stochastic_names]
    mean = _apply(layer, x, [posterior.mean for posterior in posteriors], args)
    variance = _apply(layer, x.square(), [posterior.std.square() for posterior in posteriors], args)
    return mean, variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


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
    leading = () if num_samples is None else (num_samples,)
    noise = torch.randn(leading + mean.shape, dtype=mean.dtype, device=mean.device)
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
    if num_samples is not None:
        draw = torch.vmap(lambda _: flipout(layer, x, None, *args), randomness="different")
        samples: Tensor = draw(torch.arange(num_samples, device=x.device))
        return samples
    mean = _apply(layer, x, [layer.posterior(name).mean for name in layer.stochastic_names], args)
    weight_std = layer.posterior("weight").std
    perturbation = weight_std * torch.randn_like(weight_std)
    deviation = layer.linear_map(x * _signs(x, layer.channel_dim), perturbation, None, *args)
    deviation = deviation * _signs(mean, layer.channel_dim)
    if "bias" in layer.stochastic_names:
        bias_std = layer.posterior("bias").std
        noise = torch.randn(_per_channel(mean, layer.channel_dim), dtype=mean.dtype, device=mean.device)
        deviation = deviation + bias_std.view(_per_channel(mean[:1], layer.channel_dim)) * noise
    return mean + deviation


ESTIMATORS: Mapping[str, Estimator] = {
    "reparameterization": reparameterization,
    "local_reparameterization": local_reparameterization,
    "flipout": flipout,
}
"""Estimators by name."""

ACTIVATION_SPACE = frozenset({"local_reparameterization", "flipout"})
"""Estimators whose noise differs between the rows of a batch."""


def resolve_estimator(name: str) -> str:
    """The estimator that `name` stands for.

    Args:
        name: One of `ESTIMATORS`, or ``"auto"``: local reparameterization, the one of lowest variance.

    Returns:
        A key of `ESTIMATORS`.

    Raises:
        ValueError: If there is no such estimator.

    Example:
        >>> resolve_estimator("auto")
        'local_reparameterization'
    """
    if name == "auto":
        return "local_reparameterization"
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be 'auto' or one of {sorted(ESTIMATORS)}, got {name!r}")
    return name


def _apply(layer: StochasticAffineMap, x: Tensor, weights: Any, args: tuple[Any, ...]) -> Tensor:
    weight, bias = (*weights, None)[:2]
    return layer.linear_map(x, weight, bias, *args)


def _per_channel(x: Tensor, channel_dim: int) -> tuple[int, ...]:
    """The shape [B, 1, ..., C, ..., 1] that holds one number for each example and channel."""
    shape = [x.shape[0]] + [1] * (x.dim() - 1)
    shape[channel_dim] = x.shape[channel_dim]
    return tuple(shape)


def _signs(x: Tensor, channel_dim: int) -> Tensor:
    bits = torch.randint(0, 2, _per_channel(x, channel_dim), device=x.device)
    return bits.to(x.dtype) * 2 - 1
