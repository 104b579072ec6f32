"""Ensembles of variational posteriors beside single ones and a deep ensemble, on UCI regression sets.

    python benchmarks/many_modes.py --data path/to/UCI_Datasets

The folder, its splits and the network are those of `uci.py`: one hidden layer of 50 ReLU units. All methods have their
defaults and the same number of steps. "far" is the mean epistemic std on test inputs that are moved three standard
deviations along the first input, over that on the test inputs.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from toy import silence

from lightning_vi import IVON, SWAG, DeepEnsemble, MeanFieldVI, MethodEnsemble, RankOneVI
from lightning_vi.backbones import MLP
from lightning_vi.compare import compare
from lightning_vi.datamodules import UCIDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.methods import Predictor

SINGLE = (MeanFieldVI, RankOneVI, IVON, SWAG)
METHODS: dict[str, Any] = {kind.__name__: kind for kind in SINGLE}
METHODS |= {f"{kind.__name__}, 5 members": partial(MethodEnsemble, member=kind) for kind in SINGLE}
METHODS["DeepEnsemble"] = DeepEnsemble


def far_from_data(method: Predictor, datamodule: UCIDataModule) -> float:
    """Mean epistemic std away from the data over that on the test inputs."""
    shift = torch.zeros_like(datamodule.X_test)
    shift[:, 0] = 3.0
    inside, outside = (
        method.predict_step(x)["epistemic_uct"].mean() for x in (datamodule.X_test, datamodule.X_test + shift)
    )
    return float(outside / inside)


def main() -> None:
    """Prints a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=["concrete", "energy", "yacht"])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--output_dir", type=Path, help="folder in which finished runs are kept")
    arguments = parser.parse_args()
    silence()
    for name in arguments.datasets:
        comparison = compare(
            {key: METHODS[key] for key in arguments.methods},
            lambda split, name=name: UCIDataModule(arguments.data / name / "data", split, batch_size=100),
            backbone=lambda datamodule: MLP(datamodule.n_inputs, [50], 2),
            likelihood=HeteroscedasticGaussian(),
            trainer={"max_steps": arguments.steps},
            seeds=arguments.splits,
            measures={"far": far_from_data},
            output_dir=None if arguments.output_dir is None else arguments.output_dir / name,
        )
        print(name, comparison.to_markdown(["nll", "rmse", "far", "train_seconds"]), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
