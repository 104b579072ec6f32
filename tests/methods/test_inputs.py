"""Networks with several inputs, in every form in which a batch can hold them."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import fit, normal, quiet_trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_vi import Deterministic, LastLayerVI, MeanFieldVI, MeanVarianceEstimation
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import UQMethod
from lightning_vi.sampling import NetworkInput

FIRST, SECOND = normal(24, 3), normal(24, 2, 2)
TARGET = FIRST[:, :1] - SECOND[:, 0, :1]


class TwoInputs(nn.Module):
    """Adds features of each input."""

    def __init__(self, num_outputs: int = 1) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.second = nn.Linear(4, 8)
        self.head = nn.Linear(8, num_outputs)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        output: Tensor = self.head((self.first(first) + self.second(second.flatten(1))).tanh())
        return output


class OneDictionary(TwoInputs):
    """Takes both inputs in one dictionary."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["first"], batch["second"])


def as_tuple(first: Tensor, second: Tensor) -> NetworkInput:
    return first, second


def as_keywords(first: Tensor, second: Tensor) -> NetworkInput:
    return {"second": second, "first": first}


FORMS: dict[str, tuple[type[TwoInputs], Callable[[Tensor, Tensor], NetworkInput]]] = {
    "tuple": (TwoInputs, as_tuple),
    "keywords": (TwoInputs, as_keywords),
    "one dictionary": (OneDictionary, as_keywords),
}

METHODS: dict[str, Callable[[type[TwoInputs]], UQMethod]] = {
    "MeanFieldVI": lambda network: MeanFieldVI(network(), Gaussian(), num_data=24, num_mc_samples_test=5),
    "LastLayerVI": lambda network: LastLayerVI(network(), Gaussian(), num_data=24),
    "last layer, sampled": lambda network: LastLayerVI(network(2), HeteroscedasticGaussian(), num_data=24),
    "Deterministic": lambda network: Deterministic(network(), Gaussian()),
    "MeanVarianceEstimation": lambda network: MeanVarianceEstimation(network(2), HeteroscedasticGaussian()),
}


class Rows(Dataset[Any]):
    """Input and target of each datum, the input in a given form."""

    def __init__(self, form: Callable[[Tensor, Tensor], NetworkInput]) -> None:
        self.form = form

    def __len__(self) -> int:
        return len(TARGET)

    def __getitem__(self, index: int) -> Any:
        return {"input": self.form(FIRST[index], SECOND[index]), "target": TARGET[index]}


@pytest.mark.parametrize("name", METHODS)
def test_the_form_of_the_input_changes_nothing(name: str) -> None:
    results = []
    for network, form in FORMS.values():
        torch.manual_seed(0)
        method = METHODS[name](network)
        loss = method.elbo(form(FIRST, SECOND), TARGET).loss
        results.append([loss, *method.predict_step({"input": form(FIRST, SECOND)}).values()])
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])
    assert results[0][1].shape == (24, 1)


@pytest.mark.parametrize(("name", "form"), list(zip(METHODS, itertools.cycle(FORMS))))
def test_every_form_of_the_input_trains_and_predicts(name: str, form: str) -> None:
    network, make_input = FORMS[form]
    torch.manual_seed(0)
    method = METHODS[name](network)
    data: DataLoader[Any] = DataLoader(Rows(make_input), batch_size=8, shuffle=True)
    history = fit(method, data, max_epochs=15)
    assert history["train_nll"][-1] < history["train_nll"][0]
    ordered: DataLoader[Any] = DataLoader(Rows(make_input), batch_size=7)
    batches = quiet_trainer().predict(method, ordered)
    assert batches is not None
    together = method.predict_step({"input": make_input(FIRST, SECOND)})
    for key, value in together.items():
        torch.testing.assert_close(torch.cat([batch[key] for batch in batches]), value, rtol=1e-4, atol=1e-5)
    (scores,) = quiet_trainer().test(method, ordered, verbose=False)
    assert all(torch.tensor(score).isfinite() for score in scores.values())


@pytest.mark.parametrize("position", [0, 1])
def test_a_missing_value_in_any_input_is_refused(position: int) -> None:
    parts = [FIRST.clone(), SECOND.clone()]
    parts[position][5] = torch.nan
    batches: Any = [((parts[0], parts[1]), TARGET)]
    data: DataLoader[Any] = DataLoader(batches, batch_size=None)
    with pytest.raises(ValueError, match="training inputs have NaN or infinite values"):
        fit(METHODS["MeanFieldVI"](TwoInputs), data)


def test_an_input_without_tensors_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be a tensor, a NumPy array, .* got a dict"):
        METHODS["MeanFieldVI"](TwoInputs).predict({"first": 1.0})
