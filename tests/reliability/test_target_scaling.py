"""Fits on plain dataloaders: targets of any units are learned, and inputs of other units are noticed at prediction."""

import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import params_of, quiet_trainer
from lightning import LightningDataModule
from torch import Tensor
from torch.testing import assert_close
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import lightning_vi as lv
from lightning_vi.backbones import MLP
from lightning_vi.core.training_sample import find_scaling, training_sample
from lightning_vi.datamodules import DiabetesDataModule
from lightning_vi.likelihoods import (
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    Poisson,
    Quantiles,
    StudentT,
)

Tally = Callable[..., None]
N = 300
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
NOISE = torch.randn(N, 1, generator=torch.Generator().manual_seed(1))
Y = 28 + 12 * torch.tanh(X[:, :1] + 0.5 * X[:, 1:2]) + 2 * NOISE
CASES: dict[str, Callable[[], lv.methods.UQMethod]] = {
    "Deterministic": lambda: lv.Deterministic(MLP(3, [24], 1), Gaussian()),
    "MeanFieldVI": lambda: lv.MeanFieldVI(MLP(3, [24], 2), HeteroscedasticGaussian()),
    "LastLayerVI": lambda: lv.LastLayerVI(MLP(3, [24], 2), HeteroscedasticGaussian()),
    "LatentVariableVI": lambda: lv.LatentVariableVI(MLP(3, [24], 1), Gaussian()),
    "VBLL": lambda: lv.VBLL(MLP(3, [24], 1), Gaussian()),
    "Laplace": lambda: lv.Laplace(MLP(3, [24], 1), StudentT()),
    "SWAG": lambda: lv.SWAG(MLP(3, [24], 2), HeteroscedasticGaussian()),
    "DeepEnsemble": lambda: lv.DeepEnsemble(MLP(3, [24], 2), HeteroscedasticGaussian(), num_members=3),
    "QuantileRegression": lambda: lv.QuantileRegression(MLP(3, [24], 3), Quantiles()),
}


def loader(y: Tensor = Y, **options: Any) -> DataLoader[Any]:
    options = {"batch_size": 30, "shuffle": True, "generator": torch.Generator().manual_seed(0)} | options
    return DataLoader(TensorDataset(X, y), **options)


def fitted(make: Callable[[], Any], data: Any, epochs: int = 1, **options: Any) -> Any:
    torch.manual_seed(0)
    method = make()
    quiet_trainer(max_epochs=epochs).fit(method, data, **options)
    return method


@pytest.mark.parametrize(
    "name", params_of({name: (name,) for name in CASES}, default=("MeanFieldVI", "SWAG", "QuantileRegression"))
)
def test_targets_far_from_zero_are_learned(name: str, tally: Tally) -> None:
    method = fitted(CASES[name], loader(), epochs=14)
    (scores,) = quiet_trainer().test(method, loader(shuffle=False), verbose=False)
    error = (method.predict(X).mean - Y).square().mean().sqrt().item()
    assert scores["test_rmse"] == pytest.approx(error, rel=1e-3)
    assert error < 3.5  # of a standard deviation of 8; the noise has 2
    tally("targets in any units", name, tried=1, right=1)


def test_it_is_the_fit_to_targets_that_are_scaled_by_hand() -> None:
    mean, std = Y.mean(0), Y.std(0, correction=0)
    make = partial(lv.MeanFieldVI, MLP(3, [8], 2))
    ours = fitted(lambda: make(HeteroscedasticGaussian()), loader(), epochs=3)
    theirs = fitted(lambda: make(HeteroscedasticGaussian(scale_targets=False)), loader((Y - mean) / std), epochs=3)
    assert_close(ours.likelihood.target_mean, mean)
    assert_close(ours.likelihood.target_std, std)
    expected = theirs.predict(X)
    assert_close(ours.predict(X).mean, expected.mean * std + mean, rtol=1e-4, atol=1e-3)
    assert_close(ours.predict(X).total_var, expected.total_var * std.square(), rtol=1e-3, atol=1e-3)


def scaling_of(likelihood: Likelihood, y: Tensor = Y, width: int = 1) -> tuple[list[float], list[float]]:
    method = fitted(lambda: lv.Deterministic(MLP(3, [4], width), likelihood), loader(y))
    found = method.likelihood
    return getattr(found, "target_mean", torch.zeros(1)).tolist(), getattr(found, "target_std", torch.ones(1)).tolist()


