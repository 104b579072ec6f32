"""Adaptive conformal inference and EnbPI: coverage over many series, loops as oracles, online use, checkpoints."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import copy_of_state, loader, quiet_trainer, same_state
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import (
    AdaptiveConformal,
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    DeepEnsemble,
    Deterministic,
    EnbPI,
    JointConformal,
    MeanVarianceEstimation,
    SplitConformal,
    VarianceScaling,
)
from lightning_vi.compare import compare
from lightning_vi.core.bootstrap import BootstrapOrders, block_bootstrap
from lightning_vi.datamodules import CalibrationDataModule, ToySeriesDataModule
from lightning_vi.functional.calibration import conformal_quantile
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import CalibratedMethod
from lightning_vi.report.scoring import score

COVERAGE, NUM_CALIBRATION, NUM_TEST = 0.8, 99, 150


def mean_and_scale() -> MeanVarianceEstimation:
    """Returns a method whose inputs are its mean and its raw scale."""
    return MeanVarianceEstimation(nn.Identity(), HeteroscedasticGaussian())


def series(size: int, drift: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws calibration and test rows; the noise of the test rows grows by the factor 1 + drift."""
    x = torch.randn(size, 2, generator=random)
    growth = 1 + drift * torch.linspace(0, 1, size).unsqueeze(1)
    return x, x[:, :1] + growth * torch.randn(size, 1, generator=random)


def covered(calibrated: CalibratedMethod, x: Tensor, y: Tensor) -> float:
    prediction = calibrated.update(x, y) if isinstance(calibrated, AdaptiveConformal) else calibrated.predict(x)
    assert prediction.lower is not None
    assert prediction.upper is not None
    return float(((prediction.lower <= y) & (y <= prediction.upper)).float().mean())


@pytest.mark.parametrize("repetitions", [40, pytest.param(200, marks=pytest.mark.thorough)])
def test_coverage_over_many_series(repetitions: int) -> None:
    """On exchangeable rows both hold it; under drift split conformal does not, and the adaptive one does."""
    random = torch.Generator().manual_seed(0)
    shares: dict[tuple[str, float], list[float]] = {}
    gamma = 0.05
    wrappers = {
        "split": SplitConformal(mean_and_scale(), coverage=COVERAGE),
        "adaptive": AdaptiveConformal(mean_and_scale(), coverage=COVERAGE, gamma=gamma),
    }
    for drift in (0.0, 3.0):
        for _ in range(repetitions):
            calibration, test = series(NUM_CALIBRATION, 0.0, random), series(NUM_TEST, drift, random)
            for name, wrapper in wrappers.items():
                wrapper.calibrate([calibration])
                shares.setdefault((name, drift), []).append(covered(wrapper, *test))
    bound = (COVERAGE + gamma) / (gamma * NUM_TEST)
    assert all(abs(share - COVERAGE) <= bound for drift in (0.0, 3.0) for share in shares["adaptive", drift])
    mean = {key: float(np.mean(values)) for key, values in shares.items()}
    error = 4 * np.std(shares["split", 0.0]) / repetitions**0.5
    assert abs(mean["split", 0.0] - COVERAGE) < error
    assert abs(mean["adaptive", 0.0] - COVERAGE) < error
    assert mean["split", 3.0] < COVERAGE - 0.15
    assert abs(mean["adaptive", 3.0] - COVERAGE) < 0.05


def adaptive(**options: Any) -> AdaptiveConformal:
    method = Deterministic(nn.Identity(), Gaussian(noise_std=1.0))
    wrapper = AdaptiveConformal(method, **({"coverage": 0.8, "gamma": 0.1} | options))
    wrapper.calibrate([(torch.zeros(19, 1), torch.arange(1.0, 20.0).unsqueeze(1))])
    return wrapper


def numbers(wrapper: CalibratedMethod) -> dict[str, Tensor]:
    """The state, with numbers for NaN, which differs from itself."""
    return {name: value.nan_to_num(-1.0) for name, value in copy_of_state(wrapper).items()}


def quantile_of(past: np.ndarray, alpha: float) -> float:
    level = 1 - round(alpha, 6)
    return float(conformal_quantile(torch.tensor(past)[:, None], level)) if level < 1 else torch.inf


def new_rows() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(4)
    return torch.zeros(40, 1), 15 * torch.randn(40, 1, generator=random)


