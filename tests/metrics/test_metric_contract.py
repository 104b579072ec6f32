"""Contract of all metrics. A new metric adds one line to `CASES`."""

import itertools
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.metrics import (
    AUGRC,
    AURC,
    AUROC,
    AUSE,
    OODAUROC,
    Accuracy,
    AdaptiveCalibrationError,
    AveragePrecision,
    BrierDecomposition,
    BrierScore,
    ClassDistance,
    ClasswiseCalibrationError,
    CoverageAtRisk,
    EpistemicShare,
    ExactMatch,
    ExcessAURC,
    ExpectedCalibrationError,
    F1Score,
    GaussianMixtureCRPS,
    ImageCoverage,
    IntervalCoverage,
    IntervalScore,
    IntervalWidth,
    LabelF1Score,
    MaximumCalibrationError,
    MeanAbsoluteError,
    MeanIoU,
    MiscalibrationArea,
    MixtureCRPS,
    MutualInformation,
    NegativeLogLikelihood,
    OODAveragePrecision,
    OODFalsePositiveRate,
    PinballLoss,
    PredictionIntervalCoverage,
    PredictionIntervalScore,
    PredictionIntervalWidth,
    PredictionRegionCoverage,
    PredictionSetCoverage,
    PredictionSetRisk,
    PredictionSetSize,
    QuantileCalibrationError,
    R2Score,
    RankedProbabilityScore,
    RootMeanSquaredError,
    Sharpness,
    SizeStratifiedCoverage,
    SmoothCalibrationError,
    StoredScores,
)

NUM_SAMPLES, NUM_DATA, NUM_TARGETS, NUM_CLASSES = 4, 23, 2, 3
Batch = dict[str, Tensor]

CASES: dict[str, tuple[Callable[[], Metric], str]] = {
    "accuracy": (lambda: Accuracy(NUM_CLASSES), "classification"),
    "brier": (lambda: BrierScore(NUM_CLASSES), "pixels"),
    "ece": (lambda: ExpectedCalibrationError(NUM_CLASSES), "classification"),
    "nll": (NegativeLogLikelihood, "pixels"),
    "gaussian crps": (GaussianMixtureCRPS, "regression"),
    "crps": (MixtureCRPS, "regression"),
    "coverage": (lambda: IntervalCoverage(0.8), "regression"),
    "width": (lambda: IntervalWidth(0.8), "regression"),
    "coverage of given intervals": (PredictionIntervalCoverage, "intervals"),
    "width of given intervals": (PredictionIntervalWidth, "intervals"),
    "coverage of sets": (PredictionSetCoverage, "sets"),
    "size of sets": (PredictionSetSize, "sets"),
    "coverage of regions": (PredictionRegionCoverage, "intervals"),
    "risk of sets": (lambda: PredictionSetRisk(1), "sets"),
    "rmse": (RootMeanSquaredError, "regression"),
    "mae": (MeanAbsoluteError, "regression"),
    "r2": (lambda: R2Score(NUM_TARGETS), "regression"),
    "aurc": (AURC, "ranking"),
    "excess aurc": (ExcessAURC, "ranking"),
    "ood auroc": (OODAUROC, "ranking"),
    "ood aupr": (OODAveragePrecision, "ranking"),
    "ood fpr": (lambda: OODFalsePositiveRate(0.9), "ranking"),
    "augrc": (AUGRC, "ranking"),
    "coverage at risk": (lambda: CoverageAtRisk(0.4), "ranking"),
    "ause": (AUSE, "ranking"),
    "mce": (lambda: MaximumCalibrationError(NUM_CLASSES), "pixels"),
    "adaptive ece": (lambda: AdaptiveCalibrationError(NUM_CLASSES), "pixels"),
    "classwise ece": (lambda: ClasswiseCalibrationError(NUM_CLASSES), "pixels"),
    "smooth ece": (lambda: SmoothCalibrationError(NUM_CLASSES), "pixels"),
    "brier reliability": (lambda: BrierDecomposition(NUM_CLASSES), "pixels"),
    "brier resolution": (lambda: BrierDecomposition(NUM_CLASSES, "resolution"), "classification"),
    "brier uncertainty": (lambda: BrierDecomposition(NUM_CLASSES, "uncertainty"), "classification"),
    "auroc": (lambda: AUROC(NUM_CLASSES), "pixels"),
    "auprc": (lambda: AveragePrecision(NUM_CLASSES), "classification"),
    "f1": (lambda: F1Score(NUM_CLASSES), "pixels"),
    "mean iou": (lambda: MeanIoU(NUM_CLASSES), "pixels"),
    "image coverage": (lambda: ImageCoverage(0.5), "sets"),
    "class distance": (ClassDistance, "pixels"),
    "ranked probability score": (RankedProbabilityScore, "classification"),
    "exact match": (ExactMatch, "labels"),
    "f1 of labels": (lambda: LabelF1Score(3), "labels"),
    "mutual information": (MutualInformation, "uncertainty"),
    "epistemic share": (EpistemicShare, "uncertainty"),
    "interval score": (lambda: IntervalScore(0.8), "regression"),
    "interval score of given intervals": (lambda: PredictionIntervalScore(0.8), "intervals"),
    "pinball": (PinballLoss, "regression"),
    "quantile calibration": (QuantileCalibrationError, "regression"),
    "miscalibration area": (MiscalibrationArea, "regression"),
    "sharpness": (Sharpness, "regression"),
    "stratified coverage of intervals": (lambda: SizeStratifiedCoverage(3), "intervals"),
    "stratified coverage of sets": (lambda: SizeStratifiedCoverage(3), "sets"),
}
SPLITTING = AUROC, OODAUROC  # compute() splits the data by their values


