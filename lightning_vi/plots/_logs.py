"""Reader of the `metrics.csv` that Lightning's `CSVLogger` writes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Floats

FILE_NAME = "metrics.csv"


@dataclass(frozen=True)
class MetricsLog:
    """Columns of the CSV log of a run, each [number of rows]; NaN if the row has no value of the metric."""

    path: Path
    columns: dict[str, Floats]

    def has(self, name: str) -> bool:
        """Returns True if metric `name` has a finite value."""
        return name in self.columns and bool(np.isfinite(self.columns[name]).any())

    def require(self, name: str) -> None:
        """Raises a `ValueError` that lists the columns unless metric `name` has a finite value."""
        if name not in self.columns:
            raise InputValueError(f"no metric {name!r} in {self.path}; the columns are {sorted(self.columns)}")
        if not self.has(name):
            raise InputValueError(f"metric {name!r} in {self.path} has no finite value")

    def time_axis(self, names: Iterable[str]) -> str:
        """Returns the column of the x-axis: epochs, or steps if one of `names` was logged more than once an epoch."""
        if "epoch" in self.columns and ("step" not in self.columns or all(map(self._once_an_epoch, names))):
            return "epoch"
        if "step" in self.columns:
            return "step"
        raise InputValueError(f"{self.path} has neither an 'epoch' nor a 'step' column, only {sorted(self.columns)}")

    def series(self, name: str, axis: str) -> tuple[Floats, Floats]:
        """Returns the epochs or steps at which metric `name` was logged and its finite values, in ascending order."""
        logged = np.isfinite(self.columns[name]) & np.isfinite(self.columns[axis])
        time, values = self.columns[axis][logged], self.columns[name][logged]
        order = np.argsort(time, kind="stable")
        return time[order], values[order]

    def _once_an_epoch(self, name: str) -> bool:
        epochs = self.columns["epoch"][~np.isnan(self.columns[name])]
        return not np.isnan(epochs).any() and len(np.unique(epochs)) == len(epochs)


def find_metrics_csv(save_dir: str | Path) -> Path:
    """Returns the CSV log in `save_dir`, or in the latest `version_<number>` of it or of its `lightning_logs`."""
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
    """Reads the log at `find_metrics_csv(save_dir)`; entries that are not numbers become NaN."""
    import pandas as pd

    path = find_metrics_csv(save_dir)
    try:
        frame = pd.read_csv(path)
    except pd.errors.EmptyDataError as error:
        raise InputValueError(f"{path} is empty: nothing was logged yet") from error
    columns = {
        str(name): pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64) for name in frame.columns
    }
    return MetricsLog(path, columns)
