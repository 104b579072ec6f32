"""Stochastic-gradient Hamiltonian Monte Carlo as an optimizer."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_vi.errors import InputValueError
from lightning_vi.noise import draws_in_blocks, fill_normal, mix_seed

MASS_DECAY = 0.99
"""Decay rate of the running mean of squared gradients that sets the masses."""
MIN_MASS = 1e-8
"""Smallest mass, of tensors without gradients."""


class SGHMCOptimizer(Optimizer):
    r"""Langevin dynamics with momentum (Chen et al., 2014) for :math:`U(w) = N \, \mathcal{L}(w)`.

    The loss :math:`\mathcal{L}` must be the mean over examples of the negative log joint density,
    :math:`-\frac1N \ln p(y, w)`. A step of length :math:`h = \sqrt{\mathrm{lr} / N}` with mass m and velocity v is

    .. math::
        v &\leftarrow v - h\, \nabla U(w) / m, \qquad w \leftarrow w + \tfrac{h}{2} v, \\
        v &\leftarrow c\, v + \sqrt{(1 - c^2)\, T / m}\; \epsilon, \qquad w \leftarrow w + \tfrac{h}{2} v.

    This is the splitting "BAOAB" (Leimkuhler and Matthews, "Rational construction of stochastic numerical methods for
    molecular sampling", 2013), with one gradient for each step. Its weights have the right law for any stable step if
    the posterior is Gaussian and the gradient exact. With momentum c = 0 it is stochastic-gradient Langevin dynamics
    (Welling and Teh, 2011) of step size lr / N, with that noise; with temperature T = 0 it is gradient descent with
    momentum.

    Steps with ``adapt=True`` in the parameter group set the masses from a running root mean square of the gradients,
    to that of the element plus the mean of its tensor, which bounds the steps of elements without gradients. Other
    steps leave the masses alone: the weights have the same law for any fixed masses.

    Args:
        params: The parameters.
        lr: Learning rate, the square of the step's length times N.
        num_data: Size N of the training set.
        momentum: Share c of the velocity that a step keeps, in [0, 1).
        temperature: Temperature T; 1 for the posterior.
        seed: Seed of the noise, which depends on the step's number besides. The global random state is not used.
        stacked: Whether the first dimension of each parameter counts independent networks.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(5))
        >>> optimizer = SGHMCOptimizer([weight], lr=0.1, num_data=100)
        >>> (0.5 * (weight - 1).square().sum()).backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        num_data: int,
        momentum: float = 0.9,
        temperature: float = 1.0,
        seed: int = 0,
        stacked: bool = False,
    ) -> None:
        check_options(lr, momentum, temperature)
        if not num_data > 0:
            raise InputValueError(f"num_data must be positive, got {num_data!r}")
        options = {
            "lr": lr, "num_data": num_data, "momentum": momentum, "temperature": temperature, "seed": seed,
            "stacked": stacked, "adapt": False, "step": 0, "adapted": 0,
        }  # fmt: skip
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves velocities and parameters by one step.

        Args:
            closure: Computes the gradients and returns the loss.

        Returns:
            The loss returned by `closure`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            group["step"] += 1
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, group, mix_seed(group["seed"], number, group["step"]))
        return loss

    def _move(self, parameters: list[Tensor], group: dict[str, Any], seed: int) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                square = torch.zeros_like(parameter, dtype=parameter.dtype.to_real())
                self.state[parameter].update(
                    velocity=torch.zeros_like(parameter), square=square, mass=torch.ones_like(square)
                )
        velocities, squares, masses = (
            [self.state[p][key] for p in parameters] for key in ("velocity", "square", "mass")
        )
        gradients = [torch.as_tensor(parameter.grad) for parameter in parameters]
        if group["adapt"]:
            group["adapted"] += 1
            share = max(1 - MASS_DECAY, 1 / group["adapted"])
            for mass, square, gradient in zip(masses, squares, gradients, strict=True):
                square.lerp_(gradient.abs().square(), share)
                rms = square.sqrt()
                dims = tuple(range(1, rms.dim())) if group["stacked"] else tuple(range(rms.dim()))
                mass.copy_(rms + (rms.mean(dims, keepdim=True) if dims else rms)).clamp_(min=MIN_MASS)
        length, keep = math.sqrt(group["lr"] / group["num_data"]), group["momentum"]
        torch._foreach_addcdiv_(velocities, gradients, masses, value=-length * group["num_data"])
        torch._foreach_add_(parameters, velocities, alpha=0.5 * length)
        torch._foreach_mul_(velocities, keep)
        if group["temperature"] > 0:
            noise = _noise(parameters, seed)
            scale = math.sqrt((1 - keep**2) * group["temperature"])
            torch._foreach_addcdiv_(velocities, noise, torch._foreach_sqrt(masses), value=scale)
        torch._foreach_add_(parameters, velocities, alpha=0.5 * length)


def _noise(parameters: list[Tensor], seed: int) -> list[Tensor]:
    """Draws standard normal numbers of the shapes of some parameters, for complex ones in both parts."""
    noise = [torch.empty_like(parameter) for parameter in parameters]
    generators: dict[torch.device, torch.Generator] = {}
    for index, numbers in enumerate(noise):
        real = torch.view_as_real(numbers) if numbers.is_complex() else numbers
        if draws_in_blocks(real):
            fill_normal(real.view(-1), mix_seed(seed, index))
            continue
        if real.device not in generators:
            generators[real.device] = torch.Generator(real.device).manual_seed(seed)
        real.normal_(generator=generators[real.device])
    return noise


def check_options(lr: float, momentum: float, temperature: float) -> None:
    """Checks the options of the sampler.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value in (("lr", lr), ("temperature", temperature)):
        if not (value >= 0 and math.isfinite(value)):
            raise InputValueError(f"{name} must be nonnegative and finite, got {value!r}")
    if not 0 <= momentum < 1:
        raise InputValueError(f"momentum must lie in [0, 1), got {momentum!r}")
