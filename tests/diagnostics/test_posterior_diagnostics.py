"""Diagnostics of a posterior: divergences, signal-to-noise ratios and pruned units."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import randomize_posteriors
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from lightning_vi import (
    IVON,
    VBLL,
    AlphaDivergenceVI,
    Deterministic,
    FullRankVI,
    LastLayerVI,
    LowRankVI,
    MatrixVariateVI,
    MeanFieldVI,
    RadialVI,
    RankOneVI,
)
from lightning_vi.backbones import MLP
from lightning_vi.diagnostics import WeightPosterior, diagnose
from lightning_vi.functional import unit_signal_to_noise
from lightning_vi.likelihoods import Gaussian
from lightning_vi.plots import plot_posterior
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, LaplacePrior, ScaleMixturePrior

VARIATIONAL = [
    MeanFieldVI,
    LastLayerVI,
    LowRankVI,
    FullRankVI,
    MatrixVariateVI,
    RadialVI,
    AlphaDivergenceVI,
]


def randomized(method: Any) -> Any:
    randomize_posteriors(method.backbone)
    return method


def test_divergence_and_ratios_of_a_module_are_those_of_its_weights() -> None:
    method = randomized(MeanFieldVI(MLP(3, [5], 2), Gaussian(2), prior=GaussianPrior(0.3, 0.7)))
    result = method.posterior_diagnostics()
    assert [module.module for module in result.modules] == ["0", "2"]
    for module in result.modules:
        layer = method.backbone.get_submodule(module.module)
        posteriors = [layer.posterior(name) for name in ("weight", "bias")]
        means = torch.cat([posterior.mean.detach().flatten() for posterior in posteriors])
        stds = torch.cat([posterior.std.detach().flatten() for posterior in posteriors])
        expected = kl_divergence(Normal(means, stds), Normal(0.3, 0.7)).sum()
        assert module.kl == pytest.approx(expected.item(), rel=1e-5)
        assert module.kl_per_weight == pytest.approx(expected.item() / len(means), rel=1e-5)
        ratios = (means.abs() / stds).numpy()
        np.testing.assert_allclose(module.snr, np.quantile(ratios, [0.05, 0.25, 0.5, 0.75, 0.95]), rtol=1e-4)
        assert module.std == pytest.approx(float(np.exp(np.log(stds.numpy()).mean())), rel=1e-5)
        assert module.std_over_prior == pytest.approx(module.std / 0.7, rel=1e-5)


@pytest.mark.parametrize("cls", VARIATIONAL)
def test_divergences_add_up_to_that_of_the_posterior(cls: Any) -> None:
    method = randomized(cls(MLP(2, [4], 1), Gaussian()))
    if method.coupling is not None:
        for parameter in method.coupling.parameters():
            nn.init.normal_(parameter, std=0.3)
    result = method.posterior_diagnostics()
    assert result.kl == pytest.approx(method.engine.kl().item(), rel=1e-4)
    assert result.modules[-1].module == "2"


def test_divergences_of_methods_with_priors_of_their_own_are_those_of_their_loss() -> None:
    x, y = torch.randn(5, 2), torch.randn(5, 1)
    ivon = randomized(IVON(MLP(2, [4], 1), Gaussian(), num_data=50, kl_weight=0.5))
    assert ivon.posterior_diagnostics().kl == pytest.approx(ivon.elbo(x, y).kl.item(), rel=1e-5)
    vbll = VBLL(MLP(2, [4], 1), Gaussian(), num_data=50)
    assert vbll.posterior_diagnostics().kl == pytest.approx(vbll.elbo(x, y).kl.item(), rel=1e-5)
    rank_one = RankOneVI(MLP(2, [4], 1), Gaussian(), num_data=50, num_components=2, weight_prior_std=None)
    assert rank_one.posterior_diagnostics().kl == pytest.approx(rank_one.elbo(x, y).kl.item(), rel=1e-5)
    assert rank_one.posterior_diagnostics().modules[0].pruned_units is None


def test_correlations_widen_the_marginals() -> None:
    method = FullRankVI(nn.Linear(2, 1), Gaussian(), init_std=0.1)
    with torch.no_grad():
        method.coupling.lower.copy_(torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [2.0, 3.0, 0]]))
    (module,) = method.posterior_diagnostics().modules
    stds = 0.1 * np.sqrt([1.0, 2.0, 14.0])
    assert module.std == pytest.approx(float(np.exp(np.log(stds).mean())), rel=1e-5)


def test_a_tied_weight_is_counted_once() -> None:
    layer = nn.Linear(3, 3, bias=False)
    method = MeanFieldVI(nn.Sequential(layer, nn.Tanh(), layer), Gaussian(3))
    assert method.posterior_diagnostics().to_frame()["num_weights"].sum() == 9


@pytest.mark.parametrize(
    ("prior", "std"),
    [
        (GaussianPrior(std="fan_in"), (2 / 8) ** 0.5),
        (LaplacePrior(std=0.4), 0.4),
        (ScaleMixturePrior(0.25, wide_std=2.0, narrow_std=0.2), (0.25 * 4 + 0.75 * 0.04) ** 0.5),
    ],
)
def test_posterior_std_is_compared_with_the_priors(prior: Any, std: float) -> None:
    method = MeanFieldVI(nn.Linear(8, 2), Gaussian(2), prior=prior, init_std=0.1, stochastic_biases=False)
    (module,) = method.posterior_diagnostics().modules
    assert module.std_over_prior == pytest.approx(0.1 / std, rel=1e-5)


@pytest.mark.parametrize("per", ["tensor", "unit"])
def test_posterior_std_is_compared_with_the_learned_prior(per: Any) -> None:
    prior = EmpiricalBayesPrior(alpha=2.0, beta=0.5, per=per)
    method = MeanFieldVI(nn.Linear(3, 2), Gaussian(2), prior=prior, init_std=0.1, stochastic_biases=False)
    mean = method.backbone.weight_mu.detach()
    squares = mean.square() + 0.01
    groups = squares.sum(0) if per == "unit" else squares.sum().expand(3)
    variances = (groups + 1.0) / (squares.numel() / len(groups.unique()) + 6)
    (module,) = method.posterior_diagnostics().modules
    assert module.std_over_prior == pytest.approx((0.1 / variances.sqrt()).log().mean().exp().item(), rel=1e-4)


def hand_built(mean: Tensor, std: Tensor, unit_dim: int | None = 0) -> Any:
    posterior = WeightPosterior("layer", mean, std, torch.tensor(1.0), None, unit_dim)
    return diagnose([posterior]).modules[0]


def test_units_whose_weights_are_noise_are_pruned() -> None:
    mean = torch.tensor([[3.0, 0.0, 0.0], [0.3, 0.3, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    std = torch.full((4, 3), 0.5)
    module = hand_built(mean, std)
    assert module.pruned_units == 0.5  # rows 1 and 2: ratios .85 and 0; row 3 has 1.41
    assert module.ignored_inputs == pytest.approx(1 / 3)
    transposed = hand_built(mean.T, std.T, unit_dim=1)
    assert (transposed.pruned_units, transposed.ignored_inputs) == (module.pruned_units, module.ignored_inputs)
    assert hand_built(mean, std, unit_dim=None).pruned_units is None


def test_no_input_gives_a_unit_a_larger_ratio_than_the_reported_one() -> None:
    mean, std = torch.randn(1, 6), torch.rand(1, 6) + 0.1
    x = torch.randn(20_000, 6)
    ratios = (x @ mean[0]).abs() / (x.square() @ std[0].square()).sqrt()
    largest = unit_signal_to_noise(mean, std).item()
    best = mean[0] / std[0].square()
    assert ratios.max().item() <= largest * (1 + 1e-5)
    assert ((best @ mean[0]) / (best.square() @ std[0].square()).sqrt()).item() == pytest.approx(largest, rel=1e-5)


def test_units_of_convolutions_are_channels() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ConvTranspose2d(3, 5, 3), nn.BatchNorm2d(5))
    method = MeanFieldVI(network, Gaussian(5), init_std=0.001)
    with torch.no_grad():
        network = method.backbone
        network[0].weight_mu[1] = 0.0
        network[1].weight_mu[:, 2:4] = 0.0
    first, second, norm = method.posterior_diagnostics().modules
    assert (first.pruned_units, first.ignored_inputs) == (pytest.approx(1 / 3), 0.0)
    assert (second.pruned_units, second.ignored_inputs) == (pytest.approx(2 / 5), 0.0)
    assert norm.pruned_units is None


def test_result_is_a_table() -> None:
    result = MeanFieldVI(MLP(2, [4], 1), Gaussian()).posterior_diagnostics()
    frame = result.to_frame()
    assert list(frame.index) == ["0", "2"]
    assert frame["kl"].sum() == pytest.approx(result.kl)
    assert str(result).splitlines()[0].split()[:2] == ["module", "weights"]
    assert str(result).splitlines()[-1].split()[:2] == ["total", "17"]


def test_plot_shows_the_values_of_the_table() -> None:
    method = randomized(MeanFieldVI(MLP(2, [4], 1), Gaussian()))
    result = method.posterior_diagnostics()
    for figure in (plot_posterior(method), plot_posterior(result, title="Fit")):
        widths = [bar.get_width() for bar in figure.axes[0].patches]
        assert widths == pytest.approx([module.kl for module in result.modules])
        (dots, _line) = figure.axes[2].lines
        assert list(dots.get_xdata()) == pytest.approx([module.std_over_prior for module in result.modules])
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "2"]


def test_plot_refuses_what_has_no_diagnostics() -> None:
    with pytest.raises(TypeError, match=r"posterior must be .* got Deterministic"):
        plot_posterior(Deterministic(MLP(2, [4], 1), Gaussian()))  # type: ignore[arg-type]
