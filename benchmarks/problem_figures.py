"""Figures of `problems.py`: functions with bands, and fields as images."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi.datamodules import FunctionDataModule, Heat2DDataModule, WavesDataModule
from lightning_vi.methods import UQMethod
from lightning_vi.plots import plot_predictions_regression
from lightning_vi.plots._style import (
    DASHED,
    DATA,
    EPISTEMIC,
    INK,
    MEAN,
    TITLE_SIZE,
    TOTAL,
    TRUTH,
    band,
    legend_below,
    new_figure,
    scatter,
    style_axes,
)

SETS = {"test": "Test function", "ood": "Out of distribution"}


def draw_curves(method: UQMethod, dm: FunctionDataModule, as_errors: bool = False) -> Figure:
    """The first test function and the first one out of distribution, or their errors, with bands of uncertainty."""
    figure = new_figure(11.0, 3.6 * dm.n_targets + 0.4)
    axes = figure.subplots(dm.n_targets, 2, squeeze=False, sharex=True)
    for column, (name, title) in enumerate(SETS.items()):
        inputs, targets, truth = (dm.as_functions(getattr(dm, f"{part}_{name}"))[0] for part in ("X", "Y", "truth"))
        x = dm.points(inputs)[:, 0].numpy()
        prediction = {key: value.double().numpy() for key, value in method.predict_step(inputs).items()}
        for row, label in enumerate(dm.target_names):
            ax = axes[row, column]
            mean, epistemic, total = (prediction[key][:, row] for key in ("pred", "epistemic_uct", "pred_uct"))
            true, observed = truth[:, row].double().numpy(), targets[:, row].double().numpy()
            if as_errors:
                mean, true = mean - true, 0.0 * true
            else:
                scatter(ax, x, observed, color=DATA, label="Observed")
            ax.plot(x, true, color=TRUTH, linewidth=1.4, linestyle=DASHED, label="True function")
            ax.plot(x, mean, color=MEAN, linewidth=2, label="Predictive mean")
            band(ax, x, mean, epistemic, color=EPISTEMIC, alpha=0.4, label="Epistemic uncertainty")
            band(ax, x, mean, total, color=TOTAL, alpha=0.3, label="Total uncertainty")
            ylabel = f"{label} - truth" if as_errors else label
            style_axes(ax, title=title if row == 0 else None, ylabel=ylabel)
    for ax in axes[-1]:
        ax.set_xlabel("x", fontsize=10, color=INK)
    legend_below(figure, axes[0, 0])
    return figure


def draw_bar(method: UQMethod, dm: FunctionDataModule) -> Figure:
    """Errors of displacement and stress, which are too small to see in the functions themselves."""
    return draw_curves(method, dm, as_errors=True)


def draw_waves(method: UQMethod, dm: WavesDataModule) -> Figure:
    """The prediction beyond the training inputs."""
    prediction = method.predict_step(dm.X_gtext)
    return plot_predictions_regression(
        dm.X_train,
        dm.Y_train,
        dm.X_gtext,
        dm.Y_gtext,
        prediction["pred"],
        epistemic=prediction["epistemic_uct"],
        aleatoric=prediction["aleatoric_uct"],
    )


def draw_transport(method: UQMethod, dm: FunctionDataModule) -> Figure:
    """Concentration of the first test field and of the first one out of distribution: truth, mean, error, std."""
    figure = new_figure(12.0, 5.6)
    axes = figure.subplots(2, 4)
    titles = ("true concentration", "predictive mean", "absolute error", "epistemic std")
    size = int(np.prod(dm.grid_shape))
    fields = []
    for name in SETS:
        prediction = method.predict_step(getattr(dm, f"X_{name}")[:size])
        truth = getattr(dm, f"truth_{name}")[:size]
        columns = (truth, prediction["pred"], (prediction["pred"] - truth).abs(), prediction["epistemic_uct"])
        fields.append([dm.as_functions(values)[0, ..., 0] for values in columns])
    for row, (label, values) in enumerate(zip(SETS.values(), fields, strict=True)):
        highest = float(torch.stack(values[:2]).max())
        for column, (title, field) in enumerate(zip(titles, values, strict=True)):
            shared = torch.stack([rows[column] for rows in fields])
            top = highest if column < 2 else float(shared.max())
            draw_field(figure, axes[row, column], field.T, title if row == 0 else None, top)
        axes[row, 0].set_ylabel(f"{label}\ny", fontsize=10, color=INK)
        for ax in axes[1]:
            ax.set_xlabel("x", fontsize=10, color=INK)
    return figure


def draw_field(figure: Figure, ax: Axes, field: Tensor, title: str | None, top: float) -> None:
    """A field on the unit square, between 0 and `top`."""
    image = ax.imshow(field.numpy(), origin="lower", extent=(0, 1, 0, 1), cmap="viridis", vmin=0, vmax=top)
    figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    if title is not None:
        ax.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
    ax.set_xticks([0, 1])
    ax.set_yticks([0, 1])


def draw_plates(method: UQMethod, dm: Heat2DDataModule) -> Figure:
    """Temperatures of some fields with the threshold as a line, label, probability and mutual information."""
    figure = new_figure(12.0, 5.6)
    axes = figure.subplots(2, 5)
    for row, (name, title) in enumerate(SETS.items()):
        inputs, labels = getattr(dm, f"X_{name}"), getattr(dm, f"Y_{name}")
        prediction = method.predict_step(inputs)
        temperature = dm.temperature(inputs)
        threshold = 0.12 if name == "test" else 0.18
        for ax, index in zip(axes[row], range(5), strict=True):
            plate = temperature[index, 0].numpy()
            image = ax.imshow(plate, cmap="RdBu_r", vmin=-2 * threshold, vmax=2 * threshold)
            if labels[index]:
                ax.contour(plate, levels=[threshold], colors=INK, linewidths=1.2)
            text = (
                f"{'too hot' if labels[index] else 'safe'}, p(too hot) = {float(prediction['pred'][index, 1]):.2f}\n"
                f"epistemic {float(prediction['epistemic_uct'][index]):.3f} nats"
            )
            ax.set_title(text, loc="left", fontsize=9, color=INK)
            ax.set_xticks([])
            ax.set_yticks([])
        figure.colorbar(image, ax=list(axes[row]), label="temperature", fraction=0.012, pad=0.01)
        axes[row, 0].set_ylabel(title.replace("function", "fields"), fontsize=10, color=INK)
    return figure
