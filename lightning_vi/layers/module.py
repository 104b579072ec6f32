"""Modules with stochastic parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_vi.layers.mixin import ModuleMixin, mixed_class
from lightning_vi.layers.parameters import SharedParameters, StochasticParameters
from lightning_vi.posteriors import DEFAULT_STD, InitialStd
from lightning_vi.priors import GaussianPrior, Prior


class VariationalModule(ModuleMixin):
    """Mixin for a module with stochastic parameters, which are described by `_stochastic`.

    The forward pass of the module is unchanged. It reads the weights from their slots: sampled weights within a sampled
    forward pass, otherwise the posterior means.
    """

    _stochastic: StochasticParameters
    class_prefix: ClassVar[str] = "Variational"

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if value is None:
            stochastic = self.__dict__.get("_stochastic")
            if stochastic is not None and name in stochastic.names:
                return stochastic.mu(name)
        return value

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if "_stochastic" in self.__dict__:
            for name, tensor in self._stochastic.state(self).items():  # a class may save only what it knows
                destination.setdefault(f"{prefix}{name}", tensor if keep_vars else tensor.detach())

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        if "_stochastic" not in self.__dict__:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
            return
        self._stochastic.adapt_state_dict(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if loads_its_own_way(self):
            with torch.no_grad():
                for name, tensor in self._stochastic.state(self).items():
                    saved = state_dict.get(f"{prefix}{name}")
                    if saved is not None and saved.shape == tensor.shape:
                        tensor.copy_(saved)


def loads_its_own_way(module: nn.Module) -> bool:
    """Returns True if a class that is neither torch's nor this package's loads the state of a module.

    Args:
        module: Any module.

    Returns:
        True if it overrides ``_load_from_state_dict``.
    """
    ours = ("torch.", "lightning_vi.")
    return any(
        "_load_from_state_dict" in kind.__dict__ and not kind.__module__.startswith(ours)
        for kind in type(module).__mro__
    )


def make_variational(
    module: nn.Module,
    mixin: type[VariationalModule],
    names: Sequence[str],
    *,
    num_inputs: Mapping[str, int],
    prior: Prior | Mapping[str, Prior] | None = None,
    estimator: str = "reparameterization",
    init_std: InitialStd = DEFAULT_STD,
    shared: SharedParameters | None = None,
) -> StochasticParameters:
    """Gives posteriors to parameters of a module in place.

    All other attributes, hooks and buffers are kept; the weights become posterior means.

    Args:
        module: Any module.
        mixin: Mixin added to the class of the module.
        names: Names of parameters that the module owns directly.
        num_inputs: Fan-in of each parameter, by name.
        prior: Prior of all parameters, or a mapping from their names to priors. Default: standard Gaussian.
        estimator: Gradient estimator.
        init_std: Initial posterior standard deviation.
        shared: See `StochasticParameters`.

    Returns:
        The stochastic parameters, which are also stored in the module.

    Raises:
        ValueError: If the shape of a prior does not match, or `init_std` is not positive and finite. `module` is left
            unchanged.
    """
    given = prior if isinstance(prior, Mapping) else dict.fromkeys(names, GaussianPrior() if prior is None else prior)
    priors = {name: given[name].for_parameter(name, module.get_parameter(name), num_inputs[name]) for name in names}
    cls = mixed_class(mixin, type(module))
    stochastic = StochasticParameters(module, priors, estimator, init_std, shared)
    if type(module) is not cls:
        object.__setattr__(module, "__class__", cls)
    module.__dict__["_stochastic"] = stochastic
    return stochastic


def num_inputs_of(parameter: Tensor) -> int:
    """Fan-in of a weight whose first dimension counts outputs.

    Args:
        parameter: A weight of any module.

    Returns:
        The number of elements per output; 1 for vectors.

    Example:
        >>> import torch
        >>> num_inputs_of(torch.zeros(8, 3, 5, 5))
        75
    """
    return parameter[0].numel() if parameter.dim() > 1 and len(parameter) else 1
