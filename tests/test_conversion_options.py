"""Conversion options, and modules that need special treatment."""

from typing import Any

import pytest
import torch
from helpers import randomize_posteriors
from network_cases import Block, CalledTwice
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from lightning_vi import MeanFieldVI
from lightning_vi.conversion import convert
from lightning_vi.layers import VariationalLinear, stochastic_parameters
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, LaplacePrior
from lightning_vi.sampling import SamplingEngine


def names_of(selectors: list[Any]) -> set[str]:
    _, report = convert(Block(), selectors)
    return {row.name for row in report.modules if row.stochastic}


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ([nn.Linear], {"inner.0", "inner.2", "head"}),
        ([nn.Sequential], {"inner.0", "inner.2"}),
        ([nn.LayerNorm, -1], {"norm", "head"}),
        ([Block], {"inner.0", "inner.2", "norm", "head"}),
        ([lambda name, _: name.startswith("h")], {"head"}),
        ([lambda _, module: getattr(module, "out_features", 0) == 4], {"inner.0", "inner.2"}),
        ([lambda name, _: name == "inner", "norm"], {"inner.0", "inner.2", "norm"}),
    ],
)
def test_selection_by_class_and_predicate(selectors: list[Any], expected: set[str]) -> None:
    assert names_of(selectors) == expected


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        (["head", "hed"], r"'hed' matches no module .*'inner', 'inner.0', .*'head'"),
        (["inner.1"], "'inner.1' matches no module with parameters"),
        ([nn.Conv2d], r"Conv2d'> matches no module with parameters; the modules are \['inner', 'inner.0'"),
        ([lambda *_: False], "matches no module with parameters"),
        ([4], r"index 4 is out of range for the 4 layers .*'inner.0', 'inner.2', 'norm', 'head'"),
        ([-5], "index -5 is out of range"),
        ([True], "a name, glob, index, class or predicate is expected, got True"),
        ([1.5], "is expected, got 1.5"),
        ("head", "must be a list .* got the string 'head'"),
        (nn.Linear, "must be a list"),
        ([], "leaves nothing stochastic"),
    ],
)
def test_selectors_without_a_match_raise(selectors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(Block(), selectors)


def test_deterministic_biases() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.LSTM(3, 2), nn.MultiheadAttention(2, 1))
    converted, report = convert(network, stochastic_biases=False)
    labels = [name.rpartition(".")[2] for name, _ in converted.named_parameters()]
    assert not [label for label in labels if "bias" in label and label.endswith(("_mu", "_rho"))]
    assert {"bias", "bias_ih_l0", "bias_hh_l0", "in_proj_bias"} <= set(labels)
    assert {"weight_mu", "weight_ih_l0_mu", "in_proj_weight_mu"} <= set(labels)
    assert report.modules[0].reason == "selected; only weight"
    assert (report.modules[0].num_parameters, report.modules[0].num_stochastic) == (9, 6)


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
def test_deterministic_bias_is_the_same_in_all_samples(estimator: str) -> None:
    network = nn.Linear(2, 3)
    converted, _ = convert(network, estimator=estimator, stochastic_biases=False, init_std=0.5)
    engine = SamplingEngine(converted)
    samples = engine.training_samples(torch.zeros(4, 2), 5)
    torch.testing.assert_close(samples, network.bias.expand(5, 4, 3))
    (prediction,) = engine.prediction_samples(torch.zeros(4, 2), 5, seed=0)
    torch.testing.assert_close(prediction, network.bias.expand(5, 4, 3))
    samples.sum().backward()
    torch.testing.assert_close(converted.bias.grad, torch.full((3,), 20.0))


