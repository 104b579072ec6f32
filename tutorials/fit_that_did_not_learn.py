# ---
# section: First steps
# order: 14
# thumbnail: posterior_before
# ---

# %% [markdown]
# # A fit that did not learn, and how the diagnostics mend it
#
# Variational inference can fail without an error: the loss falls, and the network predicts a constant. Here are
# settings that many first attempts have: a standard normal prior, initial posteriors half as wide as the prior, the
# full KL weight from the first step, and Adam with a constant rate.

# %%
from functools import partial

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import VariationalDiagnostics
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import plot_objective, plot_posterior, plot_predictions_regression
from lightning_vi.priors import GaussianPrior

dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)


def fit(name, **options):
    """Fits a network of three hidden layers, and returns it with its diagnostics and the folder of its log."""
    seed_everything(0, verbose=False)
    method = MeanFieldVI(MLP(1, [50, 50, 50], 2), HeteroscedasticGaussian(), **options)
    diagnostics = VariationalDiagnostics(warn=False)
    trainer = Trainer(max_epochs=100, logger=CSVLogger("outputs", name=name), callbacks=[diagnostics])
    trainer.fit(method, dm)
    (scores,) = trainer.test(method, dm, verbose=False)
    print({key: round(scores[f"test_{key}"], 3) for key in ("rmse", "nll", "coverage")})
    return method, diagnostics.result, trainer.log_dir


# %%
first, result, log_dir = fit(
    "before",
    prior=GaussianPrior(std=1.0),
    init_std=0.5,
    kl_warmup_epochs=0,
    burnin_epochs=0,
    optimizer=partial(torch.optim.Adam, lr=1e-3),
)
plot_objective(log_dir).savefig("objective.png")

# %% [markdown]
# The bound rises from epoch to epoch, as if all were well. An RMSE near 1 says that it is not: the targets are
# standardized, so a constant has about that error. On other data one has no such number in mind, and for this there
# are the diagnostics. They run at the end of each fit, and warn; the callback is given here to print what it found.

# %%
print(result)

# %% [markdown]
# ## What happened
#
# The last lines compare the likelihood with that of the best constant outputs, and name the options that stand in the
# way. The table has a row for each layer. The standard deviations are still half of the prior's, where they began: in
# 1100 steps at a rate of 0.001 they could not shrink. Weights that are so noisy carry no signal (`median SNR` is the
# ratio of a weight's mean to its standard deviation), so three quarters of the first layer's units are pruned, and
# the last layer ignores nearly all of its inputs.

# %%
plot_posterior(first).savefig("posterior_before.png")

# %% [markdown]
# ## The remedy
#
# Without the five options all have their defaults: the posterior starts narrow, the KL weight grows slowly, the
# learning rate suits the length of the fit, and the prior's scale is learned.

# %%
second, result, _ = fit("after")
print(result)
plot_posterior(second).savefig("posterior_after.png")

# %% [markdown]
# No finding is left, the RMSE is that of the noise, and the NLL has fallen from 1.70 to 0.33. Many units are pruned
# here too: a good fit keeps the units that the data pay for, whose weights have a high signal-to-noise ratio, and
# leaves the rest at the prior. It is the likelihood, and not the share of pruned units, that tells the two fits
# apart.

# %%
preds = second.predict_step(dm.X_gtext)
plot_predictions_regression(dm.X_train, dm.Y_train, dm.X_gtext, dm.Y_gtext, preds).savefig("predictions.png")
