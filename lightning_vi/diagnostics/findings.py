"""Findings that speak against a fit by variational inference, with advice."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_vi.diagnostics.advice import advice
from lightning_vi.diagnostics.posterior import PosteriorDiagnostics
from lightning_vi.diagnostics.reference import FitReference

MIN_EPOCHS = 10
"""Least number of epochs after burn-in, and of epochs with one weight of the KL divergence for a trend."""
MIN_STEPS = 200
MIN_SCORE = 4.0
"""Least number of standard errors of a trend, of a difference of losses."""
MIN_FALL = 0.1
"""Least fall of the loss over the last epochs as a share of what was learned so far."""
MIN_SHARE = 1 / 3
"""Share of what was learned early that must be left at the end. The best fits of few noisy data keep half of it."""
MAX_PRUNED = 0.5
"""Share of pruned units that is worth a word in a fit that has learned little. Posteriors prune the units that the data
do not pay for, in the best fits too."""
MAX_NOISE_COST = 0.75
"""Share of what was learned that the noise of the weights may cost, which is up to two thirds in such fits."""
FOR_DIVERGENCE = ("prior", "init_std", "kl_warmup_epochs", "from_pretrained", "correlations", "network", "kl_weight")
"""Remedies against a divergence that outweighs the likelihood."""
MIN_STD_CHANGE = 0.05
"""Least change of the mean logarithm of a module's posterior standard deviations."""


@dataclass(frozen=True)
class EpochRecord:
    """Means of an epoch.

    Attributes:
        epoch: Index of the epoch.
        num_steps: Number of optimizer steps of the fit so far.
        kl_weight: Weight of the KL divergence; 0 during burn-in.
        is_burnin: Whether the epoch belongs to the burn-in.
        loss: Loss in nats per datum.
        nll: Expected negative log-likelihood in nats per datum; None during burn-in.
        kl: KL divergence in nats; None during burn-in.
    """

    epoch: int
    num_steps: int
    kl_weight: float
    is_burnin: bool
    loss: float
    nll: float | None
    kl: float | None


@dataclass(frozen=True)
class Finding:
    """Something that speaks against a fit.

    Attributes:
        kind: ``"constant"``, ``"kl_takes_over"``, ``"noise"``, ``"kl_warmup"``, ``"still_falling"``, ``"std"`` or
            ``"pruned"``.
        text: What was measured.
        advice: What to change.
    """

    kind: str
    text: str
    advice: str


@dataclass(frozen=True)
class FitFacts:
    """Facts about a fit at its end.

    Attributes:
        history: The epochs.
        posterior: Diagnostics of the posterior.
        kl_weight: Weight of the KL divergence that the warm-up leads to.
        reference: The fit beside constant outputs; None if unknown.
        std_changes: Change of the mean log standard deviation by module; empty if the method was trained before.
        open_remedies: Names of the `REMEDIES` that would change something in the method.
        is_divergence_scheduled: See `PosteriorMethod`.
        is_stopped_early: Whether a validation score ended the fit, which then has had enough epochs.
    """

    history: Sequence[EpochRecord]
    posterior: PosteriorDiagnostics
    kl_weight: float
    reference: FitReference | None
    std_changes: Mapping[str, float]
    open_remedies: Collection[str] = ()
    is_divergence_scheduled: bool = False
    is_stopped_early: bool = False


def is_long_enough(history: Sequence[EpochRecord]) -> bool:
    """Returns whether a fit was meant to converge: with 10 epochs after burn-in, and 200 steps.

    Args:
        history: The epochs.
    """
    num_epochs = sum(not record.is_burnin for record in history)
    return num_epochs >= MIN_EPOCHS and history[-1].num_steps >= MIN_STEPS


def find_problems(facts: FitFacts) -> tuple[Finding, ...]:
    """Looks for what speaks against a fit.

    Args:
        facts: What is known at its end.

    Returns:
        The findings, the most important one first; none if the fit is not long enough.
    """
    if not is_long_enough(facts.history):
        return ()
    trained = [record for record in facts.history if not record.is_burnin]
    found = [
        _constant(facts),
        _kl_takes_over(facts, trained),
        _burnin_lost(facts),
        _noise(facts),
    ]
    if any(finding is not None for finding in found):
        found.append(_pruned(facts))
    if not facts.is_stopped_early:
        found += [_kl_warmup(facts, trained), _still_falling(facts, trained)]
    found.append(_stds(facts))
    return tuple(finding for finding in found if finding is not None)


def fall_of(losses: Sequence[float]) -> tuple[float, float]:
    """Computes by how much a loss falls over the epochs, along the least-squares line.

    Args:
        losses: At least four losses.

    Returns:
        The fall, positive if the loss falls, and its standard error. The error takes into account that neighboring
        epochs deviate from the line alike.
    """
    values = np.asarray(losses, dtype=float)
    time = np.arange(len(values)) - (len(values) - 1) / 2
    slope = float(time @ values / (time @ time))
    residuals = values - values.mean() - slope * time
    variance = float(residuals @ residuals) / (len(values) - 2)
    correlation = float(residuals[1:] @ residuals[:-1]) / max(float(residuals @ residuals), 1e-300)
    correlation = min(max(correlation, 0.0), 0.9)
    error = math.sqrt(variance / float(time @ time) * (1 + correlation) / (1 - correlation))
    length = len(values) - 1
    return -slope * length, error * length


