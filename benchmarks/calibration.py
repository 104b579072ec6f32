"""Effect of calibration after training, on digits and diabetes, over several splits of the data.

    python benchmarks/calibration.py --seeds 20 --output_dir runs

Each seed has a split and initial weights of its own. Of the digits two fifths are for training, one fifth (359) for
calibration and two fifths (719) for the test, because an ECE of few data is mostly noise; of the patients a tenth (44)
is for calibration. Intervals and sets are to hold 90%.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from toy import silence

from lightning_vi.backbones import MLP
from lightning_vi.compare import compare
from lightning_vi.datamodules import DiabetesDataModule, DigitsDataModule
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian

DIGITS = ("Deterministic", "Deterministic + TemperatureScaling", "Deterministic + AdaptivePredictionSets")
DIABETES = (
    "MeanVarianceEstimation",
    "MeanVarianceEstimation + VarianceScaling",
    "MeanVarianceEstimation + SplitConformal",
    "QuantileRegression",
    "QuantileRegression + ConformalQuantileRegression",
)


def main() -> None:
    """Prints a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output_dir", type=Path, help="folder in which finished runs are kept")
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    folder = arguments.output_dir
    digits = compare(
        DIGITS,
        lambda seed: DigitsDataModule(
            batch_size=64, split_seed=seed, val_fraction=0.0, calib_fraction=0.2, test_fraction=0.4
        ),
        lambda _: MLP(64, [64], 10),
        Categorical(10),
        max_epochs=100,
        seeds=arguments.seeds,
        common_options={"optimizer": partial(torch.optim.Adam, lr=1e-2)},
        output_dir=folder and folder / "digits",
    )
    print(digits.to_markdown(["nll", "ece", "conformal_coverage", "conformal_set_size"], costs=False))
    diabetes = compare(
        DIABETES,
        lambda seed: DiabetesDataModule(batch_size=32, split_seed=seed),
        lambda _: MLP(10, [20], 2),
        HeteroscedasticGaussian(),
        max_epochs=100,
        seeds=arguments.seeds,
        options={"MeanVarianceEstimation": {"burnin_epochs": 10}},
        common_options={"optimizer": partial(torch.optim.Adam, lr=2e-3)},
        output_dir=folder and folder / "diabetes",
    )
    print(diabetes.to_markdown(["nll", "coverage", "conformal_coverage", "conformal_width"], costs=False))


if __name__ == "__main__":
    main()
