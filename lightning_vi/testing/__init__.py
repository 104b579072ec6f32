"""Checks of the contract that every method keeps, for methods of your own.

`check_method` is to methods what scikit-learn's ``check_estimator`` is to estimators. In a test suite, parametrize a
test over `checks` to see each check by name.
"""

from torch import Tensor

from lightning_vi.core import Predictor
from lightning_vi.sampling import NetworkInput
from lightning_vi.testing import predictions, state  # noqa: F401
from lightning_vi.testing.contract import CHECKS, Check, ContractError

__all__ = ["Check", "ContractError", "check_method", "checks"]


def check_method(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """Checks that a method keeps the contract of predictions, the objective, randomness and state.

    The method itself stays as it is: each check works on a copy in training mode.

    Args:
        method: A method that can predict, so fitted or calibrated where it has to be.
        x: Input of at least four rows, each tensor of shape [B, ...].
        y: Target without missing values, shape [B, ...].

    Raises:
        ContractError: If a check fails.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = MeanFieldVI(MLP(2, [8], 1), Gaussian())
        >>> check_method(method, torch.randn(6, 2), torch.randn(6, 1))
    """
    for check in checks():
        check(method, x, y)


def checks() -> list[Check]:
    """Returns the checks of `check_method`.

    Returns:
        The checks in the order in which they run; each has a name and a docstring.

    Example:
        >>> [check.__name__ for check in checks()][:2]
        ['check_keys', 'check_values']
    """
    return list(CHECKS)
