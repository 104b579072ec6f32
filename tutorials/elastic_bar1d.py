# ---
# section: Differential equations
# order: 41
# thumbnail: errors
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
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ElasticBar1DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Gaussian

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
trainer = Trainer(max_epochs=30, logger=CSVLogger("outputs"))
trainer.fit(method, dm)
learned = method.likelihood.noise_std * method.likelihood.target_std
print("learned std of displacement and stress:", [round(float(std), 5) for std in learned])

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores, and `ood_detection` asks whether the epistemic uncertainty tells the sets apart.
# They are told apart almost perfectly. But the error grows 26 times and the epistemic standard deviation only three
# times, and the learned noise is the small error inside, so that the intervals outside cover half of the targets. A
# ranking by uncertainty can be good where the sizes are not.

# %%
results = trainer.test(method, list(dm.test_sets().values()), verbose=False)
for index, name in enumerate(dm.test_sets()):
    scores = {key: results[index][f"test_{key}/dataloader_idx_{index}"] for key in ("rmse", "nll", "coverage")}
    print(name, {key: round(value, 4) for key, value in scores.items()})
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic std outside over that inside:", [round(float(ratio), 2) for ratio in outside / inside])
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Two bars
#
# Prediction and truth look alike in a plot, so this one shows the error of the mean, with a band of two total
# standard deviations around zero.

# %%
figure = Figure(figsize=(10, 5), layout="constrained")
axes = figure.subplots(2, 2, sharex=True)
for column, name in enumerate(("test", "ood")):
    inputs, truth = (dm.as_functions(getattr(dm, f"{part}_{name}"))[0] for part in ("X", "truth"))
    x = dm.points(inputs)[:, 0]
    prediction = method.predict(inputs)
    for target, label in enumerate(dm.target_names):
        ax, band = axes[target, column], 2 * prediction.total_var[:, target].sqrt()
        ax.fill_between(x, -band, band, color="tab:blue", alpha=0.25, linewidth=0)
        ax.plot(x, prediction.mean[:, target] - truth[:, target], color="tab:red")
        ax.set(title=f"{label}, {name}", ylabel="error")
figure.savefig("errors.png")

# %% [markdown]
# The band is too wide inside, where 95% intervals cover all targets: the error changes sign along the bar and is no
# noise. These two functions are two of 24; that outside is a mild one.
