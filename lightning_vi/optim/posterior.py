"""IVON for networks with explicit posterior means and unconstrained scales."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from lightning_vi.errors import InputValueError
from lightning_vi.functional import put_inverse_softplus
from lightning_vi.optim.deferred import defer_scales, known_std
from lightning_vi.optim.update import adam_update, blocks, check_options, ivon_update


class PosteriorIVON(Optimizer):
    r"""IVON (Shen et al., 2024) for posteriors :math:`\mathcal{N}(\mu, \mathrm{softplus}(\rho)^2)`.

    With reparameterized samples, the gradient of :math:`\mu` is the gradient averaged over samples, and the gradient of
    the standard deviation divided by :math:`\sigma` is the curvature
    :math:`\hat h = \lambda (h + \delta)\, \mathrm{E}[\nu g]`.
    Both can be averaged over micro-batches and ranks. Each step sets :math:`\sigma = 1 / \sqrt{\lambda (h + \delta)}`.
    The loss must be a mean over examples without KL divergence; the optimizer adds the prior
    :math:`\mathcal{N}(0, 1 / \lambda \delta)`.

    Args:
        posteriors: Pairs of means and unconstrained scales of the same shape. The Hessians are initialized from the
            scales.
        others: Deterministic parameters, trained by Adam.
        lr: Learning rate :math:`\alpha / (h_0 + \delta)`.
        ess: Effective sample size :math:`\lambda`, usually the number of training examples.
        hess_init: :math:`h_0`, used only to scale the learning rate.
        betas: Decay rates of the running means of gradient and Hessian.
        weight_decay: Weight decay :math:`\delta`.
        clip_radius: Maximum step :math:`\xi` of a mean, in units of :math:`\alpha`.
        point_lr: Learning rate of Adam.
        has_gradients_of_stds: Whether the gradients of the scales are those of the standard deviations, as with
            `trained_stds`. The scales are then computed when something reads them, see `DeferredScales`.

    Raises:
        ValueError: If an argument is out of range, or the shapes of a pair differ.

    Example:
        >>> import torch
        >>> mu, rho = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = PosteriorIVON([(mu, rho)], lr=0.1, ess=100.0)
        >>> weight = mu + torch.nn.functional.softplus(rho) * torch.randn(3)
        >>> (weight - 1).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        posteriors: Iterable[tuple[Tensor, Tensor]],
        others: Iterable[Tensor] = (),
        *,
        lr: float,
        ess: float,
        hess_init: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99999),
        weight_decay: float = 1e-4,
        clip_radius: float = math.inf,
        point_lr: float = 1e-3,
        has_gradients_of_stds: bool = False,
    ) -> None:
        check_options(lr, ess, hess_init, betas, weight_decay, clip_radius)
        if not (point_lr > 0 and math.isfinite(point_lr)):
            raise InputValueError(f"point_lr must be positive and finite, got {point_lr}")
        pairs = list(posteriors)
        for mu, rho in pairs:
            if mu.shape != rho.shape:
                raise InputValueError(
                    f"posteriors must be pairs of the same shape, got {tuple(mu.shape)} and {tuple(rho.shape)}"
                )
        options = {
            "ess": ess, "hess_init": hess_init, "betas": tuple(betas), "weight_decay": weight_decay,
            "clip_radius": clip_radius, "debias": True, "step": 0,
        }  # fmt: skip
        groups = [{"params": [parameter for pair in pairs for parameter in pair], "lr": lr, "is_posterior": True}]
        points = list(others)
        if points:
            groups.append({"params": points, "lr": point_lr, "is_posterior": False})
        super().__init__(groups, options)
        self._has_gradients_of_stds = has_gradients_of_stds

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates means, Hessians, scales and deterministic parameters.

        Args:
            closure: Computes the gradients and returns the loss.

        Returns:
            The loss returned by `closure`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            if group["is_posterior"]:
                self._update_posteriors(group)
            else:
                self._update_points(group)
        return loss

    def means(self) -> list[Tensor]:
        """Posterior means and deterministic parameters, that is, all parameters but the scales."""
        first, *rest = self.param_groups
        return [*first["params"][::2], *(parameter for group in rest for parameter in group["params"])]

    def _update_posteriors(self, group: dict[str, Any]) -> None:
        ess, decay = group["ess"], group["weight_decay"]
        means_only, pairs, scales = list[tuple[Tensor, ...]](), list[tuple[Tensor, ...]](), list[Tensor]()
        for mu, rho in zip(group["params"][::2], group["params"][1::2], strict=True):
            if mu.grad is None:
                continue
            state = self.state[mu]
            if not state:
                state["momentum"] = torch.zeros_like(mu, memory_format=torch.preserve_format)
                state["hessian"] = _precisions(rho).div_(ess).sub_(decay).clamp_min_(0.0)
            row = (mu, state["hessian"], state["momentum"], mu.grad)
            slope = rho.grad
            if slope is None:
                means_only.append(row)
                continue
            std = known_std(rho)
            if not self._has_gradients_of_stds:
                slope = slope / torch.sigmoid(rho)
            pairs.append((*row, slope, F.softplus(rho) if std is None else std))
            scales.append(rho)
        for mean, hessian, momentum, gradient in _blocks(means_only):
            ivon_update(mean, hessian, momentum, gradient, None, group)
        for mean, hessian, momentum, gradient, slopes, stds in _blocks(pairs):
            moves = list(torch._foreach_addcdiv(hessian, slopes, stds, value=-1.0))
            precisions = list(torch._foreach_add(hessian, decay))
            precisions = ivon_update(mean, hessian, momentum, gradient, (moves, precisions), group)
            for out, precision in zip(stds, precisions, strict=True):
                torch.rsqrt(precision, out=out)
        put = defer_scales if self._has_gradients_of_stds else put_inverse_softplus
        for rho, (*_, std) in zip(scales, pairs, strict=True):
            put(rho, std)

    def _update_points(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(momentum=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        if parameters:
            momenta, squares = ([self.state[p][name] for p in parameters] for name in ("momentum", "square"))
            gradients = [parameter.grad for parameter in parameters]
            adam_update(parameters, gradients, momenta, squares, group["lr"], group["step"])


def _blocks(rows: list[tuple[Tensor, ...]]) -> Iterator[tuple[list[Tensor], ...]]:
    return blocks(*zip(*rows, strict=True))


def _precisions(rho: Tensor) -> Tensor:
    return F.softplus(rho).square().reciprocal()
