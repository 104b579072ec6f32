# ---
# section: Differential equations
# order: 40
# thumbnail: function_test
# ---

# %% [markdown]
# # Noise that depends on the position: advection, diffusion and reaction
#
# A network learns the solutions $u(x)$ of a family of steady advection-diffusion-reaction equations from noisy
# values, as a function of the position and of five parameters:
#
# $$u(x) = a e^{-D x} \sin \pi x + b x (1 - x) (1 + 0.2 v - 0.1 r), \qquad
#   \sigma(x) = 0.01 + 0.04 e^{-80 (x - 0.65)^2}$$
#
# The noise is largest at $x = 0.65$. The likelihood learns it, and the posterior of the weights says where the
# network has not seen data: for parameters out of the range of the training functions.

# %%
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ADR1DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import plot_calibration, plot_ood_scores, plot_predictions_regression

seed_everything(0)

# %% [markdown]
# ## Data
#
# Splits consist of whole functions on 80 points: 96 for training, 24 for testing and 24 out of distribution. A row
# has the position and the parameters, standardized.

# %%
dm = ADR1DDataModule(batch_size=128)
print(dm.input_names, dm.ranges, dm.ood_ranges, sep="\n")

# %%
method = MeanFieldVI(
    MLP(n_inputs=6, n_hidden=[64, 64], n_outputs=2, activation_fn=nn.SiLU()),
    HeteroscedasticGaussian(),
    num_mc_samples_train=2,
    num_mc_samples_test=50,
)
trainer = Trainer(max_epochs=30, logger=CSVLogger("outputs"))
trainer.fit(method, dm)

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores, and `ood_detection` asks whether the epistemic uncertainty tells the sets apart.
# They do here: each row outside has a larger epistemic standard deviation than any row inside. Outside, the error is
# thirteen times as large and the epistemic standard deviation only eight times. The intervals still cover the targets,
# because the predicted noise grows too. That is luck: nobody has told the network what the noise is there.

# %%
results = trainer.test(method, list(dm.test_sets().values()), verbose=False)
for index, name in enumerate(dm.test_sets()):
    scores = {key: results[index][f"test_{key}/dataloader_idx_{index}"] for key in ("rmse", "nll", "coverage")}
    print(name, {key: round(value, 4) for key, value in scores.items()})
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic std outside over that inside:", round(float(outside / inside), 2))
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Two functions

# %%
for name in ("test", "ood"):
    inputs, targets, truth = (dm.as_functions(getattr(dm, f"{part}_{name}"))[0] for part in ("X", "Y", "truth"))
    x = dm.points(inputs)[:, 0]
    preds = method.predict_step(inputs)
    plot_predictions_regression(
        x,
        targets,
        x,
        truth,
        preds["pred"],
        epistemic=preds["epistemic_uct"],
        aleatoric=preds["aleatoric_uct"],
        title={"test": "A test function", "ood": "A function out of distribution"}[name],
        ylabel="u",
    ).savefig(f"function_{name}.png")

# %% [markdown]
# On the test function the noise is learned where it is, around x = 0.65. Averaged over the test functions it is
# within 0.007 of the true standard deviation, which is between 0.01 and 0.05. The calibration curve is a little above
# the diagonal: the intervals are somewhat too wide.

# %%
preds = method.predict_step(dm.X_test)
learned, true = (dm.as_functions(std)[..., 0].mean(0) for std in (preds["aleatoric_uct"], dm.noise_std_test))
print("largest difference of the noise std:", round(float((learned - true).abs().max()), 4))
plot_calibration(preds["pred"], preds["pred_uct"], dm.Y_test).savefig("calibration.png")
ood = method.predict_step(dm.X_ood)
plot_ood_scores(preds["epistemic_uct"], ood["epistemic_uct"]).savefig("ood.png")
