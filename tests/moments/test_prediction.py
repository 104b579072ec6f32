"""Predictions in one pass, against closed forms and many samples."""

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, loader, quiet_trainer, randomize_posteriors
from method_cases import CASES, Case, params
from network_cases import EXAMPLES
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import Ensemble, MeanFieldVI, TemperatureScaling, VarianceScaling
from lightning_vi.backbones import MLP, SeriesLSTM
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Poisson
from lightning_vi.sampling import call, memory

WITHOUT_MOMENTS = {"DeepEnsemble", "LatentVariableVI", "SGHMC"}
"""Methods of `METHODS` that refuse."""


def test_the_page_names_each_method_that_supports_it_and_each_that_refuses() -> None:
    page = (
        (Path(__file__).parents[2] / "docs" / "one_pass.md").read_text().split("## Methods")[1].split("## Measured")[0]
    )
    supporting, _, others = page.partition("Methods with one network")
    cases = [case for case in CASES if not case.is_point]
    names = {getattr(case.method.make, "func", case.method.make).__name__ for case in cases}
    assert names - WITHOUT_MOMENTS == set(re.findall(r"`(\w*[A-Z]\w*)`", supporting))
    assert set(re.findall(r"`(\w*[A-Z]\w*)`", others)) == WITHOUT_MOMENTS


def metric_inputs(method: Any, x: Tensor, y: Tensor, num_samples: int, approximation: str) -> dict[str, Any]:
    with torch.no_grad():
        return method.eval().predictive_distribution(x, num_samples, 0, approximation).metric_inputs(y)


def nll(method: Any, x: Tensor, y: Tensor, num_samples: int, approximation: str) -> float:
    log_prob = metric_inputs(method, x, y, num_samples, approximation)["log_prob"]
    return -(log_prob.logsumexp(0) - math.log(len(log_prob))).mean().item()


@pytest.mark.parametrize("case", params(CASES), ids=str)
def test_every_method_is_close_to_many_samples_or_refuses_by_name(case: Case) -> None:
    torch.manual_seed(3)
    method, (x, y) = case.build(), case.problem.data()
    before = {name: value.clone() for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    if case.method_name in WITHOUT_MOMENTS:
        with pytest.raises(TypeError, match=f"which {type(method).__name__} does not have: use approximation='sampl"):
            method.predict(x, approximation="moments")
        return
    one = method.predict(x, approximation="moments")
    many = method.predict(x, num_samples=200)
    spread = many.total_var.sqrt().mean()
    assert one.mean.shape == one.total_var.shape == many.mean.shape
    assert_close(one.total_var, one.epistemic_var + one.aleatoric_var)
    assert (one.mean - many.mean).abs().mean() < 0.25 * spread
    assert 0.7 < (one.total_var.mean() / many.total_var.mean()).sqrt() < 1.35
    if case.is_point:
        assert (one.epistemic_var == 0).all()
    else:
        assert 0.5 < (one.epistemic_var.mean() / many.epistemic_var.mean()).sqrt() < 1.6
    if one.probs is not None:
        assert_close(one.probs.sum(1), torch.ones_like(one.probs.sum(1)))
        assert_close(one.predictive_entropy, one.expected_entropy + one.mutual_information)
    scored = metric_inputs(method, x, y, 7, "moments")
    assert scored["log_prob"].isfinite().all()
    after = method.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_network_is_close_to_many_samples_or_refused_by_the_module(name: str) -> None:
    torch.manual_seed(0)
    network, x = EXAMPLES[name].make(), EXAMPLES[name].make_input()
    width = network.eval()(*x).shape[-1] if isinstance(x, tuple) else 2
    if isinstance(x, Tensor):
        width = network(x).shape[-1]
    method = MeanFieldVI(network, Gaussian(0.1, width), init_std=0.1)
    if name in ("LSTM", "GRU", "weight_norm"):
        module = {"weight_norm": "0.parametrizations.weight.0"}.get(name, "recurrent")
        with pytest.raises(TypeError, match=f"of a random variable, which '{module}'.*stochastic_module_names"):
            method.predict(x, approximation="moments")
        return
    one, many = method.predict(x, approximation="moments"), method.predict(x, num_samples=200)
    ratio = one.epistemic_var.sqrt().mean() / many.epistemic_var.sqrt().mean()
    assert 0.7 < ratio < 1.3
    assert (one.mean - many.mean).abs().mean() < 0.25 * many.epistemic_var.sqrt().mean()


def test_a_recurrent_network_is_exact_with_a_stochastic_head() -> None:
    x = torch.randn(5, 6, 1)
    with pytest.raises(
        TypeError, match=r"no rule for 'lstm' .* which 'lstm', a .*LSTM, calls: use approximation='samp"
    ):
        MeanFieldVI(SeriesLSTM(), Gaussian()).predict(x, approximation="moments")
    method = MeanFieldVI(SeriesLSTM(), Gaussian(), stochastic_module_names=["head"], init_std=0.1)
    features = method.backbone.lstm(x)[0][:, -1]
    assert_close(method.predict(x, approximation="moments").epistemic_var, 0.01 * (features.square().sum(1, True) + 1))


def test_a_linear_network_is_exact() -> None:
    method = MeanFieldVI(nn.Linear(3, 2), Gaussian([0.3, 0.7], 2), init_std=0.5)
    randomize_posteriors(method.backbone)
    x = torch.randn(6, 3)
    layer = method.backbone
    stds = [nn.functional.softplus(layer.get_parameter(f"{name}_rho")) for name in ("weight", "bias")]
    prediction = method.predict(x, approximation="moments")
    assert_close(prediction.mean, x @ layer.weight_mu.T + layer.bias_mu)
    assert_close(prediction.epistemic_var, x.square() @ stds[0].square().T + stds[1].square())
    assert_close(prediction.aleatoric_var, torch.tensor([[0.09, 0.49]]).expand(6, 2))
    assert prediction.metadata["approximation"] == "moments"
    assert prediction.metadata["num_samples"] is None


def test_a_network_with_tiny_variances_is_the_network() -> None:
    method = MeanFieldVI(MLP(2, [8, 8], 3), Categorical(3), init_std=1e-8)
    x = torch.randn(5, 2)
    prediction = method.predict(x, approximation="moments")
    assert_close(prediction.probs, method(x).softmax(-1))
    assert (prediction.epistemic_var < 1e-10).all()


def small_regression() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2, 2, 96).unsqueeze(1)
    return x, x.sin() + 0.2 * (1 + x.abs()) * torch.randn_like(x)


