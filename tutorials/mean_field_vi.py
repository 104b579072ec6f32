# ---
# section: First steps
# order: 10
# thumbnail: all_layers
# ---

# %% [markdown]
# # Mean-field variational inference on a toy problem
#
# A network of two hidden layers learns a function and its noise from 350 points, with a Gaussian posterior over its
# weights. The method is Bayes by Backprop (Blundell et al., *Weight uncertainty in neural networks*, 2015). The
# prediction comes in two parts: *aleatoric* uncertainty, the noise that more data would not remove, and *epistemic*
# uncertainty, what the network does not know yet.

# %%
from functools import partial

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import (
    plot_calibration,
    plot_objective,
    plot_predictions_regression,
    plot_toy_regression_data,
    plot_training_metrics,
)

seed_everything(0)

# %% [markdown]
# ## Data
#
# The inputs lie in three clusters with gaps between them, and the noise depends on the input.

# %%
dm = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
plot_toy_regression_data(dm.X_train, dm.Y_train, dm.X_gtext, dm.Y_gtext).savefig("data.png")

# %% [markdown]
# ## A Bayesian last layer
#
# The first half of the network's outputs is the mean, the second half the raw scale of the noise. Only the last
# layer, number -1, becomes stochastic. For the first `burnin_epochs` epochs the network is trained on squared error
# alone. A given optimizer replaces the default learning rates.

# %%
last_layer = LastLayerVI(
    MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2),
    HeteroscedasticGaussian(),
    num_mc_samples_train=10,
    num_mc_samples_test=25,
    burnin_epochs=20,
    optimizer=partial(torch.optim.Adam, lr=3e-3),
)
print(last_layer.conversion)

# %%
trainer = Trainer(max_epochs=150, logger=CSVLogger("outputs", name="last_layer"), log_every_n_steps=20)
trainer.fit(last_layer, dm)
(last_layer_scores,) = trainer.test(last_layer, dm, verbose=False)
plot_training_metrics(trainer.log_dir, ["train_loss", "train_rmse"]).savefig("training.png")

# %% [markdown]
# The shaded part is the burn-in. Afterwards the loss is the evidence lower bound with a growing weight of the KL
# divergence, and rises with it; the RMSE shows that the fit does not get worse. `predict_step` returns standard
# deviations: the total, and its epistemic and aleatoric parts.

# %%
preds = last_layer.predict_step(dm.X_gtext)
plot_predictions_regression(dm.X_train, dm.Y_train, dm.X_gtext, dm.Y_gtext, preds, title="Bayesian last layer").savefig(
    "last_layer.png"
)

# %% [markdown]
# ## All layers
#
# `MeanFieldVI` makes every layer stochastic. Everything else has its default here: the learning rates fit the length
# of the training, and the weight of the KL divergence grows over the first nine tenths of it.

# %%
all_layers = MeanFieldVI(MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2), HeteroscedasticGaussian())
print(all_layers.conversion)

# %%
trainer = Trainer(max_epochs=150, logger=CSVLogger("outputs", name="all_layers"), log_every_n_steps=20)
trainer.fit(all_layers, dm)
(all_layers_scores,) = trainer.test(all_layers, dm, verbose=False)
plot_objective(trainer.log_dir).savefig("objective.png")

# %% [markdown]
# The objective is the negative log-likelihood plus the KL divergence from the prior to the posterior, per datum. The
# KL divergence falls while its weight grows: the posterior gives up what the data do not pay for.

# %%
preds = all_layers.predict_step(dm.X_gtext)
plot_predictions_regression(dm.X_train, dm.Y_train, dm.X_gtext, dm.Y_gtext, preds, title="All layers").savefig(
    "all_layers.png"
)

# %% [markdown]
# ## Scores
#
# The scores are those of the mixture of all sampled networks. The noise-free function has an RMSE of 0.356 on these
# test points, so there is not much to gain; NLL and CRPS score the whole distribution, and the coverage is that of
# 95% intervals.

# %%
for name, scores in {"last layer": last_layer_scores, "all layers": all_layers_scores}.items():
    print(name, {key: round(scores[f"test_{key}"], 3) for key in ("rmse", "nll", "crps", "coverage")})

# %% [markdown]
# On the test points, which lie among the training points, both have the same RMSE, and all layers the better NLL. They
# differ outside. At the left end the epistemic standard deviation of all layers is about 0.6, that of the last layer
# 0.1, and the true function leaves the dark band of both, soon for the last layer. One posterior over 102 weights
# knows less of what it does not know than one over 2752.
#
# ## Calibration
#
# Of the test points, how many lie within the intervals that should hold 10%, 20%, ... of them?

# %%
preds = all_layers.predict_step(dm.X_test)
plot_calibration(preds["pred"], preds["pred_uct"], dm.Y_test).savefig("calibration.png")
