"""What every metric promises. A new metric adds one line to `CASES`."""

import copy
import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.metrics import (
    AURC,
    OODAUROC,
    Accuracy,
    BrierScore,
    ExcessAURC,
    ExpectedCalibrationError,
    GaussianMixtureCRPS,
    IntervalCoverage,
    IntervalWidth,
    MeanAbsoluteError,
    NegativeLogLikelihood,
    OODFalsePositiveRate,
    PredictionIntervalCoverage,
    PredictionIntervalWidth,
    PredictionSetCoverage,
    PredictionSetSize,
    R2Score,
    RootMeanSquaredError,
)

NUM_SAMPLES, NUM_DATA, NUM_TARGETS, NUM_CLASSES = 4, 23, 2, 3
Batch = dict[str, Tensor]

CASES: dict[str, tuple[Callable[[], Metric], str]] = {
    "accuracy": (lambda: Accuracy(NUM_CLASSES), "classification"),
    "accuracy of pixels": (lambda: Accuracy(NUM_CLASSES), "spatial"),
    "brier": (lambda: BrierScore(NUM_CLASSES), "classification"),
    "brier of pixels": (lambda: BrierScore(NUM_CLASSES), "spatial"),
    "ece": (lambda: ExpectedCalibrationError(NUM_CLASSES), "classification"),
    "ece of pixels": (lambda: ExpectedCalibrationError(NUM_CLASSES), "spatial"),
    "nll": (NegativeLogLikelihood, "regression"),
    "nll of pixels": (NegativeLogLikelihood, "spatial"),
    "crps": (GaussianMixtureCRPS, "regression"),
    "coverage": (lambda: IntervalCoverage(0.8), "regression"),
    "width": (lambda: IntervalWidth(0.8), "regression"),
    "coverage of given intervals": (PredictionIntervalCoverage, "intervals"),
    "width of given intervals": (PredictionIntervalWidth, "intervals"),
    "coverage of sets": (PredictionSetCoverage, "sets"),
    "size of sets": (PredictionSetSize, "sets"),
    "coverage of sets of pixels": (PredictionSetCoverage, "sets of pixels"),
    "size of sets of pixels": (PredictionSetSize, "sets of pixels"),
    "rmse": (RootMeanSquaredError, "regression"),
    "mae": (MeanAbsoluteError, "regression"),
    "r2": (lambda: R2Score(NUM_TARGETS), "regression"),
    "aurc": (AURC, "selective"),
    "excess aurc": (ExcessAURC, "selective"),
    "ood auroc": (OODAUROC, "detection"),
    "ood fpr": (lambda: OODFalsePositiveRate(0.9), "detection"),
}


def make_data(kind: str, seed: int = 0, num_data: int = NUM_DATA) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    if kind == "regression":
        means = torch.randn(NUM_SAMPLES, num_data, 3, NUM_TARGETS, generator=generator)
        target = means.mean(0) + torch.randn(num_data, 3, NUM_TARGETS, generator=generator)
        stds = 0.3 + torch.rand(means.shape, generator=generator)
        log_prob = torch.distributions.Normal(means, stds).log_prob(target).sum((-2, -1))
        return {"log_prob": log_prob, "means": means, "stds": stds, "preds": means.mean(0), "target": target}
    if kind in {"selective", "detection"}:
        scores = torch.randint(9, (num_data,), generator=generator) / 8
        is_out = torch.rand(num_data, generator=generator) < 0.2 + 0.6 * scores
        is_out[:2] = torch.tensor([True, False])
        return {"uncertainty": scores, "loss": is_out.float(), "scores": scores, "target": is_out}
    if kind == "intervals":
        lower, width, target = torch.randn(3, num_data, 3, NUM_TARGETS, generator=generator)
        return {"lower": lower, "upper": lower + 3 * width.abs(), "target": target}
    if kind.startswith("sets"):
        pixels = (2, 5) if kind == "sets of pixels" else ()
        pred_set = torch.rand(num_data, NUM_CLASSES, *pixels, generator=generator) < 0.6
        return {"pred_set": pred_set, "target": torch.randint(NUM_CLASSES, (num_data, *pixels), generator=generator)}
    pixels = (2, 5) if kind == "spatial" else ()
    logits = torch.randn(NUM_SAMPLES, num_data, NUM_CLASSES, *pixels, generator=generator)
    target = torch.randint(NUM_CLASSES, (num_data, *pixels), generator=generator)
    log_prob = logits.log_softmax(2).gather(2, target.expand(NUM_SAMPLES, *target.shape).unsqueeze(2)).squeeze(2)
    return {"log_prob": log_prob, "preds": logits.softmax(2).mean(0), "target": target}


def rows(data: Batch, start: int, stop: int) -> Batch:
    sampled = {"log_prob", "means", "stds"}
    return {k: v[:, start:stop] if k in sampled else v[start:stop] for k, v in data.items()}


def update(metric: Metric, data: Batch) -> Metric:
    metric.update(**metric._filter_kwargs(**data))
    return metric


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def gathered_state(metric: Metric, name: str) -> Tensor:
    """What a rank sends: torchmetrics joins the batches of a list first, and has an empty tensor for none."""
    state = getattr(metric, name)
    return torch.cat([torch.tensor([], dtype=metric.dtype), *state]) if isinstance(state, list) else state


@pytest.fixture(params=CASES, name="case")
def fixture_case(request: pytest.FixtureRequest) -> tuple[Callable[[], Metric], Batch]:
    factory, kind = CASES[request.param]
    return factory, make_data(kind)