@pytest.mark.parametrize("name", ["MeanFieldVI", "DeepEnsemble"])
def test_data_of_another_type_than_the_network_are_scaled(name: str) -> None:
    expected = fitted(CASES[name], loader())
    doubles = DataLoader(
        TensorDataset(X.double(), Y.double()), batch_size=30, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    method = fitted(CASES[name], doubles)
    assert_close(method.likelihood.get_buffer("target_mean"), expected.likelihood.get_buffer("target_mean"))
    assert_close(method.predict(X.double()).mean, expected.predict(X).mean)
    wide = fitted(lambda: lv.MeanFieldVI(MLP(3, [24], 1).double(), Gaussian()), loader())
    assert wide.predict(X).mean.dtype == torch.float64
    assert (wide.predict(X).mean - Y).square().mean() < 2 * Y.var()


def test_what_stays_in_its_units() -> None:
    unscaled = ([0.0], [1.0])
    assert scaling_of(Gaussian(scale_targets=False)) == unscaled
    assert scaling_of(Gaussian(noise_std=2.0)) == unscaled  # the given number is in the units of the targets
    assert scaling_of(StudentT(noise_scale=2.0)) == unscaled
    assert scaling_of(Gaussian(), Y / 8 - 3.3) == unscaled  # of order one
    assert scaling_of(Poisson(), Y.abs().round()) == unscaled
    assert scaling_of(Gaussian(), torch.full_like(Y, 7.0)) == ([7.0], [1.0])


class Pretrained(torch.nn.Module):
    """A network that predicts in the units of the targets."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(3, 1)
        self.last.weight.data = torch.tensor([[7.0, 3.5, 0.0]])
        self.last.bias.data = torch.tensor([28.0])

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(x)
        return outputs


def test_a_pretrained_network_keeps_its_units() -> None:
    for make in (
        lambda: lv.MeanFieldVI(Pretrained(), Gaussian()),
        lambda: lv.MeanFieldVI.from_pretrained(Pretrained(), Gaussian()),
        lambda: lv.DeepEnsemble(Pretrained, Gaussian(), num_members=2),
    ):
        method = fitted(make, loader())
        assert not method.likelihood.is_scaled
        assert (method.predict(X).mean - Y).square().mean().sqrt() < 8
    streamed = fitted(lambda: lv.MeanFieldVI(Pretrained(), Gaussian(), num_data=N), DataLoader(Stream(), 50))
    assert not streamed.likelihood.is_scaled


def test_a_network_that_moves_to_another_method_keeps_its_scaling() -> None:
    trained = fitted(CASES["Deterministic"], loader(), epochs=14)
    expected = trained.predict(X).mean
    for likelihood in (Gaussian(), None, StudentT()):
        moved = lv.MeanFieldVI.from_pretrained(trained, likelihood, delta=1e-6)
        assert_close(moved.predict(X).mean, expected, rtol=1e-3, atol=1e-2)
    laplace = lv.Laplace(trained.backbone, trained.likelihood)
    laplace.fit_posterior(loader())
    assert_close(laplace.predict(X).mean, expected, rtol=1e-4, atol=1e-3)
    scaled = Gaussian()
    scaled.set_target_scaling(torch.tensor([1.0]), torch.tensor([2.0]))
    assert scaled.scaled_as(trained.likelihood) is scaled
    assert Poisson().scaled_as(trained.likelihood).is_scaled is False


def test_each_target_has_its_scaling() -> None:
    targets = torch.cat([Y, NOISE, 1e-4 * NOISE - 5], 1)
    mean, std = scaling_of(Gaussian(num_targets=3), targets, width=3)
    assert mean == pytest.approx([Y.mean().item(), 0.0, -5.0], abs=1e-4)
    assert std == pytest.approx([Y.std(correction=0).item(), 1.0, 1e-4], rel=0.2)


def test_missing_values_are_left_out() -> None:
    targets = torch.tensor([[10.0], [float("nan")], [30.0], [float("inf")]])
    assert [part.item() for part in find_scaling(targets, 1) or ()] == [20.0, 10.0]
    assert find_scaling(torch.ones(4, dtype=torch.long), 1) is None
    assert find_scaling(torch.ones(4, 2), 1) is None


class OwnDataModule(LightningDataModule):
    def train_dataloader(self) -> DataLoader[Any]:
        return loader()


class ScaledDataModule(OwnDataModule):
    target_mean, target_std = torch.tensor([20.0]), torch.tensor([5.0])


def test_a_datamodule_with_a_scaling_and_one_by_hand_win() -> None:
    def scaled() -> lv.Deterministic:
        method = lv.Deterministic(MLP(3, [4], 1), Gaussian())
        method.likelihood.set_target_scaling(torch.tensor([1.0]), torch.tensor([3.0]))
        return method

    plain = CASES["Deterministic"]
    assert fitted(plain, OwnDataModule()).likelihood.target_mean.item() == pytest.approx(Y.mean().item(), rel=1e-5)
    assert fitted(plain, ScaledDataModule()).likelihood.target_mean.item() == 20.0
    assert fitted(scaled, ScaledDataModule()).likelihood.target_std.item() == 5.0
    assert fitted(scaled, loader()).likelihood.target_std.item() == 3.0


def test_it_is_part_of_the_checkpoint_and_stays_when_training_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    make = CASES["MeanFieldVI"]
    method, trainer = make(), quiet_trainer(max_epochs=2)
    trainer.fit(method, loader())
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    unbroken, x = fitted(make, loader(), epochs=4), X[:5]
    resumed = make()
    options = {"ckpt_path": tmp_path / "fit.ckpt", "weights_only": True}
    order = loader()
    for _ in range(2):
        torch.randperm(N, generator=order.generator)  # the epochs before the checkpoint
    quiet_trainer(max_epochs=4).fit(resumed, order, **options)
    assert_close(resumed.likelihood.target_mean, unbroken.likelihood.target_mean, rtol=0, atol=0)
    loaded = lv.MeanFieldVI.load_from_checkpoint(
        tmp_path / "fit.ckpt", backbone=MLP(3, [24], 2), likelihood=HeteroscedasticGaussian()
    )
    assert_close(loaded.predict(x).mean, method.predict(x).mean)
    quiet_trainer().fit(method, loader(Y / 100))
    assert_close(method.likelihood.target_mean, unbroken.likelihood.target_mean, rtol=0, atol=0)


class Stream(IterableDataset[Any]):
    """Rows of one pass: what is read before the training is missing in it."""

    def __init__(self) -> None:
        self.rows = iter(zip(X, Y, strict=True))

    def __iter__(self) -> Iterator[Any]:
        return self.rows


def test_a_stream_is_scaled_by_its_first_batch() -> None:
    method = fitted(lambda: lv.MeanFieldVI(MLP(3, [8], 1), Gaussian(), num_data=N), DataLoader(Stream(), 50))
    assert_close(method.likelihood.target_mean, Y[:50].mean(0))
    assert_close(method.likelihood.target_std, Y[:50].std(0, correction=0))


class Shards(IterableDataset[Any]):
    """Each rank has other rows."""

    def __iter__(self) -> Iterator[Any]:
        rank = torch.distributed.get_rank()
        return zip(X[rank::2], Y[rank::2], strict=True)


class Compared(lv.MeanFieldVI):
    """Fails if the ranks scale the targets differently."""

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        means = self.all_gather(self.likelihood.target_mean)
        if not (len(means) == 2 and torch.equal(means[0], means[1]) and (means > 10).all()):
            raise AssertionError(f"the ranks have the means {means}")


@pytest.mark.thorough
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
@pytest.mark.parametrize("streamed", [True, False])
def test_ranks_agree(streamed: bool) -> None:
    method = Compared(MLP(3, [4], 1), Gaussian(), num_data=N)
    data = DataLoader(Shards(), 50) if streamed else loader(generator=None)
    quiet_trainer(strategy="ddp_spawn", devices=2).fit(method, data)
    assert method.likelihood.is_scaled


class Noisy(Dataset[Any]):
    """Opens its file when it is first read, counts its reads, and draws from all global random states."""

    def __init__(self) -> None:
        self.file: object = None
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 5000

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.file = self.file or object()
        self.reads.append(index)
        noise = torch.rand(1) + float(np.random.rand()) + random.random()  # noqa: NPY002
        return torch.zeros(3) + noise, torch.full((1,), float(index))


def test_the_loader_does_not_notice() -> None:
    data = Noisy()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # type: ignore[index]  # noqa: NPY002
    plain = DataLoader(data, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(3))
    sample = training_sample(plain)
    assert sample is not None
    assert data.reads == [0, *range(0, 5000, 5), *range(0, 5000, 80)]
    assert data.file is None
    assert sample.targets[:, 0].tolist() == list(range(0, 5000, 5))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert states[2] == random.getstate()
    again = training_sample(plain)
    assert again is not None
    assert torch.equal(torch.as_tensor(again.inputs), torch.as_tensor(sample.inputs))
    untouched = DataLoader(data, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(3))
    assert list(plain.sampler) == list(untouched.sampler)


def test_rows_are_those_that_the_sampler_takes() -> None:
    data = TensorDataset(torch.zeros(60, 2), torch.arange(60.0).unsqueeze(1))
    half = list(range(30))
    for few in (
        DataLoader(Subset(data, half), 7),
        DataLoader(data, 7, sampler=SubsetRandomSampler(half)),
        DataLoader(data, 7, sampler=half),
    ):
        sample = training_sample(few)
        assert sample is not None
        assert sorted(sample.targets[:, 0].tolist()) == half
    sample = training_sample(DataLoader(data, sampler=WeightedRandomSampler([1.0] * 60, 60)))
    assert sample is not None
    assert len(sample.targets) == 60

    class Own(SubsetRandomSampler):
        def __iter__(self) -> Iterator[int]:
            return iter([1, 2])

    class Keys(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, key: int) -> Any:
            return {"a": 1}[str(key)]

    assert training_sample(DataLoader(data, batch_sampler=[[0, 1], [2]])) is None
    assert training_sample(DataLoader(Keys(), 2)) is None
    assert training_sample(DataLoader(Stream(), 2)) is None
    assert training_sample([loader(), loader()]) is None
    assert training_sample(DataLoader(X, 2)) is None


def test_few_rows_of_large_inputs_are_read() -> None:
    class Images(Noisy):
        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            self.reads.append(index)
            return torch.zeros(3, 200, 200), torch.full((1,), float(index))

    data = Images()
    sample = training_sample(DataLoader(data, batch_size=10))
    assert sample is not None
    assert sample.inputs is None
    assert len(data.reads) <= 130
    data.reads.clear()
    assert training_sample(DataLoader(data, batch_size=10), rows_only=True) is None
    assert data.reads == [0]


@pytest.fixture(scope="module")
def standardized() -> tuple[lv.MeanFieldVI, DiabetesDataModule]:
    data = DiabetesDataModule()
    return fitted(lambda: lv.MeanFieldVI(MLP(10, [8], 2), HeteroscedasticGaussian()), data), data


def far_warnings(method: Any, x: Tensor) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            method.predict(x)
    return sum("standard deviations of the training inputs away" in str(warning.message) for warning in caught)


def test_raw_inputs_are_noticed_once(standardized: Any, tmp_path: Path, tally: Tally) -> None:
    method, data = standardized
    raw = data.X_test * data.input_std + data.input_mean
    trainer = quiet_trainer(max_epochs=0)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    parts = {"backbone": MLP(10, [8], 2), "likelihood": HeteroscedasticGaussian()}

    def load() -> lv.MeanFieldVI:
        return lv.MeanFieldVI.load_from_checkpoint(tmp_path / "fit.ckpt", **parts)

    calibrated = lv.SplitConformal(load())
    calibrated.calibrate([(data.X_calib, data.Y_calib)])
    makers: dict[str, Any] = {
        "loaded": load(),
        "calibrated": calibrated,
        "with method_checkpoint": lv.VarianceScaling(load(), method_checkpoint=str(tmp_path / "fit.ckpt")).method,
        "Ensemble": lv.Ensemble([load(), load()]),
    }
    for name, predictor in makers.items():
        assert far_warnings(predictor, raw) == 1, name
        tally("raw inputs", name, tried=1, right=1)


def test_no_false_alarms(standardized: Any) -> None:
    method, data = standardized
    rows = data.X_test
    outlier = rows[:1].clone()
    outlier[0, 0] = 54.0
    constant = lv.Deterministic(MLP(3, [4], 1), Gaussian())
    x = torch.cat([torch.ones(N, 1), X[:, 1:]], 1)
    quiet_trainer().fit(constant, DataLoader(TensorDataset(x, NOISE), 50))
    for predictor, inputs in (
        (method, rows),
        (method, 10 * rows),
        (method, rows + 10),
        (method, outlier),
        (method, torch.full((1, 10), float("nan"))),
        (method, rows[:0]),
        (constant, X + torch.tensor([100.0, 0.0, 0.0])),
    ):
        predictor.input_range._num_checks = 0
        if len(inputs):
            assert far_warnings(predictor, inputs) == 0


@pytest.mark.parametrize("name", ["Deterministic", "LastLayerVI"])
def test_rows_that_the_network_cannot_take_are_explained(name: str) -> None:
    data = DataLoader(TensorDataset(torch.cat([X, X[:, :1]], 1), Y), 50)
    with pytest.raises(ValueError, match=r"the first layer '0' \(Linear\) takes 3 and not 4 features"):
        quiet_trainer(max_epochs=1).fit(CASES[name](), data)
