"""Covariance functions of the distance between inputs."""

import copy
import math
from abc import abstractmethod

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.kernels.base import Kernel, LengthScale

CHOICES = (0.5, 1.5)
MIN_SQUARED_DISTANCE = 1e-24
"""The gradient of a distance is infinite at zero."""


class IsotropicKernel(Kernel):
    """Base class of kernels that depend on the Euclidean distance of scaled inputs."""

    @abstractmethod
    def of_squared_distance(self, squares: Tensor) -> Tensor:
        """Correlation at a squared distance, elementwise.

        Args:
            squares: Nonnegative, any shape.

        Returns:
            The shape of `squares`.
        """

    def correlation(self, differences: Tensor) -> Tensor:  # noqa: D102
        return self.of_squared_distance(differences.square().sum(-1))

    def correlation_matrix(self, x: Tensor, z: Tensor) -> Tensor:  # noqa: D102
        if x.shape[-1] == 1:
            return super().correlation_matrix(x, z)
        center = z.mean(0)
        x, z = x - center, z - center
        squares = x.square().sum(-1, keepdim=True) + z.square().sum(-1) - 2 * x @ z.mT
        return self.of_squared_distance(squares.clamp_min(0))


class RBF(IsotropicKernel):
    r"""Squared exponential kernel, :math:`\rho = \exp(-r^2 / 2)`, whose functions are infinitely smooth.

    Args:
        length_scale: As for `Kernel`.
        std: As for `Kernel`.
        offset_std: As for `Kernel`.

    Example:
        >>> RBF(length_scale=2.0, std=3.0)(torch.zeros(1, 1), torch.tensor([[0.0], [2.0]]))
        tensor([[9.0000, 5.4588]])
    """

    def of_squared_distance(self, squares: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(-0.5 * squares)

    def sample_frequencies(self, size: int, num_inputs: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        return torch.randn(size, num_inputs, generator=generator, device="cpu", dtype=torch.float64)


class Matern(IsotropicKernel):
    r"""Matern kernel.

    ============== ==========================================================
    :math:`\nu`    :math:`\rho`
    ============== ==========================================================
    0.5            :math:`e^{-r}`
    1.5            :math:`(1 + \sqrt3 r)\, e^{-\sqrt3 r}`
    2.5            :math:`(1 + \sqrt5 r + \tfrac53 r^2)\, e^{-\sqrt5 r}`
    ============== ==========================================================

    Args:
        smoothness: :math:`\nu`: 0.5, whose functions are continuous; 1.5, once differentiable; or 2.5, twice. None to
            choose between 0.5 and 1.5 by `fit_kernel`, until when it is 0.5.
        length_scale: As for `Kernel`.
        std: As for `Kernel`.
        offset_std: As for `Kernel`.

    Raises:
        InputValueError: If `smoothness` is another number, or as for `Kernel`.

    Example:
        >>> Matern(0.5, length_scale=1.0, std=1.0)(torch.zeros(1, 1), torch.tensor([[0.0], [1.0]]))
        tensor([[1.0000, 0.3679]])
    """

    def __init__(
        self,
        smoothness: float | None = 0.5,
        length_scale: LengthScale = None,
        std: float | None = None,
        offset_std: float = 0.0,
    ) -> None:
        if smoothness not in (None, 0.5, 1.5, 2.5):
            raise InputValueError(f"smoothness must be 0.5, 1.5 or 2.5, or None, got {smoothness!r}")
        super().__init__(length_scale, std, offset_std)
        self.finds_smoothness = smoothness is None
        self.smoothness = 0.5 if smoothness is None else smoothness
        self.is_resolved &= not self.finds_smoothness

    def get_extra_state(self) -> Tensor:  # noqa: D102
        return torch.tensor(self.smoothness)

    def set_extra_state(self, state: Tensor) -> None:  # noqa: D102
        self.smoothness = float(state)

    def candidates(self) -> list[Kernel]:  # noqa: D102
        found = []
        for smoothness in CHOICES if self.finds_smoothness else [self.smoothness]:
            found.append(copy.deepcopy(self))
            found[-1].smoothness = smoothness
        return list(found)

    def adopt(self, other: Kernel) -> None:  # noqa: D102
        super().adopt(other)
        if isinstance(other, Matern):
            self.smoothness = other.smoothness

    def of_squared_distance(self, squares: Tensor) -> Tensor:  # noqa: D102
        scaled = (2 * self.smoothness * squares).clamp_min(MIN_SQUARED_DISTANCE)
        distance = scaled.sqrt()
        decay = torch.exp(-distance)
        if self.smoothness == 0.5:
            return decay
        return (1 + distance + (scaled / 3 if self.smoothness == 2.5 else 0)) * decay

    def sample_frequencies(self, size: int, num_inputs: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        # Student's t with 2 nu degrees of freedom, whose chi-squared is a sum of 2 nu squares.
        degrees = round(2 * self.smoothness)
        squares = torch.randn(size, degrees, generator=generator, device="cpu", dtype=torch.float64).square()
        normal = torch.randn(size, num_inputs, generator=generator, device="cpu", dtype=torch.float64)
        return normal / squares.mean(1, keepdim=True).sqrt()

    def extra_repr(self) -> str:  # noqa: D102
        return f"smoothness={self.smoothness}, {super().extra_repr()}"


class RationalQuadratic(IsotropicKernel):
    r"""Rational quadratic kernel, :math:`\rho = (1 + r^2 / 2 \alpha)^{-\alpha}`, a mixture of `RBF` of many scales.

    Args:
        alpha: :math:`\alpha`; the kernel approaches `RBF` as it grows.
        length_scale: As for `Kernel`.
        std: As for `Kernel`.
        offset_std: As for `Kernel`.

    Raises:
        InputValueError: If `alpha` is not positive and finite, or as for `Kernel`.

    Example:
        >>> RationalQuadratic(1.0, length_scale=1.0, std=1.0)(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([[0.6667]])
    """

    def __init__(
        self,
        alpha: float = 1.0,
        length_scale: LengthScale = None,
        std: float | None = None,
        offset_std: float = 0.0,
    ) -> None:
        if not 0 < alpha < math.inf:
            raise InputValueError(f"alpha must be positive and finite, got {alpha!r}")
        super().__init__(length_scale, std, offset_std)
        self.alpha = alpha

    def of_squared_distance(self, squares: Tensor) -> Tensor:  # noqa: D102
        return torch.exp(-self.alpha * torch.log1p(squares / (2 * self.alpha)))

    def sample_frequencies(self, size: int, num_inputs: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        # A gamma-distributed precision mixes squared exponentials.
        shape = torch.full((size, 1), float(self.alpha), dtype=torch.float64, device="cpu")
        precision = torch._standard_gamma(shape, generator=generator) / self.alpha
        normal = torch.randn(size, num_inputs, generator=generator, device="cpu", dtype=torch.float64)
        return normal * precision.sqrt()

    def extra_repr(self) -> str:  # noqa: D102
        return f"alpha={self.alpha}, {super().extra_repr()}"
