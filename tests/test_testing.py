"""Each shipped check catches the flaw that it is for, and no other check does."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import copy_of_state, same_state
from torch import Tensor, nn

from lightning_vi import Deterministic, Ensemble, Laplace, LastLayerVI, MeanFieldVI, TemperatureScaling, VarianceScaling
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, Prediction
from lightning_vi.methods import UQMethod
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.testing import ContractError, check_method, checks

ROWS = 6


class PredictFlaw(MeanFieldVI):
    """A method that changes its prediction."""

    def predict(
        self, x: Any, num_samples: int | None = None, seed: int | None = None, return_samples: bool = False
    ) -> Prediction:
        return self.change(super().predict(x, num_samples, seed, return_samples))

    def change(self, prediction: Prediction) -> Prediction:
        return prediction


class FurtherKey(MeanFieldVI):
    def predict_step(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        result = super().predict_step(*args, **kwargs)
        return result | {"std": result["pred_uct"]}


class FlatValues(PredictFlaw):
    def change(self, prediction: Prediction) -> Prediction:
        if prediction.metadata["num_samples"] == 1:
            return prediction
        names = ("mean", "epistemic_var", "aleatoric_var", "total_var")
        samples = None if prediction.samples is None else prediction.samples.squeeze(-1)
        return replace(prediction, samples=samples, **{name: getattr(prediction, name).squeeze(-1) for name in names})


class TotalWithoutEpistemic(PredictFlaw):
    def change(self, prediction: Prediction) -> Prediction:
        return replace(prediction, total_var=prediction.aleatoric_var)


class TakesListsForInputs(MeanFieldVI):
    def predict_step(self, batch: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return super().predict_step(torch.cat(batch, 1)[:, 1:] if isinstance(batch, list) else batch, *args, **kwargs)


class ShiftedDictionary(MeanFieldVI):
    def predict_step(self, batch: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        result = super().predict_step(batch, *args, **kwargs)
        return result | {"pred": result["pred"] + 0.1}


class AlwaysFloat32(MeanFieldVI):
    def predict_step(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {key: value.float() for key, value in super().predict_step(*args, **kwargs).items()}


class NanAtOneSample(PredictFlaw):
    def change(self, prediction: Prediction) -> Prediction:
        if prediction.metadata["num_samples"] > 1:
            return prediction
        return replace(prediction, epistemic_var=prediction.epistemic_var / 0)


class AtLeastOneSample(PredictFlaw):
    def predict(self, x: Any, num_samples: int | None = None, *args: Any, **kwargs: Any) -> Prediction:
        return super().predict(x, None if num_samples is None else max(1, num_samples), *args, **kwargs)


class UnbiasedVariance(PredictFlaw):
    def change(self, prediction: Prediction) -> Prediction:
        size = prediction.metadata["num_samples"]
        epistemic = prediction.epistemic_var * size / max(1, size - 1)
        return replace(prediction, epistemic_var=epistemic, total_var=epistemic + prediction.aleatoric_var)


class SeededByTheGlobalSeed(MeanFieldVI):
    def sampled_outputs(self, x: Any, num_samples: int, seed: int) -> Iterator[Tensor]:
        return super().sampled_outputs(x, num_samples, seed + torch.initial_seed() % 100)


class NoiseDependsOnTheRows(MeanFieldVI):
    def sampled_outputs(self, x: Any, num_samples: int, seed: int) -> Iterator[Tensor]:
        return super().sampled_outputs(x, num_samples, seed + len(x))


class NoiseDependsOnTheNumberOfSamples(MeanFieldVI):
    def sampled_outputs(self, x: Any, num_samples: int, seed: int) -> Iterator[Tensor]:
        return super().sampled_outputs(x, num_samples, seed + num_samples)


class UsesGlobalRandomNumbers(PredictFlaw):
    def change(self, prediction: Prediction) -> Prediction:
        torch.rand(())
        return prediction


class EvaluatesForGood(MeanFieldVI):
    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        prediction = super().predict(*args, **kwargs)
        self.eval()
        return prediction


class ModesAreLostInAnException(MeanFieldVI):
    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        training = [module for module in self.modules() if module.training]
        self.eval()
        prediction = super().predict(*args, **kwargs)
        for module in training:
            module.training = True
        return prediction


class ElboOnGlobalNoise(MeanFieldVI):
    def elbo(self, x: Any, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        return self.objective(x, y, num_data=num_data, kl_weight=1.0)[1]


class ElboEvaluatesInAnException(MeanFieldVI):
    def elbo(self, x: Any, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        training = [module for module in self.modules() if module.training]
        self.eval()
        terms = super().elbo(x, y, num_data=num_data)
        for module in training:
            module.training = True
        return terms


class DivergenceOfTheWholeSet(MeanFieldVI):
    def elbo(self, x: Any, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        _, nll, kl = super().elbo(x, y, num_data=num_data)
        return ObjectiveTerms(nll + kl, nll, kl)


class AveragedDivergence(MeanFieldVI):
    def elbo(self, x: Any, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        loss, nll, kl = super().elbo(x, y, num_data=num_data)
        return ObjectiveTerms(loss, nll, kl / self.conversion.num_stochastic)


class DetachedLoss(MeanFieldVI):
    def elbo(self, x: Any, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        loss, nll, kl = super().elbo(x, y, num_data=num_data)
        return ObjectiveTerms(loss.detach() + 0.0 * next(self.parameters()).sum(), nll, kl)


class Scaled(PredictFlaw):
    """Has a fitted factor of its noise."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("factor", torch.tensor(2.0))

    def change(self, prediction: Prediction) -> Prediction:
        aleatoric = prediction.aleatoric_var * self.factor
        return replace(prediction, aleatoric_var=aleatoric, total_var=prediction.epistemic_var + aleatoric)


