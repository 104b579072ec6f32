"""Stochastic parameters of a module."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_vi.posteriors import InitialStd, MeanFieldGaussian, initial_rho
from lightning_vi.priors import GaussianPrior, Prior

SharedParameters = dict[int, tuple[nn.Parameter, nn.Parameter]]
"""Maps the ``id`` of a replaced parameter to its variational parameters (mu, rho)."""


class StochasticParameters:
    """Posteriors and priors of the parameters of a module, and slots for sampled weights.

    Each parameter is replaced by ``<name>_mu`` and ``<name>_rho``. Its original name becomes an empty slot, which holds
    a sampled weight during a forward pass. The tensors of a prior are registered as buffers ``<name>_prior_<label>``
    of the module.

    Args:
        module: The module that owns the parameters.
        priors: Prior of each parameter that becomes stochastic, by name.
        estimator: Gradient estimator.
        init_std: Initial posterior standard deviation.
        shared: Variational parameters of all modules converted so far, so that tied weights share one posterior.

    Attributes:
        is_estimator_fixed: If False, the sampling engine may replace the estimator.
        reason: Why the estimator was replaced.
        revision: Number of times that the estimator or a prior was replaced.
        num_copies: S while the batch consists of S copies, otherwise None.
        is_antithetic: If True, the noise of every second copy is the negative of the copy before.
        slots_hold_means: If True, a module that draws its outputs takes the weights in its slots as means.
    """

    def __init__(
        self,
        module: nn.Module,
        priors: Mapping[str, Prior],
        estimator: str,
        init_std: InitialStd,
        shared: SharedParameters | None = None,
    ) -> None:
        self.module = module
        self.names = tuple(priors)
        self.estimator = estimator
        self.init_std = init_std
        self.is_estimator_fixed = True
        self.reason = ""
        self.revision = 0
        self.num_copies: int | None = None
        self.is_antithetic = False
        self.slots_hold_means = False
        self._priors = dict(priors)
        self._stds: dict[str, Tensor] = {}
        known = {} if shared is None else shared
        for name, prior in priors.items():
            parameter = module.get_parameter(name)
            if id(parameter) not in known:
                mu = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                known[id(parameter)] = (mu, nn.Parameter(initial_rho(init_std, mu)))
            mu, rho = known[id(parameter)]
            module.register_parameter(f"{name}_mu", mu)
            module.register_parameter(f"{name}_rho", rho)
            for label, value in prior.named_buffers(recurse=False):
                module.register_buffer(f"{name}_prior_{label}", value)
            self.put(name, None)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_stds": {}}  # they belong to a pass of this network

    def mu(self, name: str) -> Tensor:
        """Posterior means of a parameter."""
        return self.module._parameters[f"{name}_mu"]  # type: ignore[return-value]

    def pair(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """Posterior means and unconstrained scales of a parameter."""
        parameters = self.module._parameters
        return parameters[f"{name}_mu"], parameters[f"{name}_rho"]  # type: ignore[return-value]

    def posterior(self, name: str) -> MeanFieldGaussian:
        """Posterior of a parameter, a view of ``<name>_mu`` and ``<name>_rho``."""
        return MeanFieldGaussian(*self.pair(name), self._stds.get(name))

    def moments(self, name: str) -> tuple[Tensor, Tensor]:
        """Posterior means and standard deviations of a parameter."""
        std = self._stds.get(name)
        return (self.mu(name), self.posterior(name).std) if std is None else (self.mu(name), std)

    def prior(self, name: str) -> Prior:
        """Prior of a parameter, resolved for its shape."""
        prior = self._priors[name]
        for label in prior._buffers:
            prior._buffers[label] = self.module._buffers[f"{name}_prior_{label}"]
        return prior

    def replace_estimator(self, estimator: str, reason: str) -> None:
        """Replaces the gradient estimator.

        Args:
            estimator: Name of the new estimator.
            reason: Reason stated in the conversion report.
        """
        self.estimator, self.reason = estimator, reason
        self.revision += 1

    def put(self, name: str, weight: Tensor | None) -> None:
        """Puts a sampled weight into its slot, or empties the slot.

        Args:
            name: Name of the parameter.
            weight: Sampled weight, with a leading dimension S if the module supports it; None empties the slot.
        """
        self.module._parameters[name] = weight  # type: ignore[assignment]
        if isinstance(self.module, nn.RNNBase):
            position = self.module._flat_weights_names.index(name)
            self.module._flat_weights[position] = self.mu(name) if weight is None else weight

    @property
    def has_given_stds(self) -> bool:
        """True while standard deviations are cached."""
        return bool(self._stds)

    def cache_stds(self, stds: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Caches posterior standard deviations that are already computed; an empty mapping clears the cache.

        Args:
            stds: Standard deviations by parameter name, each of the shape of its parameter.

        Returns:
            What was cached before.
        """
        before, self._stds = self._stds, dict(stds)
        return before

    def deterministic_rows(self, name: str) -> Sequence[int]:
        """Indices of the rows of a parameter that stay at their mean, such as the padding row of an embedding."""
        padding = self.module.__dict__.get("padding_idx") if name == "weight" else None
        return [] if padding is None else [padding]

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """The variational parameters and the priors' tensors.

        Args:
            module: The module that owns them.

        Returns:
            Tensors by their names in the module.
        """
        labels = [f"{name}_{kind}" for name in self.names for kind in ("mu", "rho")]
        found: dict[str, Tensor | None] = {label: module._parameters[label] for label in labels}
        found |= {
            label: buffer
            for label, buffer in module._buffers.items()
            if any(label.startswith(f"{name}_prior_") for name in self.names)
        }
        return {label: tensor for label, tensor in found.items() if tensor is not None}

    def adapt_state_dict(self, state: dict[str, Tensor], prefix: str) -> None:
        """Prepares a state dictionary, and the priors of this module, for loading.

        The weights of a deterministic module become posterior means; missing scales and priors are filled with the
        present ones. Numeric hyperparameters of a prior become buffers if the dictionary holds tensors for them.

        Args:
            state: A state dictionary, modified in place.
            prefix: Prefix of the names of this module in the dictionary.
        """
        for name in self.names:
            key = f"{prefix}{name}"
            self._load_prior(name, state, f"{key}_prior_")
            if key not in state or f"{key}_mu" in state:
                continue
            state[f"{key}_mu"] = state.pop(key)
            state.setdefault(f"{key}_rho", self.module.get_parameter(f"{name}_rho").detach())
            for label in self._priors[name]._buffers:
                state.setdefault(f"{key}_prior_{label}", self.module.get_buffer(f"{name}_prior_{label}"))

    def _load_prior(self, name: str, state: Mapping[str, Tensor], prefix: str) -> None:
        tensors = [state.get(f"{prefix}mean"), state.get(f"{prefix}std")]
        if not isinstance(self._priors[name], GaussianPrior) and tensors[0] is not None and tensors[1] is not None:
            self._priors[name] = GaussianPrior()  # that of a checkpoint, such as pretrained weights
        for key in [key for key in state if key.startswith(prefix)]:
            label, value = key.removeprefix(prefix), state[key].to(self.mu(name).device)
            if self._priors[name].load_hyperparameter(label, value):
                self.module.register_buffer(f"{name}_prior_{label}", value.clone())
                self.revision += 1


def stochastic_parameters(module: nn.Module) -> StochasticParameters | None:
    """Returns the stochastic parameters that a module owns directly, or None if there are none."""
    found = module.__dict__.get("_stochastic")
    return found if isinstance(found, StochasticParameters) else None