@pytest.mark.parametrize("estimator", ["local_reparameterization", "flipout"])
def test_unsupported_estimator_lists_all_reasons(estimator: str) -> None:
    network = nn.Sequential(nn.Embedding(5, 3), nn.GRU(3, 2), nn.Linear(2, 1))
    with pytest.raises(ValueError, match=f"estimator='{estimator}' .*0: Embedding is drawn.*1: GRU is drawn"):
        convert(network, estimator=estimator)
    _, report = convert(network, [2], estimator=estimator)
    assert [row.estimator for row in report.modules] == [None, None, estimator]


def test_padding_row_of_an_embedding_is_deterministic() -> None:
    converted, _ = convert(nn.Embedding(4, 3, padding_idx=-1))
    randomize_posteriors(converted)
    engine = SamplingEngine(converted)
    samples = engine.training_samples(torch.tensor([0, 3]), 6)
    assert (samples[:, 0].std(0) > 0).all()
    torch.testing.assert_close(samples[:, 1], converted.weight_mu[3].expand(6, 3))
    (prediction,) = engine.prediction_samples(torch.tensor([0, 3]), 6, seed=0)
    torch.testing.assert_close(prediction[:, 1], converted.weight_mu[3].expand(6, 3))


def test_padding_row_among_jointly_sampled_parameters() -> None:
    """Small parameters are sampled jointly, which gives the row an offset."""
    network = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 3), nn.Tanh())
    padded = nn.Embedding(4, 3, padding_idx=1)
    converted, _ = convert(nn.ModuleList([network, padded]), estimator="reparameterization")
    randomize_posteriors(converted)
    seen = []

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = converted

        def forward(self, x: Tensor) -> Tensor:
            rows = self.parts[1].weight
            seen.append(rows)
            output: Tensor = self.parts[0](x) + rows.sum()
            return output

    SamplingEngine(Both(), "loop").training_samples(torch.tensor([0, 1]), 3)
    drawn = torch.stack(seen[-3:])
    torch.testing.assert_close(drawn[:, 1], converted[1].weight_mu[1].expand(3, 3))
    assert (drawn[:, [0, 2, 3]].std(0) > 0).all()


def test_embedding_with_max_norm_bounds_each_sample() -> None:
    """`max_norm` modifies the weight in place, so each sample needs a copy."""
    converted, _ = convert(nn.Embedding(4, 3, max_norm=0.5), init_std=0.8)
    means = converted.weight_mu.detach().clone()
    with torch.no_grad():
        samples = torch.cat(list(SamplingEngine(converted).prediction_samples(torch.arange(4), 5, seed=0)))
    norms = samples.norm(dim=-1)
    assert (norms <= 0.5 + 1e-5).all()
    assert norms.std() < 0.2
    assert samples.std(0).min() > 0
    torch.testing.assert_close(converted.weight_mu.detach(), means)
    pair, _ = convert(nn.Sequential(nn.Embedding(4, 3, max_norm=0.5), nn.LayerNorm(3)), init_std=0.8)
    SamplingEngine(pair).training_samples(torch.arange(4), 5).sum().backward()
    assert pair[0].weight_mu.grad.isfinite().all()


def test_sparse_embedding_has_dense_gradients() -> None:
    network = nn.Embedding(4, 3, sparse=True)
    converted, _ = convert(network)
    SamplingEngine(converted).training_samples(torch.tensor([0, 2]), 2).sum().backward()
    gradient = converted.weight_mu.grad
    assert gradient is not None
    assert not gradient.is_sparse
    assert network.sparse


def test_spectral_norm_applies_to_sampled_weights() -> None:
    torch.manual_seed(0)
    converted, _ = convert(
        nn.Sequential(spectral_norm(nn.Linear(3, 3, bias=False), n_power_iterations=30)), init_std=0.02
    )
    converted.eval()
    name = "parametrizations.weight.original"
    assert f"0.{name}_mu" in dict(converted.named_parameters())
    owner = stochastic_parameters(converted[0].parametrizations.weight)
    assert owner is not None
    with torch.no_grad():
        samples = torch.cat(list(SamplingEngine(converted).prediction_samples(torch.eye(3), 50, seed=0)))
    norms = torch.linalg.matrix_norm(samples, 2)
    assert norms.mean() == pytest.approx(1.0, abs=0.1)
    assert samples.std() / samples.mean().abs() > 0.01


