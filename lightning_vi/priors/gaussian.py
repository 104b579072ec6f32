"""Gaussian prior."""

import math
from collections.abc import Hashable, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional import gaussian_kl
from lightning_vi.functional.divergence import OfMoments, gaussian_of_moments
from lightning_vi.priors.base import Prior


class GaussianPrior(Prior):
    r"""Independent Gaussian prior, :math:`p(w) = \prod_i \mathcal{N}(w_i \mid m, s^2)`.

    With ``std="fan_in"`` weights have :math:`s = \sqrt{2 / \text{fan-in}}`, which keeps the variance of ReLU
    activations constant over depth (He et al., 2015); biases and other vectors have :math:`s = 1`.

    With ``mean="pretrained"`` the prior is centered at the weights of the network at conversion, as in MOPED (Krishnan,
    Subedar and Tickoo, "Specifying weight priors in Bayesian deep neural networks with empirical Bayes", AAAI 2020).
    Mean and s become part of the state dictionary; a network with another Gaussian prior loads them from there.

    Args:
        mean: Prior mean: a number, a tensor of the shape of the parameter, or ``"pretrained"``.
        std: Prior standard deviation: a positive number, a tensor of the shape of the parameter, or ``"fan_in"``.

    Raises:
        ValueError: If `std` is neither positive and finite nor ``"fan_in"``, or `mean` is neither finite nor
            ``"pretrained"``.

    Example:
        >>> import torch
        >>> prior = GaussianPrior(std="fan_in").for_parameter("weight", torch.zeros(5, 8), num_inputs=8)
        >>> prior
        GaussianPrior(mean=0.0, std=0.5)
    """

    mean: Tensor | float | Literal["pretrained"]
    std: Tensor | float | Literal["fan_in"]

    def __init__(
        self, mean: Tensor | float | Literal["pretrained"] = 0.0, std: Tensor | float | Literal["fan_in"] = 1.0
    ) -> None:
        super().__init__()
        if isinstance(mean, str) and mean != "pretrained":
            raise InputValueError(f"mean must be a number, a tensor or 'pretrained', got {mean!r}")
        if isinstance(std, str) and std != "fan_in":
            raise InputValueError(f"std must be a positive number, a tensor or 'fan_in', got {std!r}")
        if not isinstance(std, str) and not _is_positive(std):
            raise InputValueError(f"std must be positive and finite, got {std}")
        if not isinstance(mean, str) and not torch.as_tensor(mean).isfinite().all():
            raise InputValueError(f"mean must be finite, got {mean}")
        self._register("mean", mean)
        self._register("std", std)

    def _register(self, name: str, value: Tensor | float | str) -> None:
        if isinstance(value, Tensor):
            self.register_buffer(name, value.detach().clone())
        else:
            setattr(self, name, value)

    def for_parameter(self, name: str, parameter: Tensor, num_inputs: int) -> "GaussianPrior":  # noqa: D102
        he_std = math.sqrt(2.0 / num_inputs) if parameter.dim() > 1 else 1.0
        std = he_std if isinstance(self.std, str) else self.std
        mean = self.mean
        if isinstance(mean, str):
            mean, std = parameter.detach(), torch.as_tensor(std, dtype=parameter.dtype, device=parameter.device)
        for label, value in (("mean", mean), ("std", std)):
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, torch.Size()):
                raise InputValueError(
                    f"{label} has shape {tuple(value.shape)}, but the parameter {name!r} has {tuple(parameter.shape)}"
                )
        return GaussianPrior(mean, std)

    @property
    def joint_key(self) -> Hashable:  # noqa: D102
        numbers = (self.mean, self.std)
        return None if any(isinstance(number, Tensor | str) for number in numbers) else (GaussianPrior, *numbers)

    def of_moments(self, sizes: Sequence[int]) -> OfMoments | None:  # noqa: D102
        mean, std = self._resolved()
        is_centered = not isinstance(mean, Tensor) and mean == 0 and not isinstance(std, Tensor)
        return gaussian_of_moments(sum(sizes), std) if is_centered else None

    @property
    def depends_on_moments_only(self) -> bool:  # noqa: D102
        return True

    def _resolved(self) -> tuple[Tensor | float, Tensor | float]:
        if isinstance(self.mean, str) or isinstance(self.std, str):
            raise InputValueError(f"{self!r} needs for_parameter(...) before it can be evaluated")
        return self.mean, self.std

    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:  # noqa: D102
        return gaussian_kl(mean, std, *self._resolved())

    def std_for(self, mean: Tensor, std: Tensor) -> Tensor | float:  # noqa: ARG002, D102
        return self._resolved()[1]

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        mean, std = self._resolved()
        log_std = std.log() if isinstance(std, Tensor) else math.log(std)
        return -0.5 * ((value - mean) / std).square() - log_std - 0.5 * math.log(2 * math.pi)

    def extra_repr(self) -> str:  # noqa: D102
        return f"mean={_summary(self.mean)}, std={_summary(self.std)}"


def _is_positive(std: Tensor | float) -> bool:
    values = torch.as_tensor(std)
    return bool((values > 0).all() and values.isfinite().all())


def _summary(value: Tensor | float | str) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    return f"<tensor {tuple(value.shape)}>" if value.dim() else f"{value.item():.6g}"
