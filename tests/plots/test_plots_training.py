"""Curves drawn from logs of Lightning's CSVLogger."""

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from matplotlib.axes import Axes

from lightning_vi.plots import plot_objective, plot_training_metrics
from lightning_vi.plots._metric_units import metric_unit
from lightning_vi.plots.objective import moving_average

EPOCHS, BURN_IN, WARM_UP = 60, 12, 10
STEPS_PER_EPOCH = 7
TIME = np.arange(EPOCHS)
RNG = np.random.default_rng(0)
NLL = 0.5 + np.exp(-TIME / 8) + 0.05 * RNG.normal(size=EPOCHS)
VAL_NLL = NLL + 0.1
KL = 400 - TIME + RNG.normal(size=EPOCHS)
KL_WEIGHT = np.clip((TIME - BURN_IN + 1) / WARM_UP, 0, 1)


def write_run(save_dir: Path, *, epochs: int = EPOCHS, baseline: bool = False) -> None:
    """Logs a run as `Trainer.fit` does: a row of validation and a row of training metrics per epoch."""
    logger = CSVLogger(save_dir)
    for epoch in range(epochs):
        step = (epoch + 1) * STEPS_PER_EPOCH - 1
        logger.log_metrics({"epoch": epoch, "val_nll": VAL_NLL[epoch], "val_rmse": 0.3}, step=step)
        train = {"epoch": epoch, "train_loss": NLL[epoch], "train_nll": NLL[epoch], "train_rmse": 0.2}
        if not baseline:
            train |= {"train_burnin": float(epoch < BURN_IN), "train_kl_weight": KL_WEIGHT[epoch]}
            if epoch >= BURN_IN:
                train |= {"train_kl": KL[epoch], "train_elbo": -NLL[epoch] - KL_WEIGHT[epoch] * KL[epoch] / 500}
        logger.log_metrics(train, step=step)
    logger.save()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


def titles(axes: list[Axes]) -> list[str]:
    return [ax.get_title(loc="left") for ax in axes]


def curve(ax: Axes, label: str) -> np.ndarray:
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return np.asarray(line.get_xydata())


def stage_lines(ax: Axes) -> dict[str, float]:
    """Returns the position of each vertical line by its label."""
    lines = {line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1}
    found = {text.get_text().strip(): text.get_position()[0] for text in ax.texts}
    assert set(found.values()) == lines
    return found


def test_rows_without_a_metric_are_skipped(run: Path) -> None:
    figure = plot_training_metrics(run, ["train_nll", "val_nll", "train_kl"])
    assert titles(figure.axes) == ["train_nll", "val_nll", "train_kl"]
    np.testing.assert_allclose(curve(figure.axes[0], "train_nll"), np.stack([TIME, NLL], axis=1))
    np.testing.assert_allclose(curve(figure.axes[1], "val_nll"), np.stack([TIME, VAL_NLL], axis=1))
    np.testing.assert_allclose(curve(figure.axes[2], "train_kl"), np.stack([TIME, KL], axis=1)[BURN_IN:])
    assert {ax.get_xlabel() for ax in figure.axes} == {"epoch"}


