"""Low-rank weights: factors of each layer, laws of the drawn weights, divergence, selection and refusals."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fit, loader, normal, randomize_posteriors
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi import Deterministic, LastLayerVI, LowRankWeightsVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.conversion import add_adapters, convert_to_low_rank_weights, factorized, merge_low_rank_weights
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.priors import GaussianPrior

TOKENS = torch.tensor([[1, 2, 0], [3, 3, 0]])
LAYERS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "linear": (lambda: nn.Linear(5, 4), normal(3, 5)),
    "linear without bias": (lambda: nn.Linear(3, 6, bias=False), normal(2, 4, 3)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 4, stride=2, padding=1), normal(3, 2, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 5, 3, padding=2, dilation=2, padding_mode="reflect"), normal(3, 2, 7, 7)),
    "conv2d 1 x 1": (lambda: nn.Conv2d(4, 4, 1, bias=False), normal(3, 4, 2, 2)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, padding="same"), normal(2, 2, 3, 3, 3)),
    "embedding": (lambda: nn.Embedding(6, 4, padding_idx=0), TOKENS),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def shape_of(layer: Any) -> tuple[int, int]:
    weight = layer.weight.mT if isinstance(layer, nn.Embedding) else layer.weight.flatten(1)
    return weight.shape


def replaced(layer: nn.Module, rank: int) -> Any:
    return factorized(layer, [""], rank, "svd")


def double(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


@each_layer
def test_factors_of_full_rank_compute_what_the_layer_does(name: str) -> None:
    make, x = LAYERS[name]
    layer = make().double()
    expected, weight = layer(double(x)), layer.get_parameter("weight").detach().clone()
    low_rank = replaced(layer, min(shape_of(layer)))
    assert_close(low_rank(double(x)), expected)
    assert_close(low_rank.weight, weight)


@each_layer
def test_factors_are_the_best_approximation_and_a_dense_layer_again(name: str) -> None:
    """The error is the root of the sum of the squared singular values that are left out (Eckart and Young)."""
    make, x = LAYERS[name]
    layer = make().double()
    weight = layer.get_parameter("weight").detach().clone()
    values = np.linalg.svd(weight.mT.numpy() if name == "embedding" else weight.flatten(1).numpy(), compute_uv=False)
    low_rank = replaced(layer, 2)
    assert (low_rank.weight - weight).norm().item() == pytest.approx(np.sqrt((values[2:] ** 2).sum()))
    dense: Any = merge_low_rank_weights(low_rank)
    assert isinstance(dense, type(make()))
    assert_close(dense.weight, low_rank.weight)
    assert_close(dense(double(x)), low_rank(double(x)))


def test_attention_of_full_rank_computes_what_it_did() -> None:
    attention, x = nn.MultiheadAttention(6, 2, batch_first=True, bias=True).double(), normal(3, 5, 6).double()
    nn.init.normal_(attention.in_proj_bias)
    expected = attention(x, x, x)[0]
    network: Any = factorized(attention, ["", "out_proj"], 6, "svd")
    assert_close(network(x, x, x)[0], expected)
    assert network.in_proj.down.weight.shape == (6, 6)
    assert "in_proj_weight" not in dict(network.named_parameters())
    merged: Any = merge_low_rank_weights(network)
    assert type(merged) is nn.MultiheadAttention
    assert_close(merged(x, x, x)[0], expected)


def test_random_factors_have_the_scale_of_the_weight() -> None:
    network = nn.Sequential(nn.Linear(200, 100))
    nn.init.normal_(network[0].weight, std=0.3)
    low_rank: Any = convert_to_low_rank_weights(network, rank=20, init="random")
    assert low_rank[0].weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert low_rank[0].bias is not network[0].bias
    assert_close(low_rank[0].bias, network[0].bias)


def law(method: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and variances of A [m, r] and B [n, r]."""
    layer = method.backbone
    a, b = layer.up.posterior("weight"), layer.down.posterior("weight")
    return a.mean.detach(), a.std.detach() ** 2, b.mean.detach().mT, b.std.detach().mT ** 2


