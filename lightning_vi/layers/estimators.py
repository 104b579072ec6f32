"""Gradient estimators of variational layers.

An estimator takes a layer, its input x of shape [B, ...], the number of samples S, and further arguments of the layer.
It returns samples of the output of shape [S, B, ...], or one sample of shape [B, ...] if ``num_samples=None``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.noise import antithetic_pairs

if TYPE_CHECKING:
    from lightning_vi.layers.base import VariationalLayer

Estimator = Callable[..., Tensor]


def reparameterization(layer: "VariationalLayer", x: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""Weight samples shared by the batch (Kingma & Welling, 2014), :math:`w = \mu + \sigma \epsilon`."""
    draws = {}
    for name in layer.stochastic_names:
        posterior = layer.posterior(name)
        noise = _noise(posterior.mu.shape, posterior.mu, num_samples, layer.is_antithetic)
        draws[name] = posterior.rsample(noise)
    bias = draws.get("bias", layer.deterministic_bias)
    if num_samples is None:
        return layer.linear_map(x, draws["weight"], bias, *args)
    return layer.stacked_map(x.expand(num_samples, *x.shape), draws["weight"], bias, *args)


def activation_moments(layer: "VariationalLayer", x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation of the output of a layer with independent Gaussian weights.

    .. math:: \mathrm{E}[a] = x \mu^\top + \mu_b, \qquad \mathrm{Var}[a] = x^2 (\sigma^2)^\top + \sigma_b^2

    and likewise for convolutions.

    Args:
        layer: The layer.
        x: Input, shape [B, ...].
        *args: Further arguments of the layer.

    Returns:
        Mean and standard deviation, each of the shape of the output.
    """
    mean = mean_output(layer, x, *args)
    return mean, _output_std(layer, x, mean, *args)


def mean_output(layer: "VariationalLayer", x: Tensor, *args: Any) -> Tensor:
    """Output of a layer with its posterior means as weights."""
    bias = layer.posterior("bias").mean if "bias" in layer.stochastic_names else layer.deterministic_bias
    return layer.linear_map(x, layer.posterior("weight").mean, bias, *args)


def _output_std(layer: "VariationalLayer", x: Tensor, mean: Tensor, *args: Any) -> Tensor:
    """Standard deviation of the output of a layer with independent weights, of the shape and type of `mean`."""
    least = least_variance(mean.dtype)
    if "bias" in layer.stochastic_names:
        bias_variance = layer.posterior("bias").std.square() + least
    else:
        bias_variance = mean.new_full((mean.shape[layer.channel_dim],), least)
    return layer.linear_map(x.square(), layer.posterior("weight").std.square(), bias_variance, *args).sqrt()


def least_variance(dtype: torch.dtype) -> float:
    """Smallest variance whose square root has a finite gradient."""
    return 1e-7 if dtype == torch.float16 else torch.finfo(dtype).tiny


def local_reparameterization(layer: "VariationalLayer", x: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""Independent noise on the pre-activations of each example (Kingma et al., 2015).

    .. math:: a = \mathrm{E}[a] + \sqrt{\mathrm{Var}[a]}\, \epsilon

    For convolutions the noise is independent for each pixel.
    """

    def noise(shape: Sequence[int], like: Tensor) -> Tensor:
        return _noise_of_copies(layer, shape, like, num_samples)

    return layer.noisy_map(x, noise, *args)


def noise_around(layer: "VariationalLayer", x: Tensor, means: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""Local reparameterization around conditional means, for weights that share a part of their noise.

    With weights :math:`w_s = m_s + \sigma \circ \epsilon`, where only the means :math:`m_s` are shared by the batch,

    .. math:: a_s = x m_s^\top + \sqrt{x^2 (\sigma^2)^\top}\, \epsilon

    Args:
        layer: The layer.
        x: Input, shape [B, ...].
        means: Output of the layer with :math:`m_s` as weights.
        num_samples: S; None for one sample, or copies of the batch.
        *args: Further arguments of the layer.

    Returns:
        The shape of `means`.
    """
    std = _output_std(layer, x, means if num_samples is None else means[0], *args)
    return torch.addcmul(means, std, _noise_of_copies(layer, std.shape, std, num_samples))


def _noise_of_copies(layer: "VariationalLayer", shape: Sequence[int], like: Tensor, num_samples: int | None) -> Tensor:
    """Noise for outputs of a shape, antithetic between copies of the batch where the layer says so."""
    if num_samples is None and layer.num_copies is not None and layer.is_antithetic:
        rows = shape[0] // layer.num_copies
        return _noise((rows, *shape[1:]), like, layer.num_copies, is_antithetic=True).flatten(0, 1)
    return _noise(shape, like, num_samples, layer.is_antithetic)


def flipout(layer: "VariationalLayer", x: Tensor, num_samples: int | None, *args: Any) -> Tensor:
    r"""Shared weight perturbation with random signs for each example (Wen et al., 2018).

    .. math:: a = x \mu^\top + \big((x \circ r) (\sigma \circ \epsilon)^\top\big) \circ s, \qquad r, s \in \{-1, 1\}

    The signs are sampled for each example and channel and are constant over space. The noise of the bias is
    independent for each example.

    Raises:
        ValueError: If `x` has no batch dimension.
    """
    if not layer.is_batched(x):
        raise InputValueError(f"flipout needs an input with a batch dimension, got shape {tuple(x.shape)}")
    stacked = layer.num_copies if num_samples is None else num_samples
    mean = mean_output(layer, x, *args)
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
        bias_shape = [1] * (len(leading) + 1) + shape[len(leading) + 1 :]
        noise = torch.randn(shape, dtype=mean.dtype, device=mean.device)
        deviation = deviation + layer.posterior("bias").std.view(bias_shape) * noise
    outputs = mean + deviation
    return outputs if stacked is None or shared_input else outputs.flatten(0, 1)


ESTIMATORS: Mapping[str, Estimator] = {
    "reparameterization": reparameterization,
    "local_reparameterization": local_reparameterization,
    "flipout": flipout,
}
"""Maps names to estimators."""

ACTIVATION_SPACE = frozenset({"local_reparameterization", "flipout"})
"""Names of the estimators whose noise differs between the examples of a batch."""


def check_estimator(name: str) -> None:
    """Checks the name of an estimator.

    Args:
        name: One of `ESTIMATORS`, or ``"auto"``.

    Raises:
        ValueError: If the name is unknown.
    """
    if name != "auto" and name not in ESTIMATORS:
        raise InputValueError(f"estimator must be 'auto' or one of {sorted(ESTIMATORS)}, got {name!r}")


def _noise(shape: Sequence[int], like: Tensor, num_samples: int | None, is_antithetic: bool) -> Tensor:
    """Standard normal noise, with a leading dimension S unless `num_samples` is None."""
    if num_samples is None:
        return torch.randn(shape, dtype=like.dtype, device=like.device)
    if not is_antithetic:
        return torch.randn((num_samples, *shape), dtype=like.dtype, device=like.device)
    half = torch.randn(((num_samples + 1) // 2, *shape), dtype=like.dtype, device=like.device)
    return antithetic_pairs(half, num_samples)


def _per_channel(x: Tensor, channel_dim: int, num_leading: int) -> list[int]:
    """Shape [S, B, 1, ..., C, ..., 1] of a tensor with one number per sample, example and channel."""
    shape = [*x.shape[: num_leading + 1], *[1] * (x.dim() - num_leading - 1)]
    position = channel_dim if channel_dim < 0 else channel_dim + num_leading
    shape[position] = x.shape[position]
    return shape


def _signs(x: Tensor, channel_dim: int, num_leading: int) -> Tensor:
    bits = torch.randint(0, 2, _per_channel(x, channel_dim, num_leading), device=x.device)
    return bits.to(x.dtype) * 2 - 1
