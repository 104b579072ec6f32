"""Tables in Markdown."""

import math
from collections.abc import Sequence


def format_estimate(mean: float, standard_error: float) -> str:
    """Writes a mean with its standard error, rounded to two digits of the error, and to five of the mean at most.

    Args:
        mean: The mean.
        standard_error: Its standard error; NaN if unknown.

    Returns:
        Text such as ``"1.234 (0.021)"``.

    Example:
        >>> format_estimate(1.23456, 0.0214), format_estimate(5301, 0), format_estimate(0.51, float("nan"))
        ('1.235 (0.021)', '5301', '0.510')
        >>> format_estimate(0.7311507932, 4.3e-9)  # such as two seeds that happen to agree
        '0.73115 (4e-09)'
    """
    if not standard_error > 0:
        return str(round(mean)) if float(mean).is_integer() else f"{mean:.{_digits(abs(mean), 3)}f}"
    digits, most = _digits(standard_error, 2), _digits(abs(mean), 5)
    if digits > most + 1:
        return f"{mean:.{most}f} ({standard_error:.1g})"
    digits = min(digits, most)
    return f"{mean:.{digits}f} ({standard_error:.{digits}f})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table with aligned columns, the first to the left and the others to the right.

    Args:
        header: Headings.
        rows: Cells.

    Returns:
        Markdown.

    Example:
        >>> print(markdown_table(["method", "nll"], [["IVON", "0.5"]]))
        | method | nll |
        |:-------|----:|
        | IVON   | 0.5 |
    """
    widths = [max(3, *(len(row[column]) for row in (header, *rows))) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]) + " |"

    rule = "|:" + "-" * (widths[0] + 1) + "|" + "".join("-" * (width + 1) + ":|" for width in widths[1:])
    return "\n".join([line(header), rule, *map(line, rows)])


def _digits(value: float, significant: int) -> int:
    """Number of decimals that leaves so many significant digits."""
    if not (value > 0 and math.isfinite(value)):
        return significant
    return max(0, significant - 1 - math.floor(math.log10(value)))
