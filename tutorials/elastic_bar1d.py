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
# # Two targets: displacement and stress of an elastic bar
#
# A network learns displacement and stress of a bar under a load, as a function of the position x, the stiffness E and
# the load p:
#
# $$u(x) = \frac{p}{E} x (1 - x), \qquad \sigma(x) = p (0.5 - x)$$
#
# There is no noise. A `Gaussian` likelihood with two targets learns a standard deviation for each, which is then the
# error that the network still makes.

# %%
import os
from pathlib import Path

from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ElasticBar1DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Gaussian
from lightning_vi.plots import plot_ood_scores, plot_predictions_regression

MAX_EPOCHS = int(os.environ.get("MAX_EPOCHS", "30"))
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR", "outputs/elastic_bar1d"))
OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
seed_everything(0)

# %% [markdown]
# ## Data
#
# Splits consist of whole functions on 80 points: 96 for training, 24 for testing and 24 out of distribution, with
# stiffer bars and larger loads.

# %%
dm = ElasticBar1DDataModule(batch_size=128)
print(dm.input_names, dm.ranges, dm.ood_ranges, sep="\n")

# %%
method = MeanFieldVI(
    MLP(n_inputs=3, n_hidden=[64, 64], n_outputs=2, activation_fn=nn.SiLU()),
    Gaussian(num_targets=2),
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
print("learned std, displacement and stress:", (method.likelihood.noise_std * method.likelihood.target_std).tolist())

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores: `dataloader_idx_0` is the test set, `dataloader_idx_1` the out-of-distribution set.
# The std of the error is learned inside, so the intervals outside cover less.

# %%
trainer.test(method, list(dm.test_sets().values()))
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic std outside over that inside:", outside / inside)
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Two bars

# %%
for name in ("test", "ood"):
    inputs, targets, truth = (dm.as_functions(getattr(dm, f"{part}_{name}"))[0] for part in ("X", "Y", "truth"))
    x = dm.points(inputs)[:, 0]
    preds = method.predict_step(inputs)
    for target, label in enumerate(dm.target_names):
        plot_predictions_regression(
            x,
            targets[:, target],
            x,
            truth[:, target],
            preds["pred"][:, target],
            epistemic=preds["epistemic_uct"][:, target],
            aleatoric=preds["aleatoric_uct"][:, target],
            title={"test": "A test function", "ood": "A function out of distribution"}[name],
            ylabel=label,
        ).savefig(OUTPUT_DIR / f"{label}_{name}.png")

# %%
scores = (method.predict_step(x)["epistemic_uct"].mean(1) for x in (dm.X_test, dm.X_ood))
plot_ood_scores(*scores).savefig(OUTPUT_DIR / "ood.png")

print(f"figures in {OUTPUT_DIR}")