@pytest.mark.parametrize("options", [{}, {"window": 12}, {"delay": 3}])
def test_trainer_updates_and_loops_agree(options: dict[str, Any], tmp_path: Path) -> None:
    x, y = new_rows()
    alpha, past, waiting, ends = 0.2, np.arange(1.0, 20.0), [], []
    past = past[-options.get("window", 19) :]
    for value in y.flatten().abs().tolist():
        quantile = quantile_of(past, alpha)
        ends.append(quantile)
        waiting.append((value, quantile))
        if len(waiting) > options.get("delay", 0):
            old, its_quantile = waiting.pop(0)
            alpha += 0.1 * (0.2 - (old > its_quantile))
            past = np.append(past[1:], old) if "window" in options else past
    upper = torch.tensor(ends).unsqueeze(1)

    wrapper = adaptive(**options)
    before = numbers(wrapper)
    for batch_size in (7, 40):
        (scores,) = quiet_trainer().test(wrapper, loader(x, y, batch_size=batch_size), verbose=False)
        assert scores["test_conformal_coverage"] == pytest.approx(float((y.abs() <= upper).float().mean()))
        assert scores["test_conformal_width"] == pytest.approx(2 * float(upper.mean()), rel=1e-5)
        assert same_state(numbers(wrapper), before)
    results: Any = quiet_trainer().test(wrapper, [loader(x, y), loader(x, y)], verbose=False)
    assert results[0]["test_conformal_width/dataloader_idx_0"] == results[1]["test_conformal_width/dataloader_idx_1"]

    parts = [wrapper.update(x[:25], y[:25])]
    trainer = quiet_trainer()
    trainer.strategy.connect(wrapper)
    trainer.save_checkpoint(tmp_path / "running.ckpt")
    method = Deterministic(nn.Identity(), Gaussian(noise_std=1.0))
    loaded = AdaptiveConformal.load_from_checkpoint(tmp_path / "running.ckpt", method=method)
    assert loaded.coverage == 0.8
    parts += [loaded.update(x[row : row + 1], y[row : row + 1]) for row in range(25, 40)]
    assert_close(torch.cat([part.upper for part in parts]), upper)  # type: ignore[misc]
    assert float(loaded.alpha) == pytest.approx(alpha, abs=1e-5)
    assert float(loaded.predict(x[:1]).upper) == pytest.approx(quantile_of(past, alpha), rel=1e-6)  # type: ignore[arg-type]


def test_it_follows_any_conformal_method_for_regression() -> None:
    x, y = torch.randn(60, 2), torch.randn(60, 1)
    inner = ConformalQuantileRegression(VarianceScaling(mean_and_scale()).requires_grad_(False), coverage=0.7)
    inner.method.calibrate([(x, y)])
    wrapper = AdaptiveConformal(inner, gamma=0.05)
    assert wrapper.coverage == 0.7
    wrapper.calibrate([(x, y)])
    inner.calibrate([(x, y)])
    assert_close(wrapper.predict(x).lower, inner.predict(x).lower)
    sets = AdaptivePredictionSets(Deterministic(nn.Identity(), Categorical(2)))
    for method in (sets, JointConformal(mean_and_scale())):
        with pytest.raises(TypeError, match=f"conformal method for regression .*, got a {type(method).__name__}"):
            AdaptiveConformal(method)
    with pytest.raises(ValueError, match=r"coverage=0.9 differs from that of ConformalQuantileRegression, 0.7"):
        AdaptiveConformal(inner, coverage=0.9)


def test_empty_and_infinite_intervals() -> None:
    wrapper = adaptive(gamma=3.0)
    zeros = torch.zeros(1, 1)
    assert wrapper.update(zeros, zeros + 99).upper.isfinite()  # type: ignore[union-attr]
    assert wrapper.predict(zeros).upper.isinf()  # type: ignore[union-attr]
    wrapper = adaptive(gamma=3.0)
    for _ in range(2):
        wrapper.update(zeros, zeros)  # a hit: alpha is 0.2 + 3 * 0.2 and 0.2 + 6 * 0.2
    prediction = wrapper.predict(zeros)
    assert torch.equal(prediction.lower, prediction.mean)  # type: ignore[arg-type]
    assert torch.equal(prediction.upper, prediction.mean)  # type: ignore[arg-type]


def test_missing_targets_change_nothing() -> None:
    method = Deterministic(nn.Identity(), Gaussian(noise_std=1.0, missing="ignore"))
    wrapper = AdaptiveConformal(method, coverage=0.8, window=19)
    wrapper.calibrate([(torch.zeros(19, 1), torch.arange(1.0, 20.0).unsqueeze(1))])
    before = copy_of_state(wrapper)
    wrapper.update(torch.zeros(3, 1), torch.full((3, 1), torch.nan))
    assert same_state(copy_of_state(wrapper), before)


