"""Coverage of intervals of a series, with and without a drift in the test rows.

    python benchmarks/series.py --seeds 3 --figure docs/images/series.png

An LSTM with a variational last layer and a bagged ensemble of LSTMs forecast the next value of the toy series. Training
and calibration rows are the same with and without drift. Intervals are to hold 90%. The width is the median of the
finite and infinite widths. The worst 100 are the consecutive test rows with the lowest coverage.
"""

import argparse
import copy
import warnings
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from lightning import Trainer, seed_everything
from toy import silence

from lightning_vi import AdaptiveConformal, DeepEnsemble, EnbPI, LastLayerVI, SplitConformal
from lightning_vi.backbones import SeriesLSTM
from lightning_vi.calibration import CalibratedMethod, SequentialConformal
from lightning_vi.core import UQMethod
from lightning_vi.datamodules import ToySeriesDataModule
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian
from lightning_vi.likelihoods.prediction import Prediction

DRIFTS = (0.0, 0.5)
COVERAGE = 0.9
EPOCHS = 30
Results = dict[tuple[str, float], list[tuple[float, float, float]]]


def fitted(method: UQMethod, data: ToySeriesDataModule) -> UQMethod:
    """Fits without output."""
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(method, data)
    return method


def calibrations(data: ToySeriesDataModule, seed: int) -> Mapping[str, CalibratedMethod]:
    """Fits and calibrates on the rows before the test rows."""
    seed_everything(seed)
    network = fitted(LastLayerVI(SeriesLSTM(1, 2), HeteroscedasticGaussian()), data)
    wrappers: dict[str, CalibratedMethod] = {"SplitConformal": SplitConformal(network, coverage=COVERAGE)}
    for gamma in (0.005, 0.02, 0.05):
        wrappers[f"AdaptiveConformal, gamma={gamma}"] = AdaptiveConformal(network, coverage=COVERAGE, gamma=gamma)
    wrappers["AdaptiveConformal, gamma=0.01, window=100"] = AdaptiveConformal(
        network, coverage=COVERAGE, gamma=0.01, window=100
    )
    for wrapper in wrappers.values():
        wrapper.calibrate(data.calibration_dataloader())
    ensemble = fitted(DeepEnsemble(SeriesLSTM(1, 1, 16), Gaussian(), num_members=10, bootstrap_block=24), data)
    for name, window in (("EnbPI", None), ("EnbPI, window=100", 100)):
        wrappers[name] = EnbPI(ensemble, coverage=COVERAGE, window=window)
        wrappers[name].calibrate(data.ordered_train_dataloader())
    return wrappers


def followed(wrapper: CalibratedMethod, data: ToySeriesDataModule) -> Prediction:
    """Predicts the test rows, each from the targets of those before it."""
    if isinstance(wrapper, SequentialConformal):
        return copy.deepcopy(wrapper).update(data.X_test, data.Y_test)
    return wrapper.predict(data.X_test)


def covered(prediction: Prediction, data: ToySeriesDataModule) -> np.ndarray:
    """1 for test rows within their interval, else 0."""
    return ((prediction.lower <= data.Y_test) & (data.Y_test <= prediction.upper)).flatten().double().numpy()


def rolling(hits: np.ndarray, size: int = 100) -> np.ndarray:
    """Mean of each consecutive rows."""
    return np.convolve(hits, np.ones(size) / size, mode="valid")


def draw(wrappers: Mapping[str, CalibratedMethod], data: ToySeriesDataModule, path: Path) -> None:
    """Draws intervals of the last rows, and the coverage of the last 100 rows at each time."""
    names = ["SplitConformal", "AdaptiveConformal, gamma=0.01, window=100", "EnbPI, window=100"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
    time, shown = data.times["test"], slice(-120, None)
    left.plot(time[shown], data.Y_test[shown, 0], "k.", markersize=4, label="targets")
    for place, name in enumerate(names):
        prediction = followed(wrappers[name], data)
        ends = torch.stack([prediction.lower, prediction.upper])[:, shown, 0].clamp(-5, 5)  # type: ignore[list-item]
        left.fill_between(time[shown], *ends, alpha=0.3, step="mid", color=f"C{place}", label=name)
        right.plot(time[99:], rolling(covered(prediction, data)), color=f"C{place}", label=name)
    right.axhline(COVERAGE, color="k", linewidth=1, linestyle="--")
    left.set(xlabel="row", ylabel="y", title="The last 120 test rows")
    right.set(xlabel="row", ylabel="coverage of the last 100 rows", title="Coverage under drift", ylim=(0, 1.02))
    right.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="file of the figure, of the last seed")
    arguments = parser.parse_args()
    silence()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results: Results = {}
    for seed in range(arguments.seeds):
        data = {drift: ToySeriesDataModule(drift=drift, data_seed=seed) for drift in DRIFTS}
        wrappers = calibrations(data[0.0], seed)
        for name, wrapper in wrappers.items():
            for drift, series in data.items():
                prediction = followed(wrapper, series)
                hits = covered(prediction, series)
                width = float((prediction.upper - prediction.lower).median())  # type: ignore[operator]
                results.setdefault((name, drift), []).append((hits.mean(), width, rolling(hits).min()))
        if arguments.figure is not None and seed == arguments.seeds - 1:
            draw(wrappers, data[DRIFTS[-1]], arguments.figure)
    print("| intervals | coverage, width, worst 100 without drift | with drift |\n|---|---|---|")
    for name in wrappers:
        cells = [np.mean(results[name, drift], 0) for drift in DRIFTS]
        print(f"| {name} | " + " | ".join(", ".join(f"{value:.2f}" for value in cell) for cell in cells) + " |")


if __name__ == "__main__":
    main()