def test_layer_called_twice_uses_reparameterization() -> None:
    method = MeanFieldVI(CalledTwice(), Gaussian(num_targets=2), num_data=4)
    assert [row.estimator for row in method.conversion.modules] == ["local_reparameterization"] * 2
    method.elbo(torch.randn(4, 3), torch.randn(4, 2))
    first, second = method.conversion.modules
    assert first.estimator == "reparameterization"
    assert first.reason == "selected; called 2 times in one pass"
    assert second.estimator == "local_reparameterization"
    flipped = MeanFieldVI(CalledTwice(), Gaussian(num_targets=2), num_data=4, estimator="flipout")
    with pytest.raises(ValueError, match=r"estimator='flipout' .*'encode' .* 2 calls in one pass"):
        flipped.elbo(torch.randn(4, 3), torch.randn(4, 2))


def test_hidden_layer_on_tokens_uses_reparameterization() -> None:
    """Local reparameterization would draw independent noise for each token."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2))
    method = MeanFieldVI(network, Categorical(2), num_data=4)
    method.predict(torch.randn(4, 2, 3))
    assert [row.estimator for row in method.conversion.modules] == ["reparameterization", "local_reparameterization"]
    assert "several rows for each datum" in method.conversion.modules[0].reason


def test_sampled_parameters_are_read_by_their_original_name() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, torch.diag(self.scale))

    converted, _ = convert(Scaled(), init_std=0.5)
    assert torch.equal(converted.scale, converted.scale_mu)
    (samples,) = SamplingEngine(converted).prediction_samples(torch.ones(2, 3), 40, seed=0)
    torch.testing.assert_close(samples[:, 0], samples[:, 1])
    assert samples[:, 0].std(0).mean().item() == pytest.approx(0.5, rel=0.3)
    assert torch.equal(converted.scale, converted.scale_mu)


def test_priors_by_name() -> None:
    narrow, peaked, wide = GaussianPrior(std=0.1), LaplacePrior(), GaussianPrior(std=3.0)
    converted, _ = convert(Block(), prior={"*.bias": wide, "inner.2": peaked, "in*": narrow})
    chosen = {
        f"{name}.{label}": module.prior(label)
        for name, module in converted.named_modules()
        if isinstance(module, VariationalLinear)
        for label in ("weight", "bias")
    }
    assert {name: repr(prior) for name, prior in chosen.items()} == {
        "inner.0.weight": repr(narrow),
        "inner.2.weight": repr(peaked),
        "head.weight": repr(EmpiricalBayesPrior()),
        **{f"{name}.bias": repr(wide) for name in ("inner.0", "inner.2", "head")},
    }
    expected = sum(
        prior.kl_from_gaussian(*(getattr(owner.posterior(name), kind) for kind in ("mean", "std")))
        for module in converted.modules()
        if (owner := stochastic_parameters(module)) is not None
        for name in owner.names
        for prior in [owner.prior(name)]
    )
    torch.testing.assert_close(SamplingEngine(converted).kl(), expected)


def test_unused_prior_raises() -> None:
    with pytest.raises(
        ValueError, match=r"prior: \['tail'\] match no stochastic parameter.*'head.weight', 'head.bias'\]"
    ):
        convert(Block(), ["head"], prior={"head": GaussianPrior(), "tail": GaussianPrior()})


def test_priors_by_name_for_a_root_module() -> None:
    converted, _ = convert(nn.Linear(2, 1), prior={"bias": LaplacePrior()})
    assert repr(converted.prior("bias")) == repr(LaplacePrior())
    assert repr(converted.prior("weight")) == repr(EmpiricalBayesPrior())
