"""Weight averaging against stacked snapshots, closed forms and `torch.optim.swa_utils`."""

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import SWA, SWAG, NotFittedError
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.optim.averaging_schedule import AveragingSchedule
from lightning_vi.sampling import FlatParameters, first_rows

X, Y = normal(24, 3), normal(24, 1)
SGD = partial(torch.optim.SGD, lr=0.05)


def batch_normalized(num_outputs: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.4),
        nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=0.3), nn.Linear(4, num_outputs),
    )  # fmt: skip


class Snapshots(Callback):
    """Records the weights after each epoch and the learning rates of each step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.likelihood: list[Tensor] = []
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append([float(group["lr"]) for group in optimizer.param_groups])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.weights.append(nn.utils.parameters_to_vector(pl_module.backbone.parameters()).detach().clone())
        parameters = list(pl_module.likelihood.parameters())
        self.likelihood.append(nn.utils.parameters_to_vector(parameters).detach().clone() if parameters else Y[:0])


def fit_and_watch(method: SWA, data: Any, **options: Any) -> Snapshots:
    watch = Snapshots()
    fit(method, data, callbacks=[watch], **options)
    return watch


def test_gradient_descent_on_a_quadratic_matches_the_closed_form() -> None:
    """w_t = w* + (1 - lr)^t (w_0 - w*), averaged over epochs 3, 5, 7 and 9."""
    method = SWAG(
        nn.Linear(1, 1, bias=False), Gaussian(1.0), start_epoch=2, snapshot_every=2, averaging_lr=0.2, max_rank=3,
        optimizer=partial(torch.optim.SGD, lr=0.1),
    )  # fmt: skip
    nn.init.constant_(method.backbone.weight, 5.0)  # type: ignore[arg-type]
    fit(method, loader(torch.ones(4, 1), 2 * torch.ones(4, 1), batch_size=4), max_epochs=10)
    start = 3.0 * 0.9**2
    snapshots = torch.tensor([2 + start * 0.8**steps for steps in (2, 4, 6, 8)])
    assert method.num_snapshots == 4
    assert_close(method.weight_mean, snapshots.mean().view(1))
    assert_close(method.weight_variance, snapshots.var(correction=0).view(1))
    means = [snapshots[: count + 1].mean() for count in range(4)]
    kept = [snapshots[3] - means[3], snapshots[1] - means[1], snapshots[2] - means[2]]
    assert_close(method.deviations[:, 0], torch.stack(kept))
    assert_close(method(torch.ones(1, 1)), snapshots.mean().view(1, 1))
    assert_close(method.backbone.weight.detach(), torch.tensor([[2 + start * 0.8**8]]))


def test_average_of_sgd_is_close_to_the_least_squares_solution() -> None:
    x = normal(64, 2)
    y = x @ torch.tensor([[1.0], [-2.0]]) + normal(64, 1)
    method = SWAG(nn.Linear(2, 1, bias=False), Gaussian(1.0), start_epoch=10, optimizer=SGD, averaging_lr=0.1)
    data = loader(x, y, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0))
    watch = fit_and_watch(method, data, max_epochs=60)
    solution = torch.linalg.lstsq(x, y).solution[:, 0]
    std = torch.stack(watch.weights[10:]).std(0)
    assert ((method.weight_mean - solution).abs() < 4.5 * std / math.sqrt(50)).all()
    assert_close(method.weight_variance.sqrt(), std, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("kind", [SWA, SWAG])
def test_mean_matches_torch(kind: type[SWA] | type[SWAG]) -> None:
    """On the same trajectory, including the parameters of the likelihood."""
    method = kind(MLP(3, [4], 1), Gaussian(), start_epoch=2, averaging_lr=0.02)
    averaged = AveragedModel(nn.ModuleList([method.backbone, method.likelihood]))

    class Update(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch >= 2:
                averaged.update_parameters(nn.ModuleList([pl_module.backbone, pl_module.likelihood]))

    fit(method, loader(X, Y), max_epochs=7, callbacks=[Update()])
    network, likelihood = averaged.module
    assert averaged.n_averaged == method.num_snapshots == 5
    assert_close(method(X), network(X))
    assert not torch.allclose(method(X), method.backbone(X))
    noise = likelihood.noise_std.detach().square()
    assert_close(method.predict(X).aleatoric_var, noise.expand(24, 1))
    assert not torch.allclose(method.likelihood.noise_std.detach().square(), noise)  # type: ignore[union-attr, operator]
    (scores,) = quiet_trainer().test(method, loader(X, Y), verbose=False)
    if kind is SWA:
        expected = -likelihood.log_prob(network(X).unsqueeze(0), Y).mean()
        assert scores["test_nll"] == pytest.approx(expected.item(), rel=1e-5)


def reference_network(method: SWA, weights: dict[str, Tensor], rows: Tensor) -> nn.Module:
    """Returns a copy with these weights and the batch normalization statistics of some rows."""
    network = copy.deepcopy(method.backbone).eval()
    network.load_state_dict(weights, strict=False)
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        network(rows)
    return network.eval()


@pytest.mark.parametrize("chunks", [True, False])
def test_batch_normalization_is_estimated_for_each_network(chunks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if chunks:
        monkeypatch.setattr("lightning_vi.sampling.memory.MAX_ROWS_PER_PASS", 2 * len(X))
        monkeypatch.setattr("lightning_vi.sampling.memory.MAX_KEPT_NUMBERS", 10)
    method = SWAG(batch_normalized(), Gaussian(), start_epoch=1, batch_norm_rows=11, num_mc_samples_test=5)
    fit(method, loader(X, Y), max_epochs=5)
    own = copy_of_state(method.backbone)
    prediction = method.predict(X, seed=3, return_samples=True)
    assert prediction.samples is not None
    weights = method.sample_parameters(5, seed=3)
    for index in range(5):
        network = reference_network(method, {name: value[index] for name, value in weights.items()}, X[:11])
        assert_close(prediction.samples[index], network(X).detach())
    mean = reference_network(method, method._weights.split(method.weight_mean), X[:11])
    assert_close(method.eval()(X), mean(X))
    assert not torch.allclose(method(X), method.backbone(X))
    assert same_state(copy_of_state(method.backbone), own)
    statistics = method.norm_statistics.clone()
    method.train()(X)
    assert torch.equal(method.norm_statistics, statistics)
    norms = [module for module in method.backbone.modules() if isinstance(module, _BatchNorm)]
    assert [norm.momentum for norm in norms] == [0.1, 0.3]


def test_batch_normalization_of_the_mean_on_images() -> None:
    x, y = normal(12, 2, 4, 4), normal(12, 1)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 1))
    method = SWA(network, Gaussian(), start_epoch=0)
    fit(method, loader(x, y), max_epochs=3)
    assert_close(method.eval()(x), reference_network(method, method._weights.split(method.weight_mean), x)(x))


def test_failed_estimate_has_no_side_effects() -> None:
    method = SWAG(batch_normalized(), Gaussian())
    method.collect()
    before, modes = copy_of_state(method), [module.training for module in method.modules()]
    with pytest.raises(ValueError, match="takes 3 and not 2 features"):
        method.fit_posterior([(X[:, :2], Y)])
    with pytest.raises(ValueError, match="there are no data to fit the posterior to"):
        method.fit_posterior([])
    assert same_state(copy_of_state(method), before)
    assert [module.training for module in method.modules()] == modes
    assert [norm.momentum for norm in method.backbone.modules() if isinstance(norm, _BatchNorm)] == [0.1, 0.3]
    assert method.kept_rows.rows is None


def rates(optimizer: Any, averaging_lr: Any, epochs: int = 7, **options: Any) -> Tensor:
    """Returns the learning rates of each step and parameter group, with 3 steps per epoch."""
    method = SWA(MLP(3, [4], 1), Gaussian(), averaging_lr=averaging_lr, start_epoch=3, optimizer=optimizer, **options)
    return torch.tensor(fit_and_watch(method, loader(X, Y), max_epochs=epochs).rates)


HALVING = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)


def test_constant_learning_rate() -> None:
    """It overrides the scheduler. That of the likelihood is ten times as large."""
    seen = rates(partial(torch.optim.Adam, lr=0.01), 0.004, lr_scheduler=HALVING)
    expected = torch.tensor([0.01, 0.005, 0.0025, *[0.004] * 4]).repeat_interleave(3)
    assert_close(seen, torch.stack([expected, 10 * expected], 1))


def test_cyclical_learning_rate() -> None:
    """Izmailov et al., 2018: alpha(i) = (1 - t(i)) alpha_1 + t(i) alpha_2, t(i) = (mod(i - 1, c) + 1) / c."""
    seen = rates(SGD, (0.02, 0.005), epochs=8, snapshot_every=2)
    cycle = 6
    t = torch.tensor([((i - 1) % cycle + 1) / cycle for i in range(1, 16)])
    assert_close(seen[:, 0], torch.cat([torch.full((9,), 0.05), (1 - t) * 0.02 + t * 0.005]))
    assert seen[14, 0] == seen[20, 0] == pytest.approx(0.005)


def test_learning_rate_is_unchanged_by_default() -> None:
    seen = rates(SGD, None, lr_scheduler=HALVING)
    assert_close(seen[:, 0], (0.05 * 0.5 ** torch.arange(7.0)).repeat_interleave(3))


def test_scheduler_that_reaches_zero_and_tensor_learning_rate() -> None:
    to_zero = partial(torch.optim.lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=2)
    assert_close(rates(partial(torch.optim.Adam, lr=0.01), 0.004, lr_scheduler=to_zero)[9:, 1], torch.full((12,), 0.04))
    as_tensor = partial(torch.optim.Adam, lr=torch.tensor(0.01), foreach=False)
    assert_close(rates(as_tensor, 0.004)[:, 0], torch.tensor([0.01] * 9 + [0.004] * 12))


@pytest.mark.parametrize("averaging_lr", [0.01, (0.02, 0.001)])
@pytest.mark.parametrize("kind", [SWA, partial(SWAG, max_rank=2)])
def test_resumed_fit_equals_uninterrupted_fit(kind: Any, averaging_lr: Any, tmp_path: Path) -> None:
    """From the end of a shorter fit and from an intermediate checkpoint, both within the averaging phase."""

    def make() -> SWA:
        torch.manual_seed(7)
        return kind(batch_normalized(2), HeteroscedasticGaussian(), start_epoch=2, averaging_lr=averaging_lr)

    def trainer(epochs: int) -> Any:
        keep_all = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
        return quiet_trainer(max_epochs=epochs, callbacks=[keep_all], enable_checkpointing=True)

    data, unbroken = loader(X, Y), make()
    shorter = trainer(5)
    shorter.fit(make(), data, data)
    shorter.save_checkpoint(tmp_path / "end.ckpt")
    trainer(8).fit(unbroken, data, data)
    for path in (tmp_path / "end.ckpt", tmp_path / "epoch=4-v1.ckpt", tmp_path / "epoch=2.ckpt"):
        resumed = make()
        torch.manual_seed(99)
        trainer(8).fit(resumed, data, data, ckpt_path=path)
        assert resumed.num_snapshots == 6
        assert same_state(copy_of_state(resumed), copy_of_state(unbroken)), path
        assert torch.equal(resumed.predict(X).mean, unbroken.predict(X).mean)
        assert torch.equal(resumed.kept_rows.rows, unbroken.kept_rows.rows)  # type: ignore[arg-type]


def test_second_fit_starts_without_snapshots() -> None:
    method = SWAG(MLP(3, [4], 1), Gaussian(), start_epoch=0, max_rank=4)
    fit(method, loader(X, Y), max_epochs=6)
    watch = fit_and_watch(method, loader(X, Y), max_epochs=3)
    stacked = torch.stack(watch.weights)
    assert method.num_snapshots == 3
    assert_close(method.weight_mean, stacked.mean(0))
    assert_close(method.weight_variance, stacked.var(0, correction=0))
    means = torch.cat([value.flatten() for value in method.averaged_likelihood.parameters()])
    assert_close(means, torch.stack(watch.likelihood).mean(0))
    assert (method.deviations[3] == 0).all()


def test_resuming_before_the_averaging_phase_discards_snapshots(tmp_path: Path) -> None:
    """With 12 instead of 4 epochs, the phase starts later."""

    def make() -> SWAG:
        torch.manual_seed(7)
        return SWAG(MLP(3, [4], 1), Gaussian(), start_epoch=0.5)

    shorter, unbroken, resumed = quiet_trainer(max_epochs=4), make(), make()
    shorter.fit(make(), loader(X, Y))
    shorter.save_checkpoint(tmp_path / "short.ckpt")
    fit(unbroken, loader(X, Y), max_epochs=12)
    fit(resumed, loader(X, Y), max_epochs=12, ckpt_path=tmp_path / "short.ckpt")
    assert resumed.num_snapshots == 6
    assert same_state(copy_of_state(resumed), copy_of_state(unbroken))


def test_fit_that_continues_in_the_same_trainer_keeps_its_snapshots() -> None:
    method, trainer = SWA(MLP(3, [4], 1), Gaussian(), start_epoch=1), quiet_trainer(max_epochs=3)
    trainer.fit(method, loader(X, Y))
    trainer.fit_loop.max_epochs = 5
    trainer.fit(method, loader(X, Y))
    assert method.num_snapshots == 4


COUNTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "a fraction": ({"start_epoch": 0.75}, {"max_epochs": 8}, 2),
    "a fraction with rounding error": (
        {"start_epoch": 0.29},
        {"max_epochs": 100, "limit_train_batches": 1},
        71,
    ),
    "every third epoch": ({"start_epoch": 1, "snapshot_every": 3}, {"max_epochs": 9}, 2),
    "after burn-in": ({"start_epoch": 0, "burnin_epochs": 2}, {"max_epochs": 5}, 3),
    "steps": ({"start_epoch": 0.5}, {"max_epochs": -1, "max_steps": 12}, 2),
    "accumulated steps": ({"start_epoch": 0.5}, {"max_epochs": -1, "max_steps": 4, "accumulate_grad_batches": 3}, 2),
    "steps within an epoch": ({"start_epoch": 1}, {"max_epochs": -1, "max_steps": 11}, 2),
    "fewer batches": ({"start_epoch": 0}, {"max_epochs": 4, "limit_train_batches": 2}, 4),
    "fast_dev_run": ({"start_epoch": 0.75}, {"fast_dev_run": 2}, 1),
}


@pytest.mark.parametrize(("options", "run", "count"), COUNTS.values(), ids=COUNTS)
def test_number_of_snapshots(options: dict[str, Any], run: dict[str, Any], count: int) -> None:
    method = SWA(nn.Linear(3, 1), Gaussian(), **options)
    quiet_trainer(**run).fit(method, loader(X, Y))
    assert method.num_snapshots == count
    assert method.is_fitted


def test_warning_if_training_ends_before_the_first_snapshot() -> None:
    method = SWAG(batch_normalized(), Gaussian(), start_epoch=10)
    with pytest.warns(
        UserWarning, match=r"SWAG has no snapshot .* \(start_epoch=10, snapshot_every=1\).* the only one"
    ):
        fit(method, loader(X, Y), max_epochs=2)
    assert method.num_snapshots == 1
    assert_close(method.weight_mean, FlatParameters(method.backbone).join(method.backbone))
    drawn = method.sample_parameters(3)["0.weight"]
    assert torch.equal(drawn, method.backbone[0].weight.expand(3, 5, 3))  # type: ignore[index]
    assert_close(method.predict(X).epistemic_var, torch.zeros(24, 1))
    untrained = SWA(MLP(3, [4], 1), Gaussian())
    with pytest.warns(UserWarning, match="SWA has no snapshot"):
        untrained.fit_posterior([])
    assert_close(untrained(X), untrained.backbone(X))


@pytest.mark.parametrize("kind", [SWA, SWAG])
def test_forward_and_prediction_before_and_after_a_fit(kind: Any) -> None:
    method = kind(batch_normalized(), Gaussian(), start_epoch=1)
    seen = []

    class Look(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            averaged = not torch.equal(pl_module(X), pl_module.backbone(X))
            seen.append((int(pl_module.num_snapshots), bool(pl_module.is_fitted), averaged))

    for call in (lambda: method.predict(X), lambda: method.predict_step(X)):
        with pytest.raises(NotFittedError, match="cannot predict before it is fitted"):
            call()
    history_trainer = quiet_trainer(max_epochs=3, callbacks=[Look()])
    history_trainer.fit(method, loader(X, Y), loader(X, Y))
    assert seen == [(0, False, False), (1, True, True), (2, True, True)]
    logged = float(history_trainer.callback_metrics["val_nll"])
    (scores,) = quiet_trainer().validate(method, loader(X, Y), verbose=False)
    assert scores["val_nll"] == pytest.approx(logged)


def test_snapshots_in_a_custom_training_loop() -> None:
    method = SWAG(MLP(3, [4], 1), Gaussian(), max_rank=2)
    optimizer = method.make_optimizer()
    with pytest.raises(NotFittedError):
        method.predict(X)
    with pytest.raises(NotFittedError):
        method.sample_parameters(2)
    seen = []
    for _ in range(5):
        method.elbo(X, Y).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        method.collect()
        log_prob = method.likelihood.log_prob(method.backbone(X).unsqueeze(0), Y)
        assert_close(method.elbo(X, Y).nll, -log_prob.mean())  # uses the trained weights, not their mean
        seen.append(FlatParameters(method.backbone).join(method.backbone))
        assert method.predict(X).mean.isfinite().all()
    assert_close(method.weight_mean, torch.stack(seen).mean(0))
    with_norms = SWAG(batch_normalized(), Gaussian())
    with_norms.collect()
    with pytest.raises(NotFittedError):
        with_norms.predict(X)
    with_norms.fit_posterior([(X, Y)])
    with_norms.predict(X)
    with_norms.collect()
    with pytest.raises(NotFittedError):
        with_norms.predict(X)


def test_tied_weights_count_once_and_frozen_weights_are_excluded() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    network[2].weight = network[0].weight
    network[4].weight.requires_grad_(False)
    method = SWAG(network, Gaussian(0.3), max_rank=3)
    assert method.weight_mean.shape == (9 + 3 + 3 + 1,)
    for _ in range(4):
        with torch.no_grad():
            for parameter in method.backbone.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
        method.collect()
    drawn = method.sample_parameters(6, seed=2)
    assert list(drawn) == ["0.weight", "0.bias", "2.bias", "4.bias"]
    samples = method.predict(X, num_samples=6, seed=2, return_samples=True).samples
    assert samples is not None
    for index in range(6):
        copied = copy.deepcopy(method.backbone)
        copied.load_state_dict({name: value[index] for name, value in drawn.items()} | {
            "2.weight": drawn["0.weight"][index], "4.weight": network[4].weight
        })  # fmt: skip
        assert_close(samples[index], copied(X).detach())


def as_tensor(x: Tensor) -> Any:
    return x


STRUCTURES: dict[str, Callable[[Tensor], Any]] = {
    "tensor": as_tensor,
    "tuple": lambda x: (x, x[:, 0]),
    "list": lambda x: [x, x[:, :1] * 2],
    "mapping": lambda x: {"a": x, "b": {"c": x + 1}, "name": "rows"},
}


@pytest.mark.parametrize("make", STRUCTURES.values(), ids=STRUCTURES)
def test_first_rows_of_any_structure(make: Callable[[Tensor], Any]) -> None:
    batches = [make(part) for part in X.split(5)]
    for count in (3, 5, 12, 100):
        torch.testing.assert_close(flattened(first_rows(batches, count)), flattened(make(X[:count])))
    assert isinstance(first_rows(batches, 3), type(make(X)))
    ragged = [make(X[:4]), make(torch.zeros(5, 2)), make(X[4:9])]
    assert_close(flattened(first_rows(ragged, 7)), flattened(make(X[:7])))


def flattened(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    return [
        tensor for part in (x.values() if isinstance(x, dict) else x) if part != "rows" for tensor in flattened(part)
    ]


def test_rows_are_part_of_the_state_dict(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.norm(self.linear(torch.cat([a, b], 1)))[:, :1]  # type: ignore[no-any-return]

    rows: Any = [({"b": x, "a": -x}, y) for x, y in zip(X, Y, strict=True)]
    method = SWAG(Two(), Gaussian(), start_epoch=1, batch_norm_rows=10)
    fit(method, DataLoader(rows, batch_size=8), max_epochs=4)
    kept: Any = method.kept_rows.rows
    assert_close(kept, {"b": X[:10], "a": -X[:10]})
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = SWAG(Two(), Gaussian())
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    inputs = {"a": X, "b": 2 * X}
    assert torch.equal(other.predict(inputs, seed=1).mean, method.predict(inputs, seed=1).mean)
    kept["a"].mul_(3.0)
    assert not torch.allclose(other.predict(inputs, seed=1).mean, method.predict(inputs, seed=1).mean)
    assert all(value.dtype == torch.float64 for value in other.double().kept_rows.rows.values())  # type: ignore[union-attr]
    other.predict({"a": X.double(), "b": X.double()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_epoch": -1}, r"start_epoch must be an integer of at least 0, or a fraction .* \[0, 1\), got -1"),
        ({"start_epoch": 1.0}, "start_epoch must be .* got 1.0"),
        ({"start_epoch": True}, "start_epoch must be .* got True"),
        ({"start_epoch": math.nan}, "start_epoch must be .* got nan"),
        ({"snapshot_every": 0}, "snapshot_every must be an integer of at least 1, got 0"),
        ({"averaging_lr": 0.0}, "averaging_lr must be None, a positive, finite number or a pair .* got 0.0"),
        ({"averaging_lr": math.inf}, "averaging_lr must be .* got inf"),
        ({"averaging_lr": (0.1, 0.2)}, r"averaging_lr must be .* not larger, got \(0.1, 0.2\)"),
        ({"averaging_lr": (0.1,)}, r"averaging_lr must be .* got \(0.1,\)"),
        ({"batch_norm_rows": 1}, "batch_norm_rows must be an integer of at least 2, got 1"),
        ({"burnin_epochs": -1}, "burnin_epochs must be an integer of at least 0, got -1"),
    ],
)
@pytest.mark.parametrize("kind", [SWA, SWAG])
def test_invalid_arguments(kind: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(MLP(3, [4], 1), Gaussian(), **options)


def test_unknown_number_of_epochs_or_batches() -> None:
    with pytest.raises(ValueError, match="start_epoch must be an integer where the trainer has no max_epochs"):
        quiet_trainer(max_epochs=-1).fit(SWA(MLP(3, [4], 1), Gaussian()), loader(X, Y))
    rows: Any = list(zip(X, Y, strict=True))

    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(rows)

    unknown = SWA(MLP(3, [4], 1), Gaussian(), averaging_lr=(0.1, 0.01), start_epoch=1)
    with pytest.raises(ValueError, match=r"averaging_lr=\(0.1, 0.01\) needs training data of known length"):
        fit(unknown, DataLoader(Stream(), batch_size=8), max_epochs=2)
    known = SWA(MLP(3, [4], 1), Gaussian(), averaging_lr=0.1, start_epoch=1)
    fit(known, DataLoader(Stream(), batch_size=8), max_epochs=4)
    assert known.num_snapshots == 3
    with pytest.raises(ValueError, match="backbone must have trainable parameters to average"):
        SWA(nn.Sequential(nn.Tanh()), Gaussian())


def test_schedule_with_one_step_per_cycle() -> None:
    schedule = AveragingSchedule(0, 1, [0.4, 0.1])
    assert [schedule.learning_rate(epoch, 0, 1) for epoch in (-1, 0, 1)] == [
        None,
        pytest.approx(0.1),
        pytest.approx(0.1),
    ]
    assert [schedule.ends_cycle(epoch) for epoch in (-1, 0, 1)] == [False, True, True]
