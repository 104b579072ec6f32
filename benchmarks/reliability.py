"""Tables of docs/reliability.md: the cases that the reliability tests tried, and those that ended right.

    python benchmarks/reliability.py            # every case, as `make test-all` runs them
    python benchmarks/reliability.py --quick    # the cases of `make test`
    python benchmarks/reliability.py --tally FILE    # counts of an earlier run

The tests of `tests/reliability` count their cases with the fixture `tally`. A case is right if its answer is the right
one, or if it is refused with an error that names the remedy; a test that finds another outcome fails.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from lightning_vi import methods

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
Counts = tuple[int, int]


def run_tests(tally: Path, *, quick: bool) -> None:
    """Runs the reliability tests, which append their counts to a file."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "tests/reliability"]
    environment = {**os.environ, "LIGHTNING_VI_TALLY": str(tally)}
    subprocess.run(command if quick else [*command, "-m", ""], cwd=ROOT, env=environment, check=True)


def read_counts(tally: Path) -> dict[tuple[str, str], Counts]:
    """Returns the numbers of tried and right cases by kind and case, summed over the tests."""
    counts: dict[tuple[str, str], Counts] = defaultdict(lambda: (0, 0))
    for line in tally.read_text().splitlines():
        row = json.loads(line)
        key = row["kind"], row["case"]
        tried, right = counts[key]
        counts[key] = tried + row["tried"], right + row["right"]
    return dict(counts)


def method_of(case: str) -> str | None:
    """Returns the method that a case is about, None if it is about none."""
    name = case.split()[0].strip(",:")
    return name if name in methods.__all__ else None


def kinds_table(counts: Mapping[tuple[str, str], Counts]) -> list[str]:
    """Returns one row per kind."""
    totals: dict[str, list[Counts]] = defaultdict(list)
    for (kind, _), pair in counts.items():
        totals[kind].append(pair)
    rows = [
        [kind, str(len(pairs)), str(sum(tried for tried, _ in pairs)), str(sum(right for _, right in pairs))]
        for kind, pairs in sorted(totals.items())
    ]
    return markdown(["kind", "methods or properties", "tried", "right"], rows)


def methods_table(counts: Mapping[tuple[str, str], Counts]) -> list[str]:
    """Returns one row per method and one column per kind that knows methods."""
    cells: dict[tuple[str, str], Counts] = defaultdict(lambda: (0, 0))
    for (kind, case), (tried, right) in counts.items():
        if (method := method_of(case)) is not None:
            before = cells[method, kind]
            cells[method, kind] = before[0] + tried, before[1] + right
    kinds = sorted({kind for _, kind in cells})
    rows = []
    for name in sorted({method for method, _ in cells}):
        pairs = [cells.get((name, kind)) for kind in kinds]
        rows.append([f"`{name}`", *("" if pair is None else fraction(pair) for pair in pairs)])
    return markdown(["method", *kinds], rows)


def fraction(pair: Counts) -> str:
    """Returns "right of tried", or the number alone where all are right."""
    tried, right = pair
    return str(tried) if tried == right else f"{right} of {tried}"


def markdown(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    """Returns the lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def replace_tables(page: str, tables: Mapping[str, list[str]]) -> str:
    """Replaces the lines between ``<!-- NAME -->`` and ``<!-- end -->``."""
    for name, lines in tables.items():
        start = page.index(f"<!-- {name} -->") + len(f"<!-- {name} -->")
        stop = page.index("<!-- end -->", start)
        page = page[:start] + "\n" + "\n".join(lines) + "\n" + page[stop:]
    return page


def main() -> None:
    """Runs the tests and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the cases of `make test` only")
    parser.add_argument("--tally", type=Path, help="file with the counts of an earlier run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = arguments.tally
        if tally is None:
            tally = Path(folder) / "tally.jsonl"
            run_tests(tally, quick=arguments.quick)
        counts = read_counts(tally)
    tables = {"kinds": kinds_table(counts), "methods": methods_table(counts)}
    PAGE.write_text(replace_tables(PAGE.read_text(), tables))


if __name__ == "__main__":
    main()
