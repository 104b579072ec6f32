"""Learning rates of a mean-field posterior in networks of several depths, on validation rows.

    python benchmarks/depth.py toy 300       # problem, number of steps
    python benchmarks/depth.py digits 700

Each network has hidden layers of 50 units. The rate is the default one, or that of Adam for all parameters; a fit that
diverges is NaN. The default was chosen by these scores.
"""

import argparse
from functools import partial
from typing import Any

import torch
from lightning import Trainer, seed_everything
from toy import silence

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.compare.markdown import markdown_table
from lightning_vi.datamodules import DigitsDataModule, ToyHeteroscedasticDataModule
from lightning_vi.errors import DivergenceError
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian

RATES = (None, 0.2, 0.1, 0.05, 0.025, 0.0125, 0.006)


def validation_nll(problem: str, num_layers: int, rate: float | None, steps: int, seed: int) -> float:
    """Validation NLL of a fit."""
    seed_everything(seed, verbose=False)
    data: Any
    if problem == "toy":
        data, network, likelihood = (
            ToyHeteroscedasticDataModule(),
            MLP(1, [50] * num_layers, 2),
            HeteroscedasticGaussian(),
        )
    else:
        data, network, likelihood = DigitsDataModule(split_seed=seed), MLP(64, [50] * num_layers, 10), Categorical(10)
    options = {} if rate is None else {"optimizer": partial(torch.optim.Adam, lr=rate)}
    method = MeanFieldVI(network, likelihood, num_mc_samples_train=4, burnin_epochs=0, **options)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = Trainer(max_steps=steps, max_epochs=-1, limit_val_batches=0, enable_checkpointing=False, **quiet)
    try:
        trainer.fit(method, data)
    except DivergenceError:
        return float("nan")
    return float(Trainer(**quiet).validate(method, data, verbose=False)[0]["val_nll"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=("toy", "digits"))
    parser.add_argument("steps", type=int)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4, 8], help="numbers of hidden layers")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    silence()
    rows = []
    for num_layers in arguments.layers:
        row = [str(num_layers)]
        for rate in RATES:
            scores = [
                validation_nll(arguments.problem, num_layers, rate, arguments.steps, seed)
                for seed in range(arguments.seeds)
            ]
            row.append(f"{sum(scores) / len(scores):.3f}")
        rows.append(row)
    print(markdown_table(["hidden layers", "default", *(str(rate) for rate in RATES[1:])], rows))


if __name__ == "__main__":
    main()
