"""Predictions from several threads at once equal those from one, and nothing that all threads share is changed."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hammer import Count, hammer, in_threads
from helpers import copy_of_state, randomize_posteriors, same_state
from method_cases import METHODS, Case, modes
from network_cases import EXAMPLES
from torch import Tensor, nn

from lightning_vi import (
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    DeepEnsemble,
    Deterministic,
    Ensemble,
    Laplace,
    LastLayerVI,
    MCDropout,
    MeanFieldVI,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian
from lightning_vi.methods import Predictor
from lightning_vi.sampling import evaluating

Subject = tuple[Predictor, Any, Tensor]
PREFERRED = ("heteroscedastic", "categorical", "quantiles")  # the first has batch normalization and dropout


def base(name: str, problem: str | None = None) -> Subject:
    found = problem or next(own for own in PREFERRED if own in METHODS[name].problems)
    case = Case(name, found)
    return (case.build(), *case.problem.data())


def network(kind: Callable[..., Predictor], name: str, **options: Any) -> Subject:
    """A method on a network with attention or recurrence."""
    example = EXAMPLES[name]
    method = kind(example.make(), Gaussian(num_targets=2), **options)
    randomize_posteriors(method, high=0.4)
    x = example.make_input()
    return method, x, torch.randn(len(x), 2)


def calibrated(make: Callable[..., Any], subject: Subject) -> Subject:
    method, x, y = subject
    wrapper = make(method)
    wrapper.calibrate([(x, y)])
    return wrapper.train(), x, y


def ensemble(*names: str, problem: str) -> Subject:
    subjects = [base(name, problem) for name in names]
    return Ensemble([subject[0] for subject in subjects]).train(), *subjects[0][1:]


SUBJECTS: dict[str, Callable[[], Subject]] = {
    **{name: lambda name=name: base(name) for name in METHODS},  # type: ignore[misc]
    "Laplace, probit": lambda: base("Laplace", "categorical"),
    "DeepEnsemble, convolutions": lambda: base("DeepEnsemble", "categorical, [B, C, H, W]"),
    "MeanFieldVI, transformer": lambda: network(MeanFieldVI, "TransformerEncoder", num_mc_samples_test=5),
    "DeepEnsemble, transformer": lambda: network(DeepEnsemble, "TransformerEncoder", num_members=3),
    "MCDropout, transformer": lambda: network(MCDropout, "TransformerEncoder", dropout_p=0.2, num_mc_samples_test=5),
    "MeanFieldVI, LSTM": lambda: network(MeanFieldVI, "LSTM", num_mc_samples_test=5),
    "MCDropout, LSTM": lambda: network(MCDropout, "LSTM", dropout_p=0.2, num_mc_samples_test=5),
    "Ensemble": lambda: ensemble("MeanFieldVI", "SWAG", "VBLL", problem="heteroscedastic"),
    "TemperatureScaling": lambda: calibrated(TemperatureScaling, base("MeanFieldVI", "Bernoulli")),
    "VarianceScaling": lambda: calibrated(VarianceScaling, base("SWAG")),
    "SplitConformal": lambda: calibrated(SplitConformal, base("DeepEnsemble")),
    "ConformalQuantileRegression": lambda: calibrated(
        ConformalQuantileRegression, base("QuantileRegression", "quantiles")
    ),
    "AdaptivePredictionSets": lambda: calibrated(AdaptivePredictionSets, base("MCDropout", "Bernoulli")),
    "calibrated ensemble": lambda: calibrated(
        VarianceScaling, ensemble("LastLayerVI", "MCDropout", problem="heteroscedastic")
    ),
}


def questions_for(method: Predictor, x: Any, y: Tensor) -> list[Callable[[], Any]]:
    """Predictions with several seeds, numbers of samples and rows, of the kinds that there are, in several modes."""

    def scored(rows: slice, seed: int) -> dict[str, Any]:
        with torch.no_grad(), evaluating(method):
            inputs = method.predictive_distribution(x[rows], 3, seed).metric_inputs(y[rows])
        return {key: value for key, value in inputs.items() if isinstance(value, Tensor)}

    def log_probs(rows: slice, seed: int) -> Tensor:
        with torch.no_grad(), evaluating(method):
            return method.predictive_distribution(x[rows], 3, seed).log_probs()

    asked: list[Callable[[], Any]] = [
        lambda: method.predict_step((x, y)),
        lambda: method.predict(x[:2], num_samples=3, seed=1).as_dict(),
        lambda: method.predict(x, num_samples=5, seed=2, return_samples=True).as_dict(),
        lambda: scored(slice(0, 3), 3),
        lambda: method.predict(x[1:], num_samples=3, seed=3).as_dict(),
    ]
    if method.likelihood.task == "classification":
        asked.append(lambda: log_probs(slice(1, 3), 4))
    return asked


def hammered(subject: Subject, num_answers: int) -> Count:
    method, x, y = subject
    expected = [question() for question in questions_for(copy.deepcopy(method), x, y)]
    modes_before, state_before = modes(method), copy_of_state(method)
    count = hammer(questions_for(method, x, y), expected, num_answers)
    assert modes(method) == modes_before
    assert same_state(copy_of_state(method), state_before)
    return count


@pytest.mark.filterwarnings("ignore:.*drops units outside")
@pytest.mark.parametrize("name", SUBJECTS)
def test_answers_are_those_of_one_thread(name: str, tally: Callable[..., None]) -> None:
    count = hammered(SUBJECTS[name](), num_answers=24)
    tally("threads", name, tried=count.tried, right=count.right)
    assert count.right == count.tried, count.errors[:1]


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*drops units outside")
@pytest.mark.parametrize("name", SUBJECTS)
def test_two_thousand_answers_are_those_of_one_thread(name: str, tally: Callable[..., None]) -> None:
    count = hammered(SUBJECTS[name](), num_answers=2000)
    tally("threads", name, tried=count.tried, right=count.right)
    assert count.right == count.tried, count.errors[:1]


def test_bad_input_in_one_thread_leaves_the_others_alone() -> None:
    for name in ("MeanFieldVI", "DeepEnsemble", "SWAG", "VBLL", "MCDropout", "Laplace, all layers"):
        method, x, y = base(name)
        good = questions_for(method, x, y)
        expected = [question() for question in questions_for(copy.deepcopy(method), x, y)]
        refused: list[Exception] = []

        def bad(method: Predictor = method, x: Any = x, refused: list[Exception] = refused) -> None:
            try:
                method.predict(x[:, :2])
            except (RuntimeError, ValueError) as error:
                refused.append(error)

        modes_before = modes(method)
        count = hammer([*good, bad], [*expected, None], num_answers=24)
        assert refused
        assert count.right == count.tried, (name, count.errors[:1])
        assert modes(method) == modes_before


class Interrupted(nn.Module):
    """Lets another thread look at what threads share, and draw a random number, in each forward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        in_threads(look)
        output: Tensor = self.inner(x)
        return output


