"""Marginal posterior of one parameter tensor, as the diagnostics read it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_vi.priors import Prior
from lightning_vi.sampling import SamplingEngine


@dataclass(frozen=True)
class WeightPosterior:
    """Marginal posterior of one parameter tensor beside its prior.

    Attributes:
        module: Dotted name of the module that owns the parameter, empty for the network itself.
        mean: Posterior means, shape of the parameter.
        std: Marginal posterior standard deviations, shape of the parameter.
        kl: KL divergence from the product of the marginals to the prior in nats, a scalar tensor.
        prior_std: Prior standard deviations, a number or a tensor that broadcasts to `std`; None if unknown.
        unit_dim: Dimension whose entries are the module's output units or channels; None if the tensor is no matrix
            from inputs to outputs.
    """

    module: str
    mean: Tensor
    std: Tensor
    kl: Tensor
    prior_std: Tensor | float | None
    unit_dim: int | None


def weight_posteriors(network: nn.Module, engine: SamplingEngine, prior: Prior | None = None) -> list[WeightPosterior]:
    """Reads the marginal posteriors of a network's stochastic parameters, tied ones once.

    Args:
        network: The network.
        engine: Its engine.
        prior: Prior of every parameter, if it is not the one in the engine.

    Returns:
        One entry per parameter tensor, in the order of the network.
    """
    return list(_weight_posteriors(network, engine, prior))


@torch.no_grad()
def _weight_posteriors(network: nn.Module, engine: SamplingEngine, prior: Prior | None) -> Iterator[WeightPosterior]:
    names = {id(module): name for name, module in network.named_modules()}
    scale = None if engine.coupling is None else engine.coupling.marginals()[0]
    for slot in engine.slots:
        posterior, of_slot = slot.posterior, prior or slot.prior
        mean, std = _precise(posterior.mean), _precise(posterior.std)
        if scale is not None:
            std = std * scale[slot.start : slot.stop].view_as(std)
        module = slot.owner.module
        yield WeightPosterior(
            names[id(module)],
            mean,
            std,
            of_slot.kl_from_gaussian(mean, std),
            of_slot.std_for(mean, std),
            output_dim(module, mean),
        )


def _precise(values: Tensor) -> Tensor:
    return values.detach().to(torch.promote_types(values.dtype, torch.float32))


def output_dim(module: nn.Module, parameter: Tensor) -> int | None:
    """Returns the dimension of a parameter whose entries are output units or channels, None if it is no matrix.

    Args:
        module: The module that owns the parameter.
        parameter: The parameter.
    """
    if parameter.dim() < 2 or isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return None
    return 1 if isinstance(module, nn.modules.conv._ConvTransposeNd) else 0