def test_scores_of_a_fit_agree_with_those_of_256_samples() -> None:
    torch.manual_seed(0)
    x, y = small_regression()
    optimizer = partial(torch.optim.Adam, lr=0.01)
    method = MeanFieldVI(MLP(1, [20, 20], 2), HeteroscedasticGaussian(), optimizer=optimizer, lr_scheduler=None)
    fit(method, loader(x, y), max_epochs=30)
    assert abs(nll(method, x, y, 256, "sampling") - nll(method, x, y, 256, "moments")) < 0.02
    one, many = method.predict(x, approximation="moments"), method.predict(x, num_samples=1000)
    ratio = one.epistemic_var.sqrt().mean() / many.epistemic_var.sqrt().mean()
    assert 0.85 < ratio < 1.1
    assert_close(one.aleatoric_var.sqrt().mean(), many.aleatoric_var.sqrt().mean(), rtol=0.05, atol=0)


def test_the_trainer_scores_and_predicts_by_the_attribute() -> None:
    x, y = small_regression()
    method = MeanFieldVI(MLP(1, [10], 1), Gaussian(0.3))
    method.is_trained = True
    method.approximation = "moments"
    data = loader(x, y, batch_size=32)
    trainer = quiet_trainer()
    (scores,) = trainer.test(method, data, verbose=False)
    assert scores["test_nll"] == pytest.approx(nll(method, x, y, 1, "moments"), rel=1e-5)
    (first, *_) = trainer.predict(method, data)
    assert_close(first["pred"], method.predict(x[:32], approximation="moments").mean)
    assert not torch.equal(
        first["epistemic_uct"], method.predict(x[:32], approximation="sampling").epistemic_var.sqrt()
    )


def test_ensembles_and_calibrations_pass_it_on() -> None:
    x, y = small_regression()
    members = [MeanFieldVI(MLP(1, [10], 1), Gaussian(0.3), init_std=0.1) for _ in range(2)]
    ensemble = Ensemble(members)
    one = ensemble.predict(x, approximation="moments")
    parts = [member.predict(x, approximation="moments") for member in members]
    assert_close(one.mean, (parts[0].mean + parts[1].mean) / 2)
    members[0].is_trained = True
    scaled = VarianceScaling(members[0])
    scaled.approximation = "moments"
    scaled.calibrate([(x, y)])
    assert_close(
        scaled.predict(x).total_var,
        scaled.std_factor.square() * members[0].predict(x, approximation="moments").total_var,
    )
    classifier = MeanFieldVI(MLP(1, [10], 3), Categorical(3))
    classifier.is_trained = True
    tempered = TemperatureScaling(classifier)
    tempered.approximation = "moments"
    tempered.calibrate([(x, torch.randint(0, 3, (96,)))])
    assert tempered.predict(x).metadata["approximation"] == "moments"