def test_wrong_orders_and_arguments() -> None:
    wrapper, (x, y) = adaptive(window=19), new_rows()
    shuffled = loader(x, y, shuffle=True)
    state = copy_of_state(wrapper)
    for run in (
        lambda: quiet_trainer().test(wrapper, shuffled, verbose=False),
        lambda: quiet_trainer().fit(wrapper, shuffled),
        lambda: wrapper.calibrate(shuffled),
    ):
        with pytest.raises(ValueError, match="AdaptiveConformal needs rows in the order of time, but"):
            run()
    with pytest.raises(ValueError, match="the predictions need targets of shape"):
        wrapper.update(x, y[:3])
    assert same_state(copy_of_state(wrapper), state)
    method = wrapper.source
    with pytest.raises(TypeError, match=r"must not be a AdaptiveConformal.*\(VarianceScaling\(method\)"):
        VarianceScaling(wrapper)
    for options, message in (
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"window": 0}, "window must be"),
        ({"delay": -1}, "delay must be"),
        ({"coverage": 1.0}, "coverage must lie strictly between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            AdaptiveConformal(method, **options)


def linear_ensemble(x: np.ndarray, y: np.ndarray, block: int) -> tuple[DeepEnsemble, list[LinearRegression]]:
    """An ensemble whose members are least squares fits of scikit-learn to the bootstrap samples."""
    ensemble = DeepEnsemble(
        nn.Linear(x.shape[1], 1), Gaussian(noise_std=1.0), num_members=6, bootstrap_block=block
    ).double()
    ensemble._train_size = len(x)
    ensemble.is_trained = True
    rows = block_bootstrap(len(x), 6, block, ensemble.noise.seed).numpy()
    fits = [LinearRegression().fit(x[own], y[own]) for own in rows]
    stacked = ensemble.backbone
    with torch.no_grad():
        for name, parameter in stacked.named_parameters():
            values = [fit.coef_ if "weight" in name else fit.intercept_ for fit in fits]
            parameter.copy_(torch.tensor(np.stack(values)).view_as(parameter))
    return ensemble, fits


@pytest.mark.parametrize("window", [None, 20])
def test_enbpi_against_scikit_learn(window: int | None) -> None:
    random = np.random.default_rng(5)
    x = random.normal(size=(90, 3))
    y = x @ random.normal(size=(3, 1)) + np.linspace(0.2, 3, 90)[:, None] * random.normal(size=(90, 1))
    train, test = slice(0, 50), slice(50, 90)
    ensemble, fits = linear_ensemble(x[train], y[train], block=5)
    rows = block_bootstrap(50, 6, 5, ensemble.noise.seed).numpy()

    residuals, centers = [], []
    for i in range(50):
        unseen = [fit for fit, own in zip(fits, rows, strict=True) if i not in own]
        if unseen:
            residuals.append(abs(y[i, 0] - np.mean([fit.predict(x[i : i + 1]) for fit in unseen])))
            centers.append(np.mean([fit.predict(x[test])[:, 0] for fit in unseen], 0))
    residuals, center = residuals[-(window or 50) :], np.mean(centers, 0)
    widths = []
    for t in range(40):
        widths.append(np.sort(residuals)[int(np.ceil(round(0.8 * (len(residuals) + 1), 6))) - 1])
        residuals = [*residuals[1:], abs(y[50 + t, 0] - center[t])]

    enbpi = EnbPI(ensemble, coverage=0.8, window=window).double()
    enbpi.calibrate([(torch.tensor(x[train]), torch.tensor(y[train]))])
    prediction = enbpi.update(torch.tensor(x[test]), torch.tensor(y[test]))
    assert_close(prediction.upper, torch.tensor(center + widths).unsqueeze(1))
    assert_close(prediction.lower, torch.tensor(center - widths).unsqueeze(1))
    assert prediction.samples is None
    assert enbpi.predict(torch.tensor(x[test]), return_samples=True).samples.shape == (6, 40, 1)  # type: ignore[union-attr]


def test_enbpi_from_a_fit_to_a_checkpoint(tmp_path: Path) -> None:
    dm = ToySeriesDataModule(n_points=500, window=3, batch_size=16)
    make = lambda: DeepEnsemble(  # noqa: E731
        nn.Sequential(nn.Flatten(), nn.Linear(3, 1)), Gaussian(), num_members=8, bootstrap_block=24
    )
    ensemble = make()
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(ensemble, dm)
    with pytest.raises(ValueError, match=r"would calibrate on the training data .*\(datamodule, rows=\"train\"\)"):
        quiet_trainer().fit(EnbPI(ensemble), dm)
    with pytest.raises(ValueError, match="needs the 197 training rows of the fit in the order of time, got 97 rows"):
        EnbPI(ensemble).calibrate(dm.calibration_dataloader())
    with pytest.raises(TypeError, match=r"such as DeepEnsemble\(..., bootstrap_block=24\), got a Deterministic"):
        EnbPI(Deterministic(nn.Identity(), Gaussian()))
    fitted, by_hand = EnbPI(ensemble), EnbPI(ensemble)
    trainer = quiet_trainer(limit_val_batches=0)
    trainer.fit(fitted, CalibrationDataModule(dm, rows="train"))
    by_hand.calibrate(dm.ordered_train_dataloader())
    assert_close(fitted.past_scores, by_hand.past_scores)
    trainer.save_checkpoint(tmp_path / "enbpi.ckpt")
    loaded = EnbPI.load_from_checkpoint(tmp_path / "enbpi.ckpt", method=make())
    expected = quiet_trainer().test(fitted, dm, verbose=False)
    assert quiet_trainer().test(loaded, dm, verbose=False) == expected
    assert loaded.update(dm.X_test, dm.Y_test).upper is not None
    with pytest.raises(ValueError, match="rows must be one of"):
        CalibrationDataModule(dm, rows="val")  # type: ignore[arg-type]


def test_members_see_their_bootstrap_samples_alone() -> None:
    """The weight of a member is the mean of its rows, because the network predicts one number."""
    y = torch.arange(40.0).unsqueeze(1)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.zeros(1))

        def reset_parameters(self) -> None:
            nn.init.zeros_(self.level)

        def forward(self, x: Tensor) -> Tensor:
            return self.level.expand(len(x), 1)

    ensemble = DeepEnsemble(
        Constant(),
        Gaussian(noise_std=1.0, scale_targets=False),
        num_members=3,
        bootstrap_block=4,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
    )
    quiet_trainer(max_epochs=2).fit(ensemble, loader(torch.zeros(40, 1), y, batch_size=40))
    rows = block_bootstrap(40, 3, 4, ensemble.noise.seed)
    assert_close(next(ensemble.backbone.parameters()).flatten(), y.flatten()[rows].mean(1))
    assert len(rows.unique(dim=0)) == 3
    blocks = rows.view(3, 10, 4)
    assert torch.equal(blocks - blocks[..., :1], torch.arange(4).expand(3, 10, 4))
    twin = copy.deepcopy(ensemble)
    assert twin.bootstrap_block == 4