DRAWN: list[float] = []
SEEN: list[tuple[Any, ...]] = []


def look() -> None:
    DRAWN.append(torch.rand(()).item())
    SEEN.append(
        (
            torch.backends.mha.get_fastpath_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_default_dtype(),
            len(warnings.filters),
        )
    )


INTERRUPTED: dict[str, Callable[[nn.Module], Predictor]] = {
    "MeanFieldVI, vmap": lambda network: MeanFieldVI(network, Gaussian(num_targets=2), vectorization="vmap"),
    "MeanFieldVI, loop": lambda network: MeanFieldVI(network, Gaussian(num_targets=2), vectorization="loop"),
    "LastLayerVI": lambda network: LastLayerVI(network, Gaussian(num_targets=2), estimator="reparameterization"),
    "MCDropout": lambda network: MCDropout(network, Gaussian(num_targets=2), dropout_p=0.2),
    "DeepEnsemble": lambda network: DeepEnsemble(network, Gaussian(num_targets=2), num_members=2),
    "Laplace": lambda network: Laplace(network, Gaussian(0.1, num_targets=2), stochastic_module_names=["*head"]),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_other_threads_see_no_change_during_a_pass(name: str) -> None:
    """Neither the global random state, nor switches of attention, nor the state of gradients and warnings."""
    method = INTERRUPTED[name](Interrupted(EXAMPLES["TransformerEncoder"].make()))
    x = EXAMPLES["TransformerEncoder"].make_input()
    if isinstance(method, Laplace):
        method.fit_posterior([(x, torch.zeros(len(x), 2))])
    DRAWN.clear()
    SEEN.clear()
    torch.manual_seed(7)
    for seed in range(3):
        method.predict(x, num_samples=3, seed=seed)
    torch.manual_seed(7)
    assert len(DRAWN) >= 3
    assert [torch.rand(()).item() for _ in DRAWN] == DRAWN
    SEEN[:] = SEEN[1:] if name == "DeepEnsemble" else SEEN  # the filter with which vmap is tried for the first time
    look()
    assert set(SEEN) == {SEEN[-1]}


def test_forward_agrees_while_others_predict() -> None:
    for name in ("MeanFieldVI", "SWA", "DeepEnsemble"):
        method, x, _ = base(name)
        method.eval()
        expected = [method.predict(x, num_samples=3, seed=1).as_dict(), method(x).detach()]
        count = hammer(
            [lambda method=method, x=x: method.predict(x, num_samples=3, seed=1).as_dict(), lambda: method(x)],  # type: ignore[misc] # noqa: B023
            expected,
            num_answers=24,
        )
        assert count.right == count.tried, (name, count.errors[:1])


def test_a_wrapper_and_its_method_take_turns() -> None:
    wrapper, x, y = calibrated(VarianceScaling, ensemble("MeanFieldVI", "VBLL", problem="heteroscedastic"))
    parts = [wrapper, wrapper.method, *wrapper.method.members]  # type: ignore[union-attr]
    copies = copy.deepcopy(parts)
    asked = [question for part in parts for question in questions_for(part, x, y)]
    expected = [question() for part in copies for question in questions_for(part, x, y)]
    count = hammer(asked, expected, num_answers=80)
    assert count.right == count.tried, count.errors[:1]


def test_wrappers_that_share_their_methods_do_not_wait_for_each_other_for_ever() -> None:
    """Each has the lock of one method and needs that of the other, in the opposite order."""
    first, x, _ = ensemble("MeanFieldVI", "VBLL", problem="heteroscedastic")
    second = Ensemble(first.members)  # type: ignore[attr-defined]
    second._members = nn.ModuleList(reversed(first.members))  # type: ignore[attr-defined]

    def predict(method: Predictor) -> None:
        for seed in range(15):
            method.predict(x, num_samples=4, seed=seed)

    in_threads(*(lambda method=method: predict(method) for method in (first, second, first, second)), seconds=20)  # type: ignore[misc]


def test_a_copy_does_not_wait_for_the_original() -> None:
    method = Deterministic(MLP(2, [4], 1), Gaussian())
    twin, x = copy.deepcopy(method), torch.zeros(3, 2)
    with evaluating(method):
        in_threads(lambda: twin.predict(x), seconds=5)


def test_modes_are_seen_by_the_thread_that_predicts_alone() -> None:
    """Two threads in turn find the network in evaluation mode, and the mode from before is back at the end."""
    seen: list[bool] = []

    class Recording(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.training)
            return x

    method = Deterministic(nn.Sequential(Recording(), nn.Linear(2, 1)), Gaussian()).train()
    method.likelihood.eval()
    before = modes(method)
    in_threads(*[lambda: [method.predict(torch.zeros(3, 2)) for _ in range(50)]] * 3)
    assert seen == [False] * 150
    assert modes(method) == before
