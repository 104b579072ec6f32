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
# # A variational last layer that classifies fields: heat in a plate
#
# Does a random heat source q make a plate hotter than 0.12 anywhere? Eight diffusion steps make the temperature of the
# source, which the network does not see. A few convolutions and the largest value of each channel give 32 features,
# and the last layer has a posterior. Out of distribution, sources are stronger and rough, and the threshold is 0.18.

# %%
import os
from functools import partial
from pathlib import Path

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import nn

from lightning_vi import LastLayerVI
from lightning_vi.datamodules import Heat2DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical
from lightning_vi.optim import PerStep
from lightning_vi.plots import plot_ood_scores, plot_reliability_diagram
from lightning_vi.priors import GaussianPrior

MAX_EPOCHS = int(os.environ.get("MAX_EPOCHS", "60"))
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR", "outputs/heat2d"))
OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
seed_everything(0)

# %%
dm = Heat2DDataModule(batch_size=32)
print("share of hot plates:", dm.Y_test.float().mean().item(), dm.Y_ood.float().mean().item())
network = nn.Sequential(
    nn.Conv2d(1, 8, 5, padding=2),
    nn.SiLU(),
    nn.Conv2d(8, 16, 5, padding=2),
    nn.SiLU(),
    nn.AdaptiveMaxPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 32),
    nn.SiLU(),
    nn.Linear(32, 2),
)

# %%
method = LastLayerVI(
    network,
    Categorical(num_classes=2),
    prior=GaussianPrior(std=1.0),
    init_std=0.1,
    num_mc_samples_train=2,
    num_mc_samples_test=50,
    kl_warmup_epochs=MAX_EPOCHS // 2,
    optimizer=partial(torch.optim.Adam, lr=3e-3),
    lr_scheduler=PerStep(torch.optim.lr_scheduler.CosineAnnealingLR),
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
# The features of rough sources are far from those of the training sources, where probabilities are 0 or 1.

# %%
trainer.test(method, list(dm.test_sets().values()))
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic uncertainty (mutual information) outside over that inside:", outside / inside)
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Plates

# %%
figure = Figure(figsize=(13, 6), layout="constrained")
axes = figure.subplots(2, 5)
for row, name in enumerate(("test", "ood")):
    inputs, labels = getattr(dm, f"X_{name}")[:5], getattr(dm, f"Y_{name}")[:5]
    preds = method.predict_step(inputs)
    for index, (ax, temperature) in enumerate(zip(axes[row], dm.temperature(inputs)[:, 0], strict=True)):
        figure.colorbar(ax.imshow(temperature.numpy(), cmap="inferno"), ax=ax, fraction=0.046)
        ax.set_axis_off()
        label = "hot" if labels[index] else "safe"
        probability, epistemic = preds["pred"][index, 1], preds["epistemic_uct"][index]
        ax.set_title(f"{name}: {label}, p(hot) {probability:.2f}\nepistemic {epistemic:.3f} nats", fontsize=9)
figure.savefig(OUTPUT_DIR / "plates.png")

# %%
inside, outside = (method.predict_step(x) for x in (dm.X_test, dm.X_ood))
plot_reliability_diagram(inside["pred"], dm.Y_test).savefig(OUTPUT_DIR / "reliability.png")
plot_ood_scores(inside["epistemic_uct"], outside["epistemic_uct"]).savefig(OUTPUT_DIR / "ood.png")

print(f"figures in {OUTPUT_DIR}")
