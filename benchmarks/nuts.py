"""The No-U-Turn sampler on the problems of `defaults.py`: what the exact posterior of the same network scores.

    pip install numpyro
    python benchmarks/nuts.py --output_dir runs --uci UCI_Datasets --gaps UCI_gaps --mnist path/to/mnist --seeds 5

Networks are those of `defaults.py`, with weights N(0, 2 / fan-in) and biases N(0, 1). One chain of NumPyro's sampler
(Phan et al., 2019) in float64, 500 draws after 500 of warm-up, trees of at most 2^8 steps. MNIST needs a GPU: it has
float32, starts at a maximum of the posterior density, and fewer draws and steps, see `Chain`. Scores are test negative
log-likelihoods in the targets' units, means over seeds with standard errors; "R-hat" is the split R-hat of a test row's
log density, the median over rows and seeds: above 1.1 the chain has not converged. Scores are kept in the output
folder: a second call runs only what is missing.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from defaults import UCI, problems
from jax import numpy as jnp
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_sample, init_to_value
from numpyro.infer.autoguide import AutoDelta
from torch import nn
from tqdm import tqdm

from lightning_vi.compare.markdown import markdown_table
from lightning_vi.likelihoods import Categorical

NAMES = ("toy", "diabetes", "digits", *UCI, *(f"{name}, gaps" for name in UCI), "MNIST")
MIN_STD = 1e-3
"""Of the default `HeteroscedasticGaussian`."""


@dataclass(frozen=True)
class Chain:
    """Length and precision of a chain.

    Attributes:
        warmup: Draws in which the step size is tuned.
        draws: Draws that are kept.
        max_tree_depth: Logarithm to base 2 of the largest number of steps of a draw.
        start_steps: Steps of Adam that look for the start, a maximum of the density; 0 for a draw of the prior.
        float64: Whether to compute in float64.
    """

    warmup: int = 500
    draws: int = 500
    max_tree_depth: int = 8
    start_steps: int = 0
    float64: bool = True


CHAINS = {"MNIST": Chain(warmup=100, draws=100, max_tree_depth=6, start_steps=300, float64=False)}
"""Of problems that do not take the default."""


def convolution(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Convolution of images [rows, channels, height, width]."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), [(padding, padding)] * 2)


def max_pool(x: jax.Array, size: int) -> jax.Array:
    """Maxima over windows of images [rows, channels, height, width] that do not overlap."""
    rows, channels, height, width = x.shape
    return x.reshape(rows, channels, height // size, size, width // size, size).max((3, 5))


def outputs(network: nn.Sequential, x: jax.Array) -> jax.Array:
    """Outputs of a network whose weights are sampled, [rows, outputs].

    Args:
        network: Linear layers, convolutions, ReLU, max pooling and flattening in turn.
        x: Inputs.
    """
    layers = 0
    for module in network:
        if isinstance(module, nn.ReLU):
            x = jax.nn.relu(x)
        elif isinstance(module, nn.MaxPool2d):
            x = max_pool(x, module.kernel_size)
        elif isinstance(module, nn.Flatten):
            x = x.reshape(len(x), -1)
        else:
            linear = isinstance(module, nn.Linear)
            shape = [module.in_features, module.out_features] if linear else list(module.weight.shape)
            noise = numpyro.sample(f"weight_{layers}", dist.Normal(0, 1).expand(shape).to_event(len(shape)))
            bias = numpyro.sample(f"bias_{layers}", dist.Normal(0, 1).expand(module.bias.shape).to_event(1))
            weight = noise * np.sqrt(2 / module.weight[0].numel())
            x = x @ weight + bias if linear else convolution(x, weight, module.padding[0]) + bias[:, None, None]
            layers += 1
    return x


def heteroscedastic(values: jax.Array, y: jax.Array) -> jax.Array:
    """Log densities of standardized targets, [rows]."""
    return dist.Normal(values[:, :1], jax.nn.softplus(values[:, 1:]) + MIN_STD).log_prob(y)[:, 0]


def categorical(values: jax.Array, y: jax.Array) -> jax.Array:
    """Log probabilities of classes, [rows]."""
    return dist.Categorical(logits=values).log_prob(y)


def sample(
    network: nn.Sequential, log_prob: Callable[..., jax.Array], chain: Chain, x: jax.Array, y: jax.Array, seed: int
) -> dict[str, jax.Array]:
    """Draws of the weights, each [draws, ...]."""

    def model(x: jax.Array, y: jax.Array) -> None:
        numpyro.factor("log_likelihood", log_prob(outputs(network, x), y).sum())

    start, run = jax.random.split(jax.random.PRNGKey(seed)) if chain.start_steps else (None, jax.random.PRNGKey(seed))
    strategy: Any = init_to_sample
    if start is not None:
        guide = AutoDelta(model, init_loc_fn=init_to_sample)
        search = SVI(model, guide, numpyro.optim.Adam(0.01), Trace_ELBO())
        found = search.run(start, chain.start_steps, x, y, progress_bar=False)
        strategy = init_to_value(values=guide.median(found.params))
    kernel = NUTS(model, max_tree_depth=chain.max_tree_depth, init_strategy=strategy)
    sampler = MCMC(kernel, num_warmup=chain.warmup, num_samples=chain.draws, progress_bar=False)
    sampler.run(run, x, y)
    return sampler.get_samples()


def rows_of(datamodule: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of "train" or "test"."""
    return np.asarray(getattr(datamodule, f"X_{part}")), np.asarray(getattr(datamodule, f"Y_{part}"))


