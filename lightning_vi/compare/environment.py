"""Versions, device and duration of the runs of a comparison."""

import platform
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import torch

from lightning_vi.compare.store import Run
from lightning_vi.version import version_of

PACKAGES = ("lightning_vi", "torch", "lightning")


def current_environment(device: torch.device) -> dict[str, str]:
    """Returns the versions, the device, the number of threads and the date by their names.

    Args:
        device: Device of the run.

    Example:
        >>> list(current_environment(torch.device("cpu")))
        ['lightning_vi', 'torch', 'lightning', 'Python', 'device', 'threads', 'date']
    """
    return {
        **{name: version_of(name) for name in PACKAGES},
        "Python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "threads": str(torch.get_num_threads()),
        "date": datetime.now(UTC).date().isoformat(),
    }


def environment_line(runs: Sequence[Run]) -> str:
    """Writes the environments of runs and their total duration in one line.

    Args:
        runs: The runs; those without an environment, such as runs that failed, are left out.

    Returns:
        The line; empty if no run has an environment.

    Example:
        >>> old = Run("", "IVON", seed=0, seconds=40, environment={"torch": "2.12.0", "threads": "2"})
        >>> new = Run("", "IVON", seed=1, seconds=40, environment={"torch": "2.13.0", "threads": "2"})
        >>> environment_line([old, new])
        'torch 2.12.0 and 2.13.0, 2 threads. Wall time of 2 runs: 0:01:20.'
    """
    known = [run for run in runs if run.environment]
    if not known:
        return ""
    names = dict.fromkeys(name for run in known for name in run.environment)
    values = {name: list(dict.fromkeys(run.environment.get(name, "unknown") for run in known)) for name in names}
    parts = [_phrase(name, " and ".join(each)) for name, each in values.items() if name != "date"]
    duration = timedelta(seconds=round(sum(run.seconds for run in known)))
    dates = sorted(values.get("date", []))
    days = "" if not dates else f", {dates[0]}" if len(dates) == 1 else f", {dates[0]} to {dates[-1]}"
    runs_said = "1 run" if len(known) == 1 else f"{len(known)} runs"
    return f"{', '.join(parts)}. Wall time of {runs_said}: {duration}{days}."


def _phrase(name: str, value: str) -> str:
    if name == "threads":
        return f"{value} thread{'' if value == '1' else 's'}"
    return value if name == "device" else f"{name} {value}"
