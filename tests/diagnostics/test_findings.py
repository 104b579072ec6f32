"""Findings of histories that are made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lightning_vi.diagnostics import EpochRecord, FitReference, ModuleDiagnostics, PosteriorDiagnostics
from lightning_vi.diagnostics.findings import FitFacts, fall_of, find_problems

GOOD = FitReference(500, 0.3, 0.25, 1.4, 0.02, 0.1, 0.5)


def module(name: str, pruned: float, ignored: float) -> ModuleDiagnostics:
    return ModuleDiagnostics(name, 10, 5.0, (0.1, 0.5, 1.0, 2.0, 5.0), 0.1, 0.5, pruned, ignored)


def history(nll: Any, kl_weight: Any = 1.0, burnin: Any = (), steps: int = 16) -> list[EpochRecord]:
    weights = np.broadcast_to(kl_weight, len(nll))
    first = [EpochRecord(i, (i + 1) * steps, 0.0, True, loss, None, None) for i, loss in enumerate(burnin)]
    rest = [
        EpochRecord(
            len(first) + i, (len(first) + i + 1) * steps, float(weight), False, float(value), float(value), 50.0
        )
        for i, (value, weight) in enumerate(zip(nll, weights, strict=True))
    ]
    return first + rest


def kinds(epochs: list[EpochRecord], **facts: Any) -> list[str]:
    modules = facts.pop("modules", (module("0", 0.0, 0.9), module("2", 0.1, 0.2)))
    options = {"kl_weight": 1.0, "reference": GOOD, "std_changes": {"0": 1.0, "2": 0.0}} | facts
    found = find_problems(FitFacts(epochs, PosteriorDiagnostics(modules), **options))
    assert all(finding.text.endswith(".") and finding.advice.endswith(".") for finding in found)
    return [finding.kind for finding in found]


def settled(num_epochs: int = 60, noise: float = 0.01) -> Any:
    rng = np.random.default_rng(0)
    return 0.3 + 1.1 * np.exp(-np.arange(num_epochs) / 5) + noise * rng.normal(size=num_epochs)


def test_a_fit_that_has_settled_has_no_findings() -> None:
    assert kinds(history(settled())) == []
    assert kinds(history(settled()), reference=None, std_changes={}) == []


def test_a_loss_that_falls_is_found() -> None:
    assert kinds(history(np.linspace(1.4, 0.3, 60))) == ["still_falling"]
    assert kinds(history(np.linspace(1.4, 0.3, 60)), reference=None) == ["still_falling"]
    assert kinds(history(np.linspace(1.4, 0.3, 60)), is_stopped_early=True) == []


def test_a_fall_within_the_noise_is_not_found() -> None:
    rng = np.random.default_rng(1)
    assert kinds(history(np.linspace(0.5, 0.3, 60) + 0.2 * rng.normal(size=60))) == []


def test_falls_and_their_errors_have_the_right_size() -> None:
    rng = np.random.default_rng(2)
    scores = []
    for _ in range(500):
        fall, error = fall_of(0.1 * rng.normal(size=40) - 0.02 * np.arange(40))
        scores.append((fall - 0.02 * 39) / error)
    assert abs(np.mean(scores)) < 4 / 500**0.5
    assert 0.8 < np.std(scores) < 1.1  # positive correlations alone make errors larger


def test_errors_of_falls_grow_with_correlation() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=200)
    correlated = np.convolve(noise, np.ones(5) / 5, mode="same")
    same_spread = correlated / correlated.std() * noise.std()
    assert fall_of(same_spread)[1] > 1.5 * fall_of(noise)[1]


def test_an_unfinished_warmup_is_found_and_its_falling_loss_is_not() -> None:
    weights = np.linspace(0.01, 0.6, 60)
    assert kinds(history(np.linspace(1.4, 0.3, 60), weights)) == ["kl_warmup"]
    assert kinds(history(np.linspace(1.4, 0.3, 60), weights), is_stopped_early=True) == []
    assert kinds(history(settled()), kl_weight=0.0) == []


def test_a_fit_no_better_than_a_constant_is_found() -> None:
    nothing = FitReference(500, 1.39, 1.38, 1.4, 0.02, 0.49, 0.5)
    flat = 1.4 + 0.001 * np.random.default_rng(4).normal(size=60)
    assert kinds(history(flat), reference=nothing) == ["constant"]


def test_a_likelihood_lost_to_the_divergence_is_found() -> None:
    nll = np.concatenate([np.full(20, 0.3), np.linspace(0.3, 1.2, 10), np.full(30, 1.2)])
    weights = np.concatenate([np.linspace(0.03, 1, 30), np.ones(30)])
    assert kinds(history(nll, weights), reference=FitReference(500, 1.2, 1.1, 1.4, 0.02, 0.4, 0.5)) == ["kl_takes_over"]
    some = np.concatenate([np.full(20, 0.3), np.linspace(0.3, 0.5, 10), np.full(30, 0.5)])
    assert kinds(history(some, weights), reference=FitReference(500, 0.5, 0.45, 1.4, 0.02, 0.15, 0.5)) == []


def test_a_burnin_that_was_lost_is_found() -> None:
    lost = FitReference(500, 1.0, 0.9, 1.4, 0.02, 0.45, 0.5)
    kept = FitReference(500, 1.0, 0.9, 1.4, 0.02, 0.2, 0.5)
    epochs = history(np.full(60, 1.0), burnin=(0.5, 0.3, 0.1))
    assert kinds(epochs, reference=lost) == ["kl_takes_over"]
    assert kinds(epochs, reference=kept) == []


def test_pruned_units_of_a_fit_that_has_learned_are_not_found() -> None:
    modules = (module("0", 0.97, 0.0), module("2", 0.0, 0.97))
    noisy = FitReference(500, 0.6, 0.25, 1.4, 0.02, 0.1, 0.5)  # noise takes 30% of what was learned
    assert kinds(history(settled()), modules=modules) == []
    assert kinds(history(settled()), modules=modules, reference=noisy) == []
    assert kinds(history(np.linspace(1.4, 0.3, 60)), modules=modules) == ["still_falling"]


def test_pruned_units_are_found_beside_a_fit_that_has_not_learned_but_not_irrelevant_inputs() -> None:
    nothing = FitReference(500, 1.39, 1.38, 1.4, 0.02, 0.49, 0.5)
    flat = 1.4 + 0.001 * np.random.default_rng(4).normal(size=60)
    pruned = (module("0", 0.8, 0.0), module("2", 0.0, 0.0))
    ignored = (module("0", 0.0, 0.8), module("2", 0.0, 0.0))
    assert kinds(history(flat), reference=nothing, modules=pruned) == ["constant", "pruned"]
    assert kinds(history(flat), reference=nothing, modules=ignored) == ["constant"]


def test_noise_that_takes_most_of_what_was_learned_is_found() -> None:
    noisy = FitReference(500, 1.2, 0.3, 1.4, 0.02, 0.1, 0.5)
    assert kinds(history(settled() + 0.9), reference=noisy) == ["noise"]
    good = FitReference(500, 1.0, 0.3, 1.4, 0.02, 0.1, 0.5)
    assert kinds(history(settled() + 0.7), reference=good) == []


def test_a_divergence_that_follows_a_schedule_may_fall_but_not_the_likelihood() -> None:
    """So it does throughout a fit by IVON."""
    falling = [
        EpochRecord(i, 16 * (i + 1), 1.0, False, nll + kl / 100, nll, kl)
        for i, (nll, kl) in enumerate(zip(settled(), np.linspace(2000, 1000, 60), strict=True))
    ]
    both = [replace(record, nll=1.4 - 0.015 * record.epoch) for record in falling]
    assert kinds(falling) == ["still_falling"]
    assert kinds(falling, is_divergence_scheduled=True) == []
    assert kinds(both, is_divergence_scheduled=True) == ["still_falling"]


def test_advice_leaves_out_what_is_so_already() -> None:
    nothing = FitReference(500, 1.39, 1.38, 1.4, 0.02, 0.49, 0.5)
    flat = 1.4 + 0.001 * np.random.default_rng(4).normal(size=60)
    texts = []
    for remedies in ((), ("prior", "init_std", "lr_scheduler")):
        facts = FitFacts(history(flat), PosteriorDiagnostics(()), 1.0, nothing, {}, remedies)
        texts.append(find_problems(facts)[0].advice)
    assert texts[0] == "Train for more epochs."
    assert all(word in texts[1] for word in ("leave out prior", "init_std", "lr_scheduler", "train for more epochs"))
    assert not any(word in texts[1] for word in ("kl_warmup_epochs", "leave out optimizer", "from_pretrained"))


def test_standard_deviations_that_have_not_moved_are_found() -> None:
    assert kinds(history(settled()), std_changes={"0": 0.01, "2": -0.02}) == ["std"]
    assert kinds(history(settled()), std_changes={"0": 0.01, "2": -0.2}) == []


@pytest.mark.parametrize(("num_epochs", "steps"), [(9, 1000), (60, 3)])
def test_nothing_is_said_of_a_short_fit(num_epochs: int, steps: int) -> None:
    epochs = history(np.linspace(1.4, 0.3, num_epochs), 0.1, steps=steps)
    assert kinds(epochs, modules=(module("0", 1.0, 1.0),), std_changes={"0": 0.0}) == []
