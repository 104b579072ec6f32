# ---
# section: First steps
# order: 12
# thumbnail: observed
# ---

# %% [markdown]
# # Your own table: from a CSV file to predictions for new rows
#
# A file with columns of numbers and text becomes a fitted method, a report, and a table of predictions with their
# uncertainty. The file has 442 patients of a diabetes study, ten measurements of each, and a score of the progression
# of the disease after one year. Some measurements are missing, as in most tables. `lightning-vi init` writes a
# configuration for such a file; this page does the same in Python.

# %%
import numpy as np
import pandas as pd
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_diabetes

from lightning_vi import MeanFieldVI, SplitConformal
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import PredictionWriter
from lightning_vi.datamodules import NewTableDataModule, TabularDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import plot_pit, plot_predicted_observed, plot_training_metrics
from lightning_vi.report import write_report

seed_everything(0)

# %% [markdown]
# ## The file
#
# The last ten patients are set aside: they play the part of new rows, whose outcome is not known yet.

# %%
table = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
table["sex"] = table["sex"].map({1.0: "a", 2.0: "b"})
table["patient"] = [f"P{number:03d}" for number in range(len(table))]
gaps = np.random.default_rng(0).choice(len(table), 30, replace=False)
table.loc[gaps, "bp"] = np.nan
table[:-10].to_csv("patients.csv", index=False)
table[-10:].drop(columns="progression").to_csv("new_patients.csv", index=False)
print(table.head(4).to_string(index=False))

# %% [markdown]
# ## The data
#
# Text columns are categories. `missing="impute"` fills gaps with the median of the training rows and adds a column
# that says where they were. Without it, the gaps are an error that lists their rows. Inputs are standardized with the
# training rows.

# %%
dm = TabularDataModule(
    "patients.csv",
    target_columns="progression",
    task="regression",
    id_column="patient",
    missing="impute",
    val_fraction=0.15,
    calib_fraction=0.2,
)
print(dm)
print(dm.feature_names)

# %% [markdown]
# ## The fit
#
# The fit has no early stopping. A plain network of this size would soon fit the noise of a few hundred rows; here the
# weight of the KL divergence grows until shortly before the end, and takes that back. Before it, a quarter of the
# epochs trains the means on squared errors.

# %%
method = MeanFieldVI(MLP(dm.n_inputs, [20], 2), HeteroscedasticGaussian())
last = ModelCheckpoint(filename="last")
trainer = Trainer(max_epochs=200, logger=CSVLogger("outputs"), callbacks=[last], log_every_n_steps=5)
trainer.fit(method, dm)
plot_training_metrics(trainer.log_dir, ["train_loss", "val_nll", "val_rmse"]).savefig("training.png")

# %% [markdown]
# In the burn-in the network fits noise: the validation RMSE rises. As the weight of the KL divergence grows, it falls
# below where it was.
#
# ## The test
#
# A constant prediction, the mean of the training targets, gives the scale.

# %%
(scores,) = trainer.test(method, dm, verbose=False)
print({name: round(value, 3) for name, value in scores.items()})
print("RMSE of the constant:", round(float((dm.Y_test - dm.Y_train.mean()).square().mean().sqrt()), 1))
prediction = method.predict(dm.X_test)
plot_predicted_observed(prediction, dm.Y_test, ylabel="progression").savefig("observed.png")
plot_pit(prediction, dm.Y_test, n_bins=8).savefig("pit.png")

# %% [markdown]
# The network explains 46% of the variance (`test_r2`), and its 95% intervals cover all of the 86 test rows. `pit.png`
# shows where the outcomes fall in their predicted distributions. Calibrated predictions fill all bins alike, up to
# chance, which is the band; here no bin leaves it.
#
# ## Intervals that hold what they promise
#
# The calibration rows, which the fit has not seen, give intervals that cover 90% of new patients, whatever the
# network has learned. That holds on average over calibration sets: with 86 rows for calibration and 86 for testing,
# the share varies by about 5% between splits, and is 80% here. These intervals are half as wide as those of 95% above.

# %%
conformal = SplitConformal(method, coverage=0.9)
conformal.calibrate(dm.calibration_dataloader())
(scores,) = trainer.test(conformal, dm, verbose=False)
print({name: round(scores[name], 3) for name in ("test_conformal_coverage", "test_conformal_width")})

# %% [markdown]
# ## The report
#
# One HTML file that works offline, with all that was found about the fit.

# %%
path = write_report(method, dm, "report.html", log_folder=trainer.log_dir, progress=False)
print(path, round(path.stat().st_size / 1e6, 1), "MB")

# %% [markdown]
# ## New rows
#
# The checkpoint knows the columns, categories, medians and scales, so new rows are treated as those of the fit were.

# %%
new = NewTableDataModule("new_patients.csv", last.best_model_path, id_column="patient")
Trainer(logger=False, callbacks=[PredictionWriter("outputs")]).predict(method, new)
predictions = pd.read_csv("outputs/predictions.csv").round(1)
predictions["outcome"] = table["progression"][-10:].to_numpy()
print(predictions.to_string(index=False))

# %% [markdown]
# Predictions are in the units of the table. The standard deviations differ from patient to patient, since the
# likelihood learned the noise as a function of the measurements. All ten outcomes are within two standard deviations.