@pytest.mark.parametrize("draws", ["prediction", "training"])
def test_drawn_weights_have_the_variance_in_closed_form(draws: str) -> None:
    """Rows of the unit matrix as inputs show the columns of W; training draws the outputs of both layers."""
    method = LowRankWeightsVI(nn.Linear(7, 4, bias=False), Gaussian(0.5, num_targets=4), rank=2, num_data=5).double()
    randomize_posteriors(method.backbone, 0.2, 0.6)
    size, x = 20_000, torch.eye(7, dtype=torch.float64)
    if draws == "prediction":
        outputs = torch.cat(list(method.sampled_outputs(x, size, seed=0)))
    else:
        outputs = method.engine.training_samples(x, size).detach()
        assert {row.estimator for row in method.conversion.modules} == {"local_reparameterization"}
    mean_a, var_a, mean_b, var_b = law(method)
    expected = (mean_a**2 @ var_b.mT + var_a @ mean_b.mT**2 + var_a @ var_b.mT).mT
    found = outputs.var(0)
    kurtosis = (outputs - outputs.mean(0)).pow(4).mean(0) / found**2
    error = expected * ((kurtosis - 1) / size).sqrt()
    assert ((found - expected).abs() < 4.5 * error).all()
    assert ((outputs.mean(0) - (mean_a @ mean_b.mT).mT).abs() < 4.5 * (expected / size).sqrt()).all()
    if draws == "prediction":  # elements of one row of W share a row of A
        shared = (outputs - outputs.mean(0))[:, :2, 0].prod(1)
        covariance = (var_a[0] * mean_b[0] * mean_b[1]).sum()
        assert abs(shared.mean() - covariance) < 4.5 * shared.std() / size**0.5
        assert abs(covariance) > 20 * shared.std() / size**0.5


def test_divergence_is_the_sum_over_the_factors() -> None:
    prior = {"*.down.weight": GaussianPrior(0.1, 0.4), "*": GaussianPrior(std=2.0)}
    method = LowRankWeightsVI(MLP(6, [8], 1), Gaussian(0.5), rank=2, prior=prior)
    randomize_posteriors(method.backbone)
    state = method.backbone.state_dict()
    means = [name for name in state if name.endswith("_mu")]
    assert len(means) == 5
    expected = sum(
        kl_divergence(
            Normal(state[name], F.softplus(state[f"{name[:-3]}_rho"])),
            Normal(0.1, 0.4) if ".down." in name else Normal(0.0, 2.0),
        ).sum()
        for name in means
    )
    assert_close(method.engine.kl(), expected)


def test_parameters_are_r_times_m_plus_n() -> None:
    method = LowRankWeightsVI(MLP(30, [40], 1), Gaussian(0.5), rank=3, stochastic_biases=False)
    weights = 3 * (30 + 40) + 40  # the last layer stays as it is
    assert method.conversion.num_stochastic == weights
    assert sum(p.numel() for p in method.backbone.parameters()) == 2 * weights + 41
    assert sum(p.numel() for p in MeanFieldVI(MLP(30, [40], 1), Gaussian(0.5)).backbone.parameters()) == 2 * 1281


def rate(method: Any) -> float:
    return max(group["lr"] for group in method.make_optimizer().param_groups)


def test_factors_learn_at_a_lower_rate_by_default() -> None:
    network, likelihood = MLP(8, [8, 8], 2), Categorical(2)
    assert rate(MeanFieldVI(MLP(8, [8], 2), likelihood)) > 0.105
    assert rate(LowRankWeightsVI(MLP(8, [8], 2), likelihood, rank=2)) == pytest.approx(0.1)
    assert rate(LowRankWeightsVI(MLP(8, [8], 1), Gaussian(0.5), rank=2)) == pytest.approx(0.03)
    adapted = add_adapters(network, ["2"], rank=2)
    assert rate(MeanFieldVI(adapted, likelihood)) == pytest.approx(0.01)
    assert MeanFieldVI(adapted, likelihood, optimizer=partial(torch.optim.Adam, lr=0.1)).main_factor == 1.0


def test_both_factors_of_a_weight_count_as_one_layer() -> None:
    """With three layers, the rate is that of three dense ones."""
    network, likelihood = MLP(8, [8, 8], 2), Categorical(2)
    low_rank = LowRankWeightsVI(network, likelihood, rank=2)
    assert [row.name for row in low_rank.conversion.modules] == ["0.down", "0.up", "2.down", "2.up", "4"]
    assert rate(low_rank) == pytest.approx(rate(MeanFieldVI(network, likelihood)))
    only_up = MeanFieldVI(low_rank_network(network), likelihood, stochastic_module_names=["0.up", "2.up", "4"])
    assert rate(only_up) == pytest.approx(rate(low_rank))


def low_rank_network(network: nn.Module) -> nn.Module:
    return convert_to_low_rank_weights(network, ["0", "2"], rank=2)


