"""Members of an ensemble that are trained in one pass, against the same members trained in turn."""

import copy
import pickle
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, params_of
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_vi import (
    IVON,
    SWAG,
    AlphaDivergenceVI,
    Deterministic,
    LastLayerVI,
    LowRankVI,
    MCDropout,
    MeanFieldVI,
    MethodEnsemble,
    RankOneVI,
)
from lightning_vi.backbones import MLP, ResidualMLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood, Ordinal, StudentT
from lightning_vi.methods.ensembles.at_once import MembersAtOnce
from lightning_vi.priors import GaussianPrior
from lightning_vi.sampling import memory

X, Y = normal(22, 3), 40 + 7 * normal(22, 1)
VI = partial(MeanFieldVI, num_mc_samples_train=3, num_mc_samples_test=4)
IVON_3 = partial(IVON, num_mc_samples_train=3, num_mc_samples_test=4)
RANK_ONE = partial(RankOneVI, num_mc_samples_train=3)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the batches of steps that were taken at once."""
    taken: list[int] = []
    step = MembersAtOnce.training_step

    def watched(self: MembersAtOnce, batches: Any, batch_idx: int) -> Any:
        loss = step(self, batches, batch_idx)
        if loss is not None:
            taken.append(batch_idx)
        return loss

    monkeypatch.setattr(MembersAtOnce, "training_step", watched)
    return taken


def make(
    member: Any, likelihood: Likelihood | None = None, network: Callable[[], nn.Module] | None = None, **options: Any
) -> Any:
    torch.manual_seed(1)
    likelihood = Gaussian() if likelihood is None else likelihood
    backbone = MLP(3, [5, 4], likelihood.num_outputs) if network is None else network()
    return MethodEnsemble(backbone, likelihood, member=member, num_members=3, **options)


def params(cases: Iterable[str], default: Collection[str]) -> list[Any]:
    """Names of cases; those beyond the default ones are marked as thorough."""
    return params_of({name: (name,) for name in cases}, default=default)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    states = copy_of_state(first), copy_of_state(second)
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert_close(value, states[1][name], rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def assert_same_optimizers(first: Any, second: Any) -> None:
    """Compares momenta, second moments and Hessians."""
    states = [method.trainer.optimizers[0].state_dict()["state"] for method in (first, second)]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        assert_close(state, states[1][index], rtol=1e-4, atol=2e-5)


def train(method: Any, data: Any = None, **options: Any) -> Any:
    torch.manual_seed(2)
    data = loader(X, Y, shuffle=True) if data is None else data
    return fit(method, data, **{"max_epochs": 3} | options)


STACKED: dict[str, Any] = {
    "mean field": VI,
    "burn-in": partial(VI, burnin_epochs=1, kl_warmup_epochs=1, kl_weight=0.5),
    "drawn weights": partial(VI, estimator="reparameterization"),
    "deterministic biases": partial(VI, stochastic_biases=False),
    "drawn weights, deterministic biases": partial(VI, estimator="reparameterization", stochastic_biases=False),
    "one sample": partial(VI, num_mc_samples_train=1),
    "one stochastic layer": partial(VI, stochastic_module_names=[2]),
    "two priors": partial(VI, prior={"*weight": GaussianPrior(std=0.5), "*bias": GaussianPrior()}),
    "last layer": partial(LastLayerVI, num_mc_samples_train=3),
    "rank one": RANK_ONE,
    "rank one, burn-in": partial(RANK_ONE, burnin_epochs=2),
    "rank one, bias not scaled": partial(RANK_ONE, stochastic_biases=False, weight_prior_std=None),
    "IVON": partial(IVON_3, kl_warmup_epochs=2, kl_weight=0.5),
    "IVON, burn-in": partial(IVON_3, burnin_epochs=1),
    "IVON, noise on outputs, deterministic biases": partial(
        IVON_3, estimator="local_reparameterization", stochastic_biases=False
    ),
    "deterministic": Deterministic,
    "SWAG, burn-in": partial(SWAG, start_epoch=2, burnin_epochs=1),
}


def _used_twice() -> nn.Module:
    """A chain in which one layer draws its weights, and the others their outputs."""
    shared = nn.Linear(5, 5)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), shared, nn.ReLU(), shared, nn.Linear(5, 1))


class _Running(nn.Linear):
    """Subtracts a running mean of the inputs, which a step changes in place or replaces."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(3, 1)
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.in_place:
            self.mean.add_(0.1 * x.mean(0))
        elif self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return super().forward(x - self.mean)


