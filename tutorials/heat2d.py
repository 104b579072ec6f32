# ---
# section: Differential equations
# order: 43
# thumbnail: plates
# ---

# %% [markdown]
# # A variational last layer that classifies fields: heat in a plate
#
# Does a random heat source q make a plate hotter than 0.12 anywhere? Eight diffusion steps make the temperature of
# the source, which the network does not see. A few convolutions and the largest value of each channel give 32
# features, and the last layer has a posterior. Out of distribution, sources are stronger and rough, and the threshold
# is 0.18.

# %%

from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch import nn

from lightning_vi import LastLayerVI
from lightning_vi.datamodules import Heat2DDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical
from lightning_vi.plots import plot_ood_scores, plot_reliability_diagram

seed_everything(0)

# %%
dm = Heat2DDataModule(batch_size=32)
print("share of hot plates, inside and outside:", *(round(float(y.float().mean()), 2) for y in (dm.Y_test, dm.Y_ood)))
network = nn.Sequential(
    nn.Conv2d(1, 8, 5, padding=2),
    nn.SiLU(),
    nn.Conv2d(8, 16, 5, padding=2),
    nn.SiLU(),
    nn.AdaptiveMaxPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 32),
    nn.SiLU(),
    nn.Linear(32, 2),
)

# %%
method = LastLayerVI(network, Categorical(num_classes=2), num_mc_samples_test=50)
trainer = Trainer(max_epochs=60, logger=CSVLogger("outputs"))
trainer.fit(method, dm)

# %% [markdown]
# ## Inside and outside
#
# Each test set has its own scores, and `ood_detection` asks whether the epistemic uncertainty tells the sets apart.
# The mean mutual information is eight times as large outside. Yet the AUROC is 0.73, and no threshold that finds 95%
# of the outside fields spares any inside: many strong sources have a probability of 0 or 1 and hardly any
# uncertainty, right or wrong. A classifier that is linear in its features is sure far from its training data.

# %%
results = trainer.test(method, list(dm.test_sets().values()), verbose=False)
for index, name in enumerate(dm.test_sets()):
    scores = {key: results[index][f"test_{key}/dataloader_idx_{index}"] for key in ("accuracy", "nll", "ece")}
    print(name, {key: round(value, 4) for key, value in scores.items()})
inside, outside = (method.predict(x).as_dict()["epistemic_uct"].mean(0) for x in (dm.X_test, dm.X_ood))
print("epistemic uncertainty (mutual information) outside over that inside:", round(float(outside / inside), 2))
print(ood_detection(method, dm.test_dataloader(), dm.ood_dataloader(), score="epistemic_uct"))

# %% [markdown]
# ## Plates

# %%
figure = Figure(figsize=(13, 6), layout="constrained")
axes = figure.subplots(2, 5)
for row, name in enumerate(("test", "ood")):
    inputs, labels = getattr(dm, f"X_{name}")[:5], getattr(dm, f"Y_{name}")[:5]
    preds = method.predict_step(inputs)
    for index, (ax, temperature) in enumerate(zip(axes[row], dm.temperature(inputs)[:, 0], strict=True)):
        figure.colorbar(ax.imshow(temperature.numpy(), cmap="inferno"), ax=ax, fraction=0.046)
        ax.set_axis_off()
        label = "hot" if labels[index] else "safe"
        probability, epistemic = preds["pred"][index, 1], preds["epistemic_uct"][index]
        ax.set_title(f"{name}: {label}, p(hot) {probability:.2f}\nepistemic {epistemic:.3f} nats", fontsize=9)
figure.savefig("plates.png")

# %%
inside, outside = (method.predict_step(x) for x in (dm.X_test, dm.X_ood))
plot_reliability_diagram(inside["pred"], dm.Y_test).savefig("reliability.png")
plot_ood_scores(inside["epistemic_uct"], outside["epistemic_uct"]).savefig("ood.png")
