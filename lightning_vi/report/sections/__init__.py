"""Sections of a report, in their order. Each is None where it does not apply."""

from collections.abc import Callable

from lightning_vi.report.facts import Facts
from lightning_vi.report.markup import Section
from lightning_vi.report.sections.calibration import calibration_section
from lightning_vi.report.sections.data import data_section
from lightning_vi.report.sections.extremes import extremes_section
from lightning_vi.report.sections.method import method_section
from lightning_vi.report.sections.posterior import posterior_section
from lightning_vi.report.sections.scores import scores_section
from lightning_vi.report.sections.selective import selective_section
from lightning_vi.report.sections.training import training_section

SECTIONS: tuple[Callable[[Facts], Section | None], ...] = (
    data_section,
    training_section,
    scores_section,
    calibration_section,
    selective_section,
    extremes_section,
    method_section,
    posterior_section,
)

__all__ = ["SECTIONS"]