STACKED_NETWORKS = {
    "deterministic, a buffer changes": partial(_Running, True),
    "SWAG, a buffer is replaced": partial(_Running, False),
    "a layer used twice": _used_twice,
    "IVON, a layer used twice": _used_twice,
    "deterministic, not a chain": partial(ResidualMLP, 3, 6, 1, 1),
}
STACKED |= {
    "a layer used twice": VI,
    "IVON, a layer used twice": partial(IVON_3, estimator="auto"),
    "deterministic, not a chain": Deterministic,
    "deterministic, a buffer changes": Deterministic,
    "SWAG, a buffer is replaced": partial(SWAG, start_epoch=1),
}


@pytest.mark.parametrize(
    "name",
    params(
        STACKED, ["a layer used twice", "burn-in", "IVON", "rank one, bias not scaled", "SWAG, a buffer is replaced"]
    ),
)
def test_training_at_once_equals_training_in_turn(name: str, steps: list[int]) -> None:
    at_once, in_turn = (
        make(STACKED[name], network=STACKED_NETWORKS.get(name), vectorization=mode) for mode in ("auto", "loop")
    )
    logged = train(at_once)
    num_at_once = len(steps)
    expected = train(in_turn)
    assert num_at_once == len(steps) == 9
    assert_same(at_once, in_turn)
    assert_same_optimizers(at_once, in_turn)
    for key, values in expected.items():
        assert_close(logged[key], values, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert_close(at_once.predict(X).mean, in_turn.predict(X).mean, rtol=1e-4, atol=1e-3)


TASKS: dict[str, Any] = {
    "student, mean field": (VI, StudentT, Y),
    "missing, mean field": (VI, partial(HeteroscedasticGaussian, missing="ignore"), Y.where(Y < 45, torch.nan)),
    "missing, deterministic": (Deterministic, partial(Gaussian, missing="ignore"), Y.where(Y < 45, torch.nan)),
    "two targets, deterministic": (Deterministic, partial(Gaussian, num_targets=2), torch.cat([Y, X[:, :1]], 1)),
    "student, IVON": (IVON_3, StudentT, Y),
    "missing, IVON": (IVON_3, partial(Gaussian, missing="ignore"), Y.where(Y < 45, torch.nan)),
    "classes, IVON": (IVON_3, partial(Categorical, 3), torch.arange(22) % 3),
    "classes, mean field": (VI, partial(Categorical, 3), torch.arange(22) % 3),
    "ordered classes, deterministic": (Deterministic, partial(Ordinal, 3), torch.arange(22) % 3),
}


@pytest.mark.parametrize("name", params(TASKS, ["student, mean field", "missing, deterministic"]))
def test_each_member_has_its_likelihood(name: str, steps: list[int]) -> None:
    member, likelihood, target = TASKS[name]
    methods = [make(member, likelihood(), vectorization=mode) for mode in ("auto", "loop")]
    for method in methods:
        train(method, loader(X, target, shuffle=True), max_epochs=2)
    assert len(steps) == 6
    assert_same(*methods)
    noises = [list(each.likelihood.parameters()) for each in methods[0].members]
    assert not noises[0] or not torch.equal(noises[0][0], noises[1][0])


class _Weighted(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return {"input": X[index], "target": Y[index], "weight": torch.tensor(float(index % 3))}


@pytest.mark.parametrize("own_data_order", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_rows_have_weights(own_data_order: bool, steps: list[int]) -> None:
    methods = [make(VI, vectorization=mode, own_data_order=own_data_order) for mode in ("auto", "loop")]
    for method in methods:
        train(method, DataLoader(_Weighted(), batch_size=8, shuffle=True), max_epochs=2)
    assert len(steps) == 6
    assert_same(*methods)


SGD = partial(torch.optim.SGD, lr=0.5)
CLIPPED = {
    f"{name}, {algorithm}": (member, algorithm)
    for name, member in (
        ("mean field", partial(VI, optimizer=SGD)),
        ("IVON", IVON_3),
        ("deterministic", partial(Deterministic, optimizer=SGD)),
    )
    for algorithm in ("norm", "value")
}


@pytest.mark.parametrize("name", params(CLIPPED, ["mean field, norm", "IVON, norm"]))
def test_gradients_are_clipped_for_each_member(name: str, steps: list[int]) -> None:
    member, algorithm = CLIPPED[name]
    options = {"gradient_clip_val": 0.02, "gradient_clip_algorithm": algorithm}
    methods = [make(member, vectorization=mode) for mode in ("auto", "loop")]
    for method in methods:
        train(method, max_epochs=2, **options)
    assert len(steps) == 6
    assert_same(*methods)
    unclipped = make(member)
    train(unclipped, max_epochs=2, gradient_clip_val=0)
    assert not torch.equal(next(unclipped.parameters()), next(methods[0].parameters()))


@pytest.mark.parametrize("member", [pytest.param(VI, marks=pytest.mark.thorough), IVON_3])
def test_gradients_are_accumulated(member: Any, steps: list[int]) -> None:
    methods = [make(member, vectorization=mode) for mode in ("auto", "loop")]
    for method in methods:
        train(method, max_epochs=2, accumulate_grad_batches=2)
        assert method.trainer.global_step == 4
    assert len(steps) == 6
    assert_same(*methods)
    assert_same_optimizers(*methods)


RESUMED: dict[str, Any] = {
    f"{name}, {' to '.join(modes)}": (member, modes)
    for name, member in (("mean field", VI), ("IVON", IVON_3), ("SWAG", partial(SWAG, start_epoch=1)))
    for modes in (("auto", "loop"), ("loop", "auto"), ("auto", "auto"))
}


@pytest.mark.parametrize("name", params(RESUMED, ["mean field, auto to loop", "IVON, loop to auto"]))
def test_a_fit_in_one_way_is_resumed_in_the_other(name: str, tmp_path: Path) -> None:
    member, modes = RESUMED[name]
    whole = make(member, HeteroscedasticGaussian())
    expected = train(whole, loader(X, Y))
    first = make(member, HeteroscedasticGaussian(), vectorization=modes[0])
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=6, save_top_k=-1)
    train(first, loader(X, Y), callbacks=[saver], enable_checkpointing=True)
    second = make(member, HeteroscedasticGaussian(), vectorization=modes[1])
    logged = train(second, loader(X, Y), ckpt_path=tmp_path / "step=6.ckpt")
    assert_same(second, whole)
    assert_same_optimizers(second, whole)
    assert logged["train_loss"] == pytest.approx(expected["train_loss"][2:], rel=1e-4)
    assert logged["train_rmse"] == pytest.approx(expected["train_rmse"][2:], rel=1e-4)


kl_weights = count(1)


def _different(network: nn.Module, likelihood: Likelihood) -> MeanFieldVI:
    return VI(network, likelihood, kl_weight=1 / next(kl_weights))


def _with(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), norm, nn.Linear(5, 1))


IN_TURN: dict[str, Any] = {
    "antithetic IVON": (partial(IVON, antithetic=True), None),
    "another objective": (partial(AlphaDivergenceVI, num_mc_samples_train=2), None),
    "a coupling": (partial(LowRankVI, num_mc_samples_train=2), None),
    "antithetic": (partial(VI, antithetic=True), None),
    "flipout": (partial(VI, estimator="flipout"), None),
    "a loop": (partial(VI, vectorization="loop"), None),
    "components": (partial(RANK_ONE, num_components=2), None),
    "different members": (_different, None),
    "dropout": (VI, partial(MLP, 3, [5], 1, dropout_p=0.5)),
    "sampled dropout": (MCDropout, partial(MLP, 3, [5], 1, dropout_p=0.5)),
    "batch normalization": (Deterministic, lambda: _with(nn.BatchNorm1d(5))),
    "SWAG, batch normalization": (partial(SWAG, start_epoch=1), lambda: _with(nn.BatchNorm1d(5))),
    "layer normalization": (VI, lambda: _with(nn.LayerNorm(5))),
    "wide layers": (VI, partial(MLP, 3, [200, 100], 1)),
}


@pytest.mark.parametrize(
    "name", params(IN_TURN, ["another objective", "different members", "SWAG, batch normalization"])
)
def test_other_members_are_trained_in_turn(name: str, steps: list[int]) -> None:
    member, network = IN_TURN[name]
    method = make(member, network=network)
    alone = copy.deepcopy(method.members)[1] if name != "different members" else None
    fit(method, loader(X, Y), max_epochs=2)
    assert not steps
    if alone is not None:
        fit(alone, loader(X, Y), max_epochs=2)
        assert_same(alone, method.members[1])


def _set(name: str, value: float) -> Callable[[Any], object]:
    return lambda member: setattr(member, name, value)


CHANGES: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "samples": (VI, _set("num_mc_samples_train", 6)),
    "warm-up": (VI, _set("kl_warmup_epochs", 1)),
    "burn-in": (VI, _set("burnin_epochs", 1)),
    "largest norm": (VI, _set("max_gradient_norm", 0.01)),
    "frozen": (VI, lambda member: member.backbone[0].requires_grad_(False)),
}


