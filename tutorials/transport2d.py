# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Fields with two targets, each with noise of its own: transport in two dimensions
#
# A network learns the concentration c and the size of its gradient on a 36 x 36 grid, as a function of the position and
# of three parameters:
#
# $$c(x, y) = a e^{-\mathrm{Pe}\, x} \sin \pi x \sin \pi y + b x (1 - x) y (1 - y), \qquad g = |\nabla c|$$
#
# The noise of c is largest at $x = 0$, that of g where g is largest. `HeteroscedasticGaussian(num_targets=2)` learns
# both from four outputs of the network.

# %%
import os
from pathlib import Path

from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import Transport2DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import plot_calibration, plot_ood_scores

MAX_EPOCHS = int(os.environ.get("MAX_EPOCHS", "10"))
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR", "outputs/transport2d"))
OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
seed_everything(0)

# %% [markdown]
# ## Data
#
# Splits consist of whole fields: 48 for training, 12 for testing and 12 out of distribution.

# %%
dm = Transport2DDataModule(batch_size=512)
print(dm.input_names, dm.ranges, dm.ood_ranges, sep="\n")

# %%
method = MeanFieldVI(
    MLP(n_inputs=5, n_hidden=[96, 96], n_outputs=4, activation_fn=nn.SiLU()),
    HeteroscedasticGaussian(num_targets=2),
    num_mc_samples_train=2,
    num_mc_samples_test=50,
)
trainer = Trainer(
    max_epochs=MAX_EPOCHS,
    logger=CSVLogger(OUTPUT_DIR),
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(method, dm)

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores: `dataloader_idx_0` is the test set, `dataloader_idx_1` the out-of-distribution set.
# Outside, the error grows more than the intervals do.

# %%
trainer.test(method, list(dm.test_sets().values()))
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic std of c and g outside over that inside:", outside / inside)
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Fields
#
# `as_functions` arranges rows as fields, [n, 36, 36, D].

# %%
for target, label in enumerate(dm.target_names):
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, 4)
    for row, name in enumerate(("test", "ood")):
        inputs, truth = (dm.as_functions(getattr(dm, f"{part}_{name}"))[0] for part in ("X", "truth"))
        preds = method.predict_step(inputs.flatten(0, 1))
        mean, std = (dm.as_functions(preds[key])[0, ..., target] for key in ("pred", "epistemic_uct"))
        panels = {"truth": truth[..., target], "mean": mean, "error": mean - truth[..., target], "epistemic std": std}
        for ax, (title, field) in zip(axes[row], panels.items(), strict=True):
            figure.colorbar(ax.imshow(field.T.numpy(), origin="lower", extent=(0, 1, 0, 1)), ax=ax, shrink=0.8)
            ax.set_title(f"{title}, {name}")
    figure.suptitle(label)
    figure.savefig(OUTPUT_DIR / f"{label}.png")

# %%
inside, outside = (method.predict_step(x) for x in (dm.X_test, dm.X_ood))
for target, label in enumerate(dm.target_names):
    columns = (values[:, target] for values in (inside["pred"], inside["pred_uct"], dm.Y_test))
    plot_calibration(*columns, title=label).savefig(OUTPUT_DIR / f"calibration_{label}.png")
plot_ood_scores(inside["epistemic_uct"].mean(1), outside["epistemic_uct"].mean(1)).savefig(OUTPUT_DIR / "ood.png")

print(f"figures in {OUTPUT_DIR}")
