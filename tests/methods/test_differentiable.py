"""Gradients of predictions with respect to the input."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import copy_of_state, randomize_posteriors, same_state
from method_cases import Case, each_case, modes
from network_cases import EXAMPLES
from test_calibrated_contract import CASES as CALIBRATED
from test_calibrated_contract import Calibrated
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import (
    SWAG,
    AdaptivePredictionSets,
    DeepEnsemble,
    Deterministic,
    Ensemble,
    Laplace,
    LastLayerVI,
    MCDropout,
    MeanFieldVI,
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.methods import Predictor

FIELDS = (
    *("mean", "epistemic_var", "aleatoric_var", "total_var"),
    *("probs_var", "predictive_entropy", "expected_entropy", "mutual_information", "lower", "upper"),
)
STEP = 1e-5


def fields(method: Predictor, x: Tensor, **options: Any) -> dict[str, Tensor]:
    prediction = method.predict(x, seed=1, **options)
    return {name: value for name in FIELDS if (value := getattr(prediction, name)) is not None}


def check_gradients(method: Predictor, x: Tensor) -> None:
    """Values are those without gradients, and gradients are central differences, in a random direction."""
    expected, state, mode = fields(method, x), copy_of_state(method), modes(method)
    needed = [parameter.requires_grad for parameter in method.parameters()]
    direction = torch.randn_like(x)
    ahead, behind = (fields(method, x + sign * STEP * direction) for sign in (1, -1))
    leaf = x.clone().requires_grad_()
    found = fields(method, leaf, differentiable=True)
    assert found.keys() == expected.keys()
    assert found["mean"].requires_grad
    for name, value in found.items():
        assert_close(value.detach(), expected[name], rtol=1e-9, atol=1e-12)
        weights = torch.randn_like(value)
        (difference,) = [((ahead[name] - behind[name]) * weights).sum() / (2 * STEP)]
        if not value.requires_grad:  # such as a noise that is the same everywhere
            assert difference.abs() < 1e-9, name
            continue
        (gradient,) = torch.autograd.grad((value * weights).sum(), leaf, retain_graph=True)
        assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-6, msg=f"gradient of {name}")
    torch.stack([value.sum() for value in found.values()]).sum().backward()
    assert leaf.grad is not None
    assert all(parameter.grad is None for parameter in method.parameters())
    assert [parameter.requires_grad for parameter in method.parameters()] == needed
    assert same_state(copy_of_state(method), state)
    assert modes(method) == mode


@each_case
def test_gradients_of_every_method_are_finite_differences(case: Case) -> None:
    check_gradients(case.build(torch.float64), case.problem.data(torch.float64)[0][:3])


@pytest.mark.parametrize("case", CALIBRATED.values(), ids=CALIBRATED)
def test_gradients_of_calibrated_methods_are_finite_differences(case: Calibrated) -> None:
    check_gradients(case.build(torch.float64), case.data(torch.float64)[0][:3])


def test_gradients_of_an_ensemble_are_finite_differences() -> None:
    names = ("MeanFieldVI", "LastLayerVI", "SWAG", "Laplace", "MCDropout")
    ensemble = Ensemble([Case(name, "heteroscedastic").build(torch.float64) for name in names])
    check_gradients(ensemble, torch.randn(3, 3, dtype=torch.float64))


OTHERS: list[tuple[Any, str, dict[str, Any]]] = [
    *((MeanFieldVI, name, {}) for name in ("TransformerEncoder", "LSTM", "weight_norm", "module called twice")),
    *((MCDropout, name, {"dropout_p": 0.2}) for name in ("TransformerEncoder", "GRU")),
    *((DeepEnsemble, name, {"num_members": 3}) for name in ("TransformerEncoder", "LSTM")),
    *((Laplace, name, {}) for name in ("TransformerEncoder", "LSTM")),
    (Laplace, "LSTM", {"stochastic_module_names": None, "structure": "diagonal"}),
]


@pytest.mark.parametrize(("kind", "name", "options"), OTHERS)
def test_gradients_through_other_networks_are_finite_differences(kind: Any, name: str, options: dict[str, Any]) -> None:
    example = EXAMPLES[name]
    method = kind(example.make(), Gaussian(num_targets=2), **options).double()
    randomize_posteriors(method, high=0.4)
    x: Any = example.make_input()
    if kind is Laplace:
        method.fit_posterior([(x.double(), torch.randn(len(x), 2, dtype=torch.float64))])
    check_gradients(method, x.double())


def swag_with_batch_norm() -> SWAG:
    method = SWAG(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)), Gaussian(0.1))
    for _ in range(3):
        randomize_weights(method.backbone)
        method.collect()
    method.fit_posterior([(torch.randn(9, 3), torch.randn(9, 1))])
    return method


def randomize_weights(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter)


DRAWN: dict[str, Callable[[], Predictor]] = {
    "SWAG": swag_with_batch_norm,
    "MeanFieldVI": lambda: MeanFieldVI(MLP(3, [5], 1), Gaussian()),
    "Laplace": lambda: fitted_laplace(),
}


def fitted_laplace() -> Laplace:
    method = Laplace(MLP(3, [5], 3), Categorical(3))
    method.fit_posterior([(torch.randn(9, 3), torch.randint(0, 3, (9,)))])
    return method


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("first", ["inference", "differentiable", "functional"])
def test_kept_draws_serve_predictions_of_every_kind(name: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold no graph, are no inference tensors, and are not drawn again."""
    method, x = DRAWN[name](), torch.randn(4, 3)
    expected = copy.deepcopy(method).predict(x)
    if first == "inference":
        with torch.inference_mode():
            method.predict(x)
    elif first == "differentiable":
        method.predict(x.clone().requires_grad_(), differentiable=True).mean.sum().backward()
    else:
        torch.func.grad(lambda x: method.predict(x, differentiable=True).mean[0, 0])(x)
    monkeypatch.setattr("lightning_vi.noise.torch.Generator", None)  # nothing is drawn from now on
    assert_close(method.predict(x).mean, expected.mean)
    assert_close(copy.deepcopy(method.predict(x).epistemic_var), expected.epistemic_var)
    leaf = x.clone().requires_grad_()
    found = method.predict(leaf, differentiable=True)
    assert_close(found.epistemic_var.detach(), expected.epistemic_var)
    for _ in range(2):
        found.mean[0, 0].backward(retain_graph=True)
    with torch.inference_mode():
        assert_close(method.predict(x).mean, expected.mean)


