# ---
# section: First steps
# order: 13
# thumbnail: bands
# ---

# %% [markdown]
# # MC dropout, ensembles, SWAG and variational inference side by side
#
# Five ways to an uncertain network, on the same data, with the same layers: what each costs, and what it says in the
# gaps between the data. Each is one line to change, because the network, the likelihood, the data and the scores stay
# the same.
#
# - **MC dropout** (Gal and Ghahramani, 2016) keeps dropout on when it predicts. Every mask is another network.
# - A **deep ensemble** (Lakshminarayanan et al., 2017) trains several networks from different initial weights.
# - **SWAG** (Maddox et al., 2019) collects weights late in training, and draws from a Gaussian that is fitted to
#   them.
# - A **Bayesian last layer** has a posterior of the last layer's weights alone, over learned features.
# - **Mean-field variational inference** (Blundell et al., 2015) has a Gaussian for each weight of all layers.

# %%
import time
from functools import partial

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure

from lightning_vi import SWAG, DeepEnsemble, LastLayerVI, MCDropout, MeanFieldVI, MeanVarianceEstimation
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian

# %% [markdown]
# ## The methods
#
# `MeanVarianceEstimation` is the plain network that predicts a mean and a noise, without epistemic uncertainty: the
# baseline. The network of MC dropout has dropout of 10% behind each hidden layer. The first four train with Adam,
# whose learning rate is given; the variational ones choose theirs.

# %%
adam = partial(torch.optim.Adam, lr=3e-3)
METHODS = {
    "one network": partial(MeanVarianceEstimation, burnin_epochs=20, optimizer=adam),
    "MC dropout": partial(MCDropout, burnin_epochs=20, num_mc_samples_test=100, optimizer=adam),
    "ensemble of 5": partial(DeepEnsemble, num_members=5, burnin_epochs=20, optimizer=adam),
    "SWAG": partial(SWAG, burnin_epochs=20, num_mc_samples_test=100, optimizer=adam),
    "last layer": partial(LastLayerVI, num_mc_samples_test=100),
    "mean field": partial(MeanFieldVI, num_mc_samples_test=100),
}
dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)

# %%
rows, predictions = {}, {}
for name, make in METHODS.items():
    seed_everything(0, verbose=False)
    network = MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2, dropout_p=0.1 if name == "MC dropout" else 0.0)
    method = make(network, HeteroscedasticGaussian())
    trainer = Trainer(max_epochs=150, logger=False, enable_checkpointing=False, limit_val_batches=0)
    start = time.process_time()
    trainer.fit(method, dm)
    seconds = time.process_time() - start
    (scores,) = trainer.test(method, dm, verbose=False)
    rows[name] = {"seconds": seconds} | {key: scores[f"test_{key}"] for key in ("rmse", "nll", "crps", "coverage")}
    predictions[name] = method.predict(dm.X_gtext)
print(pd.DataFrame(rows).T.round(3))

# %% [markdown]
# The deep ensemble has the best scores, for two fifths more time than one network, because five small members train
# together. The Bayesian last layer is second in NLL; its ten samples a step cost as much as the members here, where
# layers are tiny. MC dropout, SWAG and the mean field have a *higher* NLL than the plain network here: an epistemic
# uncertainty is no use to test points that lie among 350 training points. Seconds are those of one CPU core; a large
# network costs five times as much in an ensemble of five.
#
# ## What they say in the gaps
#
# Bands are two standard deviations: epistemic (dark) and total (light). The dotted line is the true function.

# %%
figure = Figure(figsize=(11, 6), layout="constrained")
order = dm.X_gtext[:, 0].argsort()
x, truth = dm.X_gtext[order, 0], dm.Y_gtext[order, 0]
for ax, (name, prediction) in zip(
    figure.subplots(2, 3, sharex=True, sharey=True).flat, predictions.items(), strict=True
):
    mean = prediction.mean[order, 0]
    for variance, alpha in ((prediction.total_var, 0.2), (prediction.epistemic_var, 0.5)):
        std = variance[order, 0].sqrt()
        ax.fill_between(x, mean - 2 * std, mean + 2 * std, color="tab:blue", alpha=alpha, linewidth=0)
    ax.plot(dm.X_train[:, 0], dm.Y_train[:, 0], ".", color="0.4", markersize=2)
    ax.plot(x, truth, ":", color="black")
    ax.plot(x, mean, color="tab:blue")
    ax.set(title=name, ylim=(-6, 6))
figure.savefig("bands.png")

# %%
far = {name: float(p.epistemic_var[order[[0, -1]]].mean().sqrt()) for name, p in predictions.items()}
near = {name: float(p.epistemic_var[(dm.X_gtext[:, 0].abs() < 0.1)].mean().sqrt()) for name, p in predictions.items()}
print(pd.DataFrame({"epistemic std at both ends": far, "in the middle": near}).round(3))

# %% [markdown]
# Beyond the data, where the true function turns and all predictions go straight on, only the mean field and, less,
# the ensemble and MC dropout become uncertain. MC dropout is almost as uncertain in the middle of the data as
# outside. SWAG and the last layer stay sure of lines that are wrong. None covers the truth at the right end by its
# epistemic band.
#
# So which? Take the ensemble for scores, the last layer where several networks are too many, the mean field over all
# layers of a small network where it must know what it does not know; and start from the plain network. One seed
# decides nothing: `lightning-vi compare` repeats such a table with several seeds and standard errors, on your data.
