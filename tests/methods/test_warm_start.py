"""Warm start from trained networks, pretrained priors and frozen backbones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from network_cases import Residual
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from lightning_vi import SWA, DeepEnsemble, Deterministic, Ensemble, LastLayerVI, MeanFieldVI, VarianceScaling
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian
from lightning_vi.posteriors import ProportionalStd
from lightning_vi.priors import GaussianPrior

X, Y = normal(16, 3), normal(16, 1)


def trained() -> nn.Module:
    """Returns a network with zero, positive and negative parameters."""
    network = MLP(3, [4], 1)
    with torch.no_grad():
        network[0].bias.zero_()
    return network


def test_initial_posterior_means_and_stds_follow_the_weights() -> None:
    network = trained()
    method = MeanFieldVI.from_pretrained(network, Gaussian(), delta=0.2, prior_std=0.5)
    state = method.backbone.state_dict()
    for name, weight in network.named_parameters():
        assert torch.equal(state[f"{name}_mu"], weight)
        torch.testing.assert_close(F.softplus(state[f"{name}_rho"]), (0.2 * weight.abs()).clamp_min(1e-3))
        assert torch.equal(state[f"{name}_prior_mean"], weight)


def test_prior_means_are_the_weights() -> None:
    network = trained()
    method = MeanFieldVI.from_pretrained(network, Gaussian(), delta=0.2, prior_std=0.5)
    with torch.no_grad():
        for name, parameter in method.backbone.named_parameters():
            parameter.add_(0.1 if name.endswith("mu") else 0.3)
    state = method.backbone.state_dict()
    expected = sum(
        kl_divergence(Normal(state[f"{name}_mu"], F.softplus(state[f"{name}_rho"])), Normal(weight, 0.5)).sum()
        for name, weight in network.named_parameters()
    )
    torch.testing.assert_close(method.engine.kl(), expected)


@pytest.mark.parametrize("prior_std", [0.5, "fan_in"])
@pytest.mark.parametrize("prior", [None, GaussianPrior(0.3, 2.0), GaussianPrior("pretrained", 0.1)])
def test_prior_is_restored_from_a_checkpoint(prior: GaussianPrior | None, prior_std: Any, tmp_path: Path) -> None:
    """The prior of the checkpoint replaces that of the method it is loaded into."""
    method = MeanFieldVI.from_pretrained(trained(), Gaussian(), prior_std=prior_std)
    trainer = quiet_trainer()
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    loaded = MeanFieldVI.load_from_checkpoint(
        tmp_path / "method.ckpt", backbone=MLP(3, [4], 1), likelihood=Gaussian(), prior=prior, weights_only=True
    )
    assert loaded.engine.kl().item() == pytest.approx(method.engine.kl().item())
    torch.testing.assert_close(loaded.predict(X).epistemic_var, method.predict(X).epistemic_var)
    assert loaded.backbone.state_dict().keys() == method.backbone.state_dict().keys()


def test_prior_is_loaded_into_a_method_in_use() -> None:
    source, method = MeanFieldVI.from_pretrained(trained(), Gaussian()), MeanFieldVI(trained(), Gaussian())
    method.engine.kl()
    method.backbone.load_state_dict(source.backbone.state_dict())
    assert method.engine.kl().item() == pytest.approx(source.engine.kl().item())
    assert repr(method.backbone[0].prior("bias")) == repr(source.backbone[0].prior("bias"))
    assert method.backbone[0].prior("weight").mean is method.backbone[0].weight_prior_mean


def test_network_and_likelihood_of_a_fitted_method_are_used() -> None:
    deterministic = Deterministic(trained(), Gaussian())
    fit(deterministic, loader(X, Y), max_epochs=3)
    method = MeanFieldVI.from_pretrained(deterministic, delta=1e-3)
    torch.testing.assert_close(method.point_outputs(X), deterministic.point_outputs(X))
    torch.testing.assert_close(method.likelihood.noise_std, deterministic.likelihood.noise_std)
    assert method.likelihood is not deterministic.likelihood


def test_warm_start_of_last_layer_vi() -> None:
    method = LastLayerVI.from_pretrained(trained(), Gaussian(), freeze_backbone=True)
    assert isinstance(method, LastLayerVI)
    assert {row.name for row in method.conversion.modules if row.stochastic} == {"2"}


def test_invalid_arguments() -> None:
    with pytest.raises(TypeError, match=r"sets \['init_std', 'prior'\]"):
        MeanFieldVI.from_pretrained(trained(), Gaussian(), prior=GaussianPrior(), init_std=0.1)
    with pytest.raises(TypeError, match="likelihood is required"):
        MeanFieldVI.from_pretrained(trained())
    with pytest.raises(ValueError, match="delta must be positive and finite, got 0"):
        MeanFieldVI.from_pretrained(trained(), Gaussian(), delta=0.0)
    with pytest.raises(ValueError, match="min_std must be positive and finite, got nan"):
        ProportionalStd(min_std=float("nan"))
    with pytest.raises(ValueError, match=r"mean must be a number, a tensor or 'pretrained', got 'zero'"):
        GaussianPrior("zero")  # type: ignore[arg-type]


def test_pretrained_prior_without_parameter_raises() -> None:
    with pytest.raises(ValueError, match=r"GaussianPrior\(mean='pretrained', std=1.0\) needs for_parameter"):
        GaussianPrior("pretrained").log_prob(torch.zeros(2))


def test_deterministic_state_dict_is_loaded_into_posterior_means(tmp_path: Path) -> None:
    network = Residual()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    method = MeanFieldVI(Residual(), Gaussian(num_targets=2))
    method.backbone.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.randn(2, 2, 4, 4)
    torch.testing.assert_close(method.eval().point_outputs(x), network.eval()(x))


def test_frozen_backbone_is_unchanged_by_training() -> None:
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian(), stochastic_module_names=[-1], freeze_backbone=True)
    before = {name: parameter.detach().clone() for name, parameter in method.named_parameters()}
    fit(method, loader(X, Y))
    changed = {name for name, parameter in method.named_parameters() if not torch.equal(parameter, before[name])}
    head = {f"backbone.2.{name}_{kind}" for name in ("weight", "bias") for kind in ("mu", "rho")}
    assert changed == head | {"likelihood.noise_rho"}


def test_deterministic_biases_are_frozen_too() -> None:
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian(), stochastic_biases=False, freeze_backbone=True)
    frozen = {name for name, parameter in method.backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == {"0.bias", "2.bias"}


def test_freezing_a_fully_stochastic_network_raises() -> None:
    with pytest.raises(ValueError, match="freeze_backbone=True has nothing to freeze"):
        MeanFieldVI(MLP(3, [4], 1), Gaussian(), freeze_backbone=True)


def test_original_network_is_not_frozen() -> None:
    network = MLP(3, [4], 1)
    MeanFieldVI(network, Gaussian(), stochastic_module_names=[-1], freeze_backbone=True)
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "selector",
    [nn.Linear, lambda name, module: isinstance(module, nn.Linear) and name != "0"],
    ids=["class", "predicate"],
)
def test_selection_by_class_or_predicate_is_restored_from_a_checkpoint(selector: Any, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    method = MeanFieldVI(network, Gaussian(), stochastic_module_names=[selector], init_std=ProportionalStd(0.3))
    trainer = quiet_trainer()
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    loaded = MeanFieldVI.load_from_checkpoint(
        tmp_path / "method.ckpt", backbone=network, likelihood=Gaussian(), weights_only=True
    )
    assert loaded.conversion == method.conversion
    torch.testing.assert_close(loaded.predict(X).epistemic_var, method.predict(X).epistemic_var)


def test_network_of_averaged_calibrated_and_ensemble_methods() -> None:
    """Averaged weights and inner methods are used; ensembles are rejected."""
    swa = SWA(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), Gaussian())
    for _ in range(3):
        with torch.no_grad():
            for parameter in swa.backbone.parameters():
                parameter.add_(torch.randn_like(parameter))
        swa.collect()
    x, y = torch.randn(30, 3), torch.randn(30, 1)
    swa.fit_posterior([(x, y)])
    scaled = VarianceScaling(swa)
    for method in (swa, scaled):
        start = MeanFieldVI.from_pretrained(method).eval()
        torch.testing.assert_close(start(x), swa.eval()(x))
    assert not torch.allclose(swa.backbone(x), swa(x))
    ensemble = DeepEnsemble(MLP(3, [4], 1), Gaussian(), num_members=2)
    with pytest.raises(TypeError, match="must have one network, but DeepEnsemble has 2: give one of its members"):
        MeanFieldVI.from_pretrained(ensemble)
    with pytest.raises(TypeError, match="must have one network, but Ensemble has 2"):
        MeanFieldVI.from_pretrained(Ensemble([swa, swa]))
    member = ensemble.member(1)
    torch.testing.assert_close(MeanFieldVI.from_pretrained(member)(x), member(x))
