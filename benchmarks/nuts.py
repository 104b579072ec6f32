"""The No-U-Turn sampler on the problems of `defaults.py`: what the exact posterior of the same network scores.

    pip install numpyro
    python benchmarks/nuts.py --output_dir runs --uci UCI_Datasets --seeds 5

One hidden layer, as in `defaults.py` (two on the toy problem), with weights N(0, 2 / fan-in) and biases N(0, 1).
One chain of NumPyro's sampler (Phan et al., 2019) in float64, 500 draws after 500 of warm-up, trees of at most 2^8
steps. Scores are test negative log-likelihoods in the targets' units, means over seeds with standard errors; "R-hat" is
the split R-hat of a test row's log density, the median over rows and seeds: above 1.1 the chain has not converged.
Scores are kept in the output folder: a second call runs only what is missing.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from defaults import problems
from jax import numpy as jnp
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_sample
from torch import nn
from tqdm import tqdm

from lightning_vi.compare.markdown import markdown_table
from lightning_vi.likelihoods import Categorical

NAMES = ("toy", "diabetes", "digits", "concrete", "energy", "yacht", "power-plant")
MIN_STD = 1e-3
"""Of the default `HeteroscedasticGaussian`."""


def outputs(widths: list[int], x: jax.Array) -> jax.Array:
    """Outputs of a multilayer perceptron with ReLU whose weights are sampled, [rows, outputs]."""
    for layer, (inputs, units) in enumerate(pairwise(widths)):
        noise = numpyro.sample(f"weight_{layer}", dist.Normal(0, 1).expand([inputs, units]).to_event(2))
        bias = numpyro.sample(f"bias_{layer}", dist.Normal(0, 1).expand([units]).to_event(1))
        x = x @ (noise * np.sqrt(2 / inputs)) + bias
        x = jax.nn.relu(x) if layer < len(widths) - 2 else x
    return x


def heteroscedastic(values: jax.Array, y: jax.Array) -> jax.Array:
    """Log densities of standardized targets, [rows]."""
    return dist.Normal(values[:, :1], jax.nn.softplus(values[:, 1:]) + MIN_STD).log_prob(y)[:, 0]


def categorical(values: jax.Array, y: jax.Array) -> jax.Array:
    """Log probabilities of classes, [rows]."""
    return dist.Categorical(logits=values).log_prob(y)


def sample(widths: list[int], log_prob: Callable[..., jax.Array], data: dict[str, Any], seed: int) -> jax.Array:
    """Log densities of the test rows under each draw, [draws, rows]."""

    def model(x: jax.Array, y: jax.Array) -> None:
        numpyro.factor("log_likelihood", log_prob(outputs(widths, x), y).sum())

    def density(draw: dict[str, jax.Array]) -> jax.Array:
        network = numpyro.handlers.substitute(outputs, draw)
        return log_prob(network(widths, data["x_test"]), data["y_test"])

    kernel = NUTS(model, max_tree_depth=8, init_strategy=init_to_sample)
    chain = MCMC(kernel, num_warmup=500, num_samples=500, progress_bar=False)
    chain.run(jax.random.PRNGKey(seed), data["x_train"], data["y_train"])
    return jax.lax.map(density, chain.get_samples())


def run(problem: Any, seed: int) -> dict[str, float]:
    """Test NLL and median R-hat of one seed."""
    datamodule = problem.data(seed)
    datamodule.setup("fit")
    datamodule.setup("test")
    layers = [module for module in problem.network(datamodule).modules() if isinstance(module, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    classes = isinstance(problem.likelihood, Categorical)
    data = {
        f"{axis.lower()}_{part}": np.asarray(getattr(datamodule, f"{axis}_{part}"), dtype=np.float64)
        for axis in "XY"
        for part in ("train", "test")
    }
    offset = 0.0
    if classes:
        data |= {key: data[key].astype(int) for key in ("y_train", "y_test")}
    else:
        mean, std = data["y_train"].mean(), data["y_train"].std(ddof=1)
        data |= {key: (data[key] - mean) / std for key in ("y_train", "y_test")}
        offset = float(np.log(std))
    densities = sample(widths, categorical if classes else heteroscedastic, data, seed)
    mixture = jax.scipy.special.logsumexp(densities, axis=0) - np.log(len(densities))
    rhat = split_gelman_rubin(np.asarray(densities)[None])
    return {"nll": float(offset - jnp.mean(mixture)), "rhat": float(np.median(rhat))}


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--uci", type=Path, help="folder with one folder for each UCI set")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds or splits")
    parser.add_argument("--problems", nargs="+", default=list(NAMES), choices=NAMES)
    arguments = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    file = arguments.output_dir / "nuts.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    done = {(row["problem"], row["seed"]) for row in rows}
    known = problems(argparse.Namespace(uci=arguments.uci, gaps=None, mnist=None))
    todo = [(name, seed) for name in arguments.problems if name in known for seed in range(arguments.seeds)]
    for name, seed in tqdm([each for each in todo if each not in done]):
        rows.append({"problem": name, "seed": seed} | run(known[name], seed))
        pd.DataFrame(rows).to_csv(file, index=False)
    groups = pd.DataFrame(rows).groupby("problem", sort=False)
    nll, rhat = groups["nll"], groups["rhat"].median()
    table = [
        [name, f"{mean:.3f} ({error:.3f})", str(number), f"{rhat[name]:.2f}"]
        for name, mean, error, number in zip(nll.mean().index, nll.mean(), nll.sem(), nll.count(), strict=True)
    ]
    print(markdown_table(["problem", "NLL", "seeds", "R-hat"], table))


if __name__ == "__main__":
    main()