def run(problem: Any, chain: Chain, seed: int) -> list[dict[str, Any]]:
    """Test NLL and median R-hat of one seed, for each test set."""
    jax.config.update("jax_enable_x64", chain.float64)
    jax.config.update("jax_default_matmul_precision", "highest")  # a GPU would take TF32
    dtype = np.float64 if chain.float64 else np.float32
    datamodule = problem.data(seed)
    datamodule.setup("fit")
    datamodule.setup("test")
    network = problem.network(datamodule)
    x, y = rows_of(datamodule, "train")
    parts = {"test": rows_of(datamodule, "test")}
    for name, make in problem.test_sets.items():
        dataset = make(datamodule).dataset
        parts[name] = tuple(np.asarray(tensor) for tensor in dataset.tensors)
    std, log_prob = 1.0, categorical
    if isinstance(problem.likelihood, Categorical):
        prepare: Callable[[np.ndarray], np.ndarray] = lambda labels: labels.astype(int)  # noqa: E731
    else:
        mean, std, log_prob = y.mean(dtype=np.float64), y.std(ddof=1, dtype=np.float64), heteroscedastic
        prepare = lambda targets: ((targets - mean) / std).astype(dtype)  # noqa: E731
    draws = sample(network, log_prob, chain, jnp.asarray(x, dtype), jnp.asarray(prepare(y)), seed)
    rows = []
    for name, (x_test, y_test) in parts.items():
        inputs, targets = jnp.asarray(x_test, dtype), jnp.asarray(prepare(y_test))

        def density(draw: dict[str, jax.Array]) -> jax.Array:
            return log_prob(numpyro.handlers.substitute(outputs, draw)(network, inputs), targets)  # noqa: B023

        densities = jax.lax.map(density, draws)
        mixture = jax.scipy.special.logsumexp(densities, axis=0) - np.log(len(densities))
        rhat = split_gelman_rubin(np.asarray(densities)[None])
        rows.append({"test_set": name, "nll": float(np.log(std) - jnp.mean(mixture)), "rhat": float(np.median(rhat))})
    return rows


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--uci", type=Path, help="folder with one folder for each UCI set")
    parser.add_argument("--gaps", type=Path, help="the same with gap splits")
    parser.add_argument("--mnist", type=Path, help="folder of the four idx files")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds or splits")
    parser.add_argument("--problems", nargs="+", default=list(NAMES), choices=NAMES)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    file = arguments.output_dir / "nuts.csv"
    rows = pd.read_csv(file).to_dict("records") if file.exists() else []
    done = {(row["problem"], row["seed"]) for row in rows}
    known = problems(arguments)
    todo = [
        (name, seed)
        for name in arguments.problems
        if name in known
        for seed in range(min(arguments.seeds, known[name].seeds))
        if (name, seed) not in done
    ]
    for name, seed in tqdm(todo):
        start = time.time()
        scores = run(known[name], CHAINS.get(name, Chain()), seed)
        rows += [{"problem": name, "seed": seed, "seconds": time.time() - start} | each for each in scores]
        pd.DataFrame(rows).to_csv(file, index=False)
    groups = pd.DataFrame(rows).groupby(["problem", "test_set"], sort=False)
    nll, rhat = groups["nll"], groups["rhat"].median()
    table = [
        [name if part == "test" else f"{name}, {part}", f"{mean:.3f} ({error:.3f})", str(number), f"{value:.2f}"]
        for (name, part), mean, error, number, value in zip(
            nll.mean().index, nll.mean(), nll.sem(), nll.count(), rhat, strict=True
        )
    ]
    print(markdown_table(["problem", "NLL", "seeds", "R-hat"], table))


if __name__ == "__main__":
    main()
