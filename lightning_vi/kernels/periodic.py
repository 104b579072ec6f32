"""Covariance function of periodic functions."""

import math

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.kernels.base import Kernel, LengthScale

NUM_GRID = 4096
"""Points of a period on which the spectrum is computed."""


class Periodic(Kernel):
    r"""Periodic kernel (MacKay, 1998), :math:`\rho = \exp\big(-2 \sum_i \sin^2(\pi (x_i - x'_i) / p) / \ell_i^2\big)`.

    Args:
        period: Period p, in units of the inputs.
        length_scale: :math:`\ell`; relative to the period, otherwise as for `Kernel`.
        std: As for `Kernel`.
        offset_std: As for `Kernel`.

    Raises:
        InputValueError: If `period` is not positive and finite, or as for `Kernel`.

    Example:
        >>> kernel = Periodic(period=2.0, length_scale=1.0, std=1.0)
        >>> kernel(torch.zeros(1, 1), torch.tensor([[2.0], [1.0]]))
        tensor([[1.0000, 0.1353]])
    """

    def __init__(
        self,
        period: float,
        length_scale: LengthScale = None,
        std: float | None = None,
        offset_std: float = 0.0,
    ) -> None:
        if not 0 < period < math.inf:
            raise InputValueError(f"period must be positive and finite, got {period!r}")
        super().__init__(length_scale, std, offset_std)
        self.period = period

    def correlation(self, differences: Tensor) -> Tensor:  # noqa: D102
        scale = self._scale(differences)
        return torch.exp(-2 * (torch.sin(math.pi / self.period * differences * scale) / scale).square().sum(-1))

    def _scale(self, like: Tensor) -> Tensor:
        scale = self.length_scale.to(like)
        return torch.where(scale > 0, scale, math.sqrt(like.shape[-1]))

    def sample_frequencies(self, size: int, num_inputs: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        scale = self._scale(torch.empty(1, num_inputs, dtype=torch.float64, device="cpu")).expand(num_inputs)
        angle = torch.arange(NUM_GRID, dtype=torch.float64, device="cpu") * (2 * math.pi / NUM_GRID)
        columns = []
        for own in scale.tolist():
            # The Fourier series of the correlation; harmonic k of either sign has the same weight.
            weights = torch.fft.rfft(torch.exp((angle.cos() - 1) / own**2)).real.clamp_min(0)
            weights[1:] *= 2
            harmonics = torch.multinomial(weights, size, replacement=True, generator=generator).double()
            signs = 2.0 * torch.randint(2, (size,), generator=generator, device="cpu") - 1
            columns.append(signs * harmonics * (2 * math.pi / self.period) * own)
        return torch.stack(columns, 1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"period={self.period}, {super().extra_repr()}"