def make_data(kind: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    if kind == "regression":
        means = torch.randn(NUM_SAMPLES, NUM_DATA, 3, NUM_TARGETS, generator=generator)
        target = means.mean(0) + torch.randn(NUM_DATA, 3, NUM_TARGETS, generator=generator)
        stds = 0.3 + torch.rand(means.shape, generator=generator)
        return {"means": means, "stds": stds, "preds": means.mean(0), "target": target}
    if kind == "ranking":
        scores = torch.randint(9, (NUM_DATA,), generator=generator) / 8
        is_out = torch.rand(NUM_DATA, generator=generator) < 0.2 + 0.6 * scores
        is_out[:2] = torch.tensor([True, False])
        error = torch.randn(NUM_DATA, generator=generator)
        return {"uncertainty": scores, "loss": is_out.float(), "scores": scores, "target": is_out, "error": error}
    if kind == "uncertainty":
        epistemic_var, noise_var = torch.rand(2, NUM_DATA, 3, generator=generator)
        return {
            "epistemic_var": epistemic_var,
            "total_var": epistemic_var + noise_var,
            "mutual_information": epistemic_var,
        }
    if kind == "intervals":
        lower, width, target = torch.randn(3, NUM_DATA, 3, NUM_TARGETS, generator=generator)
        return {"lower": lower, "upper": lower + 3 * width.abs(), "target": target}
    if kind == "labels":
        probs = torch.rand(NUM_DATA, 3, generator=generator)
        return {
            "preds": torch.stack([1 - probs, probs], 1),
            "target": (torch.rand(probs.shape, generator=generator) < probs).long(),
        }
    pixels = (2, 5) if kind == "pixels" else ()
    target = torch.randint(NUM_CLASSES, (NUM_DATA, *pixels), generator=generator)
    if kind == "sets":
        return {"pred_set": torch.rand(NUM_DATA, NUM_CLASSES, generator=generator) < 0.6, "target": target}
    logits = torch.randn(NUM_SAMPLES, NUM_DATA, NUM_CLASSES, *pixels, generator=generator)
    log_prob = logits.log_softmax(2).gather(2, target.expand(NUM_SAMPLES, *target.shape).unsqueeze(2)).squeeze(2)
    return {"log_prob": log_prob, "preds": logits.softmax(2).mean(0), "target": target}


def rows(data: Batch, start: int, stop: int) -> Batch:
    sampled = {"log_prob", "means", "stds"}
    return {k: v[:, start:stop] if k in sampled else v[start:stop] for k, v in data.items()}


def cast(data: Batch, dtype: torch.dtype) -> Batch:
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in data.items()}


def update(metric: Metric, data: Batch) -> Metric:
    metric.update(**metric._filter_kwargs(**data))
    return metric


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def gathered_state(metric: Metric, name: str) -> Tensor:
    """The tensor that a rank sends: torchmetrics concatenates a list of batches, and has an empty tensor for none."""
    state = getattr(metric, name)
    return torch.cat([torch.tensor([], dtype=metric.dtype), *state]) if isinstance(state, list) else state


@pytest.fixture(params=CASES, name="case")
def fixture_case(request: pytest.FixtureRequest) -> tuple[Callable[[], Metric], Batch]:
    factory, kind = CASES[request.param]
    return factory, make_data(kind)


def test_ragged_and_empty_batches_equal_one_update(case) -> None:
    factory, data = case
    metric = factory()
    for start, stop in itertools.pairwise([0, 0, 1, 2, 9, 23, 23]):
        update(metric, rows(data, start, stop))
    value = metric.compute()
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite()
    same(value, update(factory(), data).compute())


def test_reset_in_inference_mode_starts_over(case) -> None:
    factory, data = case
    metric = factory()
    with torch.inference_mode():
        update(metric, rows(data, 0, 9))
        metric.reset()
    same(update(metric, data).compute(), update(factory(), data).compute())