def test_layers_that_would_be_hardly_smaller_keep_their_weight() -> None:
    backbone, likelihood = MLP(64, [64], 10), Categorical(10)
    method = LowRankWeightsVI(backbone, likelihood)  # 2: 592 of 640 parameters
    assert [row.name for row in method.conversion.modules] == ["0.down", "0.up", "2"]
    alone = LowRankWeightsVI(backbone, likelihood, stochastic_module_names=[-1])
    assert [row.name for row in alone.conversion.modules if row.stochastic] == ["2.down", "2.up"]
    half = LowRankWeightsVI(MLP(64, [64], 64), Categorical(64), rank=16)
    assert [row.name for row in half.conversion.modules] == ["0.down", "0.up", "2.down", "2.up"]


def test_selectors_are_those_of_the_backbone(tmp_path: Path) -> None:
    backbone = MLP(8, [8, 8], 2)
    selections: list[list[Any]] = [[lambda name, _: name in ("2", "4")], ["[24]"], [1, -1]]
    for selectors in selections:
        method: Any = LowRankWeightsVI(backbone, Categorical(2), rank=2, stochastic_module_names=selectors)
        assert method.hparams["stochastic_module_names"] == [1, 2]
    assert [row.name for row in method.conversion.modules if row.stochastic] == ["2.down", "2.up", "4"]
    fit(method, loader(normal(16, 8), torch.arange(16) % 2), max_epochs=1)
    torch.save({"state_dict": method.state_dict()}, tmp_path / "state.ckpt")
    again = LowRankWeightsVI(backbone, Categorical(2), rank=2, stochastic_module_names=[1, 2])
    again.load_state_dict(torch.load(tmp_path / "state.ckpt", weights_only=True)["state_dict"])
    assert_close(again.predict(normal(4, 8), seed=1).probs, method.predict(normal(4, 8), seed=1).probs)


class LastFirst(nn.Module):
    """Defines its layers in the opposite order of their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 8)
        self.body = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.body(x)))
        return output


def test_the_last_layer_is_the_one_called_last() -> None:
    method = LowRankWeightsVI(LastFirst(), Gaussian(0.5, 8), rank=2, stochastic_module_names=[-1])
    assert [row.name for row in method.conversion.modules if row.stochastic] == ["head.down", "head.up"]
    assert method.predict(normal(4, 8)).mean.shape == (4, 8)


def test_every_method_takes_the_network() -> None:
    network, x, y = MLP(8, [8, 8], 2), normal(16, 8), torch.arange(16) % 2
    low_rank = convert_to_low_rank_weights(network, ["2"], rank=2)
    for kind in (Deterministic, MeanFieldVI, LastLayerVI):
        method = kind(low_rank, Categorical(2))
        fit(method, loader(x, y), max_steps=2)
        merged = merge_low_rank_weights(method.backbone)
        assert {type(module) for module in merged} == {nn.Linear, nn.ReLU}  # type: ignore[union-attr]
        assert_close(merged(x), method.eval().point_outputs(x))


def refused(network: nn.Module, match: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=match):
        LowRankWeightsVI(network, Gaussian(0.5), **options)


def test_refusals_name_the_layer_and_the_remedy() -> None:
    refused(nn.Linear(8, 8), r"rank must be an integer of at least 1, got 0", rank=0)
    refused(nn.Linear(8, 8), r"init must be one of \['svd', 'random'\], got 'best'", rank=2, init="best")
    refused(MLP(8, [50], 1), r"0: its 50 x 8 weight needs rank <= 6, 2: its 1 x 50 weight is smallest as it is", rank=7)
    refused(nn.Linear(8, 8).requires_grad_(False), r"\(root\): frozen", rank=2)
    grouped = nn.Conv2d(8, 8, 3, groups=2)
    hooked = nn.Linear(8, 8)
    hooked.register_forward_hook(lambda *_: None)
    for layer, why in (
        (grouped, "groups"),
        (nn.ConvTranspose1d(8, 8, 3), "transposed"),
        (nn.LSTM(8, 8), "no linear layer"),
        (nn.Embedding(50, 8, max_norm=1.0), "max_norm"),
        (nn.MultiheadAttention(8, 2, kdim=4), "different sizes"),
        (hooked, "hooks"),
    ):
        with pytest.raises(ValueError, match=rf"modules: 0 selects nothing that can have a smaller .*{why}"):
            convert_to_low_rank_weights(nn.Sequential(layer), [0], rank=2)
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="0: its weight is used in several places"):
        convert_to_low_rank_weights(tied, rank=2)
    with pytest.raises(ValueError, match="no low-rank weights and no adapters"):
        merge_low_rank_weights(tied)
