"""Adapters and low-rank weights on the architectures that people have."""

from collections.abc import Callable

import pytest
import torch
from architecture_cases import ARCHITECTURES
from helpers import randomize_posteriors
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import LowRankWeightsVI, MeanFieldVI
from lightning_vi.conversion import add_adapters, largest_rank, merge_low_rank_weights
from lightning_vi.likelihoods import Gaussian
from lightning_vi.sampling import NetworkInput, call

Tally = Callable[..., None]
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def built(name: str) -> tuple[nn.Module, NetworkInput]:
    case = ARCHITECTURES[name]
    return case.make().eval(), case.make_input()


def flat(output: Tensor) -> Tensor:
    return output.detach().flatten()


@each_architecture
def test_adapters_start_at_the_network_and_merge(name: str, tally: Tally) -> None:
    network, x = built(name)
    adapted = add_adapters(network, rank=1, alpha=1.0)
    assert_close(flat(call(adapted, x)), flat(call(network, x)), rtol=0, atol=1e-6)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn_like(parameter))
    merged = merge_low_rank_weights(adapted)
    assert_close(flat(call(merged, x)), flat(call(adapted, x)), rtol=1e-4, atol=1e-5)
    assert [type(part) for part in merged.modules()] == [type(part) for part in network.modules()]
    tally("architectures", "adapters", tried=1, right=1)


@each_architecture
@pytest.mark.parametrize("kind", ["adapters", "low rank"])
@pytest.mark.thorough
def test_training_samples_of_factors_have_the_variance_of_predictions(name: str, kind: str) -> None:
    network, x = built(name)
    if kind == "low rank" and not largest_rank(network):
        pytest.skip("no layer would become smaller")
    width = call(network, x).shape[-1]
    method: LowRankWeightsVI | MeanFieldVI = (
        LowRankWeightsVI(network, Gaussian(0.5, width), rank=1)
        if kind == "low rank"
        else MeanFieldVI(add_adapters(network, rank=1, alpha=1.0), Gaussian(0.5, width))
    )
    randomize_posteriors(method.backbone, 0.05, 0.1)
    method.eval()
    with torch.no_grad():
        trained = method.engine.training_samples(x, 400)
        predicted = torch.cat(list(method.engine.prediction_samples(x, 400, seed=3)))
    assert 0.5 < float(trained.var(0).mean() / predicted.var(0).mean()) < 2
    merged = merge_low_rank_weights(method.backbone)
    assert_close(flat(call(merged, x)), flat(method.point_outputs(x)), rtol=1e-4, atol=1e-4)
