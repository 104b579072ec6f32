"""Files of finished runs, by which an interrupted comparison continues."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_vi.compare.describe import differences
from lightning_vi.errors import InputValueError

FORMAT = 1
Key = tuple[str, str, int]
"""Names of the data set and of the method, and the seed."""


@dataclass(frozen=True)
class Run:
    """One method trained once.

    Attributes:
        data: Name of the data set.
        method: Name of the method in the comparison.
        seed: The seed, or the number of the split.
        rows: Scores and costs, one dictionary for each test set; empty for a run that failed.
        higher_is_better: Direction of each score that has one.
        seconds: Duration of the run.
        error: Message of the error that stopped it; empty for a run that was finished.
        environment: Versions of Python and of the packages, device, number of threads and date, by their names; empty
            for a run that failed.
    """

    data: str
    method: str
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""
    environment: dict[str, str] = field(default_factory=dict)


def file_name(data: str, method: str, seed: int) -> str:
    """Returns the name of the files of a run, without their suffix.

    Args:
        data: Name of the data set.
        method: Name of the method.
        seed: The seed.

    Example:
        >>> file_name("", "IVON + TemperatureScaling", 0)
        'IVON + TemperatureScaling 0'
    """
    return quote(" ".join((data, method, str(seed)) if data else (method, str(seed))), safe=" ,+=()")


def joined_runs(scored: Run, shifted: Run | None) -> list[Run]:
    """Joins the scores of a run with those on shifted images.

    Args:
        scored: The run.
        shifted: The run on shifted images; None for none.

    Returns:
        One run, with one row for each test set; both of them if the second one failed.
    """
    if shifted is None:
        return [scored]
    if shifted.error:
        return [scored, shifted]
    rows: dict[str, dict[str, Any]] = {row["test_set"]: dict(row) for row in scored.rows}
    for row in shifted.rows:
        rows[row["test_set"]] = rows.get(row["test_set"], {}) | row
    directions = scored.higher_is_better | shifted.higher_is_better
    seconds = scored.seconds + shifted.seconds
    return [replace(scored, rows=list(rows.values()), higher_is_better=directions, seconds=seconds)]


class RunStore:
    """A folder with one file for each run.

    Args:
        folder: The folder; None keeps the runs in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, data: str, method: str, seed: int) -> Path | None:
        """Returns the file of a run.

        Args:
            data: Name of the data set.
            method: Name of the method.
            seed: The seed.

        Returns:
            The path, or None without a folder.
        """
        return None if self.folder is None else self.folder / f"{file_name(data, method, seed)}.json"

    def load(self, data: str, method: str, seed: int, config: Mapping[str, Any]) -> Run | None:
        """Reads a run that was finished.

        Args:
            data: Name of the data set.
            method: Name of the method.
            seed: The seed.
            config: Description of the run, which must be that of the file.

        Returns:
            The run; None if there is none, or it failed.

        Raises:
            ValueError: If the file was written under another configuration, or is damaged.
        """
        path = self.path(data, method, seed)
        if path is None or not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            run, before = Run(**content["run"]), content["config"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputValueError(f"{path} is no file of a finished run: remove it to repeat the run") from error
        if run.error:
            return None
        if changes := differences(before, json.loads(json.dumps(config))):
            raise InputValueError(
                f"output_dir has a run of {method} under another configuration ({'; '.join(changes[:3])}): give "
                f"another output_dir or overwrite=True, or remove {path}"
            )
        return run

    def save(self, run: Run, config: Mapping[str, Any]) -> None:
        """Writes a run. An interrupted call leaves no file, or the previous one.

        Args:
            run: The run.
            config: Its description.
        """
        path = self.path(run.data, run.method, run.seed)
        if path is None:
            return
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"format": FORMAT, "config": config, "run": asdict(run)}, indent=1))
        temporary.replace(path)
