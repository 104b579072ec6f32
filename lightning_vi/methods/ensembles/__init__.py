"""Ensembles of networks or of methods."""

from lightning_vi.methods.ensembles.deep_ensemble import DeepEnsemble as DeepEnsemble
from lightning_vi.methods.ensembles.ensemble import Ensemble as Ensemble
from lightning_vi.methods.ensembles.method_ensemble import MethodEnsemble as MethodEnsemble
