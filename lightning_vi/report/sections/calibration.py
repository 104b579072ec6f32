"""Section on calibration, before and after."""

from collections.abc import Mapping
from functools import partial

from lightning_vi.plots import plot_calibration, plot_calibration_curves, plot_pit, plot_reliability_diagram
from lightning_vi.report.calibrations import AFTER, CONFORMED
from lightning_vi.report.facts import Facts, drawable
from lightning_vi.report.markup import Html, Section, figure, join, paragraph, table
from lightning_vi.report.names import name_of
from lightning_vi.report.scoring import ScoredSet
from lightning_vi.report.sections.scores import interval_text

COMPARED = ("nll", "crps", "coverage", "interval_width", "ece", "brier")


def calibration_section(facts: Facts) -> Section:
    """Writes the section.

    Args:
        facts: What is known.
    """
    variants = next(iter(facts.scored.values()))
    parts = [_comparison(facts, variants), _conformal(facts, variants), *_figures(facts, variants)]
    how = (
        "A curve on the diagonal means that stated probabilities come true as often as they say; below it the method "
        "is too sure of itself."
        if facts.is_classifier
        else "A curve on the diagonal means that intervals hold as many targets as they say; below it they are too "
        "narrow."
    )
    return Section("calibration", "Calibration", how, join(part for part in parts if part))


def _comparison(facts: Facts, variants: Mapping[str, ScoredSet]) -> Html:
    if AFTER not in variants:
        return Html("")
    before, after = variants["method"], variants[AFTER]
    rows = [
        (name_of(key), before.scores[key], interval_text(before, key), after.scores[key], interval_text(after, key))
        for key in COMPARED
        if key in before.scores
    ]
    name = type(facts.calibrations.fitted[AFTER]).__name__
    said = f"Before: {type(facts.calibrations.base).__name__}. After: {name}, fitted on {facts.calibrations.rows}."
    return join([paragraph(said), table(("score", "before", "95% interval", "after", "95% interval"), rows)])


def _conformal(facts: Facts, variants: Mapping[str, ScoredSet]) -> Html:
    if CONFORMED not in variants:
        return Html("")
    calibration, scored = facts.calibrations.fitted[CONFORMED], variants[CONFORMED]
    keys = [key for key in scored.scores if key.startswith("conformal_")]
    rows = [(name_of(key), scored.scores[key], interval_text(scored, key)) for key in keys]
    kind = "prediction sets" if facts.is_classifier else "prediction intervals"
    said = (
        f"{type(calibration).__name__}, fitted on {facts.calibrations.rows}, makes {kind} that are to hold "
        f"{getattr(calibration, 'coverage', float('nan')):.0%} of new targets, whatever the method."
    )
    return join([paragraph(said), table(("score", "value", "95% interval"), rows)])


def _figures(facts: Facts, variants: Mapping[str, ScoredSet]) -> list[Html]:
    prediction, target = drawable(variants["method"])
    values = prediction if isinstance(prediction, dict) else prediction.as_dict()
    found: list[Html] = []
    if AFTER in variants:
        both = {"before": prediction, "after": drawable(variants[AFTER])[0]}
        found.append(figure(partial(plot_calibration_curves, both, target), "Calibration before and after."))
    if facts.is_classifier:
        found.append(
            figure(
                partial(plot_reliability_diagram, values["pred"], target),
                "Accuracy over confidence before calibration, with the number of predictions in each bin.",
            )
        )
        return found
    names = facts.target_names
    found.append(
        figure(
            partial(plot_calibration, values["pred"], values["pred_uct"], target, target_names=names),
            "Before calibration: ordered intervals, observed over predicted coverage, and sharpness.",
        )
    )
    found.append(
        figure(
            partial(plot_pit, prediction, target, target_names=names),
            "Probability integral transform before calibration: bars within the band are those of calibrated "
            "predictions, a valley means too narrow ones and a hill too wide ones.",
        )
    )
    return found
