"""Deep ensembles against networks that are trained one by one."""

import copy
import itertools
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import DeepEnsemble, Deterministic, Ensemble
from lightning_vi.backbones import MLP
from lightning_vi.core import separate_orders
from lightning_vi.core.members import reinitialized
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood, StudentT

M, N = 3, 22
X, Y = normal(N, 3), normal(N, 1)
LABELS = torch.arange(N) % 3


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(x + torch.tanh(self.stem(x)))
        return output


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x).tanh())
        return output


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 2))


def batch_normalized() -> nn.Module:
    """Without a bias in front of the normalization: its gradient is rounding alone, of which Adam makes whole steps."""
    return nn.Sequential(nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))


PROBLEMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Likelihood], Tensor]] = {
    "chain, heteroscedastic": (partial(MLP, 3, [5, 4], 2, activation_fn=nn.Tanh()), HeteroscedasticGaussian, Y),
    "chain, learned noise": (partial(MLP, 3, [5], 1, activation_fn=nn.Tanh()), Gaussian, Y),
    "chain, learned degrees of freedom": (partial(MLP, 3, [5], 1, activation_fn=nn.Tanh()), StudentT, Y),
    "vmap": (Residual, HeteroscedasticGaussian, Y),
    "tied, classes": (Tied, partial(Categorical, 3), LABELS),
    "convolutions": (convolutional, HeteroscedasticGaussian, Y),
    "batch normalization": (batch_normalized, HeteroscedasticGaussian, Y),
}
each_problem = pytest.mark.parametrize(("network", "likelihood", "target"), PROBLEMS.values(), ids=PROBLEMS)
adam = partial(torch.optim.Adam, lr=0.02, weight_decay=0.01)


def watch_batches(method: DeepEnsemble, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Records the inputs and targets [M, B, ...] of all further steps."""
    seen = []
    original = method._stacked_rows

    def remember(batches: Any) -> Any:
        rows = original(batches)
        seen.append(rows[:2])
        return rows

    monkeypatch.setattr(method, "_stacked_rows", remember)
    return seen  # type: ignore[return-value]


def train_alone(network: nn.Module, likelihood: Likelihood, batches: list[tuple[Tensor, Tensor]], burnin: int) -> None:
    """Trains in plain PyTorch. The noise has ten times the learning rate and no weight decay."""
    groups: list[dict[str, Any]] = [{"params": network.parameters()}]
    if list(likelihood.parameters()):
        groups.append({"params": likelihood.parameters(), "lr": 0.2, "weight_decay": 0.0})
    optimizer = torch.optim.Adam(groups, lr=0.02, weight_decay=0.01)
    network.train()
    for step, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        outputs = network(x).unsqueeze(0)
        loss = likelihood.point_loss(outputs, y) if step < burnin else -likelihood.log_prob(outputs, y).mean()
        loss.backward()
        optimizer.step()


@each_problem
@pytest.mark.parametrize("vectorization", ["auto", "loop"])
def test_training_together_equals_training_one_by_one(
    network: Any, likelihood: Any, target: Tensor, vectorization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = DeepEnsemble(
        network(), likelihood(), num_members=M, burnin_epochs=1, optimizer=adam, vectorization=vectorization
    )
    alone = [method.member(index) for index in range(M)]
    seen = watch_batches(method, monkeypatch)
    generator = torch.Generator().manual_seed(3)
    fit(method, loader(X, target, shuffle=True, generator=generator), max_epochs=3)
    assert len(seen) == 9
    for index, single in enumerate(alone):
        train_alone(single.backbone, single.likelihood, [(x[index], y[index]) for x, y in seen], burnin=3)
        trained = method.member(index)
        for ours, theirs in ((trained.backbone, single.backbone), (trained.likelihood, single.likelihood)):
            together = copy_of_state(ours)
            for name, value in copy_of_state(theirs).items():
                assert_close(together[name], value, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(alone[0].predict(X).mean, alone[1].predict(X).mean)


@each_problem
def test_ensemble_of_one_equals_its_member(network: Any, likelihood: Any, target: Tensor) -> None:
    data = loader(X, target)
    backbone = network()
    single = Deterministic(backbone, likelihood(), optimizer=adam)
    ensemble = DeepEnsemble(backbone, likelihood(), num_members=1, optimizer=adam)
    logged = fit(single, data, max_epochs=3), fit(ensemble, data, max_epochs=3)
    for name in logged[0].keys() & {"train_loss", "train_nll", "train_rmse", "train_accuracy"}:
        assert logged[1][name] == pytest.approx(logged[0][name], rel=1e-4)
    for key, value in single.predict(X).as_dict().items():
        assert_close(ensemble.predict(X).as_dict()[key], value, rtol=1e-4, atol=1e-6)
        assert_close(ensemble.member(0).predict(X).as_dict()[key], value, rtol=1e-4, atol=1e-6)
    (ours,) = quiet_trainer().test(ensemble, loader(X, target), verbose=False)
    (theirs,) = quiet_trainer().test(single, loader(X, target), verbose=False)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_each_member_sees_each_row_once_per_epoch_in_a_different_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(N).float().unsqueeze(1)
    method = DeepEnsemble(nn.Linear(1, 1), Gaussian(), num_members=M)
    seen = watch_batches(method, monkeypatch)
    fit(method, loader(rows, rows, shuffle=True), max_epochs=2)
    orders = [torch.cat([x for x, _ in seen[first : first + 3]], 1)[..., 0] for first in (0, 3)]
    for order in itertools.chain(*orders):
        assert_close(order.sort().values, rows[:, 0])
    for first, second in itertools.combinations([*orders[0], *orders[1]], 2):
        assert not torch.equal(first, second)
    assert all(torch.equal(x, y) for x, y in seen)


def test_orders_depend_on_the_seed_and_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a resumed run continues with the same orders."""

    def orders_of(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        method = DeepEnsemble(nn.Linear(3, 1), Gaussian(), num_members=M)
        seen = watch_batches(method, monkeypatch)
        fit(method, loader(X, Y, shuffle=True), max_epochs=2)
        return [x[1:] for x, _ in seen]

    first, again, other = orders_of(1), orders_of(1), orders_of(2)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    def method() -> DeepEnsemble:
        torch.manual_seed(4)
        network = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.2), nn.Linear(5, 1))
        return DeepEnsemble(network, Gaussian(), num_members=M, optimizer=adam)

    def data() -> Any:
        return loader(X, Y, sampler=torch.utils.data.RandomSampler(X, generator=torch.Generator().manual_seed(0)))

    unbroken, stopped, resumed = method(), method(), method()
    sampler_state = data()
    fit(unbroken, sampler_state, max_epochs=4)
    trainer = quiet_trainer(max_epochs=2)
    continued = data()
    trainer.fit(stopped, continued)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    fit(resumed, continued, max_epochs=4, ckpt_path=tmp_path / "half.ckpt")
    assert same_state(copy_of_state(resumed), copy_of_state(unbroken))


