"""Windows of series against slicing by hand, the borders between splits, and wrong tables."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import quiet_trainer
from torch.testing import assert_close

from lightning_vi import Deterministic
from lightning_vi.backbones import SeriesLSTM
from lightning_vi.datamodules import SeriesDataModule, ToySeriesDataModule
from lightning_vi.likelihoods import Gaussian

SPLITS = ("train", "val", "calib", "test")


def table(size: int = 120) -> pd.DataFrame:
    random = np.random.default_rng(1)
    days = pd.date_range("2024-01-01", periods=size).strftime("%Y-%m-%d")
    return pd.DataFrame({"day": days, "load": random.normal(50.0, 9.0, size), "wind": random.normal(size=size)})


def series(**options: Any) -> SeriesDataModule:
    return SeriesDataModule(table(), "load", **({"time_column": "day", "window": 6, "horizon": 3} | options))


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("share_history", [False, True])
def test_windows_are_slices_of_one_split(stride: int, share_history: bool) -> None:
    frame = table()
    dm = SeriesDataModule(
        frame.sample(frac=1.0, random_state=3),  # sorted by the datamodule
        ["load", "wind"],
        time_column="day",
        input_columns=["load"],
        window=6,
        horizon=3,
        stride=stride,
        share_history=share_history,
    )
    borders = dict(zip(SPLITS, [(0, 60), (60, 72), (72, 96), (96, 120)], strict=True))
    train = frame["load"].to_numpy()[:60]
    scaled = (frame["load"].to_numpy() - train.mean()) / train.std()
    for name, (start, stop) in borders.items():
        first = max(start - 6, 0) if share_history else start
        starts = range(first, stop - 8, stride)
        x = np.stack([scaled[i : i + 6, None] for i in starts])
        y = np.stack([frame[["load", "wind"]].to_numpy()[i + 6 : i + 9].ravel() for i in starts])
        assert_close(getattr(dm, f"X_{name}"), torch.tensor(x, dtype=torch.float32))
        assert_close(getattr(dm, f"Y_{name}"), torch.tensor(y, dtype=torch.float32))
        assert list(dm.times[name]) == [frame["day"][i + 6] for i in starts]
    assert dm.target_names == ["load +1", "wind +1", "load +2", "wind +2", "load +3", "wind +3"]
    of_train = frame[["load", "wind"]].iloc[:60]
    assert_close(dm.target_mean, torch.tensor(of_train.mean().to_numpy(), dtype=torch.float32).repeat(3))
    assert_close(dm.target_std, torch.tensor(of_train.std(ddof=0).to_numpy(), dtype=torch.float32).repeat(3))


def test_no_row_of_the_table_is_in_two_splits() -> None:
    """A column that counts the rows shows which of them a window has seen."""
    count = pd.DataFrame({"row": np.arange(200.0)})
    for shared in (False, True):
        dm = SeriesDataModule(count, "row", window=5, horizon=2, standardise_inputs=False, share_history=shared)
        targets = [set(getattr(dm, f"Y_{name}").flatten().tolist()) for name in SPLITS]
        rows = [
            seen | set(getattr(dm, f"X_{name}").flatten().tolist()) for name, seen in zip(SPLITS, targets, strict=True)
        ]
        parts = targets if shared else rows
        assert all(max(before) < min(after) for before, after in pairwise(parts))
        if shared:
            assert len(set.union(*targets)) == 195  # all but the first window
            assert max(rows[0]) < min(targets[1])


def test_scaling_ignores_all_rows_but_those_of_training() -> None:
    changed = table()
    changed.loc[60:, ["load", "wind"]] *= 7.0
    first, second = series(), SeriesDataModule(changed, "load", time_column="day", window=6, horizon=3)
    for name in ("X_train", "Y_train", "input_mean", "input_std", "target_mean", "target_std"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.X_test, second.X_test)


def test_new_rows_are_scaled_as_the_table() -> None:
    dm = series(share_history=True)
    windows = dm.transform(table().tail(24 + 6))
    assert windows.shape == (25, 6, 2)
    assert_close(windows[: len(dm.X_test)], dm.X_test)
    with pytest.raises(ValueError, match="data must have at least window=6 rows, got 5"):
        dm.transform(table().tail(5))
    with pytest.raises(ValueError, match="wind"):
        dm.transform(table()[["day", "load"]])


def test_predictions_are_identified_by_time(tmp_path: Any) -> None:
    from lightning_vi.callbacks import PredictionWriter

    dm, method = series(), Deterministic(SeriesLSTM(2, 3, width=4), Gaussian(num_targets=3))
    quiet_trainer(callbacks=[PredictionWriter(tmp_path)]).predict(method, dm)
    written = pd.read_csv(tmp_path / "predictions.csv")
    assert list(written["day"]) == list(dm.times["test"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be an integer >= 1, got 0"),
        ({"horizon": 0}, "horizon must be an integer >= 1, got 0"),
        ({"stride": 1.5}, "stride must be an integer >= 1, got 1.5"),
        ({"window": 11}, r"window=11 and horizon=3 need 14 rows, but the val split has 12: pass a smaller window"),
        ({"test_fraction": 0.0}, "test_fraction must be greater than 0"),
        ({"test_fraction": 0.8}, "must sum to less than 1"),
        ({"input_columns": "rain"}, "rain"),
        ({"input_columns": ["day"]}, "'day'"),
        ({"input_columns": []}, "input_columns must name at least one column"),
        ({"drop_columns": ["load", "wind"]}, "no input columns remain"),
        ({"time_column": None}, "'day' (is|are) no number"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        series(**options)


def test_wrong_tables() -> None:
    for column, row, value, message in (
        ("load", 5, np.nan, r"1 of 120 values in 'load' is missing: row 5\. Fill them"),
        ("wind", 7, np.inf, "'wind' is infinite"),
        ("day", 3, "2024-01-01", "1 of 120 values in 'day' is the time of an earlier row: '2024-01-01' in row 3"),
        ("day", 3, None, "'day' is missing"),
    ):
        frame = table()
        frame.loc[row, column] = value
        with pytest.raises(ValueError, match=message):
            SeriesDataModule(frame, "load", time_column="day", window=6)


def test_toy_series_has_the_noise_that_it_states() -> None:
    dm = ToySeriesDataModule(n_points=20_000, horizon=2)
    z = (dm.Y_test - dm.mean_test) / dm.noise_std_test
    assert abs(float(z.mean())) < 4 / len(z) ** 0.5
    assert float(z.std()) == pytest.approx(1.0, abs=4 / (2 * len(z)) ** 0.5)
    still = ToySeriesDataModule(n_points=20_000, drift=0.0)
    assert float(still.Y_test.std() / still.Y_train.std()) == pytest.approx(1.0, abs=0.03)
    assert float(dm.Y_test.std() / dm.Y_train.std()) > 1.05
    with pytest.raises(ValueError, match="n_points must be an integer >= 500, got 400"):
        ToySeriesDataModule(n_points=400)
