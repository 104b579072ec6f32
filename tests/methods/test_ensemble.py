"""Ensembles of fitted methods of any class, against moments of their samples."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, metric_inputs, normal, quiet_trainer, randomize_posteriors, same_state
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from method_cases import global_states, modes
from torch import Tensor
from torch.testing import assert_close
from torchmetrics import MetricCollection

from lightning_vi import DeepEnsemble, Deterministic, Ensemble, Laplace, LastLayerVI, MeanFieldVI, NotFittedError
from lightning_vi.backbones import MLP
from lightning_vi.evaluation import selective_prediction
from lightning_vi.likelihoods import Categorical, Gaussian, Likelihood, NegativeBinomial, Poisson, StudentT
from lightning_vi.methods import UQMethod

N = 12
X, Y = normal(N, 3), normal(N, 1)
LABELS = torch.arange(N) % 3
COUNTS = (LABELS * 2.0).unsqueeze(1)


def wide(method: UQMethod) -> UQMethod:
    randomize_posteriors(method.backbone)
    return method


def several(kinds: Any, width: int, likelihood: Any) -> list[UQMethod]:
    return [wide(kind(MLP(3, [4], width), likelihood())) for kind in kinds]


vi = partial(MeanFieldVI, num_mc_samples_test=6)
PROBLEMS: dict[str, tuple[int, Any, Tensor]] = {
    "Gaussian": (1, Gaussian, Y),
    "Student's t": (1, StudentT, Y),
    "Poisson": (1, partial(Poisson, link="softplus"), COUNTS),
    "negative binomial": (1, partial(NegativeBinomial, link="softplus"), COUNTS),
    "categorical": (3, partial(Categorical, 3), LABELS),
}
each_problem = pytest.mark.parametrize(("width", "likelihood", "target"), PROBLEMS.values(), ids=PROBLEMS)


@each_problem
def test_moments_are_those_of_all_samples(width: int, likelihood: Any, target: Tensor) -> None:
    ensemble = Ensemble(several([vi, vi, Deterministic], width, likelihood))
    prediction = ensemble.predict(X, num_samples=8, seed=5, return_samples=True)
    samples = prediction.samples
    assert samples is not None
    assert samples.shape == (8, *prediction.mean.shape)
    assert_close(prediction.mean, samples.mean(0))
    assert_close(prediction.epistemic_var, samples.var(0, correction=0), rtol=1e-4, atol=1e-7)
    assert torch.equal(samples[2], samples[5])  # the deterministic member gives every third sample
    assert not torch.equal(samples[0], samples[3])
    if prediction.probs is not None:
        entropies = torch.special.entr(samples).sum(2).mean(0)
        assert_close(prediction.expected_entropy, entropies)
        assert_close(prediction.as_dict()["pred_uct"], torch.special.entr(samples.mean(0)).sum(1))
    else:
        parts = [member.predict(X, num_samples=3, seed=7) for member in ensemble.members[2:]]
        assert (prediction.aleatoric_var > 0).all()
        assert parts[0].epistemic_var.max() == 0


@each_problem
def test_metrics_score_the_mixture_of_all_components(width: int, likelihood: Any, target: Tensor) -> None:
    """Members with equal likelihoods are equivalent to one method with more samples."""
    members = several([vi, vi], width, likelihood)
    ensemble = Ensemble(members)
    first = ensemble.members[0].likelihood
    outputs = [torch.cat(list(member.sampled_outputs(X, 6, member.noise.seed))) for member in ensemble.members]
    expected = first.metric_inputs(torch.cat(outputs), target)
    joined = metric_inputs(ensemble, X, target)
    shares = ("test_epistemic_share", "test_mutual_information")  # they are of predictions, not of outputs
    metrics = MetricCollection({k: each for k, each in ensemble.test_metrics.items() if k not in shares})
    metrics.update(**expected)
    scores = {name: value.item() for name, value in metrics.compute().items()}
    metrics.reset()
    metrics.update(**joined)
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(scores, rel=1e-4)
    metrics.reset()
    (tested,) = quiet_trainer().test(ensemble, loader(X, target), verbose=False)
    assert {name: tested[name] for name in scores} == pytest.approx(scores, rel=1e-3)


def test_members_of_different_classes_have_equal_weight() -> None:
    """A closed-form Gaussian, six samples with Student's t noise and a deterministic network."""
    members = [
        wide(LastLayerVI(MLP(3, [4], 1), Gaussian())),
        wide(vi(MLP(3, [4], 1), StudentT())),
        Deterministic(MLP(3, [4], 1), Gaussian()),
    ]
    ensemble = Ensemble(members)
    (scores,) = quiet_trainer().test(ensemble, loader(X, Y), verbose=False)
    densities = []
    for member in ensemble.members:
        log_prob = metric_inputs(member, X, Y)["log_prob"]
        densities.append(log_prob.exp().mean(0))
    assert scores["test_nll"] == pytest.approx(-torch.stack(densities).mean(0).log().mean().item(), rel=1e-4)
    prediction = ensemble.predict(X)
    assert_close(metric_inputs(ensemble, X, Y)["means"].mean(0), prediction.mean)
    singles = [member.predict(X) for member in ensemble.members]
    means = torch.stack([single.mean for single in singles])
    assert_close(prediction.mean, means.mean(0))
    within = torch.stack([single.epistemic_var for single in singles]).mean(0)
    assert_close(prediction.epistemic_var, within + means.var(0, correction=0))
    assert_close(prediction.aleatoric_var, torch.stack([single.aleatoric_var for single in singles]).mean(0))


