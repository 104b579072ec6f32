"""Effect of calibration after training, on digits and diabetes, over several splits of the data.

    python benchmarks/calibration.py --seeds 20

Each seed has a split and initial weights of its own. Networks and settings are those of `lightning-vi demo`. Of the
digits two fifths are for training, one fifth (359) for calibration and two fifths (719) for the test, because an ECE
of few data is mostly noise; of the patients a tenth (44) is for calibration. Intervals and sets are to hold 90%.
"""

import argparse
import logging
import warnings
from functools import partial
from typing import Any

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from tqdm import tqdm

from lightning_vi import (
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    Deterministic,
    MeanVarianceEstimation,
    QuantileRegression,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule, DiabetesDataModule, DigitsDataModule
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian, Quantiles
from lightning_vi.methods import CalibratedMethod, UQMethod


def trainer(epochs: int) -> Trainer:
    """One that trains and scores, and prints nothing."""
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def scores(method: UQMethod, data: ArrayDataModule) -> dict[str, float]:
    """Test metrics without their prefix."""
    (tested,) = trainer(1).test(method, data, verbose=False)
    return {name.removeprefix("test_"): value for name, value in tested.items()}


def calibrated(wrapper: Any, method: UQMethod, data: ArrayDataModule) -> CalibratedMethod:
    """A method and its calibration."""
    result: CalibratedMethod = wrapper(method)
    result.calibrate(data.calibration_dataloader())
    return result


def digits(seed: int) -> list[dict[str, Any]]:
    """A plain classifier, with a temperature, and with sets of classes."""
    data = DigitsDataModule(batch_size=64, split_seed=seed, val_fraction=0.0, calib_fraction=0.2, test_fraction=0.4)
    method = Deterministic(MLP(64, [64], 10), Categorical(10), optimizer=partial(torch.optim.Adam, lr=1e-2))
    trainer(100).fit(method, data)
    tempered = calibrated(TemperatureScaling, method, data)
    sets = calibrated(AdaptivePredictionSets, tempered, data)
    return [
        {"method": "Deterministic"} | scores(method, data),
        {"method": "+ TemperatureScaling"} | scores(tempered, data),
        {"method": "+ TemperatureScaling + AdaptivePredictionSets"} | scores(sets, data),
    ]


def diabetes(seed: int) -> list[dict[str, Any]]:
    """Predicted noise and predicted quantiles, scaled and with intervals."""
    data = DiabetesDataModule(batch_size=32, split_seed=seed)
    adam = partial(torch.optim.Adam, lr=2e-3)
    noise = MeanVarianceEstimation(MLP(10, [20], 2), HeteroscedasticGaussian(), burnin_epochs=10, optimizer=adam)
    quantiles = QuantileRegression(MLP(10, [20], 3), Quantiles(), optimizer=adam)
    for method in (noise, quantiles):
        trainer(100).fit(method, data)
    rows: list[tuple[str, UQMethod]] = [
        ("MeanVarianceEstimation", noise),
        ("+ VarianceScaling", calibrated(VarianceScaling, noise, data)),
        ("+ SplitConformal", calibrated(SplitConformal, noise, data)),
        ("QuantileRegression", quantiles),
        ("+ ConformalQuantileRegression", calibrated(ConformalQuantileRegression, quantiles, data)),
    ]
    return [{"method": name} | scores(method, data) for name, method in rows]


COLUMNS = ["accuracy", "nll", "ece", "rmse", "coverage", "conformal_coverage", "conformal_set_size", "conformal_width"]


def main() -> None:
    """Prints a table for each data set: means over the seeds, and their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for run in (digits, diabetes):
        rows = []
        for seed in tqdm(range(arguments.seeds)):
            seed_everything(seed, verbose=False)
            rows += run(seed)
        table = pd.DataFrame(rows).groupby("method", sort=False)[[c for c in COLUMNS if c in rows[0] | rows[-1]]]
        print(f"{run.__name__}\n{table.mean().round(3).to_string()}\n\nstandard errors")
        print(table.sem().round(3).to_string(), "\n")


if __name__ == "__main__":
    main()
