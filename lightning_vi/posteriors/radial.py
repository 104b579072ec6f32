"""The radial posterior."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_vi.functional.constants import constant_like
from lightning_vi.posteriors.coupling import NoiseCoupling


class RadialCoupling(NoiseCoupling):
    r"""Uniform directions and half-normal distances, :math:`u = \sqrt D\, |r|\, \epsilon / \|\epsilon\|`.

    Each tensor, of D elements, has a separate direction and :math:`r \sim \mathcal{N}(0, 1)` (Farquhar, Osborne and
    Gal, "Radial Bayesian neural networks", AISTATS 2020). A Gaussian's draws lie near a shell of radius
    :math:`\sqrt D`, while these are densest at the mean. With the root of D, which the paper leaves out, each element
    has unit variance, and the entropy is

    .. math:: H[u] = D \ln \sqrt D + H[|r|] + \ln A_{D-1} + (D - 1)\, \mathrm{E} \ln |r| \\
        = \tfrac D2 \ln D + \tfrac12 \ln \tfrac{e \pi}{2} + \ln \frac{2 \pi^{D/2}}{\Gamma(D/2)}
        - (D - 1) \frac{\gamma + \ln 2}{2}

    with Euler's constant :math:`\gamma`.

    Args:
        shapes: Shapes of the stochastic tensors; D is each one's number of elements.

    Example:
        >>> coupling = RadialCoupling([torch.Size([3, 1]), torch.Size([2])])
        >>> coupling(torch.randn(7, coupling.num_noise)).shape
        torch.Size([7, 5])
    """

    has_gaussian_marginals = False
    ones: Tensor
    negentropy: Tensor

    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        self.sizes = [shape.numel() for shape in shapes]
        self.num_noise = sum(self.sizes) + len(self.sizes)
        self.register_buffer("ones", torch.ones(sum(self.sizes)), persistent=False)
        excess = sum(0.5 * size * math.log(2 * math.pi * math.e) - radial_entropy(size) for size in self.sizes)
        self.register_buffer("negentropy", torch.tensor(excess), persistent=False)

    def forward(self, noise: Tensor) -> Tensor:  # noqa: D102
        noise = noise.to(self.ones)
        *directions, radii = noise.split_with_sizes([*self.sizes, len(self.sizes)], 1)
        lengths = torch.stack([direction.norm(dim=1) for direction in directions], 1)
        factors = radii.abs() / lengths * constant_like(self.sizes, lengths).sqrt()
        return torch.cat([direction * factors[:, i : i + 1] for i, direction in enumerate(directions)], 1)

    def marginals(self) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.ones, self.negentropy


def radial_entropy(size: int) -> float:
    """Differential entropy of the radial distribution with unit variances.

    Args:
        size: The number of dimensions.

    Returns:
        Nats; in one dimension the entropy of a standard normal variable.

    Example:
        >>> round(radial_entropy(1), 4)
        1.4189
    """
    surface = math.log(2) + 0.5 * size * math.log(math.pi) - math.lgamma(0.5 * size)
    mean_log_radius = -0.5 * (_EULER_GAMMA + math.log(2))
    return 0.5 * size * math.log(size) + 0.5 * math.log(0.5 * math.pi * math.e) + surface + (size - 1) * mean_log_radius


_EULER_GAMMA = 0.5772156649015329
