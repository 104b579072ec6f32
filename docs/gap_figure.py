"""Draws the figure of `docs/methods/function_space_vi.md`: a gap between the training inputs.

python docs/gap_figure.py
"""

import logging
from pathlib import Path

import torch
from gallery import fit
from lightning import seed_everything
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from lightning_vi import FunctionSpaceVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.kernels import Matern
from lightning_vi.likelihoods import Gaussian

TARGET = Path(__file__).parent / "images" / "function_space_vi.png"
NOISE = 0.1


def gap() -> Figure:
    """Posteriors of two methods, and that of the Gaussian process with the same kernel."""
    seed_everything(1, verbose=False)
    x = torch.cat([torch.linspace(-2.5, -0.9, 40), torch.linspace(0.9, 2.5, 40)]).unsqueeze(1)
    y = torch.sin(2.5 * x) + NOISE * torch.randn_like(x)
    data = ArrayDataModule(train=(x, y), test=(x, y), batch_size=20)
    process = FunctionSpaceVI(
        MLP(1, [50, 50], 1), Gaussian(NOISE), kernel=Matern(1.5), num_context=64, context_margin=0.5
    )
    methods = [MeanFieldVI(MLP(1, [50, 50], 1), Gaussian(NOISE)), process]
    for method in methods:
        fit(method, data, 150)
    grid = torch.linspace(-4, 4, 300).unsqueeze(1)
    results = []
    for method in methods:
        prediction = method.predict(grid)
        results.append((type(method).__name__, prediction.mean[:, 0], prediction.epistemic_var[:, 0].sqrt()))
    kernel = sk.ConstantKernel(float(process.kernel.std) ** 2) * sk.Matern(process.kernel.length_scale.item(), nu=1.5)
    exact = GaussianProcessRegressor(kernel, alpha=NOISE**2, optimizer=None).fit(x.numpy(), y.numpy()[:, 0])
    results.append(("Gaussian process", *exact.predict(grid.numpy(), return_std=True)))
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    for axes, (name, mean, std) in zip(figure.subplots(1, 3, sharey=True), results, strict=True):
        axes.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, color="#1f77b4", alpha=0.25, lw=0)
        axes.plot(grid[:, 0], mean, color="#1f77b4")
        axes.plot(grid[:, 0], torch.sin(2.5 * grid[:, 0]), color="0.4", ls=":", lw=1)
        axes.plot(x[:, 0], y[:, 0], ".", color="black", ms=3)
        axes.set(title=name, xlabel="x", ylim=(-3.2, 3.2))
    return figure


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    gap().savefig(TARGET, dpi=80)