def test_functional_gradients_agree_with_backward() -> None:
    for name, problem in (("MeanFieldVI", "heteroscedastic"), ("SWAG", "categorical"), ("Laplace", "categorical")):
        method, x = Case(name, problem).build(torch.float64), torch.randn(3, 3, dtype=torch.float64)

        def uncertainty(x: Tensor, method: Predictor = method) -> Tensor:
            return method.predict(x, differentiable=True).as_dict()["epistemic_uct"].sum()

        leaf = x.clone().requires_grad_()
        uncertainty(leaf).backward()
        assert_close(torch.func.grad(uncertainty)(x), leaf.grad)
        assert torch.autograd.gradcheck(uncertainty, (leaf,))
        assert torch.autograd.gradgradcheck(uncertainty, (leaf,))


def test_a_search_for_the_largest_uncertainty_climbs() -> None:
    """As in active learning: the objective is the same function of the input in each step."""
    method = LastLayerVI(MLP(2, [20], 1, activation_fn=nn.Tanh()), Gaussian())
    x = torch.zeros(1, 2, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=0.01)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = method.predict(x, differentiable=True).epistemic_var.sum()
        (-value).backward()
        optimizer.step()
        values.append(value.item())
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_gradients_are_finite_where_an_uncertainty_is_zero() -> None:
    x = torch.tensor([[1.0, -1.0]], requires_grad=True)
    method = Deterministic(MLP(2, [4], 1), Gaussian())
    for name, value in method.predict(x, differentiable=True).as_dict().items():
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
            assert gradient.isfinite().all(), name
    confident = Deterministic(nn.Linear(2, 3), Categorical(3))
    with torch.no_grad():
        confident.backbone.weight.copy_(torch.tensor([[300.0, 0.0], [0.0, 0.0], [0.0, 300.0]]))
    prediction = confident.predict(x, differentiable=True)
    assert prediction.mean.min() == 0
    (gradient,) = torch.autograd.grad(prediction.as_dict()["pred_uct"].sum(), x)
    assert gradient.isfinite().all()


def test_prediction_sets_have_no_gradient_and_probabilities_have_one() -> None:
    x = torch.randn(6, 2)
    classifier = Deterministic(MLP(2, [4], 3), Categorical(3))
    classifier.is_trained = True
    sets = AdaptivePredictionSets(classifier, coverage=0.5)
    sets.calibrate([(x, torch.tensor([0, 1, 2, 0, 1, 2]))])
    prediction = sets.predict(x.requires_grad_(), differentiable=True)
    assert prediction.pred_set is not None
    assert not prediction.pred_set.requires_grad
    assert prediction.mean.requires_grad


def test_predictions_have_no_gradient_unless_it_is_asked_for() -> None:
    method = MeanFieldVI(MLP(2, [4], 1), Gaussian())
    assert not method.predict(torch.zeros(3, 2, requires_grad=True)).mean.requires_grad
    with torch.no_grad():
        assert method.predict(torch.zeros(3, 2, requires_grad=True), differentiable=True).mean.requires_grad


def test_what_has_no_gradient_is_refused() -> None:
    example = EXAMPLES["embedding with a tied head"]
    method = MeanFieldVI(example.make(), Gaussian())
    with pytest.raises(
        TypeError, match=r"differentiable=True needs an input of floating-point numbers, got torch.int64"
    ):
        method.predict(example.make_input(), differentiable=True)
    method = MeanFieldVI(MLP(2, [4], 1), Gaussian())
    with torch.inference_mode(), pytest.raises(ValueError, match=r"records no gradients in torch\.inference_mode"):
        method.predict(torch.zeros(3, 2), differentiable=True)
    before = dict(method.named_parameters())
    with pytest.raises(ValueError, match="takes 2 and not 5 features"):
        method.predict(torch.zeros(3, 5), differentiable=True)
    assert all(parameter is before[name] for name, parameter in method.named_parameters())
