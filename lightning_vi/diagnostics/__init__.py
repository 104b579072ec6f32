"""Diagnostics of variational posteriors and of the fits that made them."""

from lightning_vi.diagnostics.callback import FitDiagnostics, VariationalDiagnostics
from lightning_vi.diagnostics.diagnosed import DiagnosedMethod
from lightning_vi.diagnostics.findings import EpochRecord, Finding
from lightning_vi.diagnostics.posterior import ModuleDiagnostics, PosteriorDiagnostics, diagnose
from lightning_vi.diagnostics.reference import FitReference
from lightning_vi.diagnostics.weights import WeightPosterior, output_dim, weight_posteriors

__all__ = [
    "DiagnosedMethod",
    "EpochRecord",
    "Finding",
    "FitDiagnostics",
    "FitReference",
    "ModuleDiagnostics",
    "PosteriorDiagnostics",
    "VariationalDiagnostics",
    "WeightPosterior",
    "diagnose",
    "output_dim",
    "weight_posteriors",
]
