"""Distance of each method's predictive distribution from that of Hamiltonian Monte Carlo.

    python benchmarks/fidelity.py --figure fidelity.png

The model is the toy problem's: 1-50-50-2 with ReLU, outputs mean and log variance, weights N(0, 2 / fan-in) and biases
N(0, 1), 350 training points. `data/nuts_toy_predictions.npz` holds the predictions of the No-U-Turn sampler (4 chains
of 2000 draws after 1500, largest R-hat 1.0006). Every method has these priors where it has priors of weights, the same
number of epochs with a cosine schedule, and kl_weight 1; `SGHMC` takes the same number of steps on all data. Distances
are root mean squares over the grid, inside the range of the training inputs and outside of it; "W2" is the mean
Wasserstein-2 distance of the predictive distributions, as Gaussians, and "ratio" the geometric mean of a method's
epistemic std over that of the sampler. `VBLL`, `Laplace` and `SNGP`, whose formulas are written out for it, have a
softplus in place of the log variance.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from toy import METHODS, fit, silence
from tqdm import tqdm

from lightning_vi import MeanFieldVI
from lightning_vi.compare.markdown import markdown_table
from lightning_vi.evaluation import wasserstein_2
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots._style import IDEAL, MEAN, band, legend_below, panel_grid, style_axes
from lightning_vi.priors import GaussianPrior

Array = NDArray[np.float64]
REFERENCE = Path(__file__).parent / "data" / "nuts_toy_predictions.npz"
WITH_WEIGHT_PRIOR = {
    "LastLayerVI",
    "MeanFieldVI",
    "LowRankVI",
    "FullRankVI",
    "RadialVI",
    "AlphaDivergenceVI",
    "MatrixVariateVI",
    "SGHMC",
}
MEMBERS = {"MeanFieldVI, 5 members": MeanFieldVI}
STEPS_PER_EPOCH = 11
"""Steps of an epoch with batches of 32, which the sampler takes on all data."""
WITH_SOFTPLUS = {"VBLL", "Laplace", "SNGP"}


class LogVarianceGaussian(HeteroscedasticGaussian):
    """The sampler's observation model: the second output is the log variance, clipped."""

    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        return outputs[..., :1], torch.exp(0.5 * outputs[..., 1:].clamp(-12.0, 6.0))


def predictions(name: str, seed: int, epochs: int) -> tuple[dict[str, Array], Array]:
    """Mean, epistemic and aleatoric std on the grid, and the training inputs."""
    options: dict[str, Any] = {"prior": GaussianPrior(std="fan_in")} if name in WITH_WEIGHT_PRIOR else {}
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs)
    likelihood = HeteroscedasticGaussian() if name in WITH_SOFTPLUS else LogVarianceGaussian()
    if name == "SGHMC":
        epochs *= STEPS_PER_EPOCH
        options |= {"batch_size": 350, "momentum": 0.98, "num_chains": 10, "num_draws": 500}
    elif name in MEMBERS:
        options["member"] = partial(MEMBERS[name], prior=GaussianPrior(std="fan_in"), lr_scheduler=schedule)
    else:
        options["lr_scheduler"] = schedule
    method, datamodule, _ = fit(name, seed, epochs, likelihood=likelihood, **options)
    result = method.predict(datamodule.X_gtext, num_samples=1000).as_dict()
    keys = {"mean": "pred", "epistemic_std": "epistemic_uct", "aleatoric_std": "aleatoric_uct"}
    return {key: result[ours][:, 0].double().numpy() for key, ours in keys.items()}, datamodule.X_train.numpy()


def distances(ours: dict[str, Array], exact: dict[str, Array], inside: NDArray[np.bool_]) -> dict[str, float]:
    """Root mean square differences, the Wasserstein-2 distance, and the ratio of epistemic stds."""
    row = {}
    for label, region in (("in", inside), ("out", ~inside)):
        total = [np.hypot(each["epistemic_std"], each["aleatoric_std"])[region] for each in (ours, exact)]
        row[f"W2 {label}"] = wasserstein_2((ours["mean"][region], total[0]), (exact["mean"][region], total[1]))
        for key in ("mean", "epistemic_std", "aleatoric_std"):
            row[f"{key} {label}"] = float(np.sqrt(np.mean((ours[key] - exact[key])[region] ** 2)))
        ratio = np.maximum(ours["epistemic_std"], 1e-6) / exact["epistemic_std"]
        row[f"ratio {label}"] = float(np.exp(np.log(ratio[region]).mean()))
    return row


def draw(panels: dict[str, dict[str, Array]], exact: dict[str, Array], grid: Array) -> Figure:
    """One panel for each method: its epistemic and total bands over the sampler's."""
    figure, axes = panel_grid(len(panels), 3.8, 2.8)
    for axis, (name, ours) in zip(axes, panels.items(), strict=True):
        for result, color, label in ((exact, IDEAL, "Hamiltonian Monte Carlo"), (ours, MEAN, "Method")):
            total = np.hypot(result["epistemic_std"], result["aleatoric_std"])
            band(axis, grid, result["mean"], total, color=color, alpha=0.2, label=f"{label}: total")
            band(
                axis, grid, result["mean"], result["epistemic_std"], color=color, alpha=0.4, label=f"{label}: epistemic"
            )
            axis.plot(grid, result["mean"], color=color, linewidth=1.8, label=f"{label}: mean")
        style_axes(axis, title=name, xlabel="x", ylabel="y")
        axis.set_ylim(-4, 4)
    legend_below(figure, axes[0], columns=2 if len(panels) < 3 else 3)
    return figure


def main() -> None:
    """Prints a row for each method, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--figure", type=Path, help="where to draw seed 0 of each method")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    silence()
    with np.load(REFERENCE) as file:
        grid = file["Xg"][:, 0].astype(float)
        exact = {k: file[f"grid_{k}"].astype(float) for k in ("mean", "epistemic_std", "aleatoric_std")}
    rows, panels = [], {}
    for name, seed in tqdm([(name, seed) for name in arguments.methods for seed in range(arguments.seeds)]):
        ours, inputs = predictions(name, seed, arguments.epochs)
        panels.setdefault(name, ours)
        inside = (grid >= inputs.min()) & (grid <= inputs.max())
        rows.append({"method": name} | distances(ours, exact, inside))
    groups = pd.DataFrame(rows).groupby("method", sort=False)
    cells = groups.mean().map("{:.3f}".format)
    if arguments.seeds > 1:
        cells += groups.sem().map(" ({:.3f})".format)
    print(markdown_table(["method", *cells.columns], [[f"`{name}`", *row] for name, row in cells.T.items()]))
    if arguments.figure is not None:
        draw(panels, exact, grid).savefig(arguments.figure, dpi=80)


if __name__ == "__main__":
    main()