@pytest.mark.parametrize("name", params(CHANGES, ["samples", "frozen"]))
def test_a_member_that_was_changed_afterwards_is_trained_in_turn(name: str, steps: list[int]) -> None:
    member, change = CHANGES[name]
    method = make(member)
    change(method.members[1])
    alone = copy.deepcopy(method.members)[1]
    fit(method, loader(X, Y), max_epochs=2)
    fit(alone, loader(X, Y), max_epochs=2)
    assert not steps
    assert_same(alone, method.members[1])


def test_batches_of_different_shapes_are_taken_in_turn(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(VI)
    batches = [(X[:8], Y[:8]), (X[:8], Y[:8]), (X[:6], Y[:6])]
    monkeypatch.setattr(method, "member_batches", lambda batch, batch_idx, num_members: batches)
    fit(method, loader(X, Y), max_epochs=2)
    assert not steps


def test_large_batches_are_taken_in_turn(steps: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(memory.MAX_ACTIVATIONS_PER_PASS, "cpu", 3 * 3 * 7 * 5)
    fit(make(VI), loader(X, Y), max_epochs=2)
    assert steps == [2, 2]  # the last batch has 6 rows, the others 8


@pytest.mark.parametrize(("member", "is_at_once"), [(IVON_3, False), (VI, True)], ids=["weights", "outputs"])
def test_much_noise_of_weights_is_drawn_in_turn(
    member: Any, is_at_once: bool, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_JOINED_NOISE", 100)
    fit(make(member), loader(X, Y), max_epochs=1)
    assert bool(steps) == is_at_once


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


def test_the_first_batch_scales_the_targets_of_all_members(steps: list[int]) -> None:
    method = make(partial(VI, num_data=22))
    with torch.no_grad():
        method.elbo(X, Y, num_data=22)
    fit(method, DataLoader(_Stream(), batch_size=8), max_epochs=2)
    assert len(steps) == 6
    means = [each.likelihood.get_buffer("target_mean") for each in method.members]
    assert_close(means, [Y[:8].mean(0)] * 3)


def test_half_precision_is_trained_in_turn(steps: list[int]) -> None:
    fit(make(VI), loader(X, Y), max_epochs=2, precision="bf16-mixed")
    assert not steps


def test_hooks_see_each_member(steps: list[int]) -> None:
    method = make(VI)
    calls: list[int] = []
    method.members[1].backbone[0].register_forward_hook(lambda *_: calls.append(1))
    fit(method, loader(X, Y), max_epochs=2)
    assert not steps
    assert len(calls) >= 6


def test_bad_values_are_refused_in_a_step_at_once(steps: list[int]) -> None:
    bad = X.clone()
    bad[20] = torch.nan
    with pytest.raises(ValueError, match="the training inputs have NaN or infinite values"):
        fit(make(VI), loader(bad, Y), max_epochs=2)
    assert steps == [0, 1]


BAD: dict[str, Any] = {
    "too many outputs": (partial(MLP, 3, [5], 3), Gaussian(), Y),
    "another number of inputs": (partial(MLP, 4, [5], 1), Gaussian(), Y),
    "too many classes": (partial(MLP, 3, [5], 4), Categorical(3), torch.arange(22) % 3),
    "labels of another shape": (partial(MLP, 3, [5], 3), Categorical(3), (torch.arange(22) % 3)[:, None]),
    "targets of another shape": (partial(MLP, 3, [5], 1), Gaussian(0.5), Y[:, 0]),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("member", [VI, partial(VI, burnin_epochs=1), Deterministic], ids=["VI", "burn-in", "one"])
def test_what_does_not_fit_is_refused_as_in_training_in_turn(member: Any, name: str) -> None:
    network, likelihood, target = BAD[name]
    messages = []
    for mode in ("auto", "loop"):
        with pytest.raises(ValueError, match=r"takes|needs") as refusal:
            fit(make(member, likelihood, network, vectorization=mode), loader(X, target))
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]


def test_a_trained_ensemble_is_copied_and_trained_again(steps: list[int]) -> None:
    method = make(VI)
    train(method)
    twin = pickle.loads(pickle.dumps(method))
    for each in (method, twin):
        train(each, max_epochs=1)
    assert_same(method, twin)
    assert len(steps) == 9 + 3 + 3


def test_an_unknown_vectorization_is_refused() -> None:
    with pytest.raises(ValueError, match="vectorization must be 'auto' or 'loop', got 'vmap'"):
        make(VI, vectorization="vmap")
