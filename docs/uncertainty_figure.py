"""Draws the figure of `docs/uncertainty.md`: the exact posterior of a linear model for growing data.

python docs/uncertainty_figure.py
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TARGET = Path(__file__).parent / "images" / "uncertainty.png"
CENTERS = np.linspace(-4, 4, 25)
SIZES = (12, 100, 2000)
EPISTEMIC, ALEATORIC = "#1f77b4", "#ff7f0e"


def features(x: np.ndarray) -> np.ndarray:
    """Bumps around 25 centers, [N, 25]."""
    return np.exp(-0.5 * ((x[:, None] - CENTERS) / 0.6) ** 2)


def noise_std(x: np.ndarray) -> np.ndarray:
    return 0.1 + 0.35 / (1 + np.exp(-2 * (x - 1)))


def truth(x: np.ndarray) -> np.ndarray:
    return np.sin(1.5 * x)


def draw_inputs(size: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs with a gap between -0.8 and 0.8, and none beyond 3."""
    return rng.uniform(0.8, 3.0, size) * rng.choice([-1, 1], size)


def posterior(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the weights for a prior N(0, 1) and known noise."""
    phi, weight = features(x), noise_std(x) ** -2
    covariance = np.linalg.inv(np.eye(len(CENTERS)) + phi.T @ (phi * weight[:, None]))
    return covariance @ phi.T @ (y * weight), covariance


def bands(ax: Axes, size: int, rng: np.random.Generator) -> None:
    x = draw_inputs(size, rng)
    y = truth(x) + noise_std(x) * rng.standard_normal(size)
    mean, covariance = posterior(x, y)
    grid = np.linspace(-4, 4, 400)
    phi = features(grid)
    center, epistemic = phi @ mean, np.sqrt(np.einsum("ni,ij,nj->n", phi, covariance, phi))
    total = np.hypot(epistemic, noise_std(grid))
    ax.fill_between(grid, center - 2 * total, center + 2 * total, color=ALEATORIC, alpha=0.3, lw=0, label="2 total std")
    ax.fill_between(
        grid,
        center - 2 * epistemic,
        center + 2 * epistemic,
        color=EPISTEMIC,
        alpha=0.45,
        lw=0,
        label="2 epistemic std",
    )
    ax.plot(grid, center, color=EPISTEMIC, lw=1.5, label="mean")
    ax.plot(grid, truth(grid), color="black", ls=":", lw=1, label="truth")
    ax.plot(x[:300], y[:300], ".", color="black", ms=3, alpha=0.6)
    ax.set(title=f"N = {size}", xlabel="x", ylim=(-3.2, 3.2), xlim=(-4, 4))


def against_size(ax: Axes, rng: np.random.Generator) -> None:
    sizes = np.unique(np.geomspace(5, 5000, 25).astype(int))
    x = draw_inputs(sizes[-1], rng)
    for place, style in ((2.0, "-"), (0.0, "--")):
        phi = features(np.array([place]))
        stds = [np.sqrt(phi @ posterior(x[:size], truth(x[:size]))[1] @ phi.T).item() for size in sizes]
        name = "among the data" if place else "in the gap"
        ax.plot(sizes, stds, style, color=EPISTEMIC, label=f"epistemic, {name}")
        ax.axhline(noise_std(np.array([place])).item(), ls=style, color=ALEATORIC, label=f"aleatoric, {name}")
    ax.set(xscale="log", yscale="log", xlabel="N", ylabel="standard deviation", title="Against the size of the data")
    ax.legend(fontsize=8, loc="lower left")


def draw() -> Figure:
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    for ax, size in zip(axes.flat, SIZES, strict=False):
        bands(ax, size, np.random.default_rng(3))
    axes[0, 0].legend(fontsize=8, loc="upper left", ncols=2)
    against_size(axes[1, 1], np.random.default_rng(3))
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, dpi=80)
