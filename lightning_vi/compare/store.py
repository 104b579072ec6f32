"""Files of finished runs, by which an interrupted comparison continues."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from lightning_vi.compare.describe import differences
from lightning_vi.errors import InputValueError

FORMAT = 1


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
    """

    data: str
    method: str
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""


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
        if self.folder is None:
            return None
        name = " ".join((data, method, str(seed)) if data else (method, str(seed)))
        return self.folder / f"{quote(name, safe=' ,+=()')}.json"

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
