"""What makes a torch layer variational."""

from abc import abstractmethod
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lightning_vi.layers.estimators import ESTIMATORS, resolve_estimator
from lightning_vi.posteriors import MeanFieldGaussian, inverse_softplus
from lightning_vi.priors import GaussianPrior, Prior

SharedParameters = dict[int, tuple[nn.Parameter, nn.Parameter]]


class VariationalLayer(nn.Module):
    """Mixin that gives the weight and the bias of a torch layer a mean-field Gaussian posterior.

    The parameters ``weight`` and ``bias`` give way to ``weight_mu``, ``weight_rho``, ``bias_mu`` and
    ``bias_rho``. The slots ``weight`` and ``bias`` stay, empty: weights that were drawn elsewhere are put there
    for the length of a forward pass, and the layer then uses them as its torch parent would.
    """

    torch_parent: type[nn.Module]
    channel_dim: int
    estimator: str
    init_std: float
    stochastic_names: tuple[str, ...]
    priors: nn.ModuleDict

    @property
    @abstractmethod
    def num_inputs(self) -> int:
        """How many inputs each output sums over."""

    @abstractmethod
    def linear_map(self, x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        """The torch layer's own operation with the given weights."""

    @abstractmethod
    def is_batched(self, x: Tensor) -> bool:
        """Whether the first dimension of `x` is the batch."""

    @classmethod
    def adopt(
        cls,
        module: nn.Module,
        *,
        prior: Prior | None = None,
        estimator: str = "auto",
        init_std: float = 0.05,
        shared: SharedParameters | None = None,
    ) -> Self:
        """Turns a torch layer into a variational one, in place.

        Every constructor option, hook and buffer stays; the weights become posterior means.

        Args:
            module: An instance of the torch parent of this class.
            prior: The prior of weight and bias; the standard Gaussian by default.
            estimator: Gradient estimator, see `lightning_vi.layers.estimators`.
            init_std: Initial posterior standard deviation.
            shared: Variational parameters made so far by the ``id`` of the parameter that they replace, so that
                tied weights share one posterior.

        Returns:
            `module` itself.

        Raises:
            TypeError: If `module` is no instance of the torch parent.
            ValueError: If the estimator is unknown, `init_std` is not positive and finite, or the prior's shape
                does not fit. `module` is then as it was.
        """
        estimator = resolve_estimator(estimator)
        rho = inverse_softplus(init_std)
        original = type(module)
        if not isinstance(module, cls.torch_parent):
            raise TypeError(f"a {original.__name__} cannot become a {cls.__name__}")
        object.__setattr__(module, "__class__", cls)
        layer = cast(Self, module)
        layer.estimator = estimator
        layer.init_std = init_std
        layer.stochastic_names = tuple(
            name for name in ("weight", "bias") if isinstance(module._parameters.get(name), nn.Parameter)
        )
        base_prior = GaussianPrior() if prior is None else prior
        try:
            priors = {
                name: base_prior.for_parameter(name, layer.get_parameter(name), layer.num_inputs)
                for name in layer.stochastic_names
            }
        except ValueError:
            object.__setattr__(module, "__class__", original)
            raise
        known = {} if shared is None else shared
        for name in layer.stochastic_names:
            parameter = layer.get_parameter(name)
            if id(parameter) not in known:
                mu = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                known[id(parameter)] = (mu, nn.Parameter(torch.full_like(mu, rho)))
            mu, rho_parameter = known[id(parameter)]
            layer.register_parameter(f"{name}_mu", mu)
            layer.register_parameter(f"{name}_rho", rho_parameter)
            layer._parameters[name] = None
        layer.priors = nn.ModuleDict(priors)
        return layer

    def posterior(self, name: str) -> MeanFieldGaussian:
        """The posterior of one parameter.

        Args:
            name: ``"weight"`` or ``"bias"``.

        Returns:
            A view of ``<name>_mu`` and ``<name>_rho``.
        """
        return MeanFieldGaussian(self._parameters[f"{name}_mu"], self._parameters[f"{name}_rho"])  # type: ignore[arg-type]

    def kl(self) -> Tensor:
        """KL divergence from posterior to prior, summed over weight and bias.

        Returns:
            Nats, a scalar tensor.
        """
        return torch.stack([self.posterior(name).kl(self.prior(name)) for name in self.stochastic_names]).sum()

    def prior(self, name: str) -> Prior:
        """The prior of one parameter.

        Args:
            name: ``"weight"`` or ``"bias"``.

        Returns:
            The prior, settled for the parameter's shape.
        """
        return cast(Prior, self.priors[name])

    @property
    def device(self) -> torch.device:
        """Where the variational parameters are."""
        return self.posterior("weight").mu.device

    def _forward(self, x: Tensor, *args: Any, sample: bool, num_samples: int | None) -> Tensor:
        weight = self._parameters["weight"]
        if weight is not None:
            return self.linear_map(x, weight, self._parameters["bias"], *args)
        if not sample:
            bias_mean = self.posterior("bias").mean if "bias" in self.stochastic_names else None
            return self.linear_map(x, self.posterior("weight").mean, bias_mean, *args)
        return ESTIMATORS[self.estimator](self, x, num_samples, *args)

    def reset_parameters(self) -> None:
        """Draws new posterior means as the torch layer draws its weights, and resets the stds to `init_std`."""
        if "weight_mu" not in self._parameters:
            super().reset_parameters()  # type: ignore[misc]
            return
        for name in self.stochastic_names:
            self._parameters[name] = self._parameters[f"{name}_mu"]
        try:
            super().reset_parameters()  # type: ignore[misc]
        finally:
            for name in self.stochastic_names:
                self._parameters[name] = None
        for name in self.stochastic_names:
            nn.init.constant_(self.get_parameter(f"{name}_rho"), inverse_softplus(self.init_std))

    def extra_repr(self) -> str:  # noqa: D102
        options = super().extra_repr().replace(", bias=False", "").replace(", bias=True", "")
        return f"{options}, bias={'bias' in self.stochastic_names}, estimator={self.estimator!r}"
