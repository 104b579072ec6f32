"""Diagnostics of a posterior, one row per module."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import pandas as pd
import torch
from torch import Tensor

from lightning_vi.diagnostics.weights import WeightPosterior
from lightning_vi.functional.signal import signal_to_noise, unit_signal_to_noise

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
PRUNED_BELOW = 1.0
"""A unit is pruned if no input gives it a mean of more than this multiple of its standard deviation."""
MAX_SORTED = 2**20
"""Most weights of a module whose quantiles are computed exactly; of larger modules, evenly spaced weights are taken."""


@dataclass(frozen=True)
class ModuleDiagnostics:
    r"""Posterior of one module's weights.

    Attributes:
        module: Dotted name of the module, empty for the network itself.
        num_weights: Number of its stochastic weights.
        kl: KL divergence from the product of the marginals to the prior, in nats.
        snr: Quantiles .05, .25, .5, .75 and .95 of the signal-to-noise ratio :math:`|\mu| / \sigma` of the weights.
        std: Geometric mean of the posterior standard deviations.
        std_over_prior: Geometric mean of the ratios of posterior to prior standard deviations; None if the prior's is
            not known. Near 1, the data have told the weights nothing.
        pruned_units: Share of output units or channels whose incoming weights are noise, see `PosteriorDiagnostics`;
            None if the module has no matrix of weights.
        ignored_inputs: The same share for input units and their outgoing weights.
    """

    module: str
    num_weights: int
    kl: float
    snr: tuple[float, ...]
    std: float
    std_over_prior: float | None
    pruned_units: float | None
    ignored_inputs: float | None

    @property
    def median_snr(self) -> float:
        """Median signal-to-noise ratio."""
        return self.snr[len(self.snr) // 2]

    @property
    def kl_per_weight(self) -> float:
        """KL divergence per weight in nats."""
        return self.kl / self.num_weights


@dataclass(frozen=True)
class PosteriorDiagnostics:
    r"""Diagnostics of a posterior; prints as a table.

    A unit is *pruned* if the posterior of its incoming weights is noise: no input gives its pre-activation a mean that
    exceeds one standard deviation, :math:`\sum_i \mu_i^2 / \sigma_i^2 < 1`. An input is *ignored* if this holds for its
    outgoing weights. Mean-field posteriors prune units whose contribution does not pay for its KL divergence (Trippe
    and Turner, "Overpruning in variational Bayesian neural networks", 2018). The measure is the signal-to-noise ratio
    of Blundell et al. ("Weight uncertainty in neural networks", ICML 2015), taken for a unit instead of a weight.

    Attributes:
        modules: One row per module with a posterior, in the order of the network.
        dependence: KL divergence from the joint posterior to the product of its marginals, in nats; 0 for independent
            weights. The sum of it and of the modules' divergences is the KL divergence of the posterior.
    """

    modules: tuple[ModuleDiagnostics, ...]
    dependence: float = 0.0

    @property
    def kl(self) -> float:
        """KL divergence from posterior to prior in nats."""
        return sum(module.kl for module in self.modules) + self.dependence

    def to_frame(self) -> pd.DataFrame:
        """Returns a data frame, one row per module."""
        columns = [f"snr_{round(100 * q):02d}" for q in QUANTILES]
        rows = []
        for module in self.modules:
            row = asdict(module)
            quantiles = dict(zip(columns, row.pop("snr"), strict=True))
            rows.append({**row, "kl_per_weight": module.kl_per_weight, **quantiles})
        return pd.DataFrame(rows).set_index("module")

    def __str__(self) -> str:
        header = ("module", "weights", "KL", "KL/weight", "median SNR", "std", "std/prior", "pruned", "ignored inputs")
        rows = [
            (
                module.module or "(root)",
                str(module.num_weights),
                f"{module.kl:.4g}",
                f"{module.kl_per_weight:.3g}",
                f"{module.median_snr:.3g}",
                f"{module.std:.3g}",
                "-" if module.std_over_prior is None else f"{module.std_over_prior:.3g}",
                _percent(module.pruned_units),
                _percent(module.ignored_inputs),
            )
            for module in self.modules
        ]
        total = str(sum(module.num_weights for module in self.modules))
        rows.append(("total", total, f"{self.kl:.4g}", "", "", "", "", "", ""))
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in [header, *rows]]
        return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


@torch.no_grad()
def diagnose(posteriors: Iterable[WeightPosterior], dependence: Tensor | float = 0.0) -> PosteriorDiagnostics:
    """Computes the diagnostics of a posterior from its marginals.

    Args:
        posteriors: The marginal posterior of each parameter tensor.
        dependence: KL divergence from the joint posterior to the product of the marginals, in nats.

    Returns:
        One row per module.

    Example:
        >>> import torch
        >>> mean, std = torch.tensor([[4.0, 0.0], [0.1, 0.0]]), torch.full((2, 2), 0.5)
        >>> posterior = WeightPosterior("0", mean, std, torch.tensor(9.0), prior_std=1.0, unit_dim=0)
        >>> print(diagnose([posterior]))
        module  weights  KL  KL/weight  median SNR  std  std/prior  pruned  ignored inputs
        0       4        9   2.25       0.1         0.5  0.5        50%     50%
        total   4        9
    """
    modules: dict[str, list[WeightPosterior]] = {}
    for posterior in posteriors:
        modules.setdefault(posterior.module, []).append(posterior)
    return PosteriorDiagnostics(tuple(_module(name, parts) for name, parts in modules.items()), float(dependence))


def log_stds(posteriors: Iterable[WeightPosterior]) -> Mapping[str, float]:
    """Computes the mean logarithm of the posterior standard deviations of each module.

    Args:
        posteriors: The marginal posterior of each parameter tensor.

    Returns:
        Numbers by the module's name.
    """
    totals: dict[str, list[Tensor]] = {}
    for posterior in posteriors:
        totals.setdefault(posterior.module, []).append(posterior.std.log().flatten())
    return {name: torch.cat(parts).mean().item() for name, parts in totals.items()}


def _module(name: str, parts: list[WeightPosterior]) -> ModuleDiagnostics:
    mean = torch.cat([part.mean.flatten() for part in parts])
    std = torch.cat([part.std.flatten() for part in parts])
    ratios = signal_to_noise(mean, std)
    some = ratios[:: -(-len(ratios) // MAX_SORTED)].cpu().float()
    quantiles = torch.quantile(some, some.new_tensor(QUANTILES)).tolist()
    num_weights = len(mean)
    log_ratios = [
        (part.std / torch.as_tensor(part.prior_std).to(part.std)).log().sum()
        for part in parts
        if part.prior_std is not None
    ]
    is_prior_known = len(log_ratios) == len(parts)
    return ModuleDiagnostics(
        name,
        num_weights,
        torch.stack([part.kl for part in parts]).sum().item(),
        tuple(quantiles),
        std.log().mean().exp().item(),
        (torch.stack(log_ratios).sum() / num_weights).exp().item() if is_prior_known else None,
        _share_of_noise(parts, outgoing=False),
        _share_of_noise(parts, outgoing=True),
    )


def _share_of_noise(parts: list[WeightPosterior], *, outgoing: bool) -> float | None:
    ratios = [
        unit_signal_to_noise(part.mean, part.std, 1 - part.unit_dim if outgoing else part.unit_dim)
        for part in parts
        if part.unit_dim is not None
    ]
    return (torch.cat(ratios) < PRUNED_BELOW).float().mean().item() if ratios else None
