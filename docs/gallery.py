"""Draws the figures of the gallery in `docs/plots.md`.

python docs/gallery.py            # all figures, about a minute
python docs/gallery.py pit field  # some of them
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi import LastLayerVI, QuantileRegression, TemperatureScaling, plots
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule, DiabetesDataModule, DigitsDataModule, ToyHeteroscedasticDataModule
from lightning_vi.evaluation import ood_detection, selective_prediction
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Quantiles
from lightning_vi.methods import UQMethod

FOLDER = Path(__file__).parent / "images" / "plots"
ADAM = partial(torch.optim.Adam, lr=3e-3)


def fit(method: UQMethod, data: ArrayDataModule, epochs: int, logger: CSVLogger | bool = False) -> UQMethod:
    """Fits without output."""
    trainer = Trainer(
        max_epochs=epochs,
        logger=logger,
        limit_val_batches=0 if logger is False else None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, data)
    return method


@cache
def patients() -> tuple[UQMethod, DiabetesDataModule]:
    """A regression with ten inputs."""
    seed_everything(1, verbose=False)
    data = DiabetesDataModule(test_fraction=0.4)
    return fit(LastLayerVI(MLP(10, [50], 1), Gaussian(), burnin_epochs=10, optimizer=ADAM), data, 40), data


@cache
def digits() -> tuple[UQMethod, DigitsDataModule]:
    """An overconfident classifier of few images."""
    seed_everything(1, verbose=False)
    every = DigitsDataModule(test_fraction=0.5)
    few = ArrayDataModule(
        train=(every.X_train[:150], every.Y_train[:150]),
        calib=(every.X_calib, every.Y_calib),
        test=(every.X_test, every.Y_test),
        num_classes=10,
    )
    network = MLP(64, [50], 10)
    return fit(LastLayerVI(network, Categorical(10), burnin_epochs=20, optimizer=ADAM), few, 60), every


@cache
def waves() -> tuple[UQMethod, ToyHeteroscedasticDataModule, str]:
    """The toy regression, with its log."""
    seed_everything(1, verbose=False)
    data = ToyHeteroscedasticDataModule()
    folder = tempfile.mkdtemp()
    method = LastLayerVI(
        MLP(1, [50, 50], 2), HeteroscedasticGaussian(), burnin_epochs=20, kl_warmup_epochs=20, optimizer=ADAM
    )
    return fit(method, data, 80, CSVLogger(folder)), data, folder


def predictions() -> Figure:
    method, data, _ = waves()
    return plots.plot_predictions_regression(
        data.X_train, data.Y_train, data.X_gtext, data.Y_gtext, method.predict(data.X_gtext)
    )


def quantiles() -> Figure:
    seed_everything(1, verbose=False)
    data = ToyHeteroscedasticDataModule()
    method = fit(QuantileRegression(MLP(1, [50, 50], 3), Quantiles(), optimizer=ADAM), data, 80)
    return plots.plot_predictions_regression(
        data.X_train, data.Y_train, data.X_gtext, data.Y_gtext, method.predict(data.X_gtext)
    )


def training() -> Figure:
    return plots.plot_training_metrics(waves()[2], ["train_loss", "val_nll", "val_rmse"])


def objective() -> Figure:
    return plots.plot_objective(waves()[2])


def calibration() -> Figure:
    method, data = patients()
    prediction = method.predict_step(data.X_test)
    return plots.plot_calibration(prediction["pred"], prediction["pred_uct"], data.Y_test, ylabel="progression")


def observed() -> Figure:
    method, data = patients()
    return plots.plot_predicted_observed(method.predict(data.X_test), data.Y_test, ylabel="progression")


def pit() -> Figure:
    method, data = patients()
    return plots.plot_pit(method.predict(data.X_test), data.Y_test, n_bins=10)


def error() -> Figure:
    method, data, _ = waves()
    return plots.plot_error_uncertainty(method.predict(data.X_test), data.Y_test, n_bins=6)


def reliability() -> Figure:
    method, data = digits()
    return plots.plot_reliability_diagram(method.predict(data.X_test), data.Y_test, n_bins=10)


def curves() -> Figure:
    method, data = digits()
    after = TemperatureScaling(method)
    after.calibrate(data.calibration_dataloader())
    return plots.plot_calibration_curves(
        {"before": method.predict(data.X_test), "after": after.predict(data.X_test)}, data.Y_test, n_bins=10
    )


def risk() -> Figure:
    method, data = digits()
    return plots.plot_risk_coverage(selective_prediction(method, data.test_dataloader()))


def scores() -> Figure:
    method, data = digits()
    noise = torch.randn(len(data.X_test), 64, generator=torch.Generator().manual_seed(0)) * data.X_test.std()
    result = ood_detection(method, data.test_dataloader(), list(noise.split(64)))
    return plots.plot_ood_scores(result.scores_in, result.scores_out, xlabel="predictive entropy [nats]")


def images() -> Figure:
    method, data = digits()
    return plots.plot_image_grid(data.X_test.reshape(-1, 8, 8), method.predict(data.X_test), data.Y_test)


def comparison() -> Figure:
    """Scores of four methods, drawn at random around different means."""
    rng = np.random.default_rng(0)
    means = {"Deterministic": 0.9, "MCDropout": 0.75, "LastLayerVI": 0.6, "DeepEnsemble": 0.5}
    rows = [
        {
            "method": name,
            "dataset": data,
            "seed": seed,
            "nll": mean + shift + 0.1 * rng.normal(),
            "rmse": 0.5 + mean / 4 + 0.03 * rng.normal(),
            "coverage": 0.95 - 0.2 * mean * rng.uniform(),
        }
        for data, shift in (("concrete", 0.5), ("energy", 0.0))
        for name, mean in means.items()
        for seed in range(5)
    ]
    labels = {"nll": "NLL [nats]", "rmse": "RMSE", "coverage": "coverage of 95%"}
    return plots.plot_method_comparison(pd.DataFrame(rows), labels=labels)


def _discs(size: int = 48) -> tuple[Tensor, Tensor]:
    """Noisy images of discs of two kinds, and their labels."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.zeros(3, size, size, dtype=torch.int64)
    discs = [(0, 1, 14, 14, 9), (0, 2, 33, 30, 10), (1, 1, 30, 16, 11), (1, 2, 14, 34, 8), (2, 2, 24, 22, 13)]
    for image, kind, row, column, radius in [*discs, (2, 1, 38, 40, 6)]:
        labels[image][(y - row) ** 2 + (x - column) ** 2 < radius**2] = kind
    return labels * 0.35 + 0.15 + 0.18 * torch.randn(labels.shape, generator=generator), labels


