"""The parts that all checks of the contract share."""

import copy
import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.core import Predictor
from lightning_vi.sampling import NetworkInput

Check = Callable[[Predictor, NetworkInput, Tensor], None]
"""A function of a method, an input and a target that raises `ContractError` if the method breaks the contract."""

CHECKS: list[Check] = []
NUM_DATA = 50
SEED = 4


class ContractError(AssertionError):
    """A method breaks the contract.

    Args:
        check: Name of the check that failed.
        observed: What the check saw.
    """

    def __init__(self, check: str, observed: str) -> None:
        super().__init__(check, observed)
        self.check = check
        self.observed = observed

    def __str__(self) -> str:
        return f"{self.check}: {self.observed}"


def contract(check: Check) -> Check:
    """Registers a check, which then works on a copy of the method and raises nothing but a `ContractError`.

    Args:
        check: The function; its name is the name of the check.

    Returns:
        The check.
    """

    @functools.wraps(check)
    def run(method: Predictor, x: NetworkInput, y: Tensor) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                check(copy.deepcopy(method).train(), x, y)
        except Exception as error:
            kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            raise ContractError(check.__name__, f"{kind}{error}") from error

    CHECKS.append(run)
    return run


def require(condition: bool, observed: str) -> None:
    """Raises an error where a condition does not hold.

    Args:
        condition: The condition.
        observed: What was seen, for the error.

    Raises:
        AssertionError: If the condition does not hold.
    """
    if not condition:
        raise AssertionError(observed)


def close(name: str, actual: Tensor, expected: Tensor, magnitude: Tensor | None = None) -> None:
    """Compares two tensors up to rounding errors of their dtype.

    Args:
        name: Name of the quantity, for the error.
        actual: What was seen.
        expected: What it should be, the shape of `actual`.
        magnitude: The numbers whose sums and differences `actual` is; by default `expected` itself.

    Raises:
        AssertionError: If the tensors differ.
    """
    size = (expected if magnitude is None else magnitude).abs().max().item()
    eps = torch.finfo(expected.dtype).eps
    assert_close(actual, expected, rtol=2000 * eps, atol=200 * eps * size, msg=lambda text: f"{name}: {text}")


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Compares two dictionaries of tensors bit for bit.

    Args:
        first: Tensors by name.
        second: Tensors by name.

    Returns:
        True if names and values agree.
    """
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