@pytest.mark.parametrize("activation", [nn.GELU(), nn.ReLU(), nn.LeakyReLU(0.2), nn.SiLU()])
def test_gradients_with_respect_to_the_input(activation: nn.Module) -> None:
    method = MeanFieldVI(MLP(2, [6], 1, activation_fn=activation), Gaussian(0.3), init_std=0.2).double()
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)

    def spread(x: Tensor) -> Tensor:
        return method.predict(x, approximation="moments", differentiable=True).epistemic_var

    assert torch.autograd.gradcheck(spread, (x,))


def test_what_is_kept_in_inference_mode_serves_gradients() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    method = MeanFieldVI(nn.Sequential(network, nn.Linear(8, 1)), Gaussian(0.3), init_std=0.2).eval()
    x = torch.randn(2, 1, 6, 6)
    with torch.inference_mode():
        expected = method.predict(x, approximation="moments").epistemic_var
    x.requires_grad_()
    spread = method.predict(x, approximation="moments", differentiable=True).epistemic_var
    assert_close(spread, expected)
    (gradient,) = torch.autograd.grad(spread.sum(), x)
    assert gradient.abs().sum() > 0


class Centered(nn.Module):
    """Subtracts the mean over the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize(("middle", "num_passes"), [(nn.Tanh(), 4), (nn.BatchNorm2d(3), 4), (Centered(), 1)])
def test_parts_of_a_large_batch_change_nothing(
    middle: nn.Module, num_passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [nn.Conv2d(1, 3, 3), middle, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)]
    method = MeanFieldVI(nn.Sequential(*layers), Categorical(2), init_std=0.2)
    x, sizes = torch.randn(7, 1, 6, 6), list[int]()
    expected = method.predict(x, approximation="moments")

    def spied(network: nn.Module, part: Tensor) -> Tensor:
        sizes.append(len(part))
        return call(network, part)

    monkeypatch.setattr("lightning_vi.moments.networks.call", spied)
    monkeypatch.setitem(memory.MAX_ACTIVATIONS_PER_PASS, "cpu", 2 * 2 * 3 * 4 * 4)
    result = method.predict(x, approximation="moments")
    assert len(sizes) == num_passes
    assert sum(sizes) == 7
    assert_close(result.probs, expected.probs)
    assert_close(result.epistemic_var, expected.epistemic_var)


def test_impossible_classes_have_no_entropy() -> None:
    probs, entropy = Categorical(3).predictive_moments(torch.tensor([[[0.0, 0.0, -math.inf]]]))
    assert_close(probs, torch.tensor([[[0.5, 0.5, 0.0]]]))
    assert_close(entropy, torch.full((1, 1), math.log(2)))


def test_variances_follow_the_posterior() -> None:
    method = MeanFieldVI(MLP(1, [5], 1), Gaussian(0.3), init_std=0.1)
    x = torch.ones(2, 1)
    before = method.predict(x, approximation="moments").epistemic_var
    with torch.no_grad():
        for name, parameter in method.backbone.named_parameters():
            if name.endswith("rho"):
                parameter.add_(1)
    assert (method.predict(x, approximation="moments").epistemic_var > 2 * before).all()


def test_wrong_arguments_are_refused() -> None:
    method = MeanFieldVI(MLP(1, [5], 1), Gaussian(0.3))
    with pytest.raises(ValueError, match=r"approximation must be one of .*'moments'.*, got 'moment'"):
        method.predict(torch.ones(2, 1), approximation="moment")
    with pytest.raises(ValueError, match="return_samples=True needs approximation='sampling'"):
        method.predict(torch.ones(2, 1), approximation="moments", return_samples=True)


def test_a_method_that_samples_in_another_way_refuses() -> None:
    class Other(MeanFieldVI):
        def sampled_outputs(self, x: Any, num_samples: int, seed: int) -> Any:
            yield from super().sampled_outputs(x, num_samples, seed)

    with pytest.raises(TypeError, match="which Other does not have"):
        Other(MLP(1, [5], 1), Gaussian(0.3)).predict(torch.ones(2, 1), approximation="moments")


def test_expectations_over_gaussian_outputs_agree_with_draws() -> None:
    mean, std = torch.randn(4, 2), 0.2 + 0.5 * torch.rand(4, 2)
    for likelihood in (HeteroscedasticGaussian(), Poisson(num_targets=2, link="softplus"), Categorical(2)):
        outputs = mean + std * torch.randn(50_000, 4, 2)
        means, spread = likelihood.predictive_moments(outputs)
        prediction = likelihood.gaussian_prediction(mean, std)
        assert_close(prediction.mean, means.mean(0), rtol=0, atol=0.02)
        assert_close(prediction.epistemic_var, means.var(0), rtol=0.05, atol=1e-3)
        aleatoric = prediction.aleatoric_var if prediction.probs is None else prediction.expected_entropy
        assert_close(aleatoric, spread.mean(0), rtol=0.03, atol=1e-3)
