"""Predictive distributions: one run of the network for all questions, and memory that does not grow with S."""

import math
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import fit, loader, quiet_trainer
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.testing import assert_close

from lightning_vi import DeepEnsemble, Deterministic, Ensemble, MeanFieldVI, TemperatureScaling
from lightning_vi.backbones import MLP
from lightning_vi.core import GaussianPredictive, MixturePredictive, SampledPredictive, TransformedPredictive
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, StudentT
from lightning_vi.sampling import memory

SAMPLES, ROWS = 6, 5


class Source:
    """Yields outputs in chunks, counts its runs, and fails if a chunk before the previous one is still alive."""

    def __init__(self, outputs: Tensor, chunk: int = 2, *, streams: bool = False) -> None:
        self.outputs = outputs
        self.chunk = chunk
        self.streams = streams
        self.num_runs = 0

    def __call__(self) -> Iterator[Tensor]:
        self.num_runs += 1
        earlier: list[Any] = []
        for part in self.outputs.split(self.chunk):
            own = part.clone()
            if self.streams:
                assert all(chunk() is None for chunk in earlier[:-1]), "an earlier chunk is kept"
            earlier.append(weakref.ref(own))
            yield own
            del own


def test_classification_streams_over_samples() -> None:
    logits, target = torch.randn(SAMPLES, ROWS, 3), torch.tensor([0, 2, 1, 1, 0])
    source = Source(logits, streams=True)
    predictive = SampledPredictive(Categorical(3), source)
    inputs = predictive.metric_inputs(target)
    probs = logits.softmax(-1)
    assert_close(inputs["preds"], probs.mean(0))
    assert_close(inputs["log_prob"], CategoricalDistribution(logits=logits).log_prob(target))
    prediction = predictive.prediction()
    assert_close(prediction.mean, probs.mean(0))
    assert_close(prediction.epistemic_var, probs.var(0, correction=0))
    assert prediction.metadata == {"num_samples": SAMPLES}


def test_log_probs_are_not_rounded_probabilities() -> None:
    logits = torch.tensor([[[0.0, -200.0]], [[0.0, -190.0]]])
    log_probs = SampledPredictive(Categorical(2), Source(logits)).log_probs()
    expected = torch.tensor([[0.0, math.log(0.5 * (1 + math.exp(-10))) - 190]])
    assert_close(log_probs, expected)
    assert (log_probs.exp()[0, 1] == 0).all()  # a probability would have lost it


def test_log_probs_and_the_prediction_cost_one_run() -> None:
    source = Source(torch.randn(SAMPLES, ROWS, 3))
    predictive = SampledPredictive(Categorical(3), source)
    log_probs = predictive.log_probs()
    assert_close(log_probs.exp(), predictive.prediction().mean)
    assert source.num_runs == 1
    assert predictive.prediction(return_samples=True).samples is not None
    assert source.num_runs == 2


def test_kept_outputs_answer_every_question() -> None:
    source = Source(torch.randn(SAMPLES, ROWS, 2))
    predictive = SampledPredictive(HeteroscedasticGaussian(), source)
    predictive.keep()
    predictive.keep()
    first, again = predictive.prediction(), predictive.prediction(return_samples=True)
    assert_close(first.mean, again.mean)
    assert predictive.metric_inputs(torch.zeros(ROWS, 1))["means"].shape == (SAMPLES, ROWS, 1)
    assert source.num_runs == 1


def test_chunks_give_what_one_chunk_gives() -> None:
    outputs, target = torch.randn(SAMPLES, ROWS, 2), torch.randn(ROWS, 1)
    whole, parts = (SampledPredictive(HeteroscedasticGaussian(), Source(outputs, size)) for size in (SAMPLES, 4))
    for name, value in whole.metric_inputs(target).items():
        assert_close(parts.metric_inputs(target)[name], value)
    assert_close(parts.prediction().total_var, whole.prediction().total_var)


def test_outputs_of_one_network_differ_by_aleatoric_uncertainty() -> None:
    outputs = torch.randn(2 * 3, ROWS, 1)
    predictive = SampledPredictive(Gaussian(0.5), Source(outputs, 6), outputs_per_network=3)
    prediction = predictive.prediction()
    by_network = outputs.view(2, 3, ROWS, 1)
    assert_close(prediction.epistemic_var, by_network.mean(1).var(0, correction=0))
    assert_close(prediction.aleatoric_var, by_network.var(1, correction=0).mean(0) + 0.25)


