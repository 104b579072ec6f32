"""Contract of all plotting functions."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lightning_vi import plots

Inputs = dict[str, np.ndarray]
N = 40


def regression_inputs() -> Inputs:
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, size=(N, 1))
    return {
        "x": x,
        "y": np.sin(x) + 0.1 * rng.normal(size=(N, 1)),
        "truth": np.sin(x),
        "pred": np.sin(x) + 0.05,
        "std": 0.1 + 0.05 * np.abs(x),
    }


def classification_inputs() -> Inputs:
    rng = np.random.default_rng(0)
    axis = np.linspace(-2, 2, 12)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    logits = np.stack([grid[:, 0], grid[:, 1], -grid.sum(axis=1)], axis=1)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return {
        "points": rng.normal(size=(N, 2)),
        "labels": rng.integers(0, 3, size=N),
        "grid": grid,
        "probs": probs,
        "uncertainty": 1 - probs.max(axis=1),
        "grid_labels": probs.argmax(axis=1),
        "images": rng.uniform(size=(2, 12, 12)),
        "maps": np.moveaxis(np.stack([probs, probs[::-1]]).reshape(2, 12, 12, 3), -1, 1),
        "map_labels": np.stack([probs, probs[::-1]]).argmax(axis=-1).reshape(2, 12, 12),
        "map_entropy": rng.uniform(size=(2, 12, 12)),
    }


def comparison_table() -> pd.DataFrame:
    rows = [(method, data, seed, seed + len(method), seed**2) for method in "AB" for data in "xy" for seed in range(3)]
    return pd.DataFrame(rows, columns=["method", "dataset", "seed", "nll", "rmse"])


INPUTS = {**regression_inputs(), **classification_inputs()}
for value in INPUTS.values():
    value.flags.writeable = False  # a function that modifies its inputs raises


def gaussian(d: dict[str, Any]) -> dict[str, Any]:
    return {"pred": d["pred"], "pred_uct": d["std"]}


ARRAY_PLOTS: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "toy": lambda d: plots.plot_toy_regression_data(d["x"], d["y"], d["x"], d["truth"], d["x"], d["y"]),
    "predictions": lambda d: plots.plot_predictions_regression(
        d["x"], d["y"], d["x"], d["truth"], d["pred"], epistemic=d["std"], aleatoric=d["std"]
    ),
    "calibration": lambda d: plots.plot_calibration(d["pred"], d["std"], d["y"], d["x"]),
    "reliability": lambda d: plots.plot_reliability_diagram(d["probs"], d["grid_labels"]),
    "classification": lambda d: plots.plot_classification_2d(
        d["points"], d["labels"], d["grid"], d["probs"], d["uncertainty"]
    ),
    "risk": lambda d: plots.plot_risk_coverage({"std": d["std"], "mean": d["pred"]}, abs(d["y"])),
    "ood": lambda d: plots.plot_ood_scores(d["std"], d["uncertainty"]),
    "observed": lambda d: plots.plot_predicted_observed(gaussian(d), d["y"]),
    "pit": lambda d: plots.plot_pit(gaussian(d), d["y"]),
    "error": lambda d: plots.plot_error_uncertainty(gaussian(d), d["y"]),
    "curves": lambda d: plots.plot_calibration_curves({"before": gaussian(d), "after": gaussian(d)}, d["y"]),
    "segmentation": lambda d: plots.plot_segmentation(
        d["images"], {"pred": d["maps"], "pred_uct": d["map_entropy"]}, d["map_labels"]
    ),
    "images": lambda d: plots.plot_image_grid(
        d["images"], {"pred": d["probs"][:2], "pred_uct": d["uncertainty"][:2]}, d["grid_labels"][:2], num_images=1
    ),
    "field": lambda d: plots.plot_field(
        {"pred": d["uncertainty"], "epistemic_uct": d["uncertainty"]}, d["uncertainty"], d["grid"]
    ),
}


def shift_table() -> pd.DataFrame:
    keys = itertools.product(("A", "B"), (0, 1), ("rotation", "contrast", "gaussian_blur", "noise"), range(6))
    return pd.DataFrame(
        [
            {"method": method, "seed": seed, "shift": shift, "severity": severity, "nll": severity + 0.1 * seed}
            for method, seed, shift, severity in keys
        ]
    )


def detection_table() -> pd.DataFrame:
    keys = itertools.product(("A", "B"), (0, 1), ("letters", "clothes"), ("energy", "nearest_neighbors"))
    return pd.DataFrame(
        [
            {"method": method, "seed": seed, "test_set": name, "score": score, "auroc": 0.7 + 0.1 * seed}
            for method, seed, name, score in keys
        ]
    )


TABLE_PLOTS: dict[str, Callable[[], Figure]] = {
    "comparison": lambda: plots.plot_method_comparison(comparison_table(), baseline="A"),
    "detection": lambda: plots.plot_detection(detection_table(), title="Detection"),
    "shift": lambda: plots.plot_shift(shift_table(), "nll", label="NLL [nats]", title="Shifts"),
}


class PosteriorTable:
    """Diagnostics of a posterior of three modules, one of them without units and with an unknown prior."""

    def to_frame(self) -> pd.DataFrame:
        quantiles = {f"snr_{q:02d}": [0.1 * q, 0.01 * q, 0.02 * q] for q in (5, 25, 50, 75, 95)}
        shares = {"pruned_units": [0.5, np.nan, 1.0], "ignored_inputs": [0.0, np.nan, 0.3]}
        columns = {"kl": [5.0, 2.0, 0.1], "kl_per_weight": [0.5, 0.2, 0.01], "std_over_prior": [0.1, np.nan, 0.9]}
        return pd.DataFrame({**quantiles, **shares, **columns}, index=["0", "encoder.norm", "2"])


LOG_PLOTS: dict[str, Callable[[Path], Figure]] = {
    "training": lambda path: plots.plot_training_metrics(path, ["train_nll", "val_nll"]),
    "objective": plots.plot_objective,
    "posterior": lambda _: plots.plot_posterior(PosteriorTable(), title="Posterior"),
}


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    rows = [f"{epoch},{epoch},{2 / (epoch + 1)},{3 / (epoch + 1)}" for epoch in range(5)]
    (tmp_path / "metrics.csv").write_text("\n".join(["epoch,step,train_nll,val_nll", *rows]) + "\n")
    return tmp_path


@pytest.fixture(params=[*ARRAY_PLOTS, *LOG_PLOTS, *TABLE_PLOTS])
def draw(request: pytest.FixtureRequest, log_dir: Path) -> Callable[[], Figure]:
    if request.param in ARRAY_PLOTS:
        return lambda: ARRAY_PLOTS[request.param](INPUTS)
    if request.param in TABLE_PLOTS:
        return TABLE_PLOTS[request.param]
    return lambda: LOG_PLOTS[request.param](log_dir)


@pytest.fixture
def untouched_pyplot() -> Iterator[None]:
    before, current = dict(mpl.rcParams), plt.get_fignums()
    yield
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == current


def pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_every_public_function_is_tested_here() -> None:
    assert len(plots.__all__) == len(ARRAY_PLOTS) + len(LOG_PLOTS) + len(TABLE_PLOTS)


@pytest.mark.usefixtures("untouched_pyplot")
def test_notebooks_display_the_figure_and_panels_do_not_overlap(draw: Callable[[], Figure]) -> None:
    figure = draw()
    assert figure._repr_png_().startswith(b"\x89PNG")
    boxes = [ax.get_tightbbox().padded(-2) for ax in figure.axes]
    for i, box in enumerate(boxes):
        assert figure.bbox.padded(2).contains(box.x0, box.y0)
        assert figure.bbox.padded(2).contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize("name", ARRAY_PLOTS)
def test_flat_tensors_with_gradient_and_columns_of_arrays_draw_the_same_figure(name: str) -> None:
    def as_tensor(value: np.ndarray) -> torch.Tensor:
        tensor = torch.tensor(value, requires_grad=value.dtype.kind == "f")
        return tensor[:, 0] if value.shape[1:] == (1,) else tensor

    from_tensors = ARRAY_PLOTS[name]({key: as_tensor(value) for key, value in INPUTS.items()})
    assert np.array_equal(pixels(from_tensors), pixels(ARRAY_PLOTS[name](INPUTS)))


@pytest.mark.parametrize("name", ARRAY_PLOTS)
def test_bfloat16_tensors_are_accepted(name: str) -> None:
    exact = {"grid"}  # a grid that was rounded to bfloat16 is not regular
    inputs = {key: torch.tensor(value) for key, value in INPUTS.items()}
    inputs = {k: v.bfloat16() if v.is_floating_point() and k not in exact else v for k, v in inputs.items()}
    ARRAY_PLOTS[name](inputs)


@pytest.mark.parametrize("name", ARRAY_PLOTS)
def test_values_that_are_not_finite_are_rejected(name: str) -> None:
    inputs = {key: value.astype(float) for key, value in INPUTS.items()}
    for value in inputs.values():
        value.flat[3] = np.nan
    with pytest.raises(ValueError, match=r"\w+ must be finite, got 1 NaN or infinite of \d+ values"):
        ARRAY_PLOTS[name](inputs)
