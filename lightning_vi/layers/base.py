"""What makes a torch layer variational."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lightning_vi.layers.estimators import ESTIMATORS, check_estimator
from lightning_vi.layers.module import VariationalModule, make_variational
from lightning_vi.layers.parameters import SharedParameters
from lightning_vi.posteriors import InitialStd, MeanFieldGaussian, initial_rho
from lightning_vi.priors import Prior


class VariationalLayer(VariationalModule):
    """Mixin that gives the weight and the bias of a torch layer a mean-field Gaussian posterior.

    The layer's output is linear in both, so that noise may be drawn on its outputs as well as on its weights. Drawn
    weights are used where they are put into the slots ``weight`` and ``bias``; otherwise the layer draws for itself.
    """

    torch_parent: ClassVar[type[nn.Module]]
    channel_dim: ClassVar[int]
    preferred_estimator: ClassVar[str]

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """How many inputs each output sums over."""

    @abstractmethod
    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """The torch layer's own operation with the given weights."""

    @abstractmethod
    def stacked_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """The operation with S inputs [S, B, ...] and S weights [S, ...]; the bias is stacked, or one for all."""

    @abstractmethod
    def is_batched(self, x: Tensor) -> bool:
        """Whether the first dimension of `x` is the batch."""

    @classmethod
    def adopt(
        cls,
        module: nn.Module,
        *,
        prior: Prior | Mapping[str, Prior] | None = None,
        estimator: str = "auto",
        init_std: InitialStd = 0.05,
        stochastic_bias: bool = True,
        shared: SharedParameters | None = None,
    ) -> Self:
        """Turns a torch layer into a variational one, in place.

        Every constructor option, hook and buffer stays; the weights become posterior means.

        Args:
            module: An instance of the torch parent of this class.
            prior: The prior of weight and bias, or one for each by name; the standard Gaussian by default.
            estimator: Gradient estimator, see `lightning_vi.layers.estimators`.
            init_std: Initial posterior standard deviation.
            stochastic_bias: Whether the bias has a posterior too.
            shared: Variational parameters made so far by the ``id`` of the parameter that they replace, so that
                tied weights share one posterior.

        Returns:
            `module` itself.

        Raises:
            TypeError: If `module` is no instance of the torch parent.
            ValueError: If the estimator is unknown, `init_std` is not positive and finite, or the prior's shape
                does not fit. `module` is then as it was.
        """
        if not isinstance(module, cls.torch_parent):
            raise TypeError(f"a {type(module).__name__} cannot become a {cls.__name__}")
        check_estimator(estimator)
        candidates = ("weight", "bias") if stochastic_bias else ("weight",)
        names = [name for name in candidates if isinstance(module._parameters.get(name), nn.Parameter)]
        make_variational(
            module,
            cls,
            names,
            num_inputs=dict.fromkeys(names, cast(int, cls.num_inputs.fget(module))),  # type: ignore[attr-defined]
            prior=prior,
            estimator=cls.preferred_estimator if estimator == "auto" else estimator,
            init_std=init_std,
            shared=shared,
        )
        layer = cast(Self, module)
        layer._stochastic.was_asked_for = estimator != "auto"
        return layer

    @property
    def estimator(self) -> str:
        """The gradient estimator, a key of `ESTIMATORS`."""
        return self._stochastic.estimator

    @property
    def stochastic_names(self) -> tuple[str, ...]:
        """Which of ``"weight"`` and ``"bias"`` have posteriors."""
        return self._stochastic.names

    def posterior(self, name: str) -> MeanFieldGaussian:
        """The posterior of one parameter.

        Args:
            name: ``"weight"`` or ``"bias"``.

        Returns:
            A view of ``<name>_mu`` and ``<name>_rho``.
        """
        return self._stochastic.posterior(name)

    def prior(self, name: str) -> Prior:
        """The prior of one parameter.

        Args:
            name: ``"weight"`` or ``"bias"``.

        Returns:
            The prior, settled for the parameter's shape.
        """
        return self._stochastic.prior(name)

    def kl(self) -> Tensor:
        """KL divergence from posterior to prior, summed over weight and bias.

        Returns:
            Nats, a scalar tensor.
        """
        return torch.stack([self.posterior(name).kl(self.prior(name)) for name in self.stochastic_names]).sum()

    @property
    def num_copies(self) -> int | None:
        """S while the batch consists of S copies, None at other times."""
        return self._stochastic.num_copies

    @property
    def is_antithetic(self) -> bool:
        """Whether the noise of every second copy is the negative of the one before."""
        return self._stochastic.is_antithetic

    @property
    def deterministic_bias(self) -> Tensor | None:
        """The bias if it has no posterior."""
        return None if "bias" in self.stochastic_names else self._parameters["bias"]

    def _forward(self, x: Tensor, *args: Any, sample: bool, num_samples: int | None) -> Tensor:
        weight = self._parameters["weight"]
        if weight is None:
            if not sample:
                bias = self.posterior("bias").mean if "bias" in self.stochastic_names else self.deterministic_bias
                return self.linear_map(x, self.posterior("weight").mean, bias, *args)
            return ESTIMATORS[self.estimator](self, x, num_samples, *args)
        bias = self._parameters["bias"]
        if weight.dim() == self._stochastic.mu("weight").dim():
            return self.linear_map(x, weight, bias, *args)
        if num_samples is None:
            copies = x.reshape(weight.shape[0], -1, *x.shape[1:])
            return self.stacked_map(copies, weight, bias, *args).flatten(0, 1)
        return self.stacked_map(x.expand(num_samples, *x.shape), weight, bias, *args)

    def reset_parameters(self) -> None:
        """Draws new posterior means as the torch layer draws its weights, and resets the stds to where they started."""
        if "_stochastic" not in self.__dict__:
            super().reset_parameters()  # type: ignore[misc]
            return
        stochastic = self._stochastic
        for name in stochastic.names:
            stochastic.put(name, stochastic.mu(name))
        try:
            super().reset_parameters()  # type: ignore[misc]
        finally:
            for name in stochastic.names:
                stochastic.put(name, None)
        for name in stochastic.names:
            with torch.no_grad():
                self.get_parameter(f"{name}_rho").copy_(initial_rho(stochastic.init_std, stochastic.mu(name)))

    def extra_repr(self) -> str:  # noqa: D102
        options = super().extra_repr().replace(", bias=False", "").replace(", bias=True", "")
        has_bias = "bias" in self.stochastic_names or self.deterministic_bias is not None
        return f"{options}, bias={has_bias}, estimator={self.estimator!r}, prior={self.prior('weight')!r}"