def test_value_is_a_finite_float32_scalar(case) -> None:
    factory, data = case
    value = update(factory(), data).compute()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()


@pytest.mark.parametrize("cuts", [[0, 1, 2, 9, 23], [0, 16, 23], [0, 0, 23, 23]])
def test_ragged_and_empty_batches_equal_one_update(case, cuts: list[int]) -> None:
    factory, data = case
    metric = factory()
    for start, stop in itertools.pairwise(cuts):
        update(metric, rows(data, start, stop))
    same(metric.compute(), update(factory(), data).compute())


def test_reset_forgets(case) -> None:
    factory, data = case
    metric = update(factory(), rows(data, 0, 9))
    metric.reset()
    same(update(metric, rows(data, 9, 23)).compute(), update(factory(), rows(data, 9, 23)).compute())


def test_forward_returns_the_batch_value_and_accumulates(case) -> None:
    factory, data = case
    metric = factory()
    for start, stop in [(0, 10), (10, 23)]:
        batch = rows(data, start, stop)
        same(metric(**metric._filter_kwargs(**batch)), update(factory(), batch).compute())
    same(metric.compute(), update(factory(), data).compute())


def test_merged_states_equal_one_metric(case) -> None:
    factory, data = case
    metric = update(factory(), rows(data, 0, 5))
    metric.merge_state(update(factory(), rows(data, 5, 23)))
    same(metric.compute(), update(factory(), data).compute())


def test_ranks_of_unequal_share_agree_with_one_metric(case) -> None:
    """Three ranks, one of them without data, through torchmetrics' own gather-and-reduce."""
    factory, data = case
    ranks = [update(factory(), rows(data, 0, 4)), update(factory(), rows(data, 4, 23)), factory()]
    metric = ranks[0]
    states = [[gathered_state(rank, name) for rank in ranks] for name in metric._reductions]
    gathered = iter(states)
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda tensor, group: next(gathered)
    same(metric.compute(), update(factory(), data).compute())
    metric.distributed_available_fn = lambda: False
    metric._computed = None
    same(metric.compute(), update(factory(), rows(data, 0, 4)).compute())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_keep_the_state_and_go_their_own_way(case, copied) -> None:
    factory, data = case
    metric = update(factory(), rows(data, 0, 9))
    twin = copied(metric)
    same(update(twin, rows(data, 9, 23)).compute(), update(factory(), data).compute())
    same(metric.compute(), update(factory(), rows(data, 0, 9)).compute())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_scored_as_what_they_hold(case, dtype: torch.dtype) -> None:
    factory, data = case
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in data.items()}
    widened = {k: v.float() if v.is_floating_point() else v for k, v in cast.items()}
    value = update(factory(), cast).compute()
    assert value.dtype == torch.float32
    same(value, update(factory(), widened).compute())


def test_double_states_keep_double_precision(case) -> None:
    factory, data = case
    double = {k: v.double() if v.is_floating_point() else v for k, v in data.items()}
    metric = update(factory().set_dtype(torch.float64), double)
    assert metric.compute().dtype == torch.float64
    same(metric.compute().float(), update(factory(), data).compute())


def test_network_precision_does_not_touch_the_state(case) -> None:
    factory, data = case
    network = torch.nn.Module()
    network.metric = factory()
    network.half()
    same(update(network.metric, data).compute(), update(factory(), data).compute())


def test_never_looks_at_values(case) -> None:
    """Tensors without data can be scored only if nothing waits for a value; and the state follows `.to`."""
    factory, data = case
    metric = factory().to("meta")
    update(metric, {k: v.to("meta") for k, v in data.items()})
    if not isinstance(metric, OODAUROC):  # which takes the two kinds of data apart in the end
        assert metric.compute().device.type == "meta"
    metric.reset()
    states = [getattr(metric, name) for name in metric._defaults]
    assert all(state.device.type == "meta" for state in states if isinstance(state, Tensor))


def test_state_that_was_reset_in_inference_mode_can_be_used_outside(case) -> None:
    factory, data = case
    metric = factory()
    with torch.inference_mode():
        update(metric, data)
        metric.reset()
    same(update(metric, data).compute(), update(factory(), data).compute())


def test_holds_no_graph(case) -> None:
    factory, data = case
    metric = update(factory(), {k: v.requires_grad_() if v.is_floating_point() else v for k, v in data.items()})
    assert not metric.compute().requires_grad


def test_nothing_added_is_nan(case) -> None:
    factory, _ = case
    metric = factory()
    with pytest.warns(UserWarning, match="called before"):
        value = metric.compute()
    assert value.isnan()


def test_states_are_tensors_of_fixed_size_or_two_numbers_for_each_datum(case) -> None:
    factory, data = case
    metric = factory()
    if isinstance(metric, AURC | OODAUROC):
        update(metric, data)
        states = [getattr(metric, name) for name in metric._defaults]
        assert [(state.shape, state.dtype) for (state,) in states] == [((NUM_DATA,), torch.float32)] * 2
        return
    before = {name: getattr(metric, name).shape for name in metric._defaults}
    update(metric, data)
    assert before
    assert {name: getattr(metric, name).shape for name in metric._defaults} == before


def test_flags(case) -> None:
    factory, _ = case
    metric = factory()
    assert metric.full_state_update is False
    assert metric.is_differentiable is False
    neither = dict.fromkeys((IntervalCoverage, PredictionIntervalCoverage, PredictionSetCoverage))
    expected = {Accuracy: True, R2Score: True, OODAUROC: True, **neither}.get(type(metric), False)
    assert metric.higher_is_better is expected