def segmentation() -> Figure:
    """Maps of an ensemble of filters of different widths, which disagree at the edges."""
    image, labels = _discs()
    levels = torch.tensor([0.15, 0.5, 0.85]).reshape(1, 3, 1, 1)
    members = []
    for width in (3, 5, 7, 9):
        smooth = torch.nn.functional.avg_pool2d(image.unsqueeze(1), width, 1, width // 2, count_include_pad=False)
        members.append((-((smooth - levels) ** 2) * 60).softmax(1))
    probs = torch.stack(members)
    mean = probs.mean(0)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-9).log()).sum(-3)

    information = (entropy(mean) - entropy(probs).mean(0)).clamp_min(0)
    prediction = {"pred": mean, "pred_uct": entropy(mean), "epistemic_uct": information}
    return plots.plot_segmentation(image, prediction, labels, class_names=["ground", "gray disc", "white disc"])


def field() -> Figure:
    """A field that is fitted on one half of its coordinates."""
    seed_everything(1, verbose=False)

    def truth(x: Tensor) -> Tensor:
        return (torch.sin(3 * x[:, :1]) * torch.cos(2 * x[:, 1:])).float()

    points = torch.rand(300, 2) * torch.tensor([1.0, 2.0]) - 1
    axis = torch.linspace(-1, 1, 41)
    grid = torch.cartesian_prod(axis, axis)
    data = ArrayDataModule(train=(points, truth(points) + 0.05 * torch.randn(300, 1)), test=(grid, truth(grid)))
    network = MLP(2, [50, 50], 1, activation_fn=torch.nn.Tanh())
    method = fit(LastLayerVI(network, Gaussian(), burnin_epochs=40, optimizer=partial(ADAM, lr=0.01)), data, 80)
    return plots.plot_field(method.predict(grid), truth(grid), grid, X_train=points)


FIGURES: tuple[Callable[[], Figure], ...] = (
    predictions, quantiles, training, objective, calibration, observed, pit, error, reliability, curves, risk, scores,
    images, comparison, segmentation, field,
)  # fmt: skip


def main(names: list[str]) -> None:
    """Draws the figures with these names, or all of them."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        if not names or draw.__name__ in names:
            draw().savefig(FOLDER / f"{draw.__name__}.png", dpi=80)
            print(draw.__name__, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
