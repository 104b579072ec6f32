"""Section on the scores of the test sets."""

from lightning_vi.report.bootstrap import LEVEL
from lightning_vi.report.facts import Facts
from lightning_vi.report.markup import Html, Section, heading, join, number, table
from lightning_vi.report.names import better, name_of, unit_of
from lightning_vi.report.scoring import ScoredSet

WORDS = {"higher": "higher is better", "lower": "lower is better", "nominal": "nearest to its level is best", "": ""}


def scores_section(facts: Facts) -> Section:
    """Writes the section.

    Args:
        facts: What is known.
    """
    parts: list[Html] = []
    for name, scored in facts.own.items():
        if len(facts.own) > 1:
            parts.append(heading(f"Test set: {name}"))
        parts.append(_table(facts, scored))
    how = (
        f"Each score is that of lightning-vi test, with a {LEVEL:.0%} confidence interval from resampled test rows, "
        "which tells how much the score would vary with other rows."
    )
    return Section("scores", "Scores", how, join(parts))


def interval_text(scored: ScoredSet, metric: str) -> Html:
    """Returns the confidence interval of a metric.

    Args:
        scored: The test set.
        metric: Name of the metric.
    """
    if metric not in scored.intervals:
        return Html("-")
    low, high = scored.intervals[metric]
    return Html(f"{number(low)} to {number(high)}")


def _table(facts: Facts, scored: ScoredSet) -> Html:
    rows = [
        (
            name_of(metric),
            value,
            interval_text(scored, metric),
            unit_of(metric),
            WORDS[better(metric, facts.method.test_metrics)],
        )
        for metric, value in scored.scores.items()
    ]
    return table(("score", "value", f"{LEVEL:.0%} interval", "unit", "direction"), rows)
