"""Section on the method: its modules, parameters and options."""

from collections.abc import Mapping
from typing import Any

from lightning_vi.arguments import accepted_arguments
from lightning_vi.compare.costs import num_parameters
from lightning_vi.conversion import ConversionReport
from lightning_vi.core import Predictor
from lightning_vi.report.facts import Facts
from lightning_vi.report.markup import Html, Section, heading, join, paragraph, table
from lightning_vi.report.sections.posterior import innermost

MAX_MODULES = 60
MAX_OPTION = 160


def method_section(facts: Facts) -> Section:
    """Writes the section.

    Args:
        facts: What is known.
    """
    method = innermost(facts.method)
    parts = [paragraph(_sentence(facts.method))]
    conversion = getattr(method, "conversion", None)
    if isinstance(conversion, ConversionReport):
        parts.append(_modules(conversion))
        how = "Stochastic modules have a distribution over their weights; all others have one value for each weight."
    else:
        how = "Parameters are all numbers that the method trains or has trained; options are what it was made with."
    for each in _chain(facts.method):
        if options := _options(each):
            parts += [heading(f"Options of {type(each).__name__}"), table(("option", "value"), options)]
    parts.append(paragraph(f"Likelihood: {_short(method.likelihood)}", "note"))
    return Section("method", "Method", how, join(parts))


def _chain(method: Predictor) -> list[Predictor]:
    inner = getattr(method, "method", None)
    return [method, *(_chain(inner) if isinstance(inner, Predictor) else [])]


def chain_name(method: Predictor) -> str:
    """Returns the name of a method, or of a calibration of one.

    Args:
        method: The method.
    """
    return " of ".join(type(each).__name__ for each in _chain(method))


def _sentence(method: Predictor) -> str:
    members = getattr(innermost(method), "members", None) or getattr(innermost(method), "networks", None)
    count = f" in {len(members)} networks" if members is not None else ""
    samples = f"{method.num_mc_samples_test} samples for each prediction"
    return f"{chain_name(method)} with {num_parameters(method):,} parameters{count}, and {samples}."


def _modules(conversion: ConversionReport) -> Html:
    rows = [
        (each.name or "(root)", each.kind, each.num_parameters, each.stochastic, each.estimator or "-", each.reason)
        for each in conversion.modules[:MAX_MODULES]
    ]
    total = f"{conversion.num_stochastic:,} of {conversion.num_parameters:,} weights of the network are stochastic."
    if len(conversion.modules) > MAX_MODULES:
        total += f" The first {MAX_MODULES} of {len(conversion.modules)} modules are shown."
    header = ("module", "kind", "weights", "stochastic", "estimator", "why")
    return join([paragraph(total), table(header, rows)])


def _options(method: Predictor) -> list[tuple[str, str]]:
    saved: Mapping[str, Any] = method.hparams
    accepted = accepted_arguments(type(method))
    return [
        (name, _short(value))
        for name, value in saved.items()
        if name in accepted and name not in ("backbone", "likelihood", "method", "methods", "_instantiator")
    ]


def _short(value: Any) -> str:
    shown = " ".join(str(value).split())
    return shown if len(shown) <= MAX_OPTION else f"{shown[: MAX_OPTION - 1]}…"
