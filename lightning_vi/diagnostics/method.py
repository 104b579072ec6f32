"""Base class of methods whose posterior over weights has diagnostics."""

from abc import abstractmethod
from collections.abc import Sequence

from lightning_vi.core import UQMethod
from lightning_vi.diagnostics.posterior import PosteriorDiagnostics, diagnose
from lightning_vi.diagnostics.weights import WeightPosterior


class PosteriorMethod(UQMethod):
    """Base class of methods with a variational posterior over weights.

    A subclass fills in `weight_posteriors`, and `posterior_dependence` if the weights are not independent.
    """

    is_divergence_scheduled = False
    """True if the standard deviations, and with them the divergence, follow a schedule over the length of a fit."""

    @abstractmethod
    def weight_posteriors(self) -> Sequence[WeightPosterior]:
        """Returns the marginal posterior of each stochastic parameter tensor, in the order of the network."""

    def posterior_dependence(self) -> float:
        """Returns the KL divergence from the joint posterior to the product of its marginals, in nats."""
        return 0.0

    def open_remedies(self) -> frozenset[str]:
        """Returns the names of the `REMEDIES` that would change something in this method."""
        return frozenset()

    def posterior_diagnostics(self) -> PosteriorDiagnostics:
        """Computes KL divergence, signal-to-noise ratio and pruned units of each module.

        Returns:
            A table: print it, or take its `to_frame`. `lightning_vi.plots.plot_posterior` draws it.
        """
        return diagnose(self.weight_posteriors(), self.posterior_dependence())
