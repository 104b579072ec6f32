"""Whatever the input: the right value, or an error that names the argument, and a method as it was before."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import copy_of_state, loader, normal, quiet_trainer, same_state
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from methods.method_cases import METHODS, PROBLEMS, Case, ImageNet
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_vi import Deterministic, Laplace, MeanFieldVI, TemperatureScaling, VarianceScaling
from lightning_vi.backbones import MLP
from lightning_vi.errors import InputError
from lightning_vi.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import UQMethod

NAMED = re.compile(r"\bx\b|input|target|labels|n_inputs|num_targets|num_classes|class_dim|output|batch")
X = normal(12, 3)
QUICK = ("Deterministic", "MeanFieldVI", "FullRankVI", "Laplace", "DeepEnsemble", "SWAG")


def methods() -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in METHODS]


def built(name: str) -> UQMethod:
    method = METHODS[name]
    return Case(name, next(problem for problem in PROBLEMS if problem in method.problems)).build()


def columns(x: Tensor) -> pd.DataFrame:
    return pd.DataFrame(x.numpy(), columns=[f"column {index}" for index in range(x.shape[1])])


SAME_INPUTS: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda x: x.numpy(),
    "array in double precision": lambda x: x.double().numpy(),
    "array with negative strides": lambda x: x.flip(0).numpy()[::-1],
    "array in the other byte order": lambda x: x.numpy().astype(">f4"),
    "read-only array": lambda x: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "list": lambda x: x.tolist(),
    "tuple of rows": lambda x: tuple(map(tuple, x.tolist())),
    "data frame": columns,
    "double precision": lambda x: x.double(),
    "transposed in memory": lambda x: x.T.contiguous().T,
    "arguments": lambda x: (x,),
    "arguments as arrays": lambda x: [x.numpy()],
}
BAD_INPUTS: dict[str, Callable[[Tensor], Any]] = {
    "too wide": lambda x: torch.cat([x, x], 1),
    "too narrow": lambda x: x[:, :2],
    "one row without a batch": lambda x: x[0],
    "one dimension": lambda x: x[:, 0],
    "a number": lambda x: x[0, 0],
    "integers": lambda x: x.long(),
    "truth values": lambda x: x > 0,
    "complex numbers": lambda x: x.to(torch.complex64),
    "on another device": lambda x: x.to("meta"),
    "text": lambda _: "text",
    "None": lambda _: None,
    "a float": lambda _: 1.5,
    "no rows of no columns": lambda _: [],
    "a dictionary without a tensor": lambda _: {"a": "b"},
    "a list of texts": lambda _: ["a", "b"],
    "an array of objects": lambda _: np.array([object()]),
    "a ragged list": lambda _: [[1.0, 2.0, 3.0], [1.0]],
    "a data frame with text": lambda _: pd.DataFrame({"a": [1.0], "b": ["x"], "c": [2]}),
}


def refused(method: UQMethod, act: Callable[[], Any]) -> str:
    """The message of the refusal, after which the method is as it was."""
    state, modes = copy_of_state(method), [module.training for module in method.modules()]
    random = torch.get_rng_state()
    with pytest.raises(InputError, match=NAMED) as caught:
        act()
    assert same_state(copy_of_state(method), state)
    assert [module.training for module in method.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    return str(caught.value)


@pytest.mark.parametrize("name", methods())
def test_inputs_of_any_kind_give_the_same_prediction(name: str, tally: Callable[..., None]) -> None:
    method = built(name)
    expected = method.predict(X).mean
    for kind, make in SAME_INPUTS.items():
        for found in (method.predict(make(X)), method.predict_step([make(X)])["pred"]):
            mean = found if isinstance(found, Tensor) else found.mean
            torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-5, msg=lambda text, kind=kind: kind + text)  # type: ignore[misc]
    tally("inputs of other types", name, tried=len(SAME_INPUTS), right=len(SAME_INPUTS))


@pytest.mark.parametrize("name", methods())
def test_bad_inputs_are_refused(name: str, tally: Callable[..., None]) -> None:
    method = built(name)
    expected = method.predict(X).mean
    for make in BAD_INPUTS.values():
        refused(method, lambda: method.predict(make(X)))  # noqa: B023
    assert torch.equal(method.predict(X).mean, expected)
    tally("bad inputs", name, tried=len(BAD_INPUTS), right=len(BAD_INPUTS))


@pytest.mark.parametrize("name", methods())
def test_first_layers_of_another_width_are_named(name: str, tally: Callable[..., None]) -> None:
    method, target = built(name), Case(name, next(p for p in PROBLEMS if p in METHODS[name].problems)).problem.target()
    wide = normal(12, 8)
    acts = {
        "predict": lambda: method.predict(wide),
        "elbo": lambda: method.elbo(wide, target, num_data=12),
        "test": lambda: quiet_trainer().test(method, loader(wide, target), verbose=False),
        "fit": lambda: quiet_trainer().fit(method.train(), loader(wide, target)),
    }
    for act in acts.values():
        with pytest.raises(InputError, match=r"8\b") as caught:
            act()
        assert re.search("n_inputs=8|in_features=8|takes 3 inputs", str(caught.value))
    tally("bad inputs", name, tried=len(acts), right=len(acts))


def test_calibrations_explain_and_convert_too(tally: Callable[..., None]) -> None:
    for method, target, kind in (
        (Deterministic(MLP(3, [4], 1), Gaussian()), normal(12, 1), VarianceScaling),
        (Deterministic(MLP(3, [4], 2), Categorical(2)), torch.arange(12) % 2, TemperatureScaling),
    ):
        method.is_trained = True
        first, second = kind(method), kind(method)
        first.calibrate([(X, target)])
        second.calibrate([(X.double().numpy(), target.numpy())])
        torch.testing.assert_close(second.predict(X.tolist()).total_var, first.predict(X).total_var)
        with pytest.raises(InputError, match="n_inputs=8"):
            first.calibrate([(normal(12, 8), target)])
        with pytest.raises(InputError, match="n_inputs=8"):
            first.predict(normal(12, 8))
    tally("bad inputs", "calibrations", tried=8, right=8)


def images(num_outputs: int = 1) -> nn.Module:
    return ImageNet(num_outputs) if num_outputs == 4 else nn.Sequential(nn.Conv2d(2, num_outputs, 3, padding=1))


Y, LABELS = normal(12, 1), torch.arange(12) % 3
BAD_TARGETS: dict[str, tuple[nn.Module, Likelihood, Tensor, Any, str]] = {
    "[B] for [B, 1]": (MLP(3, [4], 1), Gaussian(), X, Y[:, 0], "target.unsqueeze(-1)"),
    "two for one": (MLP(3, [4], 1), Gaussian(), X, normal(12, 2), "Gaussian(num_targets=2) and a network"),
    "one for two": (MLP(3, [4], 2), Gaussian(num_targets=2), X, Y, "Gaussian(num_targets=1)"),
    "two, with two outputs": (MLP(3, [4], 2), Gaussian(), X, normal(12, 2), "use Gaussian(num_targets=2)"),
    "two, with four outputs": (
        MLP(3, [4], 4), HeteroscedasticGaussian(), X, normal(12, 2), "use HeteroscedasticGaussian(num_targets=2)"
    ),
    "output too wide": (MLP(3, [4], 3), Gaussian(), X, Y, "n_outputs=1"),
    "integers": (MLP(3, [4], 1), Gaussian(), X, torch.ones(12, 1).long(), "target.float()"),
    "other rows": (MLP(3, [4], 1), Gaussian(), X, Y[:5], "same number of rows"),
    "one-hot": (MLP(3, [4], 3), Categorical(3), X, torch.eye(3).repeat(4, 1), "target.argmax(1)"),
    "float labels": (MLP(3, [4], 3), Categorical(3), X, LABELS.float(), "target.long()"),
    "[B, 1] labels": (MLP(3, [4], 3), Categorical(3), X, LABELS.unsqueeze(1), "target.squeeze(1)"),
    "[B, 1] float labels": (MLP(3, [4], 1), Bernoulli(), X, (LABELS > 0).float().unsqueeze(1), "squeeze(1).long()"),
    "text": (MLP(3, [4], 1), Gaussian(), X, ["a"] * 12, "the target must be"),
    "on another device": (MLP(3, [4], 1), Gaussian(), X, Y.to("meta"), "target.to('cpu')"),
    "classes last": (MLP(3, [4], 3), Categorical(3), normal(12, 4, 3), torch.zeros(12, 4).long(), "class_dim=-1"),
    "channels first": (images(), Gaussian(), normal(12, 2, 8, 8), normal(12, 1, 8, 8), "output.movedim(1, -1)"),
    "channels first, a noise for each column": (
        images(), Gaussian(num_targets=8), normal(12, 2, 8, 8), normal(12, 1, 8, 8), "Gaussian(num_targets=1), end"
    ),
    "channels last in the images": (
        images(4), Categorical(4), normal(12, 4, 4, 2), torch.zeros(12, 4, 4).long(), "x.movedim(-1, 1)"
    ),
    "channels first, of the targets alone": (
        MLP(3, [4], 2), Gaussian(num_targets=2), normal(12, 5, 3), normal(12, 2, 5), "target.movedim(1, -1)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TARGETS)
@pytest.mark.parametrize("kind", [Deterministic, MeanFieldVI, Laplace])
def test_messages_say_what_to_write(kind: type[UQMethod], name: str, tally: Callable[..., None]) -> None:
    network, likelihood, x, target, advice = BAD_TARGETS[name]
    method = kind(network, likelihood, **({"num_data": 12} if kind is MeanFieldVI else {}))  # type: ignore[call-arg]
    assert advice in refused(method, lambda: method.elbo(x, target, num_data=12))
    if isinstance(target, Tensor) and target.device == x.device:
        with pytest.raises(InputError, match=re.escape(advice)):
            quiet_trainer().fit(method, DataLoader([(x, target)], batch_size=None))  # type: ignore[arg-type]
    tally("bad targets", kind.__name__, tried=2, right=2)


class ChannelsLast(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        output: Tensor = super().forward(x)
        return output.movedim(1, -1)


@pytest.mark.parametrize("channels", [1, 8])
def test_regression_at_each_pixel_works_with_channels_last(channels: int) -> None:
    network = ChannelsLast(nn.Conv2d(2, channels, 3, padding=1))
    x, target = normal(12, 2, 8, 8), normal(12, channels, 8, 8).movedim(1, -1)
    method = Deterministic(network, Gaussian(0.5, num_targets=channels))
    residual = target - network(x).movedim(1, -1).movedim(-1, 1)
    expected = (0.5 * (residual / 0.5) ** 2 + np.log(0.5) + 0.5 * np.log(2 * np.pi)).sum() / 12
    torch.testing.assert_close(method.elbo(x, target).nll, expected)


def test_targets_of_any_type_give_the_same_objective(tally: Callable[..., None]) -> None:
    method = MeanFieldVI(MLP(3, [4], 1), Gaussian(0.7))
    kinds = [lambda y: y.double(), lambda y: y.numpy(), lambda y: y.tolist(), columns]
    counts = [method.noise.count]
    expected = method.elbo(X, Y, num_data=12)
    for make in kinds:
        method.noise.count = counts[0]
        found = method.elbo(X.double(), make(Y), num_data=12)
        assert found.loss.dtype == torch.float32
        torch.testing.assert_close(found.loss, expected.loss)
    tally("inputs of other types", "targets", tried=len(kinds), right=len(kinds))


arrays = st.builds(
    lambda shape, dtype, order: torch.ones(shape).to(dtype).numpy() if order else torch.ones(shape).to(dtype),
    st.lists(st.integers(1, 5), max_size=4),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.int8, torch.bool]),
    st.booleans(),
)
junk = st.one_of(st.none(), st.text(max_size=3), st.integers(-9, 9), st.floats(), st.binary(max_size=3))
anything = st.recursive(
    st.one_of(arrays, junk),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=5,
)
FUZZED = {name: built(name) for name in ("Deterministic", "MeanFieldVI", "Laplace", "DeepEnsemble")}


def fuzz(x: Any) -> None:
    messages: list[str] = []
    for method in FUZZED.values():
        try:
            mean = method.predict(x, num_samples=2).mean
        except InputError as error:
            messages.append(str(error))
        else:
            assert mean.shape[-1] == 1
            assert mean.isfinite().all()
    assert all(NAMED.search(message) for message in messages), messages


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(anything)
def test_any_input_is_predicted_or_refused(x: Any) -> None:
    fuzz(x)


@pytest.mark.thorough
@settings(max_examples=1000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(anything)
def test_any_of_many_inputs_is_predicted_or_refused(x: Any) -> None:
    fuzz(x)
