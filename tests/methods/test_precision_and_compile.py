"""bf16 mixed precision, float64 and `torch.compile` on many kinds of networks."""

from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer, randomize_posteriors
from method_cases import CASES, METHODS, Case, params
from network_cases import EXAMPLES, Example, each_example, each_example_and_estimator
from torch import Tensor

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.sampling import NetworkInput

X, Y = normal(24, 3), normal(24, 1)


def problem(example: Example, **options: Any) -> tuple[MeanFieldVI, NetworkInput, Tensor]:
    network, x = example.make(), example.make_input()
    method = MeanFieldVI(network, Gaussian(), num_data=50, num_mc_samples_train=3, **options)
    with torch.no_grad():
        target = torch.randn_like(method.point_outputs(x))
    method.likelihood = Gaussian(num_targets=target.shape[-1])
    return method, x, target


@each_example_and_estimator
def test_mixed_precision_changes_the_objective_only_by_rounding(example: Example, estimator: str) -> None:
    """With common noise if weights are sampled, else with negligible noise. The KL divergence stays in float32."""
    exact_noise = estimator == "reparameterization"
    method, x, target = problem(example, estimator=estimator, init_std=0.05 if exact_noise else 1e-6)
    terms = []
    for enabled in (False, True):
        method.noise.count = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms.append(method.elbo(x, target))
    assert terms[1].kl.dtype == torch.float32
    assert terms[1].kl.item() == terms[0].kl.item()
    assert terms[1].nll.item() == pytest.approx(terms[0].nll.item(), rel=0.02)
    terms[1].loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


@each_example
def test_predictions_under_mixed_precision_agree(example: Example) -> None:
    method, x, _ = problem(example, init_std=0.1)
    expected = method.predict(x)
    with torch.autocast("cpu", torch.bfloat16):
        result = method.predict(x)
    assert (result.mean - expected.mean).abs().max() < 0.05 * expected.mean.abs().max()
    torch.testing.assert_close(result.epistemic_var, expected.epistemic_var, rtol=0.2, atol=1e-3)


ONE_PROBLEM = [next(case for case in CASES if case.method_name == name) for name in METHODS]


@pytest.mark.parametrize("case", params(CASES, default=ONE_PROBLEM))
def test_a_method_on_a_network_in_float64_is_that_in_float64(case: Case) -> None:
    """It is the same whether the network or the method is converted, after a fit too."""
    x, y = (part.double() if part.is_floating_point() else part for part in case.problem.data())
    made = case.method.make(case.backbone().double(), case.problem.likelihood())
    converted = case.method.make(case.backbone(), case.problem.likelihood()).double()
    converted.load_state_dict(made.state_dict())  # initial weights are drawn in the dtype of the network
    results = []
    for method in (made, converted):
        torch.manual_seed(0)
        quiet_trainer(max_epochs=2).fit(method, loader(x, y, batch_size=6))
        prediction = method.predict(x)
        assert prediction.mean.dtype == torch.float64
        results.append([prediction.mean, prediction.total_var])
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("estimator", ["auto", "reparameterization", "flipout"])
def test_training_in_mixed_precision_reduces_the_loss(estimator: str) -> None:
    method = MeanFieldVI(MLP(3, [8], 1), Gaussian(), estimator=estimator, num_mc_samples_train=4)
    history = fit(method, loader(X, X[:, :1]), max_epochs=30, precision="bf16-mixed")
    assert history["train_nll"][-1] < history["train_nll"][0] - 0.1
    assert all(parameter.dtype == torch.float32 for parameter in method.parameters())


def quiet_dynamo(test: Any) -> Any:
    """Ignores warnings of torch's tracer about `autograd.Function`."""
    for message in (
        "ignore:.*should not be instantiated:DeprecationWarning",
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning",
    ):
        test = pytest.mark.filterwarnings(message)(test)
    return test


@quiet_dynamo
@pytest.mark.parametrize(
    "name",
    ["MLP", "LSTM"]
    + [
        pytest.param(name, marks=pytest.mark.thorough)
        for name in ("plain convolution", "TransformerEncoder", "embedding with a tied head", "weight_norm")
    ],
)
def test_compiled_objective_equals_the_objective(name: str) -> None:
    method, x, target = problem(EXAMPLES[name])
    randomize_posteriors(method.backbone, high=0.4)
    gradients, losses = [], []
    for objective in (method.elbo, torch.compile(method.elbo, backend="eager")):
        method.noise.count = 0
        method.zero_grad()
        losses.append([objective(x, target).loss for _ in range(3)])
        losses[-1][2].backward()
        gradients.append([parameter.grad for parameter in method.parameters()])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert len({loss.item() for loss in losses[1]}) == 3


@quiet_dynamo
def test_trainer_accepts_a_compiled_method() -> None:
    histories = []
    for compiled in (False, True):
        torch.manual_seed(3)
        method = MeanFieldVI(MLP(3, [8], 2), HeteroscedasticGaussian(), num_mc_samples_train=4)
        module = torch.compile(method, backend="eager") if compiled else method
        histories.append(fit(module, loader(X, Y), max_epochs=3))
        quiet_trainer().test(method, loader(X, Y), verbose=False)
    assert histories[1]["train_loss"] == pytest.approx(histories[0]["train_loss"], rel=1e-5)
