"""Base class of variational layers."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputTypeError
from lightning_vi.layers.estimators import (
    ACTIVATION_SPACE,
    ESTIMATORS,
    activation_moments,
    check_estimator,
    mean_output,
    noise_around,
)
from lightning_vi.layers.module import VariationalModule, make_variational
from lightning_vi.layers.parameters import SharedParameters
from lightning_vi.posteriors import DEFAULT_STD, InitialStd, MeanFieldGaussian, initial_rho
from lightning_vi.priors import Prior


class VariationalLayer(VariationalModule):
    """Mixin that gives the weight and the bias of a torch layer a mean-field Gaussian posterior.

    The output is linear in weight and bias, so noise can be sampled on the weights or on the outputs. The layer uses
    the weights that the sampling engine puts into its slots ``weight`` and ``bias``, and samples itself if they are
    empty, or hold the means of a weight that shares a part of its noise.

    Attributes:
        torch_parent: The torch layer to which the posterior is added.
        channel_dim: The dimension of the output that holds features or channels.
        preferred_estimator: The gradient estimator that ``"auto"`` stands for.
    """

    torch_parent: ClassVar[type[nn.Module]]
    channel_dim: ClassVar[int]
    preferred_estimator: ClassVar[str]

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """Number of inputs that each output sums over (fan-in)."""

    @abstractmethod
    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Applies the torch layer with the given weights."""

    @abstractmethod
    def stacked_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """Applies S weights [S, ...] to S inputs [S, B, ...]; the bias has shape [S, ...] or is shared."""

    @abstractmethod
    def is_batched(self, x: Tensor) -> bool:
        """Returns True if the first dimension of `x` is the batch dimension."""

    def noisy_map(self, x: Tensor, noise: Callable[[Sequence[int], Tensor], Tensor], *args: Any) -> Tensor:
        """Samples of the output with noise on the output, of the shape of the noise.

        Args:
            x: Input, shape [B, ...].
            noise: Draws standard normal noise for an output's shape, like a tensor.
            *args: Further arguments of the layer.
        """
        mean, std = activation_moments(self, x, *args)
        return torch.addcmul(mean, std, noise(mean.shape, mean))

    @classmethod
    def convert_in_place(
        cls,
        module: nn.Module,
        *,
        prior: Prior | Mapping[str, Prior] | None = None,
        estimator: str = "auto",
        init_std: InitialStd = DEFAULT_STD,
        stochastic_bias: bool = True,
        shared: SharedParameters | None = None,
    ) -> Self:
        """Converts a torch layer to a variational layer in place.

        Constructor options, hooks and buffers are kept; the weights become posterior means.

        Args:
            module: An instance of `torch_parent`.
            prior: Prior of weight and bias, or a mapping from their names to priors. Default: standard Gaussian.
            estimator: Gradient estimator, see `lightning_vi.layers.estimators`.
            init_std: Initial posterior standard deviation.
            stochastic_bias: If True, the bias has a posterior too.
            shared: See `StochasticParameters`.

        Returns:
            `module` itself.

        Raises:
            TypeError: If `module` is not an instance of `torch_parent`.
            ValueError: If the estimator is unknown, `init_std` is not positive and finite, or the shape of the prior
                does not match. `module` is left unchanged.
        """
        if not isinstance(module, cls.torch_parent):
            raise InputTypeError(f"module must be a {cls.torch_parent.__name__}, got {type(module).__name__}")
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
        layer._stochastic.is_estimator_fixed = estimator != "auto"
        return layer

    @property
    def estimator(self) -> str:
        """Name of the gradient estimator, a key of `ESTIMATORS`."""
        return self._stochastic.estimator

    @property
    def stochastic_names(self) -> tuple[str, ...]:
        """Names of the parameters with a posterior, out of ``"weight"`` and ``"bias"``."""
        return self._stochastic.names

    def posterior(self, name: str) -> MeanFieldGaussian:
        """Posterior of ``"weight"`` or ``"bias"``, a view of ``<name>_mu`` and ``<name>_rho``."""
        return self._stochastic.posterior(name)

    def prior(self, name: str) -> Prior:
        """Prior of ``"weight"`` or ``"bias"``, resolved for its shape."""
        return self._stochastic.prior(name)

    def kl(self) -> Tensor:
        """KL divergence from posterior to prior in nats, summed over weight and bias; a scalar tensor."""
        return torch.stack([self.posterior(name).kl(self.prior(name)) for name in self.stochastic_names]).sum()

    @property
    def num_copies(self) -> int | None:
        """S while the batch consists of S copies, otherwise None."""
        return self._stochastic.num_copies

    @property
    def is_antithetic(self) -> bool:
        """If True, the noise of every second copy is the negative of the copy before."""
        return self._stochastic.is_antithetic

    @property
    def deterministic_bias(self) -> Tensor | None:
        """The bias if it is deterministic, otherwise None."""
        return None if "bias" in self.stochastic_names else self._parameters["bias"]

    def _forward(self, x: Tensor, *args: Any, sample: bool, num_samples: int | None) -> Tensor:
        weight = self._parameters["weight"]
        if weight is None:
            if not sample:
                return mean_output(self, x, *args)
            return ESTIMATORS[self.estimator](self, x, num_samples, *args)
        outputs = self._mapped(x, weight, num_samples, *args)
        if self._stochastic.slots_hold_means and self.estimator in ACTIVATION_SPACE:
            return noise_around(self, x, outputs, num_samples, *args)
        return outputs

    def _mapped(self, x: Tensor, weight: Tensor, num_samples: int | None, *args: Any) -> Tensor:
        """Output with the weights in the slots, one of each or S."""
        bias = self._parameters["bias"]
        if weight.dim() == self._stochastic.mu("weight").dim():
            return self.linear_map(x, weight, bias, *args)
        if num_samples is None:
            copies = x.reshape(weight.shape[0], -1, *x.shape[1:])
            return self.stacked_map(copies, weight, bias, *args).flatten(0, 1)
        return self.stacked_map(x.expand(num_samples, *x.shape), weight, bias, *args)

    def reset_parameters(self) -> None:
        """Reinitializes the posterior means as the torch layer does its weights, and resets the standard deviations."""
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
