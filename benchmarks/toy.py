"""Test scores on the toy problem of the mean-field tutorial, as a mean over seeds.

    python benchmarks/toy.py --seeds 5

The network is 1-50-50-2, with 150 epochs of batches of 32 and 25 samples in prediction; everything else is a default,
and methods that train the mean first have 20 epochs of burn-in. "left" and "right" are the epistemic std at the
ends of the extended grid over its median on the training inputs.
"""

import argparse
import logging
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything

from lightning_vi import (
    IVON,
    SGHMC,
    SNGP,
    SWA,
    SWAG,
    VBLL,
    AlphaDivergenceVI,
    DeepEnsemble,
    Deterministic,
    FullRankVI,
    FunctionSpaceVI,
    Laplace,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    LowRankWeightsVI,
    MatrixVariateVI,
    MCDropout,
    MeanFieldVI,
    MeanVarianceEstimation,
    MethodEnsemble,
    RadialVI,
    RankOneVI,
)
from lightning_vi.backbones import MLP
from lightning_vi.compare import compare
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.methods import Predictor
from lightning_vi.priors import GaussianPrior

VARIATIONAL = {"num_mc_samples_test": 25}
METHODS: dict[str, Callable[..., Predictor]] = {
    "LastLayerVI": partial(LastLayerVI, **VARIATIONAL),
    "VBLL": partial(VBLL, num_mc_samples_test=25, burnin_epochs=20),
    "MeanFieldVI": partial(MeanFieldVI, **VARIATIONAL),
    "LowRankVI": partial(LowRankVI, **VARIATIONAL),
    "FullRankVI": partial(FullRankVI, **VARIATIONAL),
    "RadialVI": partial(RadialVI, **VARIATIONAL),
    "RankOneVI": partial(RankOneVI, **VARIATIONAL),
    "AlphaDivergenceVI": partial(AlphaDivergenceVI, **VARIATIONAL),
    "LatentVariableVI": partial(LatentVariableVI, **VARIATIONAL),
    "IVON": partial(IVON, **VARIATIONAL),
    "Laplace": partial(Laplace, num_mc_samples_test=25, burnin_epochs=20),
    "SNGP": partial(SNGP, num_mc_samples_test=25, burnin_epochs=20),
    "SWAG": partial(SWAG, num_mc_samples_test=25, burnin_epochs=20),
    "SWA": partial(SWA, burnin_epochs=20),
    "MCDropout": partial(
        MCDropout,
        dropout_p=0.05,
        dropout_module_names=[torch.nn.ReLU],
        num_mc_samples_test=25,
        burnin_epochs=20,
    ),
    "DeepEnsemble": partial(DeepEnsemble, num_members=5, burnin_epochs=20),
    "SGHMC": SGHMC,
    "MeanFieldVI, 5 members": partial(MethodEnsemble, member=partial(MeanFieldVI, **VARIATIONAL), num_members=5),
    "MatrixVariateVI": partial(MatrixVariateVI, **VARIATIONAL),
    "FunctionSpaceVI": partial(FunctionSpaceVI, **VARIATIONAL),
    "LowRankWeightsVI": partial(LowRankWeightsVI, **VARIATIONAL),
    "Deterministic": Deterministic,
    "MeanVarianceEstimation": partial(MeanVarianceEstimation, burnin_epochs=20),
}


def fit(
    name: str, seed: int, epochs: int, batch_size: int = 32, **options: Any
) -> tuple[Predictor, ToyHeteroscedasticDataModule, Trainer]:
    """One method with one seed, fitted."""
    seed_everything(seed, verbose=False)
    datamodule = ToyHeteroscedasticDataModule(batch_size=batch_size, n_points=500)
    arguments = {"likelihood": HeteroscedasticGaussian()} | options
    method = METHODS[name](MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2), **arguments)
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(method, datamodule)
    return method, datamodule, trainer


def silence() -> None:
    """Leaves the terminal to the progress bar and the table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def end_of_grid(index: int, method: Predictor, datamodule: ToyHeteroscedasticDataModule) -> float:
    """Epistemic std at one end of the extended grid over its median on the training inputs."""
    end = method.predict_step(datamodule.X_gtext)["epistemic_uct"][index, 0]
    return float(end / method.predict_step(datamodule.X_train)["epistemic_uct"].median())


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--init-std", type=float, help="initial posterior std of the variational methods")
    parser.add_argument("--prior-std", type=float, help="prior std of the variational methods")
    parser.add_argument("--estimator", help="gradient estimator of the variational methods")
    parser.add_argument("--antithetic", action="store_true", help="antithetic noise in the variational methods")
    parser.add_argument("--output_dir", type=Path, help="folder in which finished runs are kept")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    silence()
    options: dict[str, Any] = {} if arguments.init_std is None else {"init_std": arguments.init_std}
    if arguments.prior_std is not None:
        options["prior"] = GaussianPrior(std=arguments.prior_std)
    if arguments.estimator is not None:
        options["estimator"] = arguments.estimator
    if arguments.antithetic:
        options["antithetic"] = True
    chosen = {name: METHODS[name] for name in arguments.methods}
    comparison = compare(
        {name: make.func if isinstance(make, partial) else make for name, make in chosen.items()},
        ToyHeteroscedasticDataModule(batch_size=32, n_points=500),
        backbone=lambda datamodule: MLP(datamodule.n_inputs, [50, 50], 2),
        likelihood=HeteroscedasticGaussian(),
        max_epochs=arguments.epochs,
        seeds=arguments.seeds,
        options={name: make.keywords for name, make in chosen.items() if isinstance(make, partial)},
        common_options=options,
        measures={"left": partial(end_of_grid, 0), "right": partial(end_of_grid, -1)},
        output_dir=arguments.output_dir,
    )
    print(comparison.to_markdown(["nll", "rmse", "crps", "coverage", "left", "right"]))


if __name__ == "__main__":
    main()
