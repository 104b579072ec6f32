"""Metric inputs joined over chunks of samples and over members, against those of all samples at once."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.functional.mixture import mixture_crps, mixture_interval_covers, mixture_quantile
from lightning_vi.functional.scoring import (
    brier_score,
    central_interval_covers,
    gaussian_mixture_crps,
    gaussian_mixture_quantile,
    mixture_log_prob,
)
from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    Quantiles,
    StudentT,
    join_chunks,
    join_members,
)

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "Gaussian": lambda: Gaussian([0.3, 1.7], 2),
    "heteroscedastic": lambda: HeteroscedasticGaussian(2),
    "quantiles": lambda: Quantiles(num_targets=2),
    "Student's t": lambda: StudentT(4.0, 0.5, 2),
    "Poisson": lambda: Poisson(2),
    "negative binomial": lambda: NegativeBinomial(0.5, 2, link="softplus"),
    "categorical": lambda: Categorical(3),
    "Bernoulli": lambda: Bernoulli(),
}
NUM_DATA = 6


@pytest.fixture(params=LIKELIHOODS.values(), ids=LIKELIHOODS)
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    made: Likelihood = request.param()
    return made


def outputs_and_target(likelihood: Likelihood, num_samples: int) -> tuple[Tensor, Tensor]:
    outputs = torch.randn(num_samples, NUM_DATA, likelihood.num_outputs)
    if likelihood.support == "classes":
        return outputs, torch.randint(likelihood.num_predictions, (NUM_DATA,))
    if likelihood.support == "counts":
        return outputs, torch.randint(6, (NUM_DATA, 2)).float()
    return outputs, torch.randn(NUM_DATA, 2)


def scores(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    target = inputs["target"]
    result = {"mean": inputs["preds"], "nll": -mixture_log_prob(inputs["log_prob"])}
    if "means" not in inputs:
        return result | {"brier": brier_score(inputs["preds"], target)}
    if "mixture" in inputs:
        mixture = inputs["mixture"]
        crps, quantiles = mixture_crps(mixture, target), mixture_quantile(mixture, [0.025, 0.975])
        return result | {"crps": crps, "quantiles": quantiles, "covers": mixture_interval_covers(mixture, target, 0.5)}
    components = inputs["means"], inputs["stds"]
    return result | {
        "crps": gaussian_mixture_crps(*components, target),
        "quantiles": gaussian_mixture_quantile(*components, [0.025, 0.975]),
        "covers": central_interval_covers(*components, target, 0.5),
    }


@pytest.mark.parametrize("sizes", [[7], [1, 6], [3, 2, 2], [1] * 7])
def test_chunks_have_the_scores_of_all_samples(likelihood: Likelihood, sizes: list[int]) -> None:
    outputs, target = outputs_and_target(likelihood, 7)
    expected = likelihood.metric_inputs(outputs, target)
    joined = join_chunks([likelihood.metric_inputs(chunk, target) for chunk in outputs.split(sizes)])
    assert joined.keys() == expected.keys()
    for name in expected.keys() - {"mixture"}:
        assert_close(joined[name], expected[name], rtol=1e-6, atol=1e-6)
    for name, score in scores(expected).items():
        assert_close(scores(joined)[name], score, rtol=1e-6, atol=1e-6)


def test_one_chunk_is_itself(likelihood: Likelihood) -> None:
    part = likelihood.metric_inputs(*outputs_and_target(likelihood, 3))
    joined = join_chunks([part])
    assert joined.keys() == part.keys()
    assert all(joined[name] is value for name, value in part.items())


def test_members_have_equal_weights(likelihood: Likelihood) -> None:
    """The scores are those of all samples, each repeated so that every member has the same number of them."""
    outputs, target = outputs_and_target(likelihood, 5)
    few, many = outputs.split([2, 3])
    repeated = torch.cat([few.repeat(3, 1, 1), many.repeat(2, 1, 1)])
    expected = likelihood.metric_inputs(repeated, target)
    joined = join_members([likelihood.metric_inputs(chunk, target) for chunk in (few, many)])
    assert joined["log_prob"].shape == (2, NUM_DATA)
    assert joined.keys() == expected.keys()
    for name, score in scores(expected).items():
        assert_close(scores(joined)[name], score, rtol=1e-5, atol=1e-6)
    with pytest.raises(AssertionError):
        assert_close(scores(likelihood.metric_inputs(outputs, target))["nll"], scores(expected)["nll"])


def test_the_density_of_an_ensemble_is_the_mean_over_members() -> None:
    likelihood = Gaussian(0.5)
    outputs, target = torch.randn(5, NUM_DATA, 1), torch.randn(NUM_DATA, 1)
    members = outputs.split([1, 4])
    densities = [likelihood.log_prob(member, target).exp().mean(0) for member in members]
    joined = join_members([likelihood.metric_inputs(member, target) for member in members])
    assert_close(joined["log_prob"].exp().mean(0), torch.stack(densities).mean(0))
    means = torch.stack([member.mean(0) for member in members])
    assert_close(joined["preds"], means.mean(0))


def test_members_with_different_likelihoods_are_a_mixture_of_both() -> None:
    gaussian, student = Gaussian(0.5), StudentT(4.0, 0.5)
    first, second = torch.randn(2, NUM_DATA, 1), torch.randn(4, NUM_DATA, 1)
    target = torch.randn(NUM_DATA, 1)
    joined = join_members([gaussian.metric_inputs(first, target), student.metric_inputs(second, target)])
    values = torch.linspace(-3, 3, 5).view(5, 1, 1).expand(5, NUM_DATA, 1)
    normal = torch.distributions.Normal(first, 0.5)
    mixture = student.mixture(second)
    expected = 0.5 * normal.cdf(values.unsqueeze(1)).mean(1) + 0.5 * mixture.cdf(values)
    assert_close(joined["mixture"].cdf(values), expected)
    np.testing.assert_array_equal(joined["mixture"].means, joined["means"])