def test_forward_returns_the_batch_value_and_accumulates(case) -> None:
    factory, data = case
    metric = factory()
    for start, stop in [(0, 10), (10, 23)]:
        batch = rows(data, start, stop)
        same(metric(**metric._filter_kwargs(**batch)), update(factory(), batch).compute())
    same(metric.compute(), update(factory(), data).compute())


def test_unequal_ranks_agree_with_one_metric(case) -> None:
    """Three ranks, one of them without data, through the gather-and-reduce of torchmetrics."""
    factory, data = case
    ranks = [update(factory(), rows(data, 0, 4)), update(factory(), rows(data, 4, 23)), factory()]
    metric = ranks[0]
    gathered = iter([[gathered_state(rank, name) for rank in ranks] for name in metric._reductions])
    metric.distributed_available_fn = lambda: True
    metric.dist_sync_fn = lambda tensor, group: next(gathered)
    same(metric.compute(), update(factory(), data).compute())
    metric.distributed_available_fn = lambda: False
    metric._computed = None
    same(metric.compute(), update(factory(), rows(data, 0, 4)).compute())


def test_merged_states_equal_one_metric(case) -> None:
    factory, data = case
    metric = update(factory(), rows(data, 0, 5))
    metric.merge_state(update(factory(), rows(data, 5, 23)))
    same(metric.compute(), update(factory(), data).compute())


def test_copies_are_independent(case) -> None:
    factory, data = case
    metric = update(factory(), rows(data, 0, 9))
    twin = pickle.loads(pickle.dumps(metric))
    same(update(twin, rows(data, 9, 23)).compute(), update(factory(), data).compute())
    same(metric.compute(), update(factory(), rows(data, 0, 9)).compute())


def test_low_precision_inputs_are_scored_in_float32(case) -> None:
    factory, data = case
    half = cast(data, torch.bfloat16)
    value = update(factory(), half).compute()
    assert value.dtype == torch.float32
    same(value, update(factory(), cast(half, torch.float32)).compute())


def test_double_inputs_are_scored_in_the_dtype_of_the_state(case) -> None:
    factory, data = case
    double, expected = cast(data, torch.float64), update(factory(), data).compute()
    network = torch.nn.Module()
    network.metric = factory()
    network.half()
    same(update(network.metric, double).compute(), expected)
    value = update(factory().set_dtype(torch.float64), double).compute()
    assert value.dtype == torch.float64
    same(value.float(), expected)


def test_updates_do_not_read_values(case) -> None:
    """Tensors on the meta device have no values to read; the state follows `.to`."""
    factory, data = case
    metric = factory().to("meta")
    update(metric, {k: v.to("meta") for k, v in data.items()})
    if not isinstance(metric, SPLITTING):
        assert metric.compute().device.type == "meta"
    metric.reset()
    states = [getattr(metric, name) for name in metric._defaults]
    assert all(state.device.type == "meta" for state in states if isinstance(state, Tensor))


def test_no_data_is_nan(case) -> None:
    factory, _ = case
    metric = factory()
    with pytest.warns(UserWarning, match="called before"):
        value = metric.compute()
    assert value.isnan()


def test_state_is_detached_and_of_fixed_size_or_two_numbers_per_datum(case) -> None:
    factory, data = case
    metric = factory()
    before = {name: getattr(metric, name) for name in metric._defaults}
    update(metric, {k: v.requires_grad_() if v.is_floating_point() else v for k, v in data.items()})
    assert not metric.compute().requires_grad
    after = {name: getattr(metric, name) for name in metric._defaults}
    if isinstance(metric, StoredScores):
        states = [state for (state,) in after.values()]
        assert all(state.dtype == torch.float32 and state.ndim == 1 for state in states)
        assert states[-1].numel() in (NUM_DATA, 10 * NUM_DATA, 6 * NUM_DATA)  # pixels, or positions of two targets
    else:
        assert {name: state.shape for name, state in after.items()} == {k: state.shape for k, state in before.items()}


def test_flags() -> None:
    metrics = {name: factory() for name, (factory, _) in CASES.items()}
    assert {metric.full_state_update for metric in metrics.values()} == {False}
    assert {metric.is_differentiable for metric in metrics.values()} == {False}
    higher = {name for name, metric in metrics.items() if metric.higher_is_better is True}
    neither = {name for name, metric in metrics.items() if metric.higher_is_better is None}
    assert higher == {
        "mean iou",
        "image coverage",
        "exact match",
        "f1 of labels",
        "accuracy",
        "r2",
        "ood auroc",
        "ood aupr",
        "auroc",
        "auprc",
        "f1",
        "brier resolution",
        "coverage at risk",
        "stratified coverage of intervals",
        "stratified coverage of sets",
    }
    assert neither == {
        "coverage",
        "coverage of given intervals",
        "coverage of sets",
        "coverage of regions",
        "brier uncertainty",
        "mutual information",
        "epistemic share",
    }
