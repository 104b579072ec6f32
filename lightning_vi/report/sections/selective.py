"""Section on selective prediction and on the error against the uncertainty."""

from functools import partial
from typing import Any

from lightning_vi.functional.selective import (
    area_under_risk_coverage,
    count_that_reaches,
    excess_area_under_risk_coverage,
    risk_coverage_curve,
)
from lightning_vi.plots import plot_error_uncertainty, plot_predicted_observed, plot_risk_coverage
from lightning_vi.report.facts import Facts, drawable
from lightning_vi.report.markup import Section, figure, join, table

SHARES = (1.0, 0.9, 0.75, 0.5)


def selective_section(facts: Facts) -> Section | None:
    """Writes the section.

    Args:
        facts: What is known.
    """
    scored = facts.first
    seen = ~scored.loss.isnan()
    uncertainty, loss = scored.uncertainty[seen].double(), scored.loss[seen].double()
    if len(loss) < 2 or uncertainty.isnan().any():
        return None
    loss_name = "0-1 loss" if facts.is_classifier else "squared error"
    risk = risk_coverage_curve(uncertainty, loss)[1]
    kept = [(f"{share:.0%}", float(risk[count_that_reaches(share, len(risk)) - 1])) for share in SHARES]
    areas = [
        ("Area under the curve (AURC)", float(area_under_risk_coverage(uncertainty, loss))),
        ("Excess over the best order", float(excess_area_under_risk_coverage(uncertainty, loss))),
    ]
    prediction, target = drawable(scored)
    names: dict[str, Any] = {} if facts.is_classifier else {"target_names": facts.target_names}
    parts = [
        table(("area", f"mean {loss_name}"), areas),
        table(("share of the rows kept", f"mean {loss_name} of these"), kept),
        figure(
            partial(plot_risk_coverage, {"uncertainty": uncertainty}, loss, loss_name=loss_name),
            "Mean loss of the most certain rows, over their share; the dashed curve is the best order there is.",
        ),
        figure(
            partial(plot_error_uncertainty, prediction, target, **names),
            "Error over uncertainty in bins of as many rows each; on the diagonal both agree.",
        ),
    ]
    if not facts.is_classifier:
        draw = partial(plot_predicted_observed, prediction, target, **names)
        parts.append(figure(draw, "Predictions over observed targets."))
    how = (
        "If the uncertainty is of use, the loss falls as fewer rows are kept: those that the method calls uncertain "
        "are those that it gets wrong."
    )
    return Section("selective", "Selective prediction", how, join(part for part in parts if part))
