# ---
# section: After training
# order: 32
# thumbnail: latency
# ---

# %% [markdown]
# # Serving predictions: checkpoints, threads and exported programs
#
# A fitted method leaves the notebook: it is loaded from a checkpoint, answers requests from several threads, and
# becomes a program that needs neither Lightning nor this package. At each step the predictions stay the same, number
# by number.

# %%
import copy
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure

from lightning_vi import LastLayerVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import DiabetesDataModule
from lightning_vi.export import PredictionModule
from lightning_vi.likelihoods import HeteroscedasticGaussian

seed_everything(0)
dm = DiabetesDataModule()
method = LastLayerVI(MLP(10, [64, 64], 2), HeteroscedasticGaussian(), num_mc_samples_test=64)
trainer = Trainer(max_epochs=40, logger=False, enable_checkpointing=False, limit_val_batches=0)
trainer.fit(method, dm)

# %% [markdown]
# ## A checkpoint
#
# Prediction noise depends on a seed that the checkpoint holds, so that the loaded method gives the same numbers.

# %%
trainer.save_checkpoint("method.ckpt")
served = LastLayerVI.load_from_checkpoint(
    "method.ckpt", backbone=MLP(10, [64, 64], 2), likelihood=HeteroscedasticGaussian(), weights_only=True
)
x = dm.X_test
expected = method.predict(x)
print("same predictions:", torch.equal(served.predict(x).total_var, expected.total_var))

# %% [markdown]
# ## Rows, one at a time or together
#
# The sampled networks are the same functions for each batch, so that a row's prediction does not depend on its
# company, up to rounding. Time does: see below.

# %%
alone = torch.cat([served.predict(row).total_var for row in x.split(1)])
print("largest relative difference:", f"{float((alone / expected.total_var - 1).abs().max()):.0e}")


def milliseconds(call):
    """Median time of 15 calls."""
    times = []
    for _ in range(15):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return sorted(times)[7]


sizes = [1, 4, 16, 64, 256, 1024]
rows = x.repeat(12, 1)
latency = [milliseconds(lambda size=size: served.predict(rows[:size])) for size in sizes]
print({size: f"{value:.1f} ms" for size, value in zip(sizes, latency, strict=True)})

# %% [markdown]
# A request of one row costs almost as much as one of 64, so collect rows that arrive at the same time. From some
# hundred rows on, time grows with them.
#
# ## Threads
#
# Any number of threads may predict with one method. They take turns, so that results are right, not faster. A copy
# for each worker lets PyTorch run them at the same time.

# %%
requests = list(x.split(4))
with ThreadPoolExecutor(8) as pool:
    answers = torch.cat(list(pool.map(lambda rows: served.predict(rows).total_var, requests)))
print("largest relative difference:", f"{float((answers / expected.total_var - 1).abs().max()):.0e}")

workers = [copy.deepcopy(served) for _ in range(4)]
with ThreadPoolExecutor(4) as pool:
    parts = pool.map(lambda job: job[0].predict(job[1]).mean, zip(workers, x.chunk(4), strict=True))
    print("copies:", torch.allclose(torch.cat(list(parts)), expected.mean))

# %% [markdown]
# ## An exported program
#
# `PredictionModule` is a fitted method as a module for `torch.export`. The drawn weights are constants of the
# program, which takes any number of rows and returns the dictionary of `predict_step`.

# %%
example = x[:8]
dynamic = {"x": {0: torch.export.Dim("rows", min=2)}}
program = torch.export.export(PredictionModule(served, example), (example,), dynamic_shapes=dynamic)
torch.export.save(program, "method.pt2")

loaded = torch.export.load("method.pt2").module()
answer = loaded(x)
print(list(answer))
print("largest relative difference:", f"{float((answer['pred_uct'] ** 2 / expected.total_var - 1).abs().max()):.0e}")

# %%
exported = [milliseconds(lambda size=size: loaded(rows[:size])) for size in sizes[1:]]
print({size: f"{value:.1f} ms" for size, value in zip(sizes[1:], exported, strict=True)})
figure = Figure(figsize=(6, 3.4), layout="constrained")
ax = figure.subplots()
ax.loglog(sizes, latency, "o-", label="predict")
ax.loglog(sizes[1:], exported, "o-", label="exported program")
ax.set(xlabel="rows of a request", ylabel="milliseconds")
ax.legend()
figure.savefig("latency.png")

# %% [markdown]
# The program is as fast as `predict`, not faster: what it saves is the code behind it.
