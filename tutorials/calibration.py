# ---
# section: After training
# order: 30
# thumbnail: coverage
# ---

# %% [markdown]
# # Calibration and conformal prediction
#
# A few held-out rows mend the confidence of a fitted method, and a few more give intervals with a guarantee. The
# method is not trained again: a calibration holds it, and predicts with a correction.

# %%
from functools import partial

import torch
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure

from lightning_vi import (
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    Deterministic,
    LeastAmbiguousSets,
    QuantileRegression,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule, ToyHeteroscedasticDataModule, TwoMoonsDataModule
from lightning_vi.likelihoods import Categorical, Gaussian, Quantiles
from lightning_vi.plots import plot_calibration_curves

seed_everything(0)
quiet = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}


def scores(method, data, *names):
    """Prints some scores of the test data."""
    (found,) = Trainer(logger=False).test(method, data, verbose=False)
    print(type(method).__name__, {name: round(found[f"test_{name}"], 3) for name in names})


# %% [markdown]
# ## An overconfident classifier
#
# A network that is trained on 100 points for long is right less often than it says.

# %%
moons = TwoMoonsDataModule(n_points=4000, noise_std=0.4)
rows = torch.arange(2800).split([100, 500, 2200])
train, calib, test = [(moons.X_train[index], moons.Y_train[index]) for index in rows]
dm = ArrayDataModule(train=train, calib=calib, test=test, num_classes=2)
classifier = Deterministic(MLP(2, [50, 50], 2), Categorical(2), optimizer=partial(torch.optim.Adam, lr=0.02))
Trainer(max_epochs=150, **quiet).fit(classifier, dm)

scaled = TemperatureScaling(classifier)
scaled.calibrate(dm.calibration_dataloader())
print("temperature:", round(float(scaled.temperature), 2))
scores(classifier, dm, "accuracy", "nll", "ece")
scores(scaled, dm, "accuracy", "nll", "ece")
plot_calibration_curves(
    {"before": classifier.predict(dm.X_test), "after": scaled.predict(dm.X_test)}, dm.Y_test
).savefig("temperature.png")

# %% [markdown]
# One number does it, fitted to 500 points: the errors and the order of the classes stay, and the NLL falls from far
# above that of a coin (0.69 nats) to far below.
#
# ## Prediction sets
#
# A set of classes that has the true one with a probability of 95%. The kinds differ in size: `LeastAmbiguousSets` are
# the smallest on average, and `AdaptivePredictionSets` grow more where the task is hard. (The same points served for
# the temperature. For one number and 500 points that is negligible; for an exact guarantee, split them.)

# %%
for kind in (LeastAmbiguousSets, AdaptivePredictionSets):
    sets = kind(scaled, coverage=0.95)
    sets.calibrate(dm.calibration_dataloader())
    scores(sets, dm, "conformal_coverage", "conformal_set_size")

# %% [markdown]
# ## Intervals
#
# The toy regression has noise that depends on the input. `Gaussian` has one noise for all inputs, so its intervals
# have the same width everywhere. The quantile regression learns widths that follow the noise. Both are made to cover
# 90%.

# %%
toy = ToyHeteroscedasticDataModule(n_points=2000)
adam = partial(torch.optim.Adam, lr=3e-3)
constant = Deterministic(MLP(1, [50, 50], 1), Gaussian(), optimizer=adam)
quantiles = QuantileRegression(MLP(1, [50, 50], 3), Quantiles(levels=(0.05, 0.5, 0.95)), optimizer=adam)
intervals = {}
for method, kind in ((constant, SplitConformal), (quantiles, ConformalQuantileRegression)):
    Trainer(max_epochs=60, **quiet).fit(method, toy)
    conformal = kind(method, coverage=0.9)
    conformal.calibrate(toy.calibration_dataloader())
    scores(conformal, toy, "conformal_coverage", "conformal_width")
    intervals[kind.__name__] = conformal.predict_step(toy.X_test)

# %% [markdown]
# The widths of the quantile regression follow the noise, and are a quarter smaller on average. Its coverage is 85%
# and not 90%: with 80 calibration rows such a deviation is nothing unusual, see below. The guarantee is for all rows
# together. Sorted by input, one width covers 94% where the noise is small and 84% where it is large.

# %%
order = toy.X_test[:, 0].argsort()
x, y = toy.X_test[order, 0], toy.Y_test[order, 0]
figure = Figure(figsize=(10, 3.4), layout="constrained")
for ax, (name, found) in zip(figure.subplots(1, 2, sharey=True), intervals.items(), strict=True):
    lower, upper = found["lower"][order, 0], found["upper"][order, 0]
    inside = (lower <= y) & (y <= upper)
    ax.fill_between(x, lower, upper, color="tab:blue", alpha=0.25, linewidth=0)
    ax.plot(x[inside], y[inside], ".", color="0.4", markersize=3)
    ax.plot(x[~inside], y[~inside], "x", color="tab:red", markersize=4)
    ax.set(title=name, xlabel="x")
    print(name, "coverage in each quarter:", [round(part.float().mean().item(), 2) for part in inside.chunk(4)])
figure.savefig("intervals.png")

# %% [markdown]
# ## How sure is the guarantee?
#
# It is a statement over all calibration sets. For one set of n rows the coverage has a Beta distribution around 90%,
# so that few rows give a coverage that is far off by chance. Here are 300 random sets of 20 and 200 rows.

# %%
pool = torch.cat([toy.X_calib, toy.X_test]), torch.cat([toy.Y_calib, toy.Y_test])
errors = (constant.predict(pool[0]).mean - pool[1]).abs()[:, 0]
figure = Figure(figsize=(6, 3.2), layout="constrained")
ax = figure.subplots()
generator = torch.Generator().manual_seed(0)
for size in (20, 200):
    coverages = []
    for _ in range(300):
        drawn = errors[torch.randperm(len(errors), generator=generator)]
        rank = -int(-(size + 1) * 0.9 // 1)  # (n + 1) coverage, rounded up
        quantile = drawn[:size].sort().values[rank - 1]
        coverages.append((drawn[size:] <= quantile).float().mean().item())
    spread = torch.tensor(coverages)
    print(size, "rows: mean coverage", round(spread.mean().item(), 3), "std", round(spread.std().item(), 3))
    ax.hist(coverages, bins=30, range=(0.7, 1.0), alpha=0.6, label=f"{size} calibration rows")
ax.axvline(0.9, color="black", linestyle=":")
ax.set(xlabel="coverage of the other rows", ylabel="calibration sets")
ax.legend()
figure.savefig("coverage.png")

# %% [markdown]
# Twenty rows give a coverage anywhere between 75% and 100%. Two hundred rows keep it within 5 points in most cases.
#
# ## Standard deviations
#
# `VarianceScaling` fits one factor to the standard deviation, so that all scores of the distribution can profit. It
# has no guarantee, and the fit must need it.

# %%
variance = VarianceScaling(constant)
variance.calibrate(toy.calibration_dataloader())
print("factor:", round(float(variance.std_factor), 3))
scores(constant, toy, "nll", "coverage")
scores(variance, toy, "nll", "coverage")

# %% [markdown]
# Here it does not: the noise was learned well, the factor is near 1, and its random error makes the scores slightly
# worse. A calibration mends what is broken, at the price of some variance; look at the scores before and after.