@pytest.mark.parametrize("options", [{}, {"shuffle": True, "own": False}], ids=["not shuffled", "disabled"])
def test_members_may_share_their_batches(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    own = options.pop("own", True)
    method = DeepEnsemble(nn.Linear(3, 1), Gaussian(), num_members=M, own_data_order=own)
    seen = watch_batches(method, monkeypatch)
    fit(method, loader(X, Y, **options))
    assert all(torch.equal(x[0], part) for x, _ in seen for part in x)
    assert not torch.allclose(method.member(0).backbone.weight, method.member(1).backbone.weight)  # type: ignore[arg-type]


def test_dictionary_inputs_and_other_samplers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            output: Tensor = self.left(left) + self.right(right)
            return output

    rows: Any = [{"input": {"left": x, "right": -x}, "target": y} for x, y in zip(X, Y, strict=True)]
    for sampler in (
        torch.utils.data.SubsetRandomSampler(range(10)),
        torch.utils.data.WeightedRandomSampler(torch.ones(N).tolist(), 10),
    ):
        method = DeepEnsemble(Two(), Gaussian(), num_members=M)
        seen = watch_batches(method, monkeypatch)
        fit(method, torch.utils.data.DataLoader(rows, batch_size=5, sampler=sampler))
        assert len(seen) == 2
        for x, y in seen:
            assert x["left"].shape == (M, 5, 3)  # type: ignore[call-overload]
            assert_close(x["left"], -x["right"])  # type: ignore[call-overload]
            assert not torch.equal(y[0], y[1])


def test_copy_during_an_epoch_and_reuse_of_dataloaders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies: list[DeepEnsemble] = []
    made: list[Any] = []
    original = separate_orders.DataOrders
    monkeypatch.setattr(separate_orders, "DataOrders", lambda *args: made.append(args) or original(*args))

    class Copy(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            copies.append(pickle.loads(pickle.dumps(copy.deepcopy(pl_module))))

    method = DeepEnsemble(MLP(3, [4], 1), Gaussian(), num_members=M, optimizer=adam)
    fit(method, loader(X, Y, shuffle=True), max_epochs=3, callbacks=[Copy()])
    assert len(copies) == 9
    assert_close(copies[-1].predict(X).mean, method.predict(X).mean)
    assert len(made) == 1
    fit(copies[0], loader(X, Y, shuffle=True), max_steps=2, max_epochs=-1)
    assert len(made) == 2
    assert method._orders is copies[0]._orders is None


def test_batches_of_different_shape_raise() -> None:
    rows: Any = [(torch.randn(length, 1), torch.zeros(length, 1)) for length in (1, 2, 3, 4)]
    method = DeepEnsemble(nn.Linear(1, 1), Gaussian(), num_members=4)
    with pytest.raises(ValueError, match="differ in shape and cannot be stacked: give own_data_order=False"):
        fit(method, torch.utils.data.DataLoader(rows, batch_size=1, shuffle=True), max_epochs=3)


def test_gradients_are_clipped_member_by_member() -> None:
    """Including gradients below the threshold, which are unchanged."""
    for algorithm, largest in (("norm", 0.2), ("value", 0.2), ("norm", 2.0)):
        torch.manual_seed(1)
        backbone = MLP(3, [4], 1)
        torch.manual_seed(2)
        ensemble = DeepEnsemble(backbone, Gaussian(), num_members=M, optimizer=partial(torch.optim.SGD, lr=0.5))
        alone = [ensemble.member(index) for index in range(M)]
        options: dict[str, Any] = {"gradient_clip_val": largest, "gradient_clip_algorithm": algorithm, "max_epochs": 2}
        fit(ensemble, loader(X, Y), **options)
        for index, single in enumerate(alone):
            fit(single, loader(X, Y), **options)
            trained = dict(ensemble.member(index).named_parameters())
            for name, value in single.named_parameters():
                assert_close(trained[name], value, rtol=1e-4, atol=1e-6)


class _Running(nn.Linear):
    """Subtracts a running mean of the inputs, which a step changes in place or replaces."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(3, 1)
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.in_place:
            self.mean.lerp_(x.mean(0), 0.1)  # `torch.vmap` has no rule for it
        elif self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return super().forward(x - self.mean)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("vectorization", ["auto", "loop"])
def test_buffers_follow_the_training_data(in_place: bool, vectorization: Any) -> None:
    method = DeepEnsemble(_Running(in_place), Gaussian(), num_members=2, vectorization=vectorization)
    fit(method, loader(X, Y), max_epochs=2)
    expected = torch.zeros(3)
    for batch in X.split(8) * 2:
        expected = 0.9 * expected + 0.1 * batch.mean(0)
    assert_close(method.backbone.get_buffer("mean"), expected.expand(2, 3))


def test_prediction_is_the_mixture_of_the_members() -> None:
    method = DeepEnsemble(MLP(3, [5], 2), HeteroscedasticGaussian(), num_members=M)
    singles = [method.member(index).predict(X) for index in range(M)]
    prediction = method.predict(X, return_samples=True)
    means = torch.stack([single.mean for single in singles])
    assert_close(prediction.samples, means)
    assert_close(prediction.mean, means.mean(0))
    assert_close(prediction.epistemic_var, means.var(0, correction=0))
    assert_close(prediction.aleatoric_var, torch.stack([single.aleatoric_var for single in singles]).mean(0))
    assert_close(method.predict(X, num_samples=2).mean, means[:2].mean(0))
    assert_close(method.predict(X, num_samples=50).mean, means.mean(0))
    assert_close(method(X), torch.stack([method.member(index)(X) for index in range(M)]).mean(0))
    densities = [torch.distributions.Normal(s.mean, s.total_var.sqrt()).log_prob(Y)[:, 0].exp() for s in singles]
    (scores,) = quiet_trainer().test(method, loader(X, Y), verbose=False)
    assert scores["test_nll"] == pytest.approx(-torch.stack(densities).mean(0).log().mean().item(), rel=1e-4)


def test_each_member_learns_its_own_noise() -> None:
    """Predictions and metrics use it."""
    method = DeepEnsemble(MLP(3, [5], 1), Gaussian(), num_members=M, optimizer=adam)
    fit(method, loader(X, Y, shuffle=True), max_epochs=3)
    singles = [method.member(index) for index in range(M)]
    stds = torch.stack([single.likelihood.noise_std for single in singles])  # type: ignore[union-attr]
    assert stds.unique().numel() == M
    assert_close(method.predict(X).aleatoric_var[0], stds.square().mean(0))
    mixture = torch.stack([single.likelihood.log_prob(single(X).unsqueeze(0), Y)[0] for single in singles])
    (scores,) = quiet_trainer().test(method, loader(X, Y), verbose=False)
    assert scores["test_nll"] == pytest.approx(-(mixture.logsumexp(0) - torch.tensor(M).log()).mean().item(), rel=1e-4)


def test_members_have_different_initial_weights() -> None:
    backbone = nn.Sequential(nn.Linear(3, 200), nn.LayerNorm(200), nn.Linear(200, 1))
    method = DeepEnsemble(backbone, Gaussian(), num_members=M)
    assert same_state(copy_of_state(method.member(0).backbone), copy_of_state(backbone))
    weights = [method.member(index).backbone[0].weight for index in range(M)]  # type: ignore[index]
    assert all(not torch.equal(first, second) for first, second in itertools.combinations(weights, 2))
    assert all(weight.std().item() == pytest.approx(1 / 3, rel=0.15) for weight in weights)
    with pytest.raises(IndexError, match="index must lie between 0 and 2, got 3"):
        method.member(3)


def test_backbone_can_be_a_function() -> None:
    class Raw(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 1))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.weight

    with pytest.raises(ValueError, match="'the network', a Raw, has parameters and no reset_parameters"):
        DeepEnsemble(Raw(), Gaussian())
    method = DeepEnsemble(Raw, Gaussian(), num_members=M)
    fit(method, loader(X, Y, shuffle=True))
    assert (method.predict(X).epistemic_var > 0).all()
    shared = Raw()
    assert DeepEnsemble(lambda: shared, Gaussian(), num_members=2).predict(X).epistemic_var.max() == 0


def test_attention_is_reinitialized() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    fresh = reinitialized(layer)
    for name, value in layer.state_dict().items():
        if value.dim() > 1:
            assert not torch.equal(fresh.state_dict()[name], value), name


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="num_members must be an integer of at least 1, got 0"):
        DeepEnsemble(MLP(3, [4], 1), Gaussian(), num_members=0)
    with pytest.raises(ValueError, match="vectorization must be 'auto', 'vmap' or 'loop', got 'repeat'"):
        DeepEnsemble(MLP(3, [4], 1), Gaussian(), vectorization="repeat")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="backbone must be a network or a function that returns one, got a str"):
        DeepEnsemble("MLP", Gaussian())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="backbone must return networks, got a int"):
        DeepEnsemble(lambda: 3, Gaussian())  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="must have the same parameters"):
        DeepEnsemble(lambda: MLP(3, [int(torch.randint(1, 99, ()))], 1), Gaussian(), num_members=5)


def test_diversity_is_the_mean_disagreement_of_pairs() -> None:
    regression = DeepEnsemble(MLP(3, [5], 1), Gaussian(), num_members=M)
    pairs = list(itertools.combinations([regression.member(index).predict(X).mean for index in range(M)], 2))
    expected = torch.stack([(first - second).square() for first, second in pairs]).mean().sqrt()
    assert_close(regression.diversity(X), expected)
    classifier = DeepEnsemble(MLP(3, [5], 3), Categorical(3), num_members=M)
    votes = [classifier.member(index).predict(X).mean.argmax(1) for index in range(M)]
    apart = [(first != second).float().mean() for first, second in itertools.combinations(votes, 2)]
    assert_close(classifier.diversity(X), torch.stack(apart).mean())
    assert classifier.diversity(X) > 0
    assert DeepEnsemble(MLP(3, [5], 1), Gaussian(), num_members=1).diversity(X) == 0
    assert DeepEnsemble(MLP(3, [5], 3), Categorical(3), num_members=1).diversity(X) == 0


def test_training_metrics_include_all_members() -> None:
    data, rate = loader(X, Y, shuffle=True), partial(torch.optim.SGD, lr=0.0)
    ensemble = DeepEnsemble(MLP(3, [5], 1), StudentT(), num_members=M, optimizer=rate)
    logged = fit(ensemble, data)
    errors = torch.stack([ensemble.member(index).predict(X).mean - Y for index in range(M)])
    assert logged["train_rmse"] == [pytest.approx(errors.square().mean().sqrt().item(), rel=1e-4)]
    losses = [fit(ensemble.member(index), data)["train_loss"][0] for index in range(M)]
    assert logged["train_loss"] == [pytest.approx(sum(losses) / M, rel=1e-4)]


def test_ensembles_from_methods_and_checkpoints(tmp_path: Path) -> None:
    singles = [Deterministic(MLP(3, [5], 1), Gaussian()) for _ in range(M)]
    paths = [tmp_path / f"{index}.ckpt" for index in range(M)]
    for single, path in zip(singles, paths, strict=True):
        trainer = quiet_trainer()
        trainer.fit(single, loader(X, Y))
        trainer.save_checkpoint(path)
    gathered = DeepEnsemble.from_methods(singles)
    loaded = DeepEnsemble.from_checkpoints(Deterministic, paths, backbone=MLP(3, [5], 1), likelihood=Gaussian())
    assert isinstance(loaded, Ensemble)
    for key, value in gathered.predict(X).as_dict().items():
        assert_close(loaded.predict(X).as_dict()[key], value)
    assert_close(gathered.predict(X).mean, torch.stack([single.predict(X).mean for single in singles]).mean(0))


class Watch(Callback):
    """Writes the batches and the final state of each rank to a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        original = pl_module._stacked_rows

        def remember(batches: Any) -> Any:
            rows = original(batches)
            self.seen.append(rows[0][..., 0])
            return rows

        pl_module._stacked_rows = remember

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        report = {"state": copy_of_state(pl_module), "seen": torch.cat(self.seen, 1)}
        torch.save(report, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_two_processes_share_the_data_of_each_member(tmp_path: Path) -> None:
    rows = torch.arange(24.0).unsqueeze(1) / 24
    method = DeepEnsemble(nn.Linear(1, 1), Gaussian(), num_members=M, burnin_epochs=1)
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn", max_epochs=2, callbacks=[Watch(tmp_path)])
    trainer.fit(method, loader(rows, rows, batch_size=4, shuffle=True))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert same_state(first["state"], second["state"])
    for epoch in (0, 1):
        halves = [report["seen"][:, 12 * epoch : 12 * epoch + 12] for report in (first, second)]
        assert_close(torch.cat(halves, 1).sort(1).values, rows[:, 0].expand(M, 24))
    assert not torch.equal(first["seen"][0], first["seen"][1])


SCRIPT = """
import sys, torch
from lightning_vi import DeepEnsemble
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import StudentT
method = DeepEnsemble.load_from_checkpoint(
    sys.argv[1], backbone=MLP(3, [4], 1), likelihood=StudentT(), weights_only=True
)
torch.save(method.predict_step(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


@pytest.mark.thorough
def test_checkpoint_gives_the_same_predictions_in_a_new_process(tmp_path: Path) -> None:
    method = DeepEnsemble(MLP(3, [4], 1), StudentT(), num_members=2)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, loader(X, Y, shuffle=True))
    trainer.save_checkpoint(tmp_path / "ensemble.ckpt")
    torch.save(X, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("ensemble.ckpt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    expected = method.predict_step(X)
    for key, value in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert_close(value, expected[key])


def test_members_of_a_fit_resumed_within_an_epoch_see_different_batches(tmp_path: Path) -> None:
    """And the members after the first one those of the unbroken fit, also with a dataloader that starts anew."""

    class Recording(DeepEnsemble):
        def _stacked_rows(self, batches: Any) -> Any:
            seen.append([batch[0] for batch in batches])
            return super()._stacked_rows(batches)

    def run(**options: Any) -> list[list[Tensor]]:
        torch.manual_seed(3)
        seen.clear()
        method = Recording(nn.Linear(3, 1), Gaussian(), num_members=3)
        rows = loader(normal(40, 3), normal(40, 1), shuffle=True, generator=torch.Generator().manual_seed(1))
        fit(method, rows, max_epochs=2, **options)
        return list(seen)

    seen: list[list[Tensor]] = []
    saver = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    unbroken = run(callbacks=[saver], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="your dataloader is not resumable"):
        resumed = run(ckpt_path=tmp_path / "step=2.ckpt")
    assert [len(members) for members in resumed] == [3] * 8
    for before, after in zip(unbroken[2:], resumed, strict=True):
        assert torch.equal(after[1], before[1])
        assert torch.equal(after[2], before[2])
        assert not torch.equal(after[0], after[1])
