"""Update rules on lists of tensors, in place."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

CPU_BLOCK = 2**19
"""Number of elements of a block, small enough to stay in the CPU's last cache during an update."""


def ivon_update(
    means: list[Tensor],
    hessians: list[Tensor],
    momenta: list[Tensor],
    gradients: list[Tensor],
    curvature: tuple[list[Tensor], list[Tensor]] | None,
    options: dict[str, Any],
) -> list[Tensor]:
    r"""One step of IVON (Shen et al., 2024, algorithm 1).

    .. math::
        h' &= \beta_2 h + (1 - \beta_2) \hat h + \tfrac12 (1 - \beta_2)^2 (h - \hat h)^2 / (h + \delta) \\
        g' &= \beta_1 g + (1 - \beta_1) \hat g \\
        m' &= m - \alpha \, \mathrm{clip}_\xi\big((g' / (1 - \beta_1^t) + \delta m) / (h' + \delta)\big), \qquad
            \alpha = \mathrm{lr} \, (h_0 + \delta)

    Args:
        means: Posterior means m, any shapes; modified in place.
        hessians: Hessians h, the same shapes; modified in place.
        momenta: Running means g of the gradients, the same shapes; modified in place.
        gradients: Gradients :math:`\hat g`, the same shapes.
        curvature: The lists :math:`h - \hat h` and :math:`h + \delta`, the same shapes, which are modified in place;
            None keeps h.
        options: ``ess`` for :math:`\lambda`, ``lr``, ``hess_init``, ``betas``, ``weight_decay``, ``clip_radius``,
            ``debias`` and the step number t as ``step``.

    Returns:
        The new :math:`\lambda (h' + \delta)`, the precisions of the posterior, of the same shapes.
    """
    first, second = options["betas"]
    decay, radius = options["weight_decay"], options["clip_radius"]
    moves, precisions = curvature or (None, None)
    if moves is not None and precisions is not None:
        torch._foreach_add_(hessians, moves, alpha=second - 1)
        torch._foreach_mul_(moves, moves)
        torch._foreach_addcdiv_(hessians, moves, precisions, value=0.5 * (1 - second) ** 2)
    torch._foreach_lerp_(momenta, gradients, 1 - first)
    correction = 1 - first ** options["step"] if options["debias"] else 1.0
    rate, limit = -options["lr"] * (options["hess_init"] + decay) * options["ess"], radius * correction / options["ess"]
    steps = _sums(momenta, means, decay * correction, moves)
    precisions = _scaled(hessians, options["ess"], options["ess"] * decay, precisions)
    if math.isfinite(radius):
        torch._foreach_div_(steps, precisions)
        for step in steps:
            step.clamp_(-limit, limit)
        torch._foreach_add_(means, steps, alpha=rate / correction)
    else:
        torch._foreach_addcdiv_(means, steps, precisions, value=rate / correction)
    return precisions


def _sums(tensors: list[Tensor], others: list[Tensor], factor: float, memory: list[Tensor] | None) -> list[Tensor]:
    """Sums of tensors with multiples of others, on a CPU in memory that is in its caches."""
    if memory is None or memory[0].device.type != "cpu":
        return list(torch._foreach_add(tensors, others, alpha=factor))
    for tensor, other, out in zip(tensors, others, memory, strict=True):
        torch.add(tensor, other, alpha=factor, out=out)
    return memory


def _scaled(tensors: list[Tensor], factor: float, shift: float, memory: list[Tensor] | None) -> list[Tensor]:
    """Multiples of tensors plus a number, on a CPU in one pass over memory that is in its caches."""
    if memory is None or memory[0].device.type != "cpu":
        scaled = torch._foreach_mul(tensors, factor)
        torch._foreach_add_(scaled, shift)
        return list(scaled)
    for tensor, out in zip(tensors, memory, strict=True):
        torch.add(tensor.new_full((), shift), tensor, alpha=factor, out=out)
    return memory


def adam_update(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    squares: list[Tensor],
    lr: float,
    step: int,
) -> None:
    r"""One step of Adam (Kingma and Ba, 2015) with :math:`\beta = (0.9, 0.999)` and :math:`\epsilon = 10^{-8}`.

    Args:
        parameters: Parameters, any shapes; modified in place.
        gradients: Gradients, the same shapes.
        momenta: Running means of the gradients; modified in place.
        squares: Running means of the squared gradients; modified in place.
        lr: Learning rate.
        step: Step number t, starting from 1.
    """
    torch._foreach_lerp_(momenta, gradients, 0.1)
    torch._foreach_mul_(squares, 0.999)
    torch._foreach_addcmul_(squares, gradients, gradients, value=0.001)
    scales = torch._foreach_sqrt(squares)
    torch._foreach_div_(scales, math.sqrt(1 - 0.999**step))
    torch._foreach_add_(scales, 1e-8)
    torch._foreach_addcdiv_(parameters, momenta, scales, value=-lr / (1 - 0.9**step))


def blocks(*columns: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Splits lists of tensors into blocks that are efficient to update one after the other.

    On a CPU, each block is a part of one tensor that fits into the caches, or several small tensors. On other devices
    there is a single block.

    Args:
        *columns: Lists of the same length. Tensors at the same position have the same shape and device.

    Yields:
        One list of tensors for each of `columns`, which are views of the given tensors.
    """
    size = CPU_BLOCK
    rest: list[tuple[Tensor, ...]] = []
    small: list[tuple[Tensor, ...]] = []
    for row in zip(*columns, strict=True):
        if row[0].device.type != "cpu" or not all(tensor.is_contiguous() for tensor in row):
            rest.append(row)
        elif row[0].numel() > size // 2:
            for pieces in zip(*(tensor.view(-1).split(size) for tensor in row), strict=True):
                yield tuple([piece] for piece in pieces)
        else:
            small.append(row)
            if sum(first.numel() for first, *_ in small) > size // 2:
                yield _transposed(small)
                small = []
    for rows in (small, rest):
        if rows:
            yield _transposed(rows)


def _transposed(rows: Sequence[tuple[Tensor, ...]]) -> tuple[list[Tensor], ...]:
    return tuple(list(column) for column in zip(*rows, strict=True))


def rank() -> int:
    """Rank of this process in distributed training, otherwise 0."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def average_over_ranks(statistics: Sequence[Tensor | None]) -> None:
    """Averages tensors over the ranks of distributed training in place.

    Args:
        statistics: Tensors of the same number and shapes on all ranks; None is skipped.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for statistic in statistics:
            if statistic is not None:
                distributed.all_reduce(statistic)
                statistic.div_(distributed.get_world_size())


def check_options(
    lr: float,
    ess: float,
    hess_init: float,
    betas: tuple[float, float],
    weight_decay: float,
    clip_radius: float,
) -> None:
    """Checks the options of IVON.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value in (("ess", ess), ("hess_init", hess_init)):
        if not (value > 0 and math.isfinite(value)):
            raise InputValueError(f"{name} must be positive and finite, got {value!r}")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not (value >= 0 and math.isfinite(value)):
            raise InputValueError(f"{name} must be nonnegative and finite, got {value!r}")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InputValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
    if not clip_radius > 0:
        raise InputValueError(f"clip_radius must be positive, got {clip_radius!r}")
