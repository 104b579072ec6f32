"""Base class of covariance functions."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError

LengthScale = float | Sequence[float] | None


class ResizedOnLoading(nn.Module):
    """Base class of modules whose buffers take the shapes of a state dictionary, because they depend on data."""

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, buffer in list(self._buffers.items()):
            value = state_dict.get(prefix + name)
            if buffer is not None and value is not None and value.shape != buffer.shape:
                self.register_buffer(name, buffer.new_empty(value.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class Kernel(ResizedOnLoading, ABC):
    r"""Base class of stationary covariance functions of a Gaussian process.

    .. math:: k(x, x') = s^2 \rho\big((x - x') / \ell\big) + c^2, \qquad \rho(0) = 1

    A subclass fills in the correlation :math:`\rho`, and `sample_frequencies` of its spectral density.

    Args:
        length_scale: :math:`\ell`, in units of the inputs: one number, or one for each input; None to find it by
            `fit_kernel`, until when it is the square root of the number of inputs.
        std: s, in units of the outputs; None to find it by `fit_kernel`, until when it is 1.
        offset_std: c, the standard deviation of a constant that is added to the function.

    Raises:
        InputValueError: If a number is not positive and finite, or `offset_std` is negative.
    """

    length_scale: Tensor
    std: Tensor
    is_resolved: Tensor

    def __init__(self, length_scale: LengthScale = None, std: float | None = None, offset_std: float = 0.0) -> None:
        super().__init__()
        for name, value in (("length_scale", length_scale), ("std", std)):
            numbers = value if isinstance(value, Sequence) else [value]
            if not numbers or not all(number is None or 0 < number < math.inf for number in numbers):
                raise InputValueError(f"{name} must be positive and finite, got {value!r}")
        if not 0 <= offset_std < math.inf:
            raise InputValueError(f"offset_std must be nonnegative and finite, got {offset_std!r}")
        self.finds_length_scale, self.finds_std = length_scale is None, std is None
        self.offset_std = offset_std
        scales = torch.as_tensor([0.0] if length_scale is None else length_scale, dtype=torch.float32)
        self.register_buffer("length_scale", scales.reshape(-1))
        self.register_buffer("std", torch.tensor(1.0 if std is None else float(std)))
        self.register_buffer("is_resolved", torch.tensor(not (self.finds_length_scale or self.finds_std)))

    @abstractmethod
    def correlation(self, differences: Tensor) -> Tensor:
        r"""Computes :math:`\rho`.

        Args:
            differences: Differences of inputs in units of the length scales, shape [..., F].

        Returns:
            Shape [...].
        """

    @abstractmethod
    def sample_frequencies(self, size: int, num_inputs: int, generator: torch.Generator) -> Tensor:
        r"""Draws angular frequencies :math:`\omega` from the spectral density of :math:`\rho`.

        .. math:: \rho(\tau) = \mathrm{E}[\cos(\omega^\top \tau)]

        Args:
            size: Number R of frequencies.
            num_inputs: F.
            generator: Of the random numbers, on the CPU.

        Returns:
            In units of one over the length scale, shape [R, F], float64.
        """

    def candidates(self) -> "list[Kernel]":
        """Returns the kernels among which `fit_kernel` chooses, copies of this one by default."""
        return [copy.deepcopy(self)]

    def adopt(self, other: "Kernel") -> None:
        """Takes over the scales of another kernel of the same class.

        Args:
            other: One of `candidates`.
        """
        self.length_scale = other.length_scale.to(self.length_scale)
        self.std.copy_(other.std)
        self.is_resolved.fill_(True)

    def scaled(self, x: Tensor) -> Tensor:
        """Inputs in units of the length scales.

        Args:
            x: Shape [N, F].

        Returns:
            Shape [N, F].

        Raises:
            InputValueError: If there are length scales for another number of inputs.
        """
        scale = self.length_scale.to(x)
        if len(scale) not in (1, x.shape[-1]):
            raise InputValueError(f"length_scale has {len(scale)} numbers, but there are {x.shape[-1]} inputs")
        default = math.sqrt(x.shape[-1])
        return x / torch.where(scale > 0, scale, default)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Covariances of the function between two sets of inputs.

        Args:
            x: Shape [N, F].
            z: Shape [M, F].

        Returns:
            Shape [N, M].
        """
        return self.std.to(x).square() * self.correlation_matrix(self.scaled(x), self.scaled(z)) + self.offset_std**2

    def correlation_matrix(self, x: Tensor, z: Tensor) -> Tensor:
        """Correlations between scaled inputs.

        Args:
            x: Shape [N, F].
            z: Shape [M, F].

        Returns:
            Shape [N, M].
        """
        return self.correlation(x.unsqueeze(1) - z.unsqueeze(0))

    @property
    def variance(self) -> Tensor:
        """Variance of the function at any input, a scalar tensor."""
        return self.std.square() + self.offset_std**2

    def extra_repr(self) -> str:  # noqa: D102
        known = bool(self.is_resolved)
        scale = [round(number, 3) for number in self.length_scale.tolist()] if known else None
        return f"length_scale={scale}, std={round(self.std.item(), 3) if known else None}"
