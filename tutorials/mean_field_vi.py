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
# # Mean-field variational inference on a toy problem
#
# A network of two hidden layers learns a function and its noise from 350 points, with a Gaussian posterior over its
# weights (Blundell et al., *Weight uncertainty in neural networks*, 2015). The prediction comes in two parts:
# *aleatoric* uncertainty, the noise that more data would not remove, and *epistemic* uncertainty, what the network
# does not know yet.
#
# Run it as a script, or open it as a notebook with jupytext.

# %%
import os
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import (
    plot_calibration,
    plot_objective,
    plot_predictions_regression,
    plot_toy_regression_data,
    plot_training_metrics,
)

MAX_EPOCHS = int(os.environ.get("MAX_EPOCHS", "150"))
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR", "outputs/mean_field_vi"))
OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
seed_everything(0)

# %% [markdown]
# ## Data
#
# The inputs lie in three clusters with gaps between them, and the noise depends on the input.

# %%
dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
plot_toy_regression_data(dm.X_train, dm.Y_train, dm.X_gtext, dm.Y_gtext).savefig(OUTPUT_DIR / "data.png")

# %% [markdown]
# ## Bayesian last layer
#
# The network's first half of outputs is the mean, the second half the raw scale of the noise. Only the last layer,
# number -1, becomes stochastic. For the first `burnin_epochs` epochs the network is trained on squared error alone.

# %%
last_layer = LastLayerVI(
    MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2),
    HeteroscedasticGaussian(),
    num_mc_samples_train=10,
    num_mc_samples_test=25,
    burnin_epochs=min(20, MAX_EPOCHS - 1),
    optimizer=partial(torch.optim.Adam, lr=3e-3),
)
print(last_layer.conversion)

# %%
log_dir = OUTPUT_DIR / "last_layer"
trainer = Trainer(
    max_epochs=MAX_EPOCHS,
    logger=CSVLogger(log_dir),
    log_every_n_steps=20,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(last_layer, dm)
trainer.test(last_layer, dm)
plot_training_metrics(log_dir, ["train_loss", "train_rmse"]).savefig(OUTPUT_DIR / "last_layer_training.png")

# %% [markdown]
# `predict_step` returns standard deviations: the total, and its epistemic and aleatoric parts.

# %%
preds = last_layer.predict_step(dm.X_gtext)
plot_predictions_regression(
    dm.X_train,
    dm.Y_train,
    dm.X_gtext,
    dm.Y_gtext,
    preds["pred"],
    preds["pred_uct"],
    epistemic=preds["epistemic_uct"],
    aleatoric=preds["aleatoric_uct"],
    title="Bayesian last layer",
).savefig(OUTPUT_DIR / "last_layer_predictions.png")

# %% [markdown]
# ## All layers
#
# Without `stochastic_module_names` every layer becomes stochastic. The table says what became of each.

# %%
all_layers = MeanFieldVI(
    MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2),
    HeteroscedasticGaussian(),
    num_mc_samples_test=25,
)
print(all_layers.conversion)

# %%
log_dir = OUTPUT_DIR / "all_layers"
trainer = Trainer(
    max_epochs=MAX_EPOCHS,
    logger=CSVLogger(log_dir),
    log_every_n_steps=20,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(all_layers, dm)
trainer.test(all_layers, dm)

# %% [markdown]
# The evidence lower bound is the log-likelihood minus the KL divergence from posterior to prior. The weight of the KL
# divergence grows over the first nine tenths of the fit.

# %%
plot_objective(log_dir).savefig(OUTPUT_DIR / "all_layers_objective.png")

# %%
preds = all_layers.predict_step(dm.X_gtext)
plot_predictions_regression(
    dm.X_train,
    dm.Y_train,
    dm.X_gtext,
    dm.Y_gtext,
    preds["pred"],
    preds["pred_uct"],
    epistemic=preds["epistemic_uct"],
    aleatoric=preds["aleatoric_uct"],
    title="All layers",
).savefig(OUTPUT_DIR / "all_layers_predictions.png")

# %% [markdown]
# ## Calibration
#
# Of the test points, how many lie within the intervals that should hold 10%, 20%, ... of them?

# %%
for name, method in {"last_layer": last_layer, "all_layers": all_layers}.items():
    preds = method.predict_step(dm.X_test)
    plot_calibration(preds["pred"], preds["pred_uct"], dm.Y_test).savefig(OUTPUT_DIR / f"{name}_calibration.png")

print(f"figures in {OUTPUT_DIR}")
