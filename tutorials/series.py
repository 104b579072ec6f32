# ---
# section: Series
# order: 25
# thumbnail: coverage
# ---

# %% [markdown]
# # Forecast intervals of a series that drifts
#
# Conformal intervals keep their coverage if the future is like the calibration data. A series that drifts breaks this,
# and intervals that follow its errors repair it. An LSTM forecasts, and three kinds of intervals are compared, before
# and under a drift.

# %%
import torch
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure

from lightning_vi import AdaptiveConformal, DeepEnsemble, EnbPI, LastLayerVI, SplitConformal
from lightning_vi.backbones import SeriesLSTM
from lightning_vi.datamodules import ToySeriesDataModule
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian

# %% [markdown]
# ## Data
#
# A season of 24 rows with noise that depends on it. In the test rows the level rises and the noise doubles, little by
# little. The second series has the same training and calibration rows, and no drift. An input is a window of the last
# 24 rows, and the target the next row.

# %%
seed_everything(0)
steady, drifting = ToySeriesDataModule(drift=0.0), ToySeriesDataModule(drift=0.5)
print(drifting)

# %% [markdown]
# ## Forecast
#
# The network gives a mean and a noise variance for each window.

# %%
quiet = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
method = LastLayerVI(SeriesLSTM(n_inputs=1, n_outputs=2), HeteroscedasticGaussian())
trainer = Trainer(max_epochs=30, **quiet)
trainer.fit(method, steady)
for name, dm in (("steady", steady), ("drifting", drifting)):
    (found,) = trainer.test(method, dm, verbose=False)
    print(name, {key: round(found[f"test_{key}"], 3) for key in ("rmse", "nll", "coverage")})

# %% [markdown]
# `coverage` is that of intervals of 95%. Without drift it is right. Under drift the RMSE doubles, and a third of the
# targets is missed: the noise that the network has learned is that of the past.
#
# ## Intervals
#
# All are to cover 90%.
#
# - `SplitConformal` scales the width once, by the calibration rows.
# - `AdaptiveConformal` widens after each miss and narrows after each hit. With `window=100` its quantiles are those of
#   the last 100 errors.
# - `EnbPI` needs no calibration rows. Each member of an ensemble is trained on other blocks of the training rows, and
#   the rows that a member has not seen give its errors.

# %%
ensemble = DeepEnsemble(SeriesLSTM(width=16), Gaussian(), num_members=10, bootstrap_block=24)
Trainer(max_epochs=30, **quiet).fit(ensemble, steady)
intervals = {
    "SplitConformal": SplitConformal(method, coverage=0.9),
    "AdaptiveConformal": AdaptiveConformal(method, coverage=0.9, gamma=0.01, window=100),
    "EnbPI": EnbPI(ensemble, coverage=0.9),
    "EnbPI, window=100": EnbPI(ensemble, coverage=0.9, window=100),
}
for name, each in intervals.items():
    each.calibrate(steady.ordered_train_dataloader() if "EnbPI" in name else steady.calibration_dataloader())
    for kind, dm in (("steady", steady), ("drifting", drifting)):
        (found,) = trainer.test(each, dm, verbose=False)
        coverage, width = found["test_conformal_coverage"], found["test_conformal_width"]
        print(f"{name + ',':<19} {kind + ':':<10} coverage {coverage:.2f}, mean width {width:.2f}")

# %% [markdown]
# `Trainer.test` takes the rows in their order, and each interval knows the targets before it. Without drift all four
# agree. Under drift `SplitConformal` covers 57%. The two with a window of recent errors come close to 90%, with
# intervals that are twice as wide, as they must be. `EnbPI` has by default as many errors in its quantile
# as there are training rows, and new errors replace the old ones too slowly.
#
# ## Coverage over time
#
# `update` does online what the test does: it predicts the next rows, and then learns from their targets. The coverage
# of the last 100 rows shows when intervals fail.

# %%
hits, predictions = {}, {}
for name, each in intervals.items():
    online = hasattr(each, "update")
    prediction = each.update(drifting.X_test, drifting.Y_test) if online else each.predict(drifting.X_test)
    hits[name] = ((prediction.lower <= drifting.Y_test) & (drifting.Y_test <= prediction.upper))[:, 0].float()
    predictions[name] = prediction

time = torch.as_tensor(drifting.times["test"])
figure = Figure(figsize=(7, 3.4), layout="constrained")
ax = figure.subplots()
for name, inside in hits.items():
    moving = inside.unfold(0, 100, 1).mean(1)
    ax.plot(time[99:], moving, label=name)
    print(f"{name}: lowest coverage of 100 rows {moving.min():.2f}, of the last 100 rows {moving[-1]:.2f}")
ax.axhline(0.9, color="black", linestyle=":")
ax.set(xlabel="row", ylabel="coverage of the last 100 rows", ylim=(0, 1.02))
ax.legend(fontsize=8)
figure.savefig("coverage.png")

# %% [markdown]
# `SplitConformal` loses coverage as long as the drift goes on, down to 34% of 100 rows. `AdaptiveConformal` is never
# below 83%, and `EnbPI` with a short window never below 79%. Both need the targets soon; where they come H - 1 rows
# later, as in forecasts of H steps, give `delay=H - 1`.
#
# The last rows, with the true mean as a line and missed targets as crosses:

# %%
shown, names = slice(-120, None), ("SplitConformal", "AdaptiveConformal", "EnbPI, window=100")
figure = Figure(figsize=(9, 6.5), layout="constrained")
for ax, name in zip(figure.subplots(3, 1, sharex=True, sharey=True), names, strict=True):
    lower, upper = (ends[shown, 0] for ends in (predictions[name].lower, predictions[name].upper))
    y, inside = drifting.Y_test[shown, 0], hits[name][shown].bool()
    above, below = (y > upper).float().mean(), (y < lower).float().mean()
    print(f"{name}: {above:.0%} of these rows missed above, {below:.0%} below")
    print(f"{name}: widths of the last 24 rows {(upper - lower)[-24:].min():.2f} to {(upper - lower)[-24:].max():.2f}")
    ax.fill_between(time[shown], lower, upper, color="tab:blue", alpha=0.25, linewidth=0)
    ax.plot(time[shown], drifting.mean_test[shown, 0], color="0.3", linewidth=1)
    ax.plot(time[shown][inside], y[inside], ".", color="0.4", markersize=4)
    ax.plot(time[shown][~inside], y[~inside], "x", color="tab:red", markersize=5)
    ax.set_title(f"{name}: {inside.float().mean():.0%} of these rows covered", fontsize=10)
ax.set_xlabel("row")
figure.savefig("intervals.png")

# %% [markdown]
# Nearly all misses are above the intervals, because the forecasts stay below the risen level. Wider intervals repair
# the coverage and not the forecast. Those of `AdaptiveConformal` are scaled by the predicted std: they are narrow in
# the quiet part of the season and nearly three times as wide in the noisy one. Those of `EnbPI` have nearly the same
# width in all seasons. A drift that goes on asks for a new fit; the coverage in a moving window says when.
