"""Progress of a comparison, with an estimate of the time that is left."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_vi.compare.store import Run


def remaining_seconds(finished: Sequence[Run], pending: Sequence[tuple[str, str]]) -> float | None:
    """Estimates the duration of the runs that are left.

    A run takes as long as those of its method on its data so far; of its method on other data, if there are none; or
    of any method.

    Args:
        finished: The runs so far.
        pending: Data set and method of each run that is left.

    Returns:
        Seconds; None if no run has succeeded.

    Example:
        >>> remaining_seconds([Run("a", "IVON", 0, seconds=2.0)], [("a", "IVON"), ("a", "SWA")])
        4.0
    """
    done = [run for run in finished if not run.error]
    if not done:
        return None

    def mean(runs: Sequence[Run]) -> float:
        return sum(run.seconds for run in runs) / len(runs)

    def expected(data: str, method: str) -> float:
        of_method = [run for run in done if run.method == method]
        return mean([run for run in of_method if run.data == data] or of_method or done)

    return sum(expected(*each) for each in pending)


class Reporter:
    """Shows what runs, how many runs are done and how long the rest will take.

    Args:
        num_runs: Number of runs in all.
        progress: The bar; None shows nothing.
    """

    def __init__(self, num_runs: int, progress: Progress | None) -> None:
        self._progress = progress
        self._task = None if progress is None else progress.add_task("", total=num_runs, left="")

    def update(self, description: str, num_done: int, seconds_left: float | None) -> None:
        """Shows the present state.

        Args:
            description: What is running.
            num_done: Number of runs that are done.
            seconds_left: Estimate of the time that is left, if there is one.
        """
        if self._progress is None or self._task is None:
            return
        left = "" if seconds_left is None else f"about {timedelta(seconds=round(seconds_left))} left"
        self._progress.update(self._task, description=description, completed=num_done, left=left)


@contextmanager
def reporting(num_runs: int, *, shown: bool, console: Console | None) -> Iterator[Reporter]:
    """Shows a progress bar in a context.

    Args:
        num_runs: Number of runs in all.
        shown: Whether to show it.
        console: Console; standard error by default.

    Yields:
        The reporter.
    """
    if not shown:
        yield Reporter(num_runs, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True) if console is None else console) as progress:
        yield Reporter(num_runs, progress)