def test_bootstrap_orders_continue_within_an_epoch() -> None:
    data = loader(torch.arange(20.0), batch_size=3, shuffle=True)
    orders = BootstrapOrders(data, 2, block=4, seed=1)
    whole = list(orders.epoch(5))
    again = list(BootstrapOrders(data, 2, block=4, seed=1).epoch(5, first_batch=2))
    assert len(whole) == 7
    for first, second in zip(whole[2:], again, strict=True):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))
    rows = block_bootstrap(20, 2, 4, seed=1)
    for member in range(2):
        seen = torch.cat([batches[member][0] for batches in whole])
        assert torch.equal(seen.sort().values, rows[member].sort().values.float())
        assert not torch.equal(seen, torch.cat([batches[member][0] for batches in orders.epoch(6)]))
    ensemble = DeepEnsemble(nn.Linear(1, 1), Gaussian(), num_members=2, bootstrap_block=4)
    with pytest.raises(TypeError, match="bootstrap_block=4 needs a DataLoader with a batch_size"):
        quiet_trainer().fit(ensemble, DataLoader([(torch.zeros(3, 1), torch.zeros(3, 1))], batch_size=None))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="bootstrap_block must be"):
        DeepEnsemble(nn.Linear(1, 1), Gaussian(), bootstrap_block=0)


def test_a_report_has_the_scores_of_the_test() -> None:
    wrapper, (x, y) = adaptive(window=19), new_rows()
    data = loader(x, y, batch_size=7)
    (expected,) = quiet_trainer().test(wrapper, data, verbose=False)
    for _ in range(2):
        found = score("test", wrapper.source, {"conformal": wrapper}, data, lambda: None)["conformal"]
        for name in ("conformal_coverage", "conformal_width"):
            assert found.scores[name] == pytest.approx(expected[f"test_{name}"])
        inside = (found.prediction.lower <= y) & (y <= found.prediction.upper)  # type: ignore[operator]
        assert float(inside.float().mean()) == pytest.approx(expected["test_conformal_coverage"])


@pytest.mark.filterwarnings("ignore:.*too few for a coverage.*")
def test_a_comparison_calibrates_on_the_rows_that_a_calibration_needs() -> None:
    result = compare(
        ["DeepEnsemble + EnbPI", "DeepEnsemble + AdaptiveConformal"],
        ToySeriesDataModule(n_points=500, window=2, batch_size=64),
        nn.Sequential(nn.Flatten(), nn.Linear(2, 1)),
        Gaussian(),
        max_epochs=1,
        seeds=1,
        common_options={"num_members": 6, "bootstrap_block": 24},
    )
    assert not result.failures
    assert {"conformal_coverage"} <= set(result.runs[0].rows[0])