class SharesTheFactorWithCopies(Scaled):
    def __deepcopy__(self, memo: dict[int, Any]) -> "SharesTheFactorWithCopies":
        memo[id(self.factor)] = self.factor
        memo[id(self)] = twin = type(self).__new__(type(self))
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return twin


class HoldsAFunction(MeanFieldVI):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.function = lambda x: x


class FactorOutsideTheStateDictionary(Scaled):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("factor", torch.tensor(2.0), persistent=False)


class ForwardSamples(MeanFieldVI):
    def forward(self, x: Any) -> Tensor:
        return super().forward(x) + torch.randn(())


class ScoresOfOtherInputs(MeanFieldVI):
    def test_step(self, batch: Any, *args: Any, **kwargs: Any) -> None:
        super().test_step(batch | {"input": batch["input"] + 1}, *args, **kwargs)


class OtherNoiseInATrainer(MeanFieldVI):
    def on_predict_start(self) -> None:
        self.noise.seed += 1


FLAWS: dict[str, list[type[UQMethod]]] = {
    "check_keys": [FurtherKey],
    "check_values": [FlatValues],
    "check_decomposition": [TotalWithoutEpistemic],
    "check_batches": [TakesListsForInputs],
    "check_result": [ShiftedDictionary],
    "check_float64": [AlwaysFloat32],
    "check_one_sample": [NanAtOneSample],
    "check_num_samples": [AtLeastOneSample],
    "check_samples": [UnbiasedVariance],
    "check_seed": [SeededByTheGlobalSeed],
    "check_row_splits": [NoiseDependsOnTheRows],
    "check_more_samples": [NoiseDependsOnTheNumberOfSamples],
    "check_predict_changes_nothing": [UsesGlobalRandomNumbers, EvaluatesForGood],
    "check_failed_predict_changes_nothing": [ModesAreLostInAnException],
    "check_elbo_changes_nothing": [ElboOnGlobalNoise],
    "check_failed_elbo_changes_nothing": [ElboEvaluatesInAnException],
    "check_elbo": [DivergenceOfTheWholeSet, AveragedDivergence],
    "check_gradients": [DetachedLoss],
    "check_deepcopy": [SharesTheFactorWithCopies],
    "check_pickle": [HoldsAFunction],
    "check_state_dict": [FactorOutsideTheStateDictionary],
    "check_forward": [ForwardSamples],
    "check_scores": [ScoresOfOtherInputs],
    "check_trainer_predict": [OtherNoiseInATrainer],
}


def regression() -> tuple[Tensor, Tensor]:
    return torch.randn(ROWS, 2), torch.randn(ROWS, 1)


def failures(method: UQMethod, x: Any, y: Tensor) -> Iterator[ContractError]:
    for check in checks():
        try:
            check(method, x, y)
        except ContractError as error:
            yield error


def test_every_check_has_a_flaw_a_docstring_and_a_name() -> None:
    assert [check.__name__ for check in checks()] == list(FLAWS)
    assert all(check.__doc__ for check in checks())


PAIRS = [(flawed, check) for check, methods in FLAWS.items() for flawed in methods]


@pytest.mark.parametrize(("flawed", "check"), PAIRS, ids=[flawed.__name__ for flawed, _ in PAIRS])
def test_a_flaw_is_caught_by_its_check_alone(flawed: type[UQMethod], check: str) -> None:
    method: Any = flawed(MLP(2, [4], 1), Gaussian(), num_mc_samples_test=5, init_std=0.05)
    errors = list(failures(method, *regression()))
    assert [error.check for error in errors] == [check], "\n".join(map(str, errors))


def test_check_method_raises_the_first_error_and_leaves_everything_as_it_was() -> None:
    method, (x, y) = FurtherKey(MLP(2, [4], 1), Gaussian()), regression()
    state, random_state = copy_of_state(method), torch.get_rng_state()
    with pytest.raises(ContractError, match=r"check_keys: predict_step returned the keys \['aleatoric_uct',") as caught:
        check_method(method, x, y)
    assert caught.value.check == "check_keys"
    assert same_state(copy_of_state(method), state)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert pickle.loads(pickle.dumps(caught.value)).observed == caught.value.observed


def test_an_exception_breaks_the_contract() -> None:
    with pytest.raises(ContractError, match="check_keys: NotFittedError: Laplace cannot predict before it is fitted"):
        check_method(Laplace(MLP(2, [4], 1), Gaussian()), *regression())


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        output: Tensor = self.first(first) + self.second(second).tanh()
        return output


def test_networks_with_several_inputs_pass() -> None:
    first, second, y = torch.randn(ROWS, 2), torch.randn(ROWS, 3), torch.randn(ROWS, 1)
    check_method(MeanFieldVI(TwoInputs(), Gaussian()), (first, second), y)
    check_method(Deterministic(TwoInputs(), Gaussian()), {"first": first, "second": second}, y)


def test_calibrated_methods_and_ensembles_pass() -> None:
    x, y = regression()
    method = MeanFieldVI(MLP(2, [4], 1), Gaussian())
    method.is_trained = True
    scaled = VarianceScaling(method)
    scaled.calibrate([(x, y)])
    check_method(scaled, x, y)
    check_method(Ensemble([method, LastLayerVI(MLP(2, [4], 1), Gaussian())]), x, y)
    labels = torch.arange(ROWS) % 3
    tempered = TemperatureScaling(Deterministic(MLP(2, [4], 3).requires_grad_(False), Categorical(3)))
    tempered.calibrate([(x, labels)])
    check_method(tempered, x, labels)
