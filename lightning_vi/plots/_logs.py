"""Reads the `metrics.csv` that Lightning's `CSVLogger` writes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_vi.plots._arrays import Floats

FILE_NAME = "metrics.csv"


@dataclass(frozen=True)
class MetricsLog:
    """The columns of one run's CSV log, each [number of rows] with NaN where a row did not log it."""

    path: Path
    columns: dict[str, Floats]

    def has(self, name: str) -> bool:
        """Whether a value of metric `name` was logged."""
        return name in self.columns and bool(np.isfinite(self.columns[name]).any())

    def require(self, name: str) -> None:
        """Raises `ValueError`, with the names there are, unless metric `name` was logged."""
        if name not in self.columns:
            raise ValueError(f"no metric {name!r} in {self.path}; the columns are {sorted(self.columns)}")
        if not self.has(name):
            raise ValueError(f"metric {name!r} in {self.path} has no finite value")

    def time_axis(self, names: Iterable[str]) -> str:
        """The column that metrics `names` are drawn against: epochs, or steps where one repeats an epoch."""
        if "epoch" in self.columns and ("step" not in self.columns or all(map(self._once_an_epoch, names))):
            return "epoch"
        if "step" in self.columns:
            return "step"
        raise ValueError(f"{self.path} has neither an 'epoch' nor a 'step' column, only {sorted(self.columns)}")

    def series(self, name: str, axis: str) -> tuple[Floats, Floats]:
        """The times at which metric `name` was logged and its finite values, in the order of time."""
        logged = np.isfinite(self.columns[name]) & np.isfinite(self.columns[axis])
        time, values = self.columns[axis][logged], self.columns[name][logged]
        order = np.argsort(time, kind="stable")
        return time[order], values[order]

    def _once_an_epoch(self, name: str) -> bool:
        epochs = self.columns["epoch"][~np.isnan(self.columns[name])]
        return not np.isnan(epochs).any() and len(np.unique(epochs)) == len(epochs)


def find_metrics_csv(save_dir: str | Path) -> Path:
    """The CSV log in `save_dir`, or in the newest `version_<number>` of it or of its `lightning_logs`."""
    root = Path(save_dir)
    if (root / FILE_NAME).is_file():
        return root / FILE_NAME
    for parent in (root, root / "lightning_logs"):
        versions = [
            path
            for path in parent.glob(f"version_*/{FILE_NAME}")
            if path.parent.name.removeprefix("version_").isdecimal()
        ]
        if versions:
            return max(versions, key=lambda path: int(path.parent.name.removeprefix("version_")))
    raise FileNotFoundError(
        f"no {FILE_NAME} in {root}, in its version_<number> or in its lightning_logs/version_<number>; "
        "train with Trainer(logger=CSVLogger(save_dir))"
    )


def read_log(save_dir: str | Path) -> MetricsLog:
    """Reads the log that `find_metrics_csv` finds; what is not a number counts as not logged."""
    import pandas as pd

    path = find_metrics_csv(save_dir)
    try:
        frame = pd.read_csv(path)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty: nothing was logged yet") from error
    columns = {
        str(name): pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64) for name in frame.columns
    }
    return MetricsLog(path, columns)