def _still_falling(facts: FitFacts, trained: Sequence[EpochRecord]) -> Finding | None:
    last = trained[-1].kl_weight
    settled = [r for r in trained if math.isclose(r.kl_weight, last, rel_tol=1e-6)]
    window = settled[-max(MIN_EPOCHS, len(trained) // 5) :]
    if len(window) < MIN_EPOCHS:
        return None
    values = [r.nll if facts.is_divergence_scheduled and r.nll is not None else r.loss for r in settled]
    fall, error = fall_of(values[-len(window) :])
    start = facts.reference.constant_nll if facts.reference is not None else max(r.loss for r in trained)
    learned = max(start, max(values)) - values[-1]
    if fall < MIN_SCORE * error or fall < MIN_FALL * learned:
        return None
    name = "negative log-likelihood" if facts.is_divergence_scheduled else "loss"
    return Finding(
        "still_falling",
        f"The {name} still falls: by {fall:.2g} nats per datum over the last {len(window)} epochs.",
        advice(["epochs", "optimizer", "lr"], facts.open_remedies),
    )


def _constant(facts: FitFacts) -> Finding | None:
    reference = facts.reference
    if reference is None or reference.gain > 2 * reference.gain_error:
        return None
    return Finding(
        "constant",
        f"The fit is not clearly better than a constant: its negative log-likelihood is {reference.nll:.3g} nats per "
        f"datum on {reference.num_rows} training rows, that of the best constant {reference.constant_nll:.3g}.",
        advice(
            ["kl_warmup_epochs", "init_std", "prior", "optimizer", "lr_scheduler", "epochs", "from_pretrained"],
            facts.open_remedies,
        ),
    )


def _kl_takes_over(facts: FitFacts, trained: Sequence[EpochRecord]) -> Finding | None:
    reference = facts.reference
    values = [r.nll for r in trained if r.nll is not None]
    if reference is None or len(values) < MIN_EPOCHS:
        return None
    means = np.convolve(values, np.ones(3) / 3, mode="valid")
    best, end = float(means.min()), float(means[-1])
    gain = reference.constant_nll - best
    if gain <= MIN_SCORE * reference.gain_error or reference.constant_nll - end >= MIN_SHARE * gain:
        return None
    return Finding(
        "kl_takes_over",
        f"The KL divergence takes over: the negative log-likelihood was {best:.3g} nats per datum at a small KL weight "
        f"and is {end:.3g} at the end, where the best constant has {reference.constant_nll:.3g}.",
        advice(FOR_DIVERGENCE, facts.open_remedies),
    )


def _burnin_lost(facts: FitFacts) -> Finding | None:
    reference = facts.reference
    burnin = [r.loss for r in facts.history if r.is_burnin]
    if reference is None or not burnin:
        return None
    gain = reference.constant_point_loss - burnin[-1]
    left = reference.constant_point_loss - reference.point_loss
    if gain <= 0.1 * abs(reference.constant_point_loss) or left >= MIN_SHARE * gain:
        return None
    return Finding(
        "kl_takes_over",
        f"The fit lost what the burn-in had learned: the point loss at the posterior means was {burnin[-1]:.3g} "
        f"after it and is {reference.point_loss:.3g} now; the best constant has {reference.constant_point_loss:.3g}.",
        advice(FOR_DIVERGENCE, facts.open_remedies),
    )


def _kl_warmup(facts: FitFacts, trained: Sequence[EpochRecord]) -> Finding | None:
    reached = trained[-1].kl_weight
    if reached >= (1 - 1e-6) * facts.kl_weight:
        return None
    return Finding(
        "kl_warmup",
        f"The fit ended before the KL warm-up: the weight reached {reached:.2g} of {facts.kl_weight:g}.",
        advice(["epochs", "fewer_kl_warmup_epochs"], facts.open_remedies),
    )


def _noise(facts: FitFacts) -> Finding | None:
    reference = facts.reference
    if reference is None or reference.noise_cost <= MAX_NOISE_COST:
        return None
    return Finding(
        "noise",
        f"The noise of the weights costs {reference.noise_cost:.0%} of what the network at its posterior means has "
        f"learned: the negative log-likelihood is {reference.nll:.3g} nats per datum, {reference.nll_at_means:.3g} at "
        f"the means, and that of the best constant {reference.constant_nll:.3g}.",
        advice(FOR_DIVERGENCE, facts.open_remedies),
    )


def _pruned(facts: FitFacts) -> Finding | None:
    shares = {}
    for place, module in enumerate(facts.posterior.modules):
        candidates = [module.pruned_units, module.ignored_inputs if place > 0 else None]
        share = max((share for share in candidates if share is not None), default=0.0)
        if share > MAX_PRUNED:
            shares[module.module or "(root)"] = share
    if not shares:
        return None
    places = ", ".join(f"{share:.0%} at module {name}" for name, share in shares.items())
    return Finding(
        "pruned",
        f"Many units are pruned, with weights that are noise: {places}.",
        advice(["prior", "init_std", "kl_warmup_epochs", "correlations", "network"], facts.open_remedies),
    )


def _stds(facts: FitFacts) -> Finding | None:
    changes = facts.std_changes.values()
    if facts.kl_weight == 0 or not changes or max(abs(change) for change in changes) >= MIN_STD_CHANGE:
        return None
    return Finding(
        "std",
        "The posterior standard deviations are where they started: they changed by less than 5%.",
        "The uncertainty of the predictions is that of the start. "
        + advice(["epochs", "optimizer", "lr"], facts.open_remedies),
    )