def test_seeds_batch_splits_and_numbers_of_samples() -> None:
    ensemble = Ensemble(several([vi, vi], 1, Gaussian))
    first, again = ensemble.predict(X, seed=1), ensemble.predict(X, seed=1)
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.mean, ensemble.predict(X, seed=2).mean)
    parts = [ensemble.predict(part, seed=1).mean for part in X.split([5, 7])]
    assert_close(torch.cat(parts), first.mean)
    few = ensemble.predict(X, num_samples=3, seed=1, return_samples=True).samples
    many = ensemble.predict(X, num_samples=8, seed=1, return_samples=True).samples
    assert few is not None
    assert many is not None
    assert_close(few, many[:3])
    alone = ensemble.predict(X, num_samples=1)
    assert alone.epistemic_var.max() == 0
    assert ensemble.num_mc_samples_test == 12


def test_equal_members_draw_different_samples() -> None:
    member = wide(vi(MLP(3, [4], 1), Gaussian()))
    samples = Ensemble([member, member]).predict(X, return_samples=True).samples
    assert samples is not None
    assert len(samples.flatten(1).unique(dim=0)) == 12


def test_members_are_copied_and_predict_has_no_side_effects() -> None:
    members = several([vi, LastLayerVI], 1, Gaussian)
    before = [copy_of_state(member) for member in members]
    seeds = [member.noise.seed for member in members]
    ensemble = Ensemble(members).train()
    state, mode, random_states = copy_of_state(ensemble), modes(ensemble), global_states()
    ensemble.predict(X)
    hook = ensemble.members[1].backbone[0].register_forward_pre_hook(lambda *_: 1 / 0)  # type: ignore[index, operator]
    with pytest.raises(ZeroDivisionError):
        ensemble.predict_step(X)
    hook.remove()
    assert modes(ensemble) == mode
    assert global_states() == random_states
    assert same_state(copy_of_state(ensemble), state)
    for parameter in ensemble.parameters():
        parameter.data.add_(1.0)
    assert all(same_state(copy_of_state(member), old) for member, old in zip(members, before, strict=True))
    assert [member.noise.seed for member in members] == seeds


def test_checkpoint_gives_the_same_predictions(tmp_path: Path) -> None:
    ensemble = Ensemble(several([vi, LastLayerVI], 1, Gaussian))
    trainer = quiet_trainer()
    trainer.test(ensemble, loader(X, Y), verbose=False)
    trainer.save_checkpoint(tmp_path / "ensemble.ckpt")
    torch.manual_seed(77)
    loaded = Ensemble.load_from_checkpoint(
        tmp_path / "ensemble.ckpt", methods=several([vi, LastLayerVI], 1, Gaussian), weights_only=True
    )
    assert torch.equal(loaded.predict(X).mean, ensemble.predict(X).mean)
    assert torch.equal(loaded.predict(X, seed=3).epistemic_var, ensemble.predict(X, seed=3).epistemic_var)


def test_from_checkpoints(tmp_path: Path) -> None:
    members = [wide(vi(MLP(3, [4], 1), Gaussian())) for _ in range(2)]
    paths = [tmp_path / f"{index}.ckpt" for index in range(2)]
    for member, path in zip(members, paths, strict=True):
        trainer = quiet_trainer()
        trainer.fit(member, loader(X, Y))
        trainer.save_checkpoint(path)
    backbone = MLP(3, [4], 1)
    before = copy_of_state(backbone)
    loaded = Ensemble.from_checkpoints(MeanFieldVI, paths, backbone=backbone, likelihood=Gaussian())
    assert same_state(copy_of_state(backbone), before)
    for ours, theirs in zip(loaded.members, members, strict=True):
        assert torch.equal(ours(X), theirs(X))
    with pytest.raises(FileNotFoundError):
        Ensemble.from_checkpoints(MeanFieldVI, [tmp_path / "no.ckpt"], backbone=backbone, likelihood=Gaussian())


def test_ensemble_of_ensembles() -> None:
    inner = DeepEnsemble(MLP(3, [4], 3), Categorical(3), num_members=2)
    ensemble = Ensemble([inner, *several([vi], 3, partial(Categorical, 3))])
    result = selective_prediction(ensemble, [(X, LABELS)], score="epistemic_uct")
    assert result.risk.shape == (N,)
    assert ensemble.diversity(X) >= 0
    samples = ensemble.predict(X, num_samples=4, return_samples=True).samples
    assert samples is not None
    assert_close(samples[[0, 2]], inner.predict(X, return_samples=True).samples)


def test_invalid_arguments_and_untrained_members() -> None:
    good = Deterministic(MLP(3, [4], 1), Gaussian())
    with pytest.raises(ValueError, match="methods must hold at least one method, got none"):
        Ensemble([])
    with pytest.raises(TypeError, match="methods must hold methods, got a MLP"):
        Ensemble([good, MLP(3, [4], 1)])  # type: ignore[list-item]
    other: list[tuple[int, Likelihood]] = [(3, Categorical(3)), (2, Gaussian(num_targets=2))]
    for width, likelihood in other:
        with pytest.raises(ValueError, match="methods must predict the same quantity, got tasks and widths"):
            Ensemble([good, Deterministic(MLP(3, [4], width), likelihood)])
    with pytest.raises(MisconfigurationException, match=r"No `training_step\(\)` method defined"):
        fit(Ensemble([good]), loader(X, Y))
    with pytest.raises(NotFittedError, match="Laplace cannot predict"):
        Ensemble([good, Laplace(MLP(3, [4], 1), Gaussian())]).predict(X)
    with pytest.raises(NotFittedError, match="Laplace cannot predict"):
        quiet_trainer().test(Ensemble([Laplace(MLP(3, [4], 1), Gaussian())]), loader(X, Y), verbose=False)
