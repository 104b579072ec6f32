r"""IVON, an optimizer that learns a mean-field Gaussian posterior at the cost of Adam.

Shen, Daheim, Cong, Nickl, Marconi, Bazan, Yokota, Gurevych, Cremers, Khan and Moellenhoff, "Variational learning is
effective for large deep networks", ICML 2024.

.. math:: w = m + \nu, \qquad \nu \sim \mathcal{N}\Big(0, \frac{1}{\lambda (h + \delta)}\Big), \qquad
    \hat g = \mathrm{E}[g(w)], \qquad \hat h = \lambda (h + \delta) \, \mathrm{E}[\nu \, g(w)]

=================== ==================================================================
symbol              argument
=================== ==================================================================
:math:`m`           `params`
:math:`\lambda`     `ess`, effective sample size, usually the number of training examples
:math:`\delta`      `weight_decay`; the prior precision is :math:`\lambda \delta`
:math:`h_0`         `hess_init`
:math:`\beta`       `betas`
:math:`\xi`         `clip_radius`
:math:`\mathrm E`   mean over `mc_samples` samples per batch
=================== ==================================================================
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_vi.errors import InputValueError
from lightning_vi.noise import draws_in_blocks, fill_normal, mix_seed
from lightning_vi.optim.update import average_over_ranks, blocks, check_options, ivon_update, rank


class IVONOptimizer(Optimizer):
    r"""Improved variational online Newton (Shen et al., 2024). The parameters are the posterior means.

    The loss must be a *mean* over examples without weight decay, which the optimizer adds. The forward and backward
    passes run inside `sampled_params`. The gradients of all passes since the last step, over Monte Carlo samples and
    micro-batches, are averaged into ``.grad``. All micro-batches of a step use the same noise if each is passed
    `mc_samples` times. In distributed training the optimizer averages the gradients over ranks: do not use DDP, or only
    within ``no_sync()``.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate :math:`\alpha / (h_0 + \delta)`.
        ess: Effective sample size :math:`\lambda`, usually the number of training examples.
        hess_init: Initial Hessian :math:`h_0`.
        betas: Decay rates of the running means of gradient and Hessian.
        weight_decay: Weight decay :math:`\delta`.
        mc_samples: Number of Monte Carlo samples per (micro-)batch.
        clip_radius: Maximum step :math:`\xi` of a mean, in units of :math:`\alpha`.
        debias: If True, corrects the bias of the running mean of the gradient.
        seed: Seed of the noise. Default: the global seed, without advancing the global random state.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(2, 1)
        >>> optimizer = IVONOptimizer(network.parameters(), lr=0.1, ess=100)
        >>> x, y = torch.ones(4, 2), torch.zeros(4, 1)
        >>> for _ in range(3):
        ...     with optimizer.sampled_params(train=True):
        ...         (network(x) - y).square().mean().backward()
        ...     optimizer.step()
        >>> with optimizer.sampled_params(), torch.no_grad():
        ...     network(x).shape
        torch.Size([4, 1])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        ess: float,
        hess_init: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.99999),
        weight_decay: float = 1e-4,
        mc_samples: int = 1,
        clip_radius: float = math.inf,
        debias: bool = True,
        seed: int | None = None,
    ) -> None:
        check_options(lr, ess, hess_init, betas, weight_decay, clip_radius)
        if isinstance(mc_samples, bool) or not isinstance(mc_samples, int) or mc_samples < 1:
            raise InputValueError(f"mc_samples must be an integer of at least 1, got {mc_samples!r}")
        defaults = {
            "lr": lr, "ess": ess, "hess_init": hess_init, "betas": tuple(betas), "weight_decay": weight_decay,
            "mc_samples": mc_samples, "clip_radius": clip_radius, "debias": debias, "step": 0,
            "seed": mix_seed(torch.initial_seed() if seed is None else seed), "num_evaluation_draws": 0,
        }  # fmt: skip
        super().__init__(params, defaults)
        self._reset_statistics()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._reset_statistics()

    def _reset_statistics(self) -> None:
        """Clears the statistics of the present step."""
        self._num_passes = 0
        self._products: dict[Tensor, Tensor] = {}
        self._is_sampling = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients and the statistics collected since the last step.

        Args:
            set_to_none: See `torch.optim.Optimizer.zero_grad`.
        """
        super().zero_grad(set_to_none)
        self._num_passes = 0
        self._products = {}

    def _sampled(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            yield from ((group, parameter) for parameter in group["params"] if parameter.requires_grad)

    def _hessian(self, group: dict[str, Any], parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["hessian"] = torch.full_like(parameter, group["hess_init"], memory_format=torch.preserve_format)
        hessian: Tensor = state["hessian"]
        return hessian

    @contextmanager
    def sampled_params(self, train: bool = False) -> Iterator[None]:
        """Context manager in which the parameters are sampled from the posterior; restores the means on exit.

        Args:
            train: If True, gradients computed inside are collected for the next step, unless an exception is raised.

        Raises:
            RuntimeError: If the context is nested, or `train` is True and no gradient is computed inside.
        """
        if self._is_sampling:
            raise RuntimeError("sampled_params cannot be nested")
        rows = list(self._sampled())
        before = [parameter.grad for _, parameter in rows]
        noise = self._draw(rows, train)
        parameters = [parameter for _, parameter in rows]
        means = [parameter.detach().clone() for parameter in parameters]
        self._is_sampling = True
        try:
            with torch.no_grad():
                if rows:
                    torch._foreach_add_(parameters, noise)
                if train:
                    for parameter in parameters:
                        parameter.grad = None
            yield
        except BaseException:
            self._restore(rows, means, before)
            raise
        self._restore(rows, means, None if train else before)
        if train:
            self._collect(rows, before, noise)

    @torch.no_grad()
    def _restore(
        self, rows: Sequence[tuple[Any, Tensor]], means: list[Tensor], gradients: Sequence[Tensor | None] | None
    ) -> None:
        self._is_sampling = False
        if rows:
            torch._foreach_copy_([parameter for _, parameter in rows], means)
        if gradients is not None:
            for (_, parameter), gradient in zip(rows, gradients, strict=True):
                parameter.grad = gradient

    @torch.no_grad()
    def _draw(self, rows: Sequence[tuple[dict[str, Any], Tensor]], train: bool) -> list[Tensor]:
        """Samples posterior noise for each parameter from generators seeded by rank, step and sample index."""
        first = self.param_groups[0]
        if train:
            parts = (rank(), first["step"], self._num_passes % first["mc_samples"])
        else:
            first["num_evaluation_draws"] += 1
            parts = (-1, first["num_evaluation_draws"], 0)
        seed = mix_seed(first["seed"], *parts)
        generators: dict[torch.device, torch.Generator] = {}
        noise = []
        for index, (group, parameter) in enumerate(rows):
            if parameter.device not in generators:
                generators[parameter.device] = torch.Generator(parameter.device).manual_seed(seed)
            draw, std = torch.empty_like(parameter), group["ess"] ** -0.5
            if draws_in_blocks(draw):
                fill_normal(draw.view(-1), mix_seed(seed, index), std)
            else:
                draw.normal_(std=std, generator=generators[parameter.device])
            noise.append(draw)
        for group in self.param_groups:
            drawn = [(draw, parameter) for (own, parameter), draw in zip(rows, noise, strict=True) if own is group]
            hessians = [self._hessian(group, parameter) for _, parameter in drawn]
            for draws, curvatures in blocks([draw for draw, _ in drawn], hessians):
                scales = list(torch._foreach_add(curvatures, group["weight_decay"]))
                torch._foreach_rsqrt_(scales)
                torch._foreach_mul_(draws, scales)
        return noise

    @torch.no_grad()
    def _collect(
        self, rows: Sequence[tuple[Any, Tensor]], before: Sequence[Tensor | None], noise: list[Tensor]
    ) -> None:
        """Averages the gradients over the passes of this step; earlier gradients are discarded."""
        if all(parameter.grad is None for _, parameter in rows):
            for (_, parameter), gradient in zip(rows, before, strict=True):
                parameter.grad = gradient
            raise RuntimeError("no gradient was computed in sampled_params(train=True): call backward() inside it")
        self._num_passes += 1
        share = 1 / self._num_passes
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for _, each in rows]
        torch._foreach_mul_(noise, gradients)
        for (_, parameter), old, new, product in zip(rows, before, gradients, noise, strict=True):
            if self._num_passes == 1:
                self._products[parameter] = product
                parameter.grad = new
            else:
                self._products[parameter].lerp_(product, share)
                parameter.grad = new.mul_(share) if old is None else old.lerp_(new, share)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates means and Hessians with the statistics collected since the last step.

        Args:
            closure: Collects the statistics and returns the loss.

        Returns:
            The loss returned by `closure`.

        Raises:
            RuntimeError: If gradients exist that were not computed in `sampled_params`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._num_passes and any(parameter.grad is not None for _, parameter in self._sampled()):
            raise RuntimeError("step() needs gradients of sampled weights: compute them in sampled_params(train=True)")
        if self._num_passes:
            average_over_ranks([parameter.grad for _, parameter in self._sampled()] + list(self._products.values()))
        for group in self.param_groups:
            group["step"] += 1
            self._update(group)
        self._num_passes = 0
        self._products = {}
        return loss

    def _update(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter in self._products]
        hessians = [self._hessian(group, parameter) for parameter in parameters]
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        products = [self._products[parameter] for parameter in parameters]
        for mean, hessian, momentum, gradient, product in blocks(parameters, hessians, momenta, gradients, products):
            precisions = list(torch._foreach_add(hessian, group["weight_decay"]))
            moves = list(torch._foreach_addcmul(hessian, precisions, product, value=-group["ess"]))
            ivon_update(mean, hessian, momentum, gradient, (moves, precisions), group)
