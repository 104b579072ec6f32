"""Assignment of priors to parameters by name."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from lightning_vi.arguments import check_instance
from lightning_vi.errors import InputValueError
from lightning_vi.priors import Prior


def choose_priors(
    parameters: Mapping[str, Sequence[str]], prior: Prior | Mapping[str, Prior] | None, default: Prior
) -> dict[str, dict[str, Prior]]:
    """Chooses the prior of each stochastic parameter.

    Args:
        parameters: Names of the stochastic parameters of each module, by dotted module name.
        prior: Prior of all parameters, or a mapping from names or globs to priors. A name refers to a parameter, such
            as ``"head.bias"``, or to a module with all its submodules. The first match is used.
        default: Prior of parameters without a match.

    Returns:
        Priors by module name and parameter name.

    Raises:
        ValueError: If a name matches no stochastic parameter.
        TypeError: If one is no prior, such as a class of priors.

    Example:
        >>> from lightning_vi.priors import GaussianPrior, LaplacePrior
        >>> choose_priors({"head": ["weight", "bias"]}, {"*.bias": LaplacePrior()}, GaussianPrior())
        {'head': {'weight': GaussianPrior(mean=0.0, std=1.0), 'bias': LaplacePrior(mean=0.0, std=1.0)}}
    """
    named = prior if isinstance(prior, Mapping) else {"*": default if prior is None else prior}
    for pattern, each in named.items():
        check_instance(f"prior[{pattern!r}]" if isinstance(prior, Mapping) else "prior", each, Prior)
    chosen: dict[str, dict[str, Prior]] = {}
    used = set[str]()
    for module, labels in parameters.items():
        chosen[module] = {}
        for label in labels:
            matching = [pattern for pattern in named if _matches(pattern, f"{module}.{label}".lstrip("."))]
            used.update(matching)
            chosen[module][label] = named[matching[0]] if matching else default
    unused = [pattern for pattern in named if pattern not in used]
    if unused and isinstance(prior, Mapping):
        names = [f"{module}.{label}".lstrip(".") for module, labels in parameters.items() for label in labels]
        raise InputValueError(f"prior: {unused} match no stochastic parameter, the stochastic parameters are {names}")
    return chosen


def _matches(pattern: str, name: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:length]), pattern) for length in range(1, len(parts) + 1))
