"""Invalid input raises early, with the expected value in the message, and changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_vi import Deterministic, LastLayerVI, MeanFieldVI, MeanVarianceEstimation, methods
from lightning_vi.backbones import MLP
from lightning_vi.compare.entries import method_names
from lightning_vi.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, Quantiles
from lightning_vi.methods import UQMethod
from lightning_vi.priors import GaussianPrior

X, Y = normal(12, 3), normal(12, 1)
LABELS = torch.arange(12) % 3

BAD_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"num_mc_samples_train": 0}, "num_mc_samples_train must be an integer of at least 1, got 0"),
    ({"num_mc_samples_train": -3}, "num_mc_samples_train must be an integer of at least 1, got -3"),
    ({"num_mc_samples_train": 2.5}, "num_mc_samples_train must be an integer of at least 1, got 2.5"),
    ({"num_mc_samples_test": 0}, "num_mc_samples_test must be an integer of at least 1, got 0"),
    ({"num_mc_samples_test": True}, "num_mc_samples_test must be an integer of at least 1, got True"),
    ({"burnin_epochs": -1}, "burnin_epochs must be an integer of at least 0, got -1"),
    ({"kl_warmup_epochs": -1}, "kl_warmup_epochs must be an integer of at least 0, got -1"),
    ({"kl_weight": -0.5}, "kl_weight must not be negative, got -0.5"),
    ({"kl_weight": float("nan")}, "kl_weight must not be negative, got nan"),
    ({"num_data": 0}, "num_data must be an integer of at least 1, got 0"),
    ({"estimator": "bbb"}, "estimator must be .* got 'bbb'"),
    ({"init_std": 0.0}, "positive and finite, got 0.0"),
    ({"stochastic_module_names": ["nothing"]}, "'nothing' matches no module"),
    ({"stochastic_module_names": [7]}, "index 7 is out of range"),
    ({"prior": GaussianPrior(mean=torch.zeros(9))}, "mean has shape"),
]


OF_A_NETWORK = set(method_names()) - {"DeepEnsemble", "MethodEnsemble", "SGHMC"}
"""Methods that take no function that makes networks."""


@pytest.mark.parametrize("name", sorted(OF_A_NETWORK))
def test_classes_in_place_of_objects_are_refused(name: str) -> None:
    kind: Callable[..., UQMethod] = getattr(methods, name)
    likelihood = Quantiles() if name == "QuantileRegression" else HeteroscedasticGaussian()
    width = likelihood.num_outputs
    with pytest.raises(
        TypeError, match=r"likelihood must be an instance of Likelihood, got the class \w+: write \w+\("
    ):
        kind(MLP(8, [16], width), type(likelihood), **({"rank": 1} if name == "LowRankWeightsVI" else {}))
    with pytest.raises(TypeError, match=r"backbone must be an instance of Module, got the class MLP: write MLP\("):
        kind(MLP, likelihood)


@pytest.mark.parametrize("prior", [GaussianPrior, {"0": GaussianPrior}])
def test_a_class_of_priors_is_refused(prior: Any) -> None:
    with pytest.raises(TypeError, match=r"prior.* must be an instance of Prior, got the class GaussianPrior: write"):
        MeanFieldVI(MLP(3, [4], 1), Gaussian(), prior=prior)


@pytest.mark.parametrize("kind", [MeanFieldVI, LastLayerVI])
@pytest.mark.parametrize(("options", "message"), BAD_ARGUMENTS, ids=lambda part: str(part)[:40])
def test_arguments_are_checked_when_the_method_is_made(kind: Any, options: dict[str, Any], message: str) -> None:
    backbone = MLP(3, [4], 1)
    state, parts = copy_of_state(backbone), [type(module) for module in backbone.modules()]
    with pytest.raises(ValueError, match=message):
        kind(backbone, Gaussian(), **options)
    assert same_state(copy_of_state(backbone), state)
    assert [type(module) for module in backbone.modules()] == parts


def test_arguments_of_mean_variance_estimation_are_checked() -> None:
    with pytest.raises(TypeError, match="likelihood must be HeteroscedasticGaussian, got Gaussian"):
        MeanVarianceEstimation(MLP(3, [4], 2), Gaussian())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\], got 1.5"):
        MeanVarianceEstimation(MLP(3, [4], 2), HeteroscedasticGaussian(), beta=1.5)
    with pytest.raises(ValueError, match="burnin_epochs must be an integer of at least 0"):
        MeanVarianceEstimation(MLP(3, [4], 2), HeteroscedasticGaussian(), burnin_epochs=-1)


@pytest.mark.parametrize("num_samples", [0, -1, 1.5, True])
def test_the_number_of_samples_must_be_positive(num_samples: Any) -> None:
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian())
    with pytest.raises(ValueError, match=f"num_samples must be an integer of at least 1, got {num_samples}"):
        method.predict(X, num_samples=num_samples)


@pytest.mark.parametrize("num_data", [None, 0, -4])
def test_an_elbo_needs_a_positive_num_data(num_data: int | None) -> None:
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian())
    random_state = torch.get_rng_state()
    with pytest.raises(ValueError, match="num_data"):
        method.elbo(X, Y, num_data=num_data)
    assert torch.equal(torch.get_rng_state(), random_state)


def with_value(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed[1, 0] = value
    return changed


METHODS: dict[str, Callable[[nn.Module, Any], UQMethod]] = {
    "Deterministic": Deterministic,
    "MeanFieldVI": MeanFieldVI,
    "MeanFieldVI, burn-in": lambda backbone, likelihood: MeanFieldVI(backbone, likelihood, burnin_epochs=2),
    "LastLayerVI": LastLayerVI,
}
BAD_BATCHES: dict[str, tuple[int, Any, tuple[Tensor, Tensor], type[Exception], str]] = {
    "NaN input": (1, Gaussian(), (with_value(X, float("nan")), Y), ValueError, "inputs have NaN or infinite"),
    "infinite input": (1, Gaussian(), (with_value(X, float("inf")), Y), ValueError, "inputs have NaN or infinite"),
    "NaN target": (1, Gaussian(), (X, with_value(Y, float("nan"))), ValueError, "targets have NaN or infinite"),
    "infinite target": (1, Gaussian(), (X, with_value(Y, float("inf"))), ValueError, "targets have NaN or infinite"),
    "output too wide": (3, Gaussian(), (X, Y), ValueError, "needs network outputs of width 1, got 3"),
    "one output for mean and scale": (
        1, HeteroscedasticGaussian(), (X, Y), ValueError, "needs network outputs of width 2, got 1"
    ),
    "two outputs for one target": (2, Gaussian(), (X, Y), ValueError, "needs network outputs of width 1, got 2"),
    "flat target": (1, Gaussian(), (X, Y.flatten()), ValueError, r"targets of shape \(\d+, 1\), got \(\d+,\)"),
    "integer target": (1, Gaussian(), (X, LABELS[:, None]), TypeError, "floating-point targets, got torch.int64"),
    "float labels": (3, Categorical(3), (X, LABELS.float()), TypeError, "integer labels, got torch.float32"),
    "float labels of a Bernoulli": (1, Bernoulli(), (X, LABELS.clamp_max(1).float()), TypeError, "integer labels"),
    "one-hot labels": (
        3, Categorical(3), (X, nn.functional.one_hot(LABELS, 3)), ValueError, r"shape \(\d+,\), got \(\d+, 3\)"
    ),
    "label out of range": (3, Categorical(3), (X, LABELS + 1), ValueError, "labels must lie between 0 and 2"),
    "negative label": (3, Categorical(3), (X, LABELS - 3), ValueError, "labels must lie between 0 and 2"),
    "too few logits": (2, Categorical(3), (X, LABELS), ValueError, "needs network outputs of width 3"),
}  # fmt: skip


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(("width", "likelihood", "batch", "error", "message"), BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_a_bad_batch_stops_a_fit_before_the_first_step(
    make: Any, width: int, likelihood: Any, batch: tuple[Tensor, Tensor], error: type[Exception], message: str
) -> None:
    method = make(MLP(3, [4], width), likelihood)
    state, random_state = copy_of_state(method.backbone) | copy_of_state(method.likelihood), torch.get_rng_state()
    with pytest.raises(error, match=message):
        fit(method, loader(*batch, batch_size=8, generator=torch.Generator()))
    assert same_state(copy_of_state(method.backbone) | copy_of_state(method.likelihood), state)
    assert torch.equal(torch.get_rng_state(), random_state)


SHAPES = ["output too wide", "one output for mean and scale", "flat target", "float labels", "one-hot labels"]


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("where", ["elbo", "validate", "test"])
def test_wrong_shapes_and_types_are_refused_everywhere(make: Any, name: str, where: str) -> None:
    width, likelihood, (x, y), error, message = BAD_BATCHES[name]
    method = make(MLP(3, [4], width), likelihood)
    run = {
        "elbo": lambda: method.elbo(x, y, num_data=12),
        "validate": lambda: quiet_trainer().validate(method, loader(x, y), verbose=False),
        "test": lambda: quiet_trainer().test(method, loader(x, y), verbose=False),
    }[where]
    with pytest.raises(error, match=message):
        run()


@pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)
def test_an_empty_training_set_is_refused(make: Any) -> None:
    method = make(MLP(3, [4], 1), Gaussian())
    before = method.get_extra_state()
    with pytest.raises(ValueError, match="the training set is empty"):
        fit(method, DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=4))
    assert torch.equal(method.get_extra_state(), before)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, r"needs targets: .* got a Tensor"),
        ([X], "needs targets: .* got a list of 1"),
        ({"input": X}, r"needs targets: .* keys \['input'\]"),
        ({"image": X, "label": Y}, r"must be \(x, y\), .* got a mapping with the keys \['image', 'label'\]"),
        ((X, Y, Y), "got a tuple of 3"),
        ("text", "got a str"),
    ],
)
def test_other_batches_are_refused(batch: Any, message: str) -> None:
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian(), num_data=12)
    for step in (method.training_step, method.validation_step, method.test_step):
        with pytest.raises(TypeError, match=message):
            step(batch)
    if "targets" not in message:
        with pytest.raises(TypeError, match=message):
            method.predict_step(batch)
