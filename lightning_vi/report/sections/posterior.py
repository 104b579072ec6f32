"""Section on the posterior over weights."""

from functools import partial

from lightning_vi.core import Predictor
from lightning_vi.diagnostics import PosteriorDiagnostics
from lightning_vi.diagnostics.callback import read_findings
from lightning_vi.diagnostics.method import PosteriorMethod
from lightning_vi.methods import CalibratedMethod
from lightning_vi.plots import plot_posterior
from lightning_vi.report.facts import Facts
from lightning_vi.report.markup import Html, Section, figure, heading, join, paragraph, rounded, table

HEADER = (
    "module",
    "weights",
    "KL (nats)",
    "KL per weight",
    "median SNR",
    "std",
    "std over prior's",
    "pruned units",
    "ignored inputs",
)


def posterior_section(facts: Facts) -> Section | None:
    """Writes the section, if the method has a variational posterior over weights.

    Args:
        facts: What is known.
    """
    method = innermost(facts.method)
    if not isinstance(method, PosteriorMethod):
        return None
    found = method.posterior_diagnostics()
    if not found.modules:
        return None
    parts = [
        _findings(facts),
        _table(found),
        paragraph(f"KL divergence from the posterior to the prior: {rounded(found.kl)} nats in all."),
        figure(partial(plot_posterior, found), "The same as a figure, with quartiles of the signal-to-noise ratio."),
    ]
    how = (
        "A signal-to-noise ratio (SNR) well above 1 belongs to weights that the data have determined; standard "
        "deviations equal to the prior's and pruned units belong to weights that they have not."
    )
    return Section("posterior", "Posterior", how, join(part for part in parts if part))


def _findings(facts: Facts) -> Html:
    """Findings of `VariationalDiagnostics` at the end of the fit; nothing if the fit was not judged."""
    findings = None if facts.log_folder is None else read_findings(facts.log_folder)
    if findings is None:
        return Html("")
    if not findings:
        return paragraph("The diagnostics at the end of the fit found nothing that speaks against it.")
    items = [paragraph(f"{finding.text} {finding.advice}", "finding") for finding in findings]
    return join([heading("What speaks against the fit"), *items, heading("Modules")])


def innermost(method: Predictor) -> Predictor:
    """Returns the method that a calibration holds.

    Args:
        method: A method, or a calibration of one.
    """
    return innermost(method.method) if isinstance(method, CalibratedMethod) else method


def _table(found: PosteriorDiagnostics) -> Html:
    rows = [
        (
            module.module or "(root)",
            module.num_weights,
            module.kl,
            module.kl_per_weight,
            module.median_snr,
            module.std,
            float("nan") if module.std_over_prior is None else module.std_over_prior,
            _percent(module.pruned_units),
            _percent(module.ignored_inputs),
        )
        for module in found.modules
    ]
    return table(HEADER, rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