def test_metrics_logged_within_an_epoch_are_drawn_over_the_steps(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    for step in range(6):
        logger.log_metrics({"epoch": step // 3, "train_loss": 10.0 - step}, step=step)
    logger.save()
    (ax,) = plot_training_metrics(tmp_path, ["train_loss"]).axes
    np.testing.assert_array_equal(curve(ax, "train_loss"), [[step, 10 - step] for step in range(6)])
    assert ax.get_xlabel() == "step"


def test_a_single_value_is_marked(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=1)
    (ax,) = plot_training_metrics(tmp_path, ["val_nll"]).axes
    assert ax.lines[0].get_marker() == "o"
    (nll, *_) = plot_objective(tmp_path, smoothing_window=9).axes
    assert nll.lines[0].get_marker() == "o"


def test_the_latest_version_has_the_largest_number(tmp_path: Path) -> None:
    for version in (2, 9, 10):
        folder = tmp_path / "lightning_logs" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"epoch,step,a\n0,0,{version}\n")
    (tmp_path / "lightning_logs" / "version_11").mkdir()
    (tmp_path / "lightning_logs" / "version_best").mkdir()
    latest = plot_training_metrics(tmp_path, ["a"])
    assert curve(latest.axes[0], "a")[0, 1] == 10
    chosen = plot_training_metrics(str(tmp_path / "lightning_logs" / "version_2"), ["a"])
    assert curve(chosen.axes[0], "a")[0, 1] == 2
    inside = plot_training_metrics(tmp_path / "lightning_logs", ["a"])
    assert curve(inside.axes[0], "a")[0, 1] == 10


def test_ylabels_are_drawn(run: Path) -> None:
    (ax,) = plot_training_metrics(run, ["val_rmse"], ylabels=["RMSE [m]"]).axes
    assert ax.get_ylabel() == "RMSE [m]"


def test_metrics_have_units_and_marks_of_the_stages(run: Path) -> None:
    axes = plot_training_metrics(run, ["train_nll", "val_nll", "train_kl", "val_rmse"]).axes
    assert [ax.get_ylabel() for ax in axes] == ["nats per datum", "nats per datum", "nats", "units of the target"]
    for ax in axes:
        assert stage_lines(ax) == {"burn-in ends": BURN_IN, "KL at full weight": BURN_IN + WARM_UP - 1}


def test_a_metric_of_one_s_own_has_no_unit(run: Path) -> None:
    (ax,) = plot_training_metrics(run, ["train_burnin"], ylabels=[""]).axes
    assert not ax.get_ylabel()
    assert metric_unit("val_nll/dataloader_idx_1") == "nats per datum"
    assert not metric_unit("val_mine")


def test_errors_list_the_columns_of_the_log(run: Path) -> None:
    with pytest.raises(ValueError, match=r"no metric 'train_los' in .*'train_kl', .*'train_loss'"):
        plot_training_metrics(run, ["train_loss", "train_los"])
    with pytest.raises(ValueError, match="metrics must name at least one column"):
        plot_training_metrics(run, [])
    with pytest.raises(ValueError, match="ylabels must have one label for each of the 2 metrics, got 1"):
        plot_training_metrics(run, ["val_nll", "val_rmse"], ylabels=["nats"])
    with pytest.raises(ValueError, match=r"no values of \['crps'\] under 'train_' or 'val_'; the columns are"):
        plot_objective(run, extra_metrics=["rmse", "crps"])


@pytest.mark.parametrize("plot", [lambda path: plot_training_metrics(path, ["a"]), plot_objective])
def test_missing_and_empty_logs_are_errors(plot: object, tmp_path: Path) -> None:
    assert callable(plot)
    with pytest.raises(FileNotFoundError, match=r"no metrics.csv in .*CSVLogger"):
        plot(tmp_path)
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(ValueError, match="is empty: nothing was logged yet"):
        plot(tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,step,a\n0,0,nan\n")
    with pytest.raises(ValueError, match=r"no finite value|has no values of"):
        plot(tmp_path)
    (tmp_path / "metrics.csv").write_text("a,train_nll\n1,1\n")
    with pytest.raises(ValueError, match="neither an 'epoch' nor a 'step' column"):
        plot(tmp_path)


def test_objective_shows_the_logged_values_of_each_term(run: Path) -> None:
    axes = plot_objective(run).axes
    assert titles(axes) == ["Evidence lower bound", "Negative log-likelihood", "KL divergence"]
    elbo = -NLL - KL_WEIGHT * KL / 500
    np.testing.assert_allclose(curve(axes[0], "Training, as logged"), np.stack([TIME, elbo], axis=1)[BURN_IN:])
    np.testing.assert_allclose(curve(axes[1], "Training, as logged"), np.stack([TIME, NLL], axis=1))
    np.testing.assert_allclose(curve(axes[1], "Validation, as logged"), np.stack([TIME, VAL_NLL], axis=1))
    np.testing.assert_allclose(curve(axes[2], "Training, as logged"), np.stack([TIME, KL], axis=1)[BURN_IN:])


def test_objective_marks_the_end_of_burn_in_and_of_annealing_in_every_panel(run: Path) -> None:
    for ax in plot_objective(run).axes:
        assert stage_lines(ax) == {"burn-in ends": BURN_IN, "KL at full weight": BURN_IN + WARM_UP - 1}
        assert ax.get_xlim()[0] <= 0


def test_objective_over_steps_marks_the_first_step_after_the_burn_in(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    for step in range(12):
        logger.log_metrics(
            {"epoch": step // 3, "train_nll": 1.0, "train_burnin": float(step < 6), "train_kl_weight": 1.0}, step=step
        )
    logger.save()
    (ax,) = plot_objective(tmp_path).axes
    assert stage_lines(ax) == {"burn-in ends": 6}
    assert ax.get_xlabel() == "step"


def test_unfinished_stages_are_not_marked(tmp_path: Path) -> None:
    write_run(tmp_path, epochs=BURN_IN)
    axes = plot_objective(tmp_path).axes
    assert titles(axes) == ["Loss", "Negative log-likelihood"]
    assert all(stage_lines(ax) == {} for ax in axes)
    write_run(tmp_path, epochs=BURN_IN + WARM_UP // 2)
    assert all(stage_lines(ax) == {"burn-in ends": BURN_IN} for ax in plot_objective(tmp_path).axes)


def test_smoothing_averages_within_each_stage(run: Path) -> None:
    nll = plot_objective(run, smoothing_window=5).axes[1]
    before, after = curve(nll, "Training"), curve(nll, "_Training")
    np.testing.assert_array_equal(np.concatenate([before[:, 0], after[:, 0]]), TIME)
    assert after[0, 0] == BURN_IN
    np.testing.assert_allclose(before[4, 1], NLL[2:7].mean())
    np.testing.assert_allclose(after[30, 1], NLL[BURN_IN + 28 : BURN_IN + 33].mean())


def test_smoothing_can_be_disabled(run: Path) -> None:
    nll = plot_objective(run, smoothing_window=1).axes[1]
    np.testing.assert_allclose(curve(nll, "Training")[:, 1], NLL)
    with pytest.raises(ValueError, match="smoothing_window must be at least 1, got 0"):
        plot_objective(run, smoothing_window=0)


def test_moving_average_keeps_straight_lines_and_reduces_the_variance_at_the_ends_too() -> None:
    straight = 3.0 - 0.5 * TIME
    np.testing.assert_allclose(moving_average(straight, 8), straight)
    noise = RNG.normal(size=(4000, 21))
    smooth = np.stack([moving_average(row, 7) for row in noise])
    middle, end = smooth[:, 10].var(), smooth[:, 0].var()
    assert middle == pytest.approx(1 / 7, rel=0.1)
    assert end == pytest.approx(1 / 7 + 9 / 28, rel=0.1)


def test_panels_of_a_baseline(tmp_path: Path) -> None:
    write_run(tmp_path, baseline=True)
    axes = plot_objective(tmp_path, extra_metrics=["rmse"]).axes
    assert titles(axes) == ["Loss", "Negative log-likelihood", "rmse"]
    assert all(stage_lines(ax) == {} for ax in axes)
    assert curve(axes[2], "Validation, as logged")[:, 1].tolist() == [0.3] * EPOCHS