def test_a_closed_form_is_lazy_and_computed_once() -> None:
    calls: list[None] = []
    mean, std = torch.randn(ROWS, 1), torch.rand(ROWS, 1)
    source = Source(torch.randn(SAMPLES, ROWS, 1))

    def moments() -> tuple[Tensor, Tensor]:
        calls.append(None)
        return mean, std

    likelihood = Gaussian(0.5)
    predictive = GaussianPredictive(likelihood, moments, SampledPredictive(likelihood, source))
    assert not calls
    predictive.prediction(return_samples=True)
    assert not calls
    assert_close(predictive.prediction().total_var, std.square() + 0.25)
    target = torch.randn(ROWS, 1)
    expected = torch.distributions.Normal(mean, (std.square() + 0.25).sqrt()).log_prob(target)
    assert_close(predictive.metric_inputs(target)["log_prob"], expected.T)
    assert len(calls) == 1
    assert source.num_runs == 1


def test_a_mixture_weighs_its_parts_by_their_samples() -> None:
    logits, target = torch.randn(6, ROWS, 3), torch.tensor([0, 2, 1, 1, 0])
    likelihood = Categorical(3)
    parts = [SampledPredictive(likelihood, Source(own)) for own in logits.split([2, 4])]
    mixture = MixturePredictive(likelihood, parts, [2, 4])
    whole = SampledPredictive(likelihood, Source(logits, 6))
    assert_close(mixture.prediction().mean, whole.prediction().mean)
    assert_close(mixture.prediction().epistemic_var, whole.prediction().epistemic_var)
    assert_close(mixture.log_probs(), whole.log_probs())
    scores = [
        inputs["log_prob"].exp().mean(0) for inputs in (mixture.metric_inputs(target), whole.metric_inputs(target))
    ]
    assert_close(*scores)
    assert_close(mixture.metric_inputs(target)["preds"], whole.metric_inputs(target)["preds"])


def test_a_transformed_distribution_runs_the_network_once() -> None:
    from dataclasses import replace

    source = Source(torch.randn(SAMPLES, ROWS, 1))
    predictive = TransformedPredictive(
        SampledPredictive(Gaussian(0.5), source), lambda prediction: replace(prediction, lower=prediction.mean - 1)
    )
    inputs = predictive.metric_inputs(torch.zeros(ROWS, 1))
    assert_close(inputs["lower"], inputs["preds"] - 1)
    assert "upper" not in inputs
    assert source.num_runs == 1


@pytest.mark.parametrize("outputs", ["heteroscedastic", "classes", "calibrated classes"])
def test_rows_that_are_scored_in_parts_have_the_same_scores(outputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(20, 3)
    if outputs == "heteroscedastic":
        method: Any = MeanFieldVI(MLP(3, [4], 2), HeteroscedasticGaussian(), init_std=0.5)
        y = torch.randn(20, 1)
    else:
        method = MeanFieldVI(MLP(3, [4], 3), Categorical(3), init_std=0.5)
        y = torch.randint(0, 3, (20,))
    if outputs == "calibrated classes":
        method.is_trained = True
        method = TemperatureScaling(method)
        method.calibrate([(x, y)])
    data = loader(x, y, batch_size=20)
    (expected,) = quiet_trainer().test(method, data, verbose=False)
    sizes: list[int] = []
    original = method.make_predictive

    def watch(rows: Tensor, *arguments: Any) -> Any:
        sizes.append(len(rows))
        return original(rows, *arguments)

    monkeypatch.setattr(method, "make_predictive", watch)
    monkeypatch.setattr(memory, "MAX_SCORED_NUMBERS", 8 * 50 * method.likelihood.num_outputs)
    (found,) = quiet_trainer().test(method, data, verbose=False)
    assert sizes == [8, 8, 4]
    assert found == pytest.approx(expected, rel=1e-5)


def test_an_ensemble_uses_each_members_own_noise_without_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    ensemble = DeepEnsemble(MLP(3, [4], 1), StudentT(), num_members=3)
    fit(ensemble, loader(x, y), max_epochs=2)
    with torch.no_grad():
        for parameter in ensemble.likelihood.parameters():
            parameter.add_(torch.randn_like(parameter))
    members = Ensemble([ensemble.member(index) for index in range(3)])
    copies: list[None] = []
    monkeypatch.setattr("lightning_vi.core.members.unstack_network", lambda *_: copies.append(None))
    (ours,) = quiet_trainer().test(ensemble, loader(x, y), verbose=False)
    (theirs,) = quiet_trainer().test(members, loader(x, y), verbose=False)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert not copies
    assert_close(ensemble.predict(x, num_samples=2).total_var, members.predict(x, num_samples=2).total_var)


def test_a_predictor_holds_no_optimizer_of_its_own() -> None:
    calibrated = TemperatureScaling(Deterministic(nn.Linear(2, 3).requires_grad_(False), Categorical(3)))
    assert calibrated.configure_optimizers() == []
    x, y = torch.randn(12, 2), torch.randint(0, 3, (12,))
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(calibrated, loader(x, y, batch_size=4))
    assert trainer.optimizers == []
    assert trainer.global_step == 6
