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
# # Fourier features and a variational last layer: a sum of waves
#
# $$y = 0.45 x + \sin 1.7 x + 0.2 \cos 3.2 x + 0.08 \varepsilon$$
#
# The network sees x and its sines and cosines at four frequencies, and has residual blocks. The last layer has a
# posterior, and the likelihood learns the noise std, whose true value is 0.08.

# %%
import os
from pathlib import Path

from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_vi import LastLayerVI
from lightning_vi.backbones import FourierFeatures, ResidualMLP
from lightning_vi.datamodules import WavesDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Gaussian
from lightning_vi.plots import plot_calibration, plot_predictions_regression

MAX_EPOCHS = int(os.environ.get("MAX_EPOCHS", "150"))
OUTPUT_DIR = Path(os.environ.get("OUTPUT_DIR", "outputs/waves"))
OUTPUT_DIR.mkdir(parents=True, exist_ok=True)
seed_everything(0)

# %% [markdown]
# The training inputs lie between -3 and 3, the out-of-distribution inputs beyond, up to a distance of 4.5.

# %%
dm = WavesDataModule(batch_size=128)
features = FourierFeatures([0.8, 1.7, 2.6, 3.5])
network = nn.Sequential(features, ResidualMLP(features.num_features(1), width=72, n_blocks=3, n_outputs=1))

# %%
method = LastLayerVI(
    network,
    Gaussian(),
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
print("learned noise std:", float(method.likelihood.noise_std * method.likelihood.target_std))

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores: `dataloader_idx_0` is the test set, `dataloader_idx_1` the out-of-distribution set.
# The features of sines and cosines repeat outside, where the network has not seen the line.

# %%
trainer.test(method, list(dm.test_sets().values()))
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic std outside over that inside:", outside / inside)
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %%
preds = method.predict_step(dm.X_gtext)
plot_predictions_regression(
    dm.X_train,
    dm.Y_train,
    dm.X_gtext,
    dm.Y_gtext,
    preds["pred"],
    epistemic=preds["epistemic_uct"],
    aleatoric=preds["aleatoric_uct"],
).savefig(OUTPUT_DIR / "predictions.png")
preds = method.predict_step(dm.X_test)
plot_calibration(preds["pred"], preds["pred_uct"], dm.Y_test).savefig(OUTPUT_DIR / "calibration.png")

print(f"figures in {OUTPUT_DIR}")
