# ---
# section: Differential equations
# order: 42
# thumbnail: concentration
# ---

# %% [markdown]
# # Fields with two targets, each with noise of its own: transport in two dimensions
#
# A network learns the concentration c and the size of its gradient on a 36 x 36 grid, as a function of the position
# and of three parameters:
#
# $$c(x, y) = a e^{-\mathrm{Pe}\, x} \sin \pi x \sin \pi y + b x (1 - x) y (1 - y), \qquad g = |\nabla c|$$
#
# The noise of c is largest at $x = 0$, that of g where g is largest. `HeteroscedasticGaussian(num_targets=2)` learns
# both from four outputs of the network.

# %%
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import Transport2DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import plot_calibration

seed_everything(0)

# %% [markdown]
# ## Data
#
# Splits consist of whole fields: 48 for training, 12 for testing and 12 out of distribution.

# %%
dm = Transport2DDataModule(batch_size=512)
print(dm.input_names, dm.ranges, dm.ood_ranges, sep="\n")

# %%
method = MeanFieldVI(
    MLP(n_inputs=5, n_hidden=[96, 96], n_outputs=4, activation_fn=nn.SiLU()),
    HeteroscedasticGaussian(num_targets=2),
    num_mc_samples_train=2,
    num_mc_samples_test=50,
)
trainer = Trainer(max_epochs=10, logger=CSVLogger("outputs"))
trainer.fit(method, dm)

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores, and `ood_detection` asks whether the epistemic uncertainty tells the sets apart.
# Outside, the error is six times as large and the epistemic standard deviation three times, so that the intervals
# cover 68% of the targets.

# %%
results = trainer.test(method, list(dm.test_sets().values()), verbose=False)
for index, name in enumerate(dm.test_sets()):
    scores = {key: results[index][f"test_{key}/dataloader_idx_{index}"] for key in ("rmse", "nll", "coverage")}
    print(name, {key: round(value, 4) for key, value in scores.items()})
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic std of c and g outside over that inside:", [round(float(ratio), 2) for ratio in outside / inside])
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Fields
#
# `as_functions` arranges rows as fields, [n, 36, 36, D].

# %%
for target, label in enumerate(dm.target_names):
    figure = Figure(figsize=(13, 6), layout="constrained")
    axes = figure.subplots(2, 4)
    for row, name in enumerate(("test", "ood")):
        inputs, truth = (dm.as_functions(getattr(dm, f"{part}_{name}"))[0] for part in ("X", "truth"))
        preds = method.predict_step(inputs.flatten(0, 1))
        mean, std = (dm.as_functions(preds[key])[0, ..., target] for key in ("pred", "epistemic_uct"))
        panels = {"truth": truth[..., target], "mean": mean, "error": mean - truth[..., target], "epistemic std": std}
        for ax, (title, field) in zip(axes[row], panels.items(), strict=True):
            figure.colorbar(ax.imshow(field.T.numpy(), origin="lower", extent=(0, 1, 0, 1)), ax=ax, shrink=0.8)
            ax.set_title(f"{title}, {name}")
    figure.suptitle(label)
    figure.savefig(f"{label}.png")

# %% [markdown]
# The mean of the gradient is smooth where the true one has a cusp, at the top of the hill. There the error is
# largest, and the epistemic standard deviation is raised too, though it is an order of magnitude smaller. Outside,
# both are largest near x = 0.
#
# ## Calibration
#
# Inside, the intervals of both targets are as wide as they should be.

# %%
preds = method.predict_step(dm.X_test)
for target, label in enumerate(dm.target_names):
    columns = (values[:, target] for values in (preds["pred"], preds["pred_uct"], dm.Y_test))
    plot_calibration(*columns, title=label).savefig(f"calibration_{label}.png")
