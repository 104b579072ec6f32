# ---
# section: Classification and images
# order: 20
# thumbnail: shift
# ---

# %% [markdown]
# # Classification under shift, and images of unknown classes
#
# A classifier meets two kinds of data that it was not trained on: images that are more and more distorted, whose class
# it should still find or else be unsure of, and images of classes that it has never seen, where the only right answer
# is to be unsure. `compare(shifts=True)` measures both for several methods at once.

# %%
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_vi.compare import compare
from lightning_vi.datamodules import (
    ClassSubsetDataModule,
    DigitsDataModule,
    PhotoPatchesDataModule,
    shift_images,
    shifted_test_sets,
)
from lightning_vi.datamodules.shifts import SHIFTS
from lightning_vi.evaluation import OODScores
from lightning_vi.likelihoods import Categorical
from lightning_vi.plots import plot_detection, plot_image_grid, plot_ood_scores, plot_shift

# %% [markdown]
# ## Data
#
# Digits of 8 x 8 pixels. The classes 0 to 7 are known. There are two sets of unknown images: the digits 8 and 9, which
# are much like the known ones, and patches of photographs, which are not.

# %%
digits = DigitsDataModule(as_images=True, test_fraction=0.3, batch_size=64)
dm = ClassSubsetDataModule(digits, classes=range(8))
unknown = ClassSubsetDataModule(digits, classes=[8, 9])
photographs = PhotoPatchesDataModule(image_size=8, num_test=200)
print(dm, unknown, sep="\n")

# %% [markdown]
# There are seven kinds of shifts in five severities. One image at each severity, from 0, the image as it is, to 5:

# %%
figure = Figure(figsize=(8.4, 6), layout="constrained")
for column, kind in zip(figure.subplots(6, len(SHIFTS)).T, SHIFTS, strict=True):
    images = [dm.X_test[:1], *(shift_images(dm.X_test[:1], kind, severity) for severity in range(1, 6))]
    for severity, (ax, image) in enumerate(zip(column, images, strict=True)):
        ax.imshow(image[0, 0], cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title=kind.replace("_", "\n") if severity == 0 else "")
        ax.set_ylabel(severity if kind == next(iter(SHIFTS)) else "", rotation=0, labelpad=12)
figure.savefig("kinds.png")


# %% [markdown]
# ## Comparison
#
# Four methods: one network, an ensemble of five, a Bayesian last layer, and SNGP, whose last layer knows the distance
# to the training data. Each is fitted once and scored on the test images, on each kind and severity of their shifts,
# and on the unknown images. `visit` keeps the fitted methods for a closer look.


# %%
def network(_):
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8),
    )  # fmt: skip


methods = {}
comparison = compare(
    ["Deterministic", "DeepEnsemble", "LastLayerVI", "SNGP"],
    dm,
    network,
    Categorical(8),
    max_epochs=30,
    seeds=1,
    shifts=True,
    ood_sets={"digits 8 and 9": unknown, "photographs": photographs},
    visit=lambda name, _seed, method, _data: methods.update({name: method}),
    progress=False,
)
scores = comparison.frame.query("test_set == 'test'").set_index("method")
print(scores[["accuracy", "nll", "ece", "aurc"]].round(4))

# %% [markdown]
# ## Shifts
#
# `shifts()` has one row for each method, kind and severity. Means over the kinds:

# %%
shifts = comparison.shifts()
for metric in ("accuracy", "nll"):
    print(metric, shifts.pivot_table(metric, "method", "severity", sort=False).round(3), "", sep="\n")
plot_shift(shifts, "nll", label="NLL [nats]").savefig("shift.png")

# %% [markdown]
# All four are right about equally often, and differ in what they say when they are wrong. A guess has an NLL of
# ln 8 = 2.1 nats. Without contrast, or in blocks of pixels, the networks come close to that: they see nothing, and say
# so. On digits that are rotated or moved, one network is sure of wrong classes, and its NLL is several times that of a
# guess. The ensemble has less of that, the last layer still less, and only SNGP stays near a guess. It pays for that
# on the clean images, where it is less sure than it could be: its ECE is 0.1, and its NLL five times that of the last
# layer. A score of the clean images alone would have shown none of this.
#
# For a closer look, `shifted_test_sets` gives the shifted images as dataloaders. Here are accuracy and mean entropy as
# the digits are rotated, in steps of 15 degrees:

# %%
rotated = {0: dm.test_dataloader()}
rotated |= {severity: shifted_test_sets(dm, ["rotation"])[f"rotation_{severity}"] for severity in range(1, 6)}
rows = []
for name, method in methods.items():
    for severity, loader in rotated.items():
        found = [(method.predict(x), y) for x, y in loader]
        entropy = torch.cat([prediction.as_dict()["pred_uct"] for prediction, _ in found]).mean().item()
        accuracy = torch.cat([prediction.probs.argmax(1) == y for prediction, y in found]).float().mean().item()
        rows.append({"method": name, "severity": severity, "accuracy": accuracy, "entropy": entropy})
table = pd.DataFrame(rows)
for metric in ("accuracy", "entropy"):
    print(metric, table.pivot_table(metric, "method", "severity", sort=False).round(2), "", sep="\n")

# %% [markdown]
# A useful uncertainty rises as accuracy falls, and up to 30 or 45 degrees it does. Then the entropy *falls*, while the
# accuracy falls on: the networks find some class in the turned strokes, and at 75 degrees one network is as sure as it
# is of the clean images. No posterior over these weights repairs that. Training with rotated images does.
#
# ## Unknown classes
#
# Six scores rank images from known to unknown. An AUROC of 0.5 is chance.

# %%
detection = comparison.detection()
print(detection.pivot_table("auroc", ["test_set", "score"], "method", sort=False).round(3).to_string())
plot_detection(detection).savefig("detection.png")

# %% [markdown]
# The scores of the prediction (entropy, largest probability, energy) find the digits 8 and 9 with an AUROC above 0.93
# in all methods; one network has no mutual information, since it does not disagree with itself. Distances between
# features are worse there, except in SNGP, which is made to keep distances. Photographs are easy: all scores but that
# one have more than 0.93, and the Mahalanobis distance at least 0.97. So no score is best for all unknown images, and
# which of them come is not known. With 106 images and one seed, differences of a few hundredths mean little; `seeds=5`
# gives standard errors.
#
# `OODScores` gives the scores of any images, one number for each. A threshold for use comes from known images alone:
# here it is the value that 95% of the test images are below.

# %%
ood = OODScores(methods["LastLayerVI"], dm.train_dataloader(), scores=["entropy", "energy", "nearest_neighbors"])
inside, outside = ood(dm.test_dataloader()), ood(unknown.test_dataloader())
for name in ood.names:
    threshold = inside[name].quantile(0.95)
    print(f"{name}: {(outside[name] > threshold).float().mean():.1%} of the unknown digits are above the threshold")
plot_ood_scores(inside["energy"], outside["energy"], xlabel="energy").savefig("ood.png")

# %% [markdown]
# A quarter of the unknown digits pass for known ones by the best of the three: with one false alarm in twenty, an AUROC
# of 0.96 still misses much. The unknown digits that the ensemble is least and most sure of:

# %%
plot_image_grid(unknown.X_test, methods["DeepEnsemble"].predict(unknown.X_test)).savefig("unknown.png")

# %% [markdown]
# Nines with a straight stroke are taken for a 3 with a probability of 99%. The eights, which share parts with many
# digits, are the ones that it is unsure of.
#
# [Shifted and out-of-distribution data](../shift.md) explains the shifts and the scores, compares ten methods by them,
# and shows the same comparison from the command line.
