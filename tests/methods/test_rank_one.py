"""Rank-one posteriors: deterministic limit, mixture components, weight prior and unsupported layers."""

from typing import Any

import pytest
import torch
from helpers import randomize_posteriors
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import Deterministic, RankOneVI
from lightning_vi.backbones import MLP
from lightning_vi.functional import gaussian_kl
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.priors import GaussianPrior
from lightning_vi.sampling import memory

LAYERS = [
    (lambda: nn.Linear(3, 2), (4, 3)),
    (lambda: nn.Linear(3, 2, bias=False), (4, 5, 3)),
    (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=2), (4, 4, 5, 5)),
    (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (4, 4, 5)),
]


def nearly_deterministic(backbone: nn.Module, **options: Any) -> RankOneVI:
    return RankOneVI(backbone, Gaussian(0.5), num_data=10, init_std=1e-8, **options)


def test_one_component_with_negligible_std_is_deterministic() -> None:
    backbone, x, y = MLP(3, [8, 8], 1), torch.randn(6, 3), torch.randn(6, 1)
    method, twin = nearly_deterministic(backbone), Deterministic(backbone, Gaussian(0.5))
    assert_close(method.predict(x, 5).mean, twin.predict(x).mean)
    assert_close(method.elbo(x, y).nll, twin.elbo(x, y).nll)
    method.elbo(x, y).nll.backward()
    twin.elbo(x, y).nll.backward()
    expected = {name: parameter.grad for name, parameter in twin.backbone.named_parameters()}
    for name, gradient in expected.items():
        assert_close(method.backbone.get_parameter(name).grad, gradient)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("scales_bias", [True, False])
def test_scales_are_equivalent_to_a_rank_one_weight(make: Any, shape: tuple[int, ...], scales_bias: bool) -> None:
    layer, x = make().double(), torch.randn(shape).double()
    method = RankOneVI(layer, Gaussian(), stochastic_biases=scales_bias)
    randomize_posteriors(method.backbone)
    converted: Any = method.backbone
    r, s = converted.input_scale_mu[0], converted.output_scale_mu[0]
    with torch.no_grad():
        if layer.bias is not None and scales_bias:
            layer.bias *= s
        layer.weight.copy_(rank_one_weight(layer, r, s))
    assert_close(method(x), layer(x))


def rank_one_weight(layer: Any, r: Tensor, s: Tensor) -> Tensor:
    """Computes W' = W * (s r^T) with loops over channels and groups."""
    weight = layer.weight.detach().clone()
    if isinstance(layer, nn.Linear):
        return weight * s[:, None] * r
    transposed, groups = isinstance(layer, nn.ConvTranspose1d), layer.groups
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            if transposed:
                channel_in, channel_out = i, i // (layer.in_channels // groups) * weight.shape[1] + j
            else:
                channel_in, channel_out = i // (layer.out_channels // groups) * weight.shape[1] + j, i
            weight[i, j] *= r[channel_in] * s[channel_out]
    return weight


def test_samples_use_the_components_in_turn() -> None:
    backbone, x = MLP(3, [8], 1), torch.randn(70, 3)
    method = nearly_deterministic(backbone, num_components=3, component_std=0.5)
    samples = method.predict(x, 7, return_samples=True).samples
    assert samples is not None
    for index in range(7):
        single = nearly_deterministic(backbone)
        for name, mean in method.backbone.named_parameters():
            if name.endswith("scale_mu"):
                single.backbone.get_parameter(name).data = mean.data[[index % 3]]
        assert_close(samples[index], single.predict(x, 1).mean, rtol=1e-4, atol=1e-5)
    assert_close(method(x), samples[:3].mean(0), rtol=1e-4, atol=1e-5)


def test_rows_of_a_batch_keep_their_components_under_a_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    method, x = RankOneVI(MLP(3, [8], 1), Gaussian(), num_components=3, component_std=0.5), torch.randn(7, 3)
    options: list[Any] = [{"num_samples": 6}, {"approximation": "moments"}]
    expected = [method.predict(x, **choice).mean for choice in options]
    monkeypatch.setitem(memory.MAX_ACTIVATIONS_PER_PASS, "cpu", 4 * 8)
    assert_close([method.predict(x, **choice).mean for choice in options], expected)


def test_kl_is_the_mean_over_components_plus_the_weight_prior() -> None:
    torch.manual_seed(0)
    method = RankOneVI(
        nn.Linear(3, 2), HeteroscedasticGaussian(), num_components=4, weight_prior_std=0.5, num_data=20,
        prior=GaussianPrior(1.0, 0.3),
    )  # fmt: skip
    randomize_posteriors(method.backbone)
    layer: Any = method.backbone
    stds = [nn.functional.softplus(rho) for rho in (layer.input_scale_rho, layer.output_scale_rho)]
    means = [layer.input_scale_mu, layer.output_scale_mu]
    divergence = sum(gaussian_kl(mean, std, 1.0, 0.3) for mean, std in zip(means, stds, strict=True)) / 4
    penalty = (layer.weight.square().sum() + layer.bias.square().sum()) / (2 * 0.5**2)
    x, y = torch.randn(5, 3), torch.randn(5, 1)
    assert_close(method.elbo(x, y).kl, divergence + penalty)
    method.weight_prior_std = None
    assert_close(method.elbo(x, y).kl, divergence)


def test_training_uses_at_least_one_sample_of_each_component() -> None:
    method = RankOneVI(MLP(2, [4], 1), Gaussian(), num_components=4, num_mc_samples_train=6, num_data=9)
    outputs, _ = method.objective(torch.randn(5, 2), torch.randn(5, 1), num_data=9, kl_weight=1.0)
    assert outputs.shape == (8, 5, 1)


def test_pretrained_state_dict_can_be_loaded() -> None:
    backbone = MLP(3, [8], 1)
    method = RankOneVI(MLP(3, [8], 1), Gaussian(), init_std=1e-8)
    method.backbone.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(4, 3)
    assert_close(method(x), backbone(x))


def test_unsupported_layers_stay_deterministic_or_raise() -> None:
    backbone = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))
    report = {row.name: row for row in RankOneVI(backbone, Gaussian()).conversion.modules}
    assert report["0"].stochastic
    assert report["1"].reason == "it is not a linear layer or convolution"
    assert report["2.linear1"].reason == "its parent TransformerEncoderLayer reads its weight directly"
    with pytest.raises(ValueError, match=r"'1' selects nothing that can be stochastic \(1: it is not a linear layer"):
        RankOneVI(backbone, Gaussian(), stochastic_module_names=["1"])
    with pytest.raises(ValueError, match="no linear layer or convolution whose scales could be random"):
        RankOneVI(nn.LayerNorm(3), Gaussian())


@pytest.mark.parametrize(
    ("option", "value"), [("num_components", 0), ("component_std", 0.0), ("weight_prior_std", -1.0)]
)
def test_arguments_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        RankOneVI(nn.Linear(1, 1), Gaussian(), **{option: value})


def test_rate_of_the_weights_is_at_least_that_of_a_plain_network() -> None:
    built = RankOneVI(nn.Linear(900, 1), Gaussian(), num_data=10)
    rates = {id(p): group["lr"] for group in built.make_optimizer().param_groups for p in group["params"]}
    assert rates[id(built.backbone.weight)] == 0.003
