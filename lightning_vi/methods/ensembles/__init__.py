"""Mixtures of several networks or methods."""

from lightning_vi.methods.ensembles.deep_ensemble import DeepEnsemble as DeepEnsemble
from lightning_vi.methods.ensembles.ensemble import Ensemble as Ensemble
