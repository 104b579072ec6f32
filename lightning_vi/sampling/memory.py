"""Memory budgets: how many samples, rows and weights are held at once."""

import math
from collections.abc import Iterator

import torch

MAX_ACTIVATIONS_PER_PASS = {"cpu": 2**21, "others": 2**26}
"""Elements of the widest output in one pass. Small tensors stay in a CPU's caches, and its allocator keeps them."""

MAX_WEIGHTS_PER_PASS = 2**26
"""Drawn weights in one pass of the engine, or of a `StackedRunner`."""

MAX_ROWS_PER_PASS = 2**16
"""Rows, over all sets of weights, in one pass of a `StackedRunner`."""

MAX_LINEARIZED_NUMBERS = 2**24
"""Elements of the sampled weight changes, or of the sampled outputs, in one pass of a linearized network."""

MAX_INFORMATION_NUMBERS = 2**25
"""Elements of the Fisher information of the outputs of all rows in one step of `Laplace.fit_posterior`."""

MAX_LAST_LAYER_NUMBERS = 2**22
"""Elements of the sampled weights and outputs in one pass of a Bayesian last layer."""

MAX_SCORED_NUMBERS = 2**21
"""Elements of the outputs of all sampled networks for rows that are scored at once."""

MAX_KEPT_NUMBERS = 2**25
"""Elements of draws that are kept from one prediction to the next on a CPU."""

SHARE_OF_KEPT_NUMBERS = 1 / 16
"""Share of a GPU's memory for kept draws: there, drawing numbers on the CPU takes longer than the network."""

MAX_ROWS_FOR_KEPT_WEIGHTS = 2**12
"""Rows of a batch up to which a CPU keeps drawn weights: with more, drawing them takes a small part of the time."""

MAX_JOINED_WEIGHTS = 2**14
"""Elements of a parameter up to which it is drawn together with others, in fewer and larger operations."""

MAX_JOINED_NOISE = 2**20
"""Numbers of a training step's weights up to which noise is drawn for all of them at once. The memory of larger tensors
goes back to the system and is cleared again in each step."""

MIN_WIDE_WEIGHTS = 2**18
"""Weights of a linear layer from which a CPU takes no longer for the gradients of several networks one by one than for
those of batched products."""


def num_fitting(budget: int, cost: int) -> int:
    """Number of items that fit into a budget.

    Args:
        budget: One of the constants of this module.
        cost: What one item takes of it; a symbol in a program that is exported for any number of rows.

    Returns:
        At least 1; `budget` for a symbol.

    Example:
        >>> num_fitting(100, cost=30), num_fitting(100, cost=200)
        (3, 1)
    """
    return max(1, budget // max(1, cost)) if isinstance(cost, int) else budget


def fits(budget: int, cost: int) -> bool:
    """Returns True if something fits into a budget, or its cost is a symbol, see `num_fitting`.

    Args:
        budget: One of the constants of this module.
        cost: What it takes of it.

    Returns:
        The answer.
    """
    return cost <= budget if isinstance(cost, int) else True


def max_kept(device: torch.device) -> int:
    """Number of elements of draws that are kept from one prediction to the next.

    Args:
        device: Where they are.

    Returns:
        `MAX_KEPT_NUMBERS`, or more of a GPU with memory of its own.
    """
    if device.type not in ("cuda", "xpu"):
        return MAX_KEPT_NUMBERS
    bytes_in_total = torch.get_device_module(device).get_device_properties(device).total_memory
    return max(MAX_KEPT_NUMBERS, int(SHARE_OF_KEPT_NUMBERS * bytes_in_total / 4))


def max_rows(width: int, device: torch.device) -> int:
    """Number of rows in one pass.

    Args:
        width: Elements of the widest output, for one row.
        device: Where the pass runs.

    Returns:
        At least 1.
    """
    return num_fitting(MAX_ACTIVATIONS_PER_PASS["cpu" if device.type == "cpu" else "others"], width)


def chunk_ranges(num_samples: int, max_chunk: int) -> Iterator[tuple[int, int]]:
    """Ranges of sample indices, as few as possible and of about the same length.

    Args:
        num_samples: S.
        max_chunk: The most samples in one range; at least one is taken.

    Yields:
        First index of a range, and the index after its last one.

    Example:
        >>> list(chunk_ranges(5, max_chunk=4))
        [(0, 3), (3, 5)]
    """
    num_chunks = math.ceil(num_samples / max(1, max_chunk))
    chunk = math.ceil(num_samples / max(1, num_chunks))
    for first in range(0, num_samples, max(1, chunk)):
        yield first, min(first + chunk, num_samples)
