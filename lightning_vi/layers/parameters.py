"""The stochastic parameters of one module."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lightning_vi.posteriors import InitialStd, MeanFieldGaussian, initial_rho
from lightning_vi.priors import Prior

SharedParameters = dict[int, tuple[nn.Parameter, nn.Parameter]]


class StochasticParameters:
    """Posteriors and priors of a module's parameters, and the slots where drawn weights are put.

    Each parameter gives way to ``<name>_mu`` and ``<name>_rho`` in the same module. Its own slot stays, empty: weights
    that were drawn elsewhere are put there for the length of a forward pass. A prior's tensors are buffers
    ``<name>_prior_<label>`` of the module.

    Args:
        module: The owner of the parameters.
        priors: The prior of each parameter that becomes stochastic, by name.
        estimator: Gradient estimator.
        init_std: Initial posterior standard deviation.
        shared: Variational parameters made so far by the ``id`` of the parameter that they replace, so that tied
            weights share one posterior.

    Attributes:
        was_asked_for: Whether somebody named the estimator; otherwise it may be changed for a better one.
        why: Why it was changed.
        revision: How often the estimator or a prior was changed for another.
        num_copies: S while the batch consists of S copies, None at other times.
        is_antithetic: Whether the noise of every second copy is the negative of the one before.
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
        self.was_asked_for = True
        self.why = ""
        self.revision = 0
        self.num_copies: int | None = None
        self.is_antithetic = False
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

    def mu(self, name: str) -> Tensor:
        """The posterior means of one parameter."""
        return self.module._parameters[f"{name}_mu"]  # type: ignore[return-value]

    def posterior(self, name: str) -> MeanFieldGaussian:
        """The posterior of one parameter.

        Args:
            name: The parameter's name in the module.

        Returns:
            A view of ``<name>_mu`` and ``<name>_rho``.
        """
        parameters = self.module._parameters
        return MeanFieldGaussian(parameters[f"{name}_mu"], parameters[f"{name}_rho"], self._stds.get(name))  # type: ignore[arg-type]

    def prior(self, name: str) -> Prior:
        """The prior of one parameter.

        Args:
            name: The parameter's name in the module.

        Returns:
            The prior, settled for the parameter's shape.
        """
        prior = self._priors[name]
        for label in prior._buffers:
            prior._buffers[label] = self.module._buffers[f"{name}_prior_{label}"]
        return prior

    def change_estimator(self, estimator: str, why: str) -> None:
        """Takes another estimator.

        Args:
            estimator: Its name.
            why: What the report says of it.
        """
        self.estimator, self.why = estimator, why
        self.revision += 1

    def put(self, name: str, weight: Tensor | None) -> None:
        """Puts a drawn weight into its slot, or empties the slot.

        Args:
            name: The parameter's name in the module.
            weight: The parameter's shape, with a leading dimension S where the module understands that; or None.
        """
        self.module._parameters[name] = weight  # type: ignore[assignment]
        if isinstance(self.module, nn.RNNBase):
            position = self.module._flat_weights_names.index(name)
            self.module._flat_weights[position] = self.mu(name) if weight is None else weight

    def know_stds(self, stds: Mapping[str, Tensor]) -> None:
        """Keeps standard deviations that were computed elsewhere; an empty mapping forgets them.

        Args:
            stds: By the parameter's name, each of its shape.
        """
        self._stds = dict(stds)

    def deterministic_rows(self, name: str) -> Sequence[int]:
        """Rows of a parameter that keep their mean: the padding of an embedding."""
        padding = getattr(self.module, "padding_idx", None) if name == "weight" else None
        return [] if padding is None else [padding]

    def prepare_for(self, state: dict[str, Tensor], prefix: str) -> None:
        """Makes room for what a state dictionary holds, in place of both.

        A deterministic module's entries become posterior means there; posterior scales and priors that it lacks stay
        as they are. A prior's number gives way where the dictionary has a tensor for it.

        Args:
            state: A state dictionary.
            prefix: What the module's names start with there.
        """
        for name in self.names:
            key = f"{prefix}{name}"
            self._take_over_prior(name, state, f"{key}_prior_")
            if key not in state or f"{key}_mu" in state:
                continue
            state[f"{key}_mu"] = state.pop(key)
            state.setdefault(f"{key}_rho", self.module.get_parameter(f"{name}_rho").detach())
            for label in self._priors[name]._buffers:
                state.setdefault(f"{key}_prior_{label}", self.module.get_buffer(f"{name}_prior_{label}"))

    def _take_over_prior(self, name: str, state: Mapping[str, Tensor], prefix: str) -> None:
        for key in [key for key in state if key.startswith(prefix)]:
            label, value = key.removeprefix(prefix), state[key].to(self.mu(name).device)
            if self._priors[name].take_over(label, value):
                self.module.register_buffer(f"{name}_prior_{label}", value.clone())
                self.revision += 1


def stochastic_parameters(module: nn.Module) -> StochasticParameters | None:
    """The stochastic parameters of a module itself, not of its children.

    Args:
        module: Any module.

    Returns:
        None if it has none.
    """
    found = module.__dict__.get("_stochastic")
    return found if isinstance(found, StochasticParameters) else None
