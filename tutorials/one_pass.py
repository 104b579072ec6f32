# ---
# section: After training
# order: 31
# thumbnail: both
# ---

# %% [markdown]
# # Prediction in one pass, without samples
#
# A prediction of a Bayesian network is an average over many sampled networks. Instead, one pass can carry the mean
# and the variance of each unit through the layers. It is an approximation without noise: how close is it, and what
# does it save?

# %%
import time

import pandas as pd
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian

seed_everything(0)
dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
method = MeanFieldVI(MLP(1, [50, 50], 2), HeteroscedasticGaussian())
trainer = Trainer(max_epochs=150, logger=False, enable_checkpointing=False, limit_val_batches=0)
trainer.fit(method, dm)

# %% [markdown]
# ## One argument
#
# `approximation="moments"` asks for the one pass. The result has the same fields as any other prediction.

# %%
x = dm.X_gtext
exact = method.predict(x, num_samples=4096)
one_pass = method.predict(x, approximation="moments")
print(one_pass.mean.shape, one_pass.epistemic_var.shape)

# %% [markdown]
# ## How close?
#
# 4096 samples stand for the exact answer. Errors are root mean squares over the inputs, relative to the typical
# epistemic standard deviation; the time is CPU time for 1000 rows.

# %%
batch = x.repeat(1000 // len(x) + 1, 1)[:1000]
reference = exact.epistemic_var.sqrt()


def error(prediction):
    """Errors of the mean and of the epistemic standard deviation, over the typical standard deviation."""
    scale = reference.square().mean().sqrt()
    mean = (prediction.mean - exact.mean).square().mean().sqrt() / scale
    std = (prediction.epistemic_var.sqrt() - reference).square().mean().sqrt() / scale
    return {"error of the mean": mean.item(), "error of the std": std.item()}


def milliseconds(**options):
    """The fastest of five predictions, after one that draws the weights."""
    method.predict(batch, **options)
    times = []
    for _ in range(5):
        start = time.process_time()
        method.predict(batch, **options)
        times.append(1000 * (time.process_time() - start))
    return min(times)


WAYS = {f"{size} samples": {"num_samples": size} for size in (1, 4, 16, 64, 256)}
WAYS["one pass"] = {"approximation": "moments"}
rows = {name: error(method.predict(x, **options)) | {"ms": milliseconds(**options)} for name, options in WAYS.items()}
print(pd.DataFrame(rows).T.round(3))

# %% [markdown]
# One pass is closer to 4096 samples than 256 samples are, mean and standard deviation both, and takes less
# time than 16 samples. Few samples do not only have noise: their standard deviations are too small at the ends, where
# the posterior has rare networks that go far away.

# %%
figure = Figure(figsize=(10, 3.4), layout="constrained")
order = x[:, 0].argsort()
left, right = figure.subplots(1, 2)
sampled = method.predict(x, num_samples=16)
for ax, prediction, title in ((left, sampled, "16 samples"), (right, one_pass, "one pass")):
    for each, label in ((exact, "4096 samples"), (prediction, title)):
        ax.plot(x[order, 0], each.epistemic_var.sqrt()[order, 0], label=label)
    ax.set(title=title, xlabel="x", ylabel="epistemic std")
    ax.legend()
figure.savefig("both.png")

# %% [markdown]
# ## Scores
#
# `method.approximation = "moments"` makes it the way of validation, test, calibration and `predict_step`.

# %%
for approximation, size in (("sampling", 4), ("sampling", 256), ("moments", 1)):
    method.approximation, method.num_mc_samples_test = approximation, size
    (scores,) = trainer.test(method, dm, verbose=False)
    print(approximation, size, {key: round(scores[f"test_{key}"], 3) for key in ("rmse", "nll", "coverage")})

# %% [markdown]
# The scores are those of many samples. On this small network the approximation is at its best. It takes units and
# weights for independent, so that its standard deviations are too small behind normalization layers, attention and
# shared features of many classes; compare it once with samples on your network.
