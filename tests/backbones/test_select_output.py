"""Networks whose output is not a tensor: which tensor is used, and what an error says where that is unclear."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from helpers import fit, loader, normal
from methods.method_cases import METHODS, PROBLEMS, Case
from torch import Tensor, nn

from lightning_vi import Deterministic
from lightning_vi.backbones import SelectOutput, selected_output
from lightning_vi.errors import InputTypeError
from lightning_vi.likelihoods import Gaussian


class ModelOutput(OrderedDict[str, Any]):
    """As in transformers: entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class Pair(NamedTuple):
    logits: Tensor
    auxiliary: Tensor


@dataclass
class Fields:
    logits: Tensor
    attentions: Tensor | None = None


class Wrapped(nn.Module):
    """Returns a network's output in another form."""

    def __init__(self, network: nn.Module, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network = network
        self.form = form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.network(x))


def wrong(y: Tensor) -> Tensor:
    return y.detach()[:, :0]


FORMS: dict[str, Callable[[Tensor], Any]] = {
    "ModelOutput": lambda y: ModelOutput(loss=None, logits=y, hidden_states=(wrong(y),)),
    "named tuple": lambda y: Pair(y, wrong(y)),
    "dataclass": Fields,
    "tuple of one": lambda y: (y,),
    "dictionary of one": lambda y: {"out": y},
}
SELECTED: dict[str, tuple[str | int, Callable[[Tensor], Any]]] = {
    "key": ("out", lambda y: {"aux": wrong(y), "out": y}),
    "field": ("logits", lambda y: Fields(y, wrong(y))),
    "field by position": (1, lambda y: Pair(wrong(y), y)),
    "position": (0, lambda y: (y, wrong(y))),
    "last position": (-1, lambda y: [wrong(y), y]),
}


def case_of(method: str) -> Case:
    return Case(method, next(problem for problem in PROBLEMS if problem in METHODS[method].problems))


def predicted(case: Case, wrap: Callable[[nn.Module], nn.Module]) -> list[Tensor]:
    """Weighted predictions after a fit of two steps."""
    torch.manual_seed(0)
    options = {"dropout_module_names": ["*.0"]} if case.method_name == "MCDropout" else {}
    method = case.method.make(wrap(case.backbone()), case.problem.likelihood(), **options)
    x, y = case.problem.data()
    fit(method, loader(x, y), max_epochs=2)
    prediction = method.predict(x)
    return [prediction.mean, prediction.epistemic_var, method.predict(x, return_samples=True).samples]  # type: ignore[list-item]


@pytest.mark.filterwarnings("ignore:.*has no snapshot.*")
@pytest.mark.parametrize(
    "name", ["Deterministic", "MeanFieldVI", "FullRankVI", "Laplace", "Laplace, all layers", "SWAG", "DeepEnsemble"]
)
def test_methods_use_the_logits(name: str, tally: Callable[..., None]) -> None:
    case = case_of(name)
    expected = predicted(case, lambda network: Wrapped(network, lambda y: y))
    wraps = [lambda network, form=form: Wrapped(network, form) for form in FORMS.values()]
    for wrap in wraps:
        for value, reference in zip(predicted(case, wrap), expected, strict=True):
            torch.testing.assert_close(value, reference, rtol=0, atol=0)
    tally("outputs that are no tensor", name, tried=len(wraps), right=len(wraps))


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*has no snapshot.*")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_selected_output(name: str, tally: Callable[..., None]) -> None:
    case = case_of(name)
    expected = predicted(case, lambda network: SelectOutput(Wrapped(network, lambda y: (y,)), 0))
    for key, form in SELECTED.values():
        for value, reference in zip(
            predicted(case, lambda network: SelectOutput(Wrapped(network, form), key)),  # noqa: B023
            expected,
            strict=True,
        ):
            torch.testing.assert_close(value, reference, rtol=0, atol=0)
    tally("outputs that are no tensor", name, tried=len(SELECTED), right=len(SELECTED))


@pytest.mark.parametrize(("key", "form"), SELECTED.values(), ids=SELECTED)
def test_select_output(key: str | int, form: Callable[[Tensor], Any]) -> None:
    network = nn.Linear(3, 2)
    x = normal(4, 3)
    assert torch.equal(SelectOutput(Wrapped(network, form), key)(x), network(x))


def test_select_output_passes_the_inputs_on_as_its_network_takes_them() -> None:
    class Keywords(nn.Linear):
        def forward(self, *, first: Tensor, second: Tensor) -> Any:  # type: ignore[override]
            return super().forward(first), super().forward(second)

    class Dictionary(nn.Linear):
        def forward(self, batch: dict[str, Tensor]) -> Any:  # type: ignore[override]
            return super().forward(batch["first"]), super().forward(batch["second"])

    x = {"first": normal(4, 3), "second": normal(5, 3)[:4]}
    for kind in (Keywords, Dictionary):
        inner = kind(3, 1)
        method = Deterministic(SelectOutput(inner, 1), Gaussian(0.5))
        expected = nn.functional.linear(x["second"], inner.weight, inner.bias)
        torch.testing.assert_close(method.predict(x).mean, expected)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"out": torch.zeros(2, 1), "aux": None, "mask": torch.zeros(3)}, r"'out' \(a tensor \[2, 1\]\).*SelectOutput"),
        ((torch.zeros(2, 1), torch.zeros(2, 3)), r"a tuple with 0 .*, 1 .*SelectOutput"),
        ("text", "a str without a tensor$"),
        ({}, "a dict without a tensor$"),
        ({"text": "a"}, r"a dict with 'text' \(str\)$"),
        (None, "a NoneType without a tensor$"),
    ],
)
def test_unclear_outputs_are_refused_with_their_keys(output: Any, message: str) -> None:
    with pytest.raises(InputTypeError, match=message):
        selected_output(output)


@pytest.mark.parametrize("key", ["missing", 7, -3, -1, "aux"])
def test_missing_keys_are_refused(key: str | int) -> None:
    network = SelectOutput(Wrapped(nn.Linear(3, 1), lambda y: {"out": y, "aux": None}), key)
    with pytest.raises(InputTypeError, match=rf"key={key!r} is no tensor .*'out' \(a tensor \[4, 1\]\), 'aux'"):
        network(normal(4, 3))
