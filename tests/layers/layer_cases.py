"""Every kind of variational layer with other options than the defaults, and the exact distribution of its output.

A layer is linear in its weights, so its output is J w with J the Jacobian. With independent Gaussian weights the
output has mean J mu and covariance J diag(sigma^2) J^T, for every estimator.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import randomize_posteriors
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from lightning_vi.layers import (
    VariationalConv1d,
    VariationalConv2d,
    VariationalConv3d,
    VariationalConvTranspose1d,
    VariationalConvTranspose2d,
    VariationalConvTranspose3d,
    VariationalLayer,
    VariationalLinear,
)

ESTIMATORS = ("reparameterization", "local_reparameterization", "flipout")


@dataclass(frozen=True)
class Case:
    """A layer to build, its torch parent, and the shape of one input."""

    make: Callable[..., VariationalLayer]
    parent: type[nn.Module]
    sizes: tuple[int, ...]
    options: dict[str, Any]
    input_shape: tuple[int, ...]

    def build(self, **options: Any) -> VariationalLayer:
        """The layer in float64, with random posterior means and stds."""
        layer = self.make(*self.sizes, **(self.options | options)).double()
        randomize_posteriors(layer)
        return layer

    def input(self, batch_size: int = 2) -> Tensor:
        return torch.randn(batch_size, *self.input_shape, dtype=torch.float64)


CASES = {
    "linear": Case(VariationalLinear, nn.Linear, (3, 2), {}, (3,)),
    "linear, no bias": Case(VariationalLinear, nn.Linear, (3, 2), {"bias": False}, (3,)),
    "linear, two leading dimensions": Case(VariationalLinear, nn.Linear, (3, 2), {}, (2, 3)),
    "conv1d, circular": Case(
        VariationalConv1d, nn.Conv1d, (2, 3, 3), {"padding": 1, "padding_mode": "circular"}, (2, 5)
    ),
    "conv2d, reflect, groups": Case(
        VariationalConv2d, nn.Conv2d, (2, 4, 3), {"padding": 1, "padding_mode": "reflect", "groups": 2}, (2, 4, 4)
    ),
    "conv2d, stride, dilation, no bias": Case(
        VariationalConv2d, nn.Conv2d, (1, 2, 2), {"stride": 2, "dilation": 2, "padding": 1, "bias": False}, (1, 5, 5)
    ),
    "conv2d, padding by name": Case(VariationalConv2d, nn.Conv2d, (1, 2, 3), {"padding": "same"}, (1, 3, 3)),
    "conv3d": Case(VariationalConv3d, nn.Conv3d, (1, 2, 2), {"padding": 1, "stride": 2}, (1, 3, 3, 3)),
    "transposed conv1d": Case(
        VariationalConvTranspose1d, nn.ConvTranspose1d, (2, 2, 3), {"stride": 2, "output_padding": 1}, (2, 3)
    ),
    "transposed conv2d, groups": Case(
        VariationalConvTranspose2d, nn.ConvTranspose2d, (2, 4, 3), {"stride": 2, "padding": 1, "groups": 2}, (2, 3, 3)
    ),
    "transposed conv3d": Case(VariationalConvTranspose3d, nn.ConvTranspose3d, (1, 2, 2), {}, (1, 2, 2, 2)),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def parent_of(layer: VariationalLayer, case: Case) -> nn.Module:
    """The torch layer with the posterior means as weights."""
    parent = case.parent(*case.sizes, **case.options).double()
    means = {name: layer.posterior(name).mu.detach() for name in layer.stochastic_names}
    parent.load_state_dict(means)
    return parent


def exact_law(layer: VariationalLayer, case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the flattened output, and its covariance under one weight draw for all rows."""
    parent = parent_of(layer, case)
    weights = dict(parent.named_parameters())

    def output(parameters: dict[str, Tensor]) -> Tensor:
        flat: Tensor = functional_call(parent, parameters, (x,)).flatten()
        return flat

    jacobians = jacrev(output)(weights)
    mean = sum(jacobians[name].flatten(1) @ weights[name].flatten() for name in weights)
    covariance = sum(
        (jacobians[name].flatten(1) * layer.posterior(name).rho.exp().log1p().square().flatten())
        @ jacobians[name].flatten(1).T
        for name in weights
    )
    return mean.detach(), covariance.detach()
