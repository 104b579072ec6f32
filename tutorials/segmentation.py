# ---
# section: Classification and images
# order: 23
# thumbnail: maps
# ---

# %% [markdown]
# # Segmentation with maps of uncertainty
#
# A network labels every pixel of an image, and its uncertainty is a map. Here the uncertainty of the labels is known,
# so that the map can be compared with the true one, and there are images unlike those of the training.

# %%
import torch
from lightning import Trainer, seed_everything
from matplotlib.figure import Figure

from lightning_vi import ConformalRiskControl, LastLayerVI
from lightning_vi.backbones import UNet
from lightning_vi.datamodules import ShapesDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.functional import auroc, covered_share
from lightning_vi.likelihoods import Categorical
from lightning_vi.metrics import ImageCoverage
from lightning_vi.plots import plot_segmentation

# %% [markdown]
# ## Data
#
# Gray images of disks and squares; squares are brighter. Annotators do not agree on the borders: a labeled border is
# off by a random distance with a standard deviation of one pixel. `probs_test` has the probability of each label given
# the true shapes. A frame of two pixels has no labels; its number is 255.

# %%
seed_everything(0)
dm = ShapesDataModule(n_images=160)
observed = dm.Y_test != dm.ignore_index
print(dm, f"labeled pixels of an image: {observed[0].sum()}", sep="\n")

# %% [markdown]
# ## Fit
#
# `UNet` ends in logits [B, 3, H, W], and `Categorical` takes them with labels [B, H, W]. `LastLayerVI` has a posterior
# over the last convolution. The NLL is the sum over the 400 pixels of an image.

# %%
network = UNet(n_channels=1, n_outputs=3, n_features=8, n_levels=2)
method = LastLayerVI(network, Categorical(3, ignore_index=255), num_mc_samples_train=2, num_mc_samples_test=20)
trainer = Trainer(max_epochs=30, logger=False, enable_checkpointing=False, limit_val_batches=0)
trainer.fit(method, dm)
(found,) = trainer.test(method, dm, verbose=False)
print({name: round(found[f"test_{name}"], 3) for name in ("accuracy", "miou", "nll", "brier", "ece")})

# %% [markdown]
# ## Maps
#
# Predictions have probabilities of each pixel, the predictive entropy, and the mutual information, its epistemic part.

# %%
inside = method.predict(dm.X_test)
plot_segmentation(dm.X_test, inside, dm.Y_test, ignore_index=255, class_names=dm.class_names, max_images=4).savefig(
    "maps.png"
)

# %% [markdown]
# The entropy is large along borders. In the second image the label has a far larger disk than the image; no network can
# know that. Pixels of the frame are predicted too, and mean nothing. The mutual information is hundreds of times
# smaller: the posterior is one over the 27 weights of the last layer, which 64 000 pixels determine.
#
# ## Comparison with the true uncertainty
#
# The entropy of the true probabilities is what no network can remove. The expected entropy, the aleatoric part of a
# prediction, should equal it.

# %%
true = torch.special.entr(dm.probs_test).sum(1)
correlation = torch.corrcoef(torch.stack([true[observed], inside.expected_entropy[observed]]))[0, 1]
print(
    f"mean entropy in nats: true {true[observed].mean():.2f}, predicted {inside.expected_entropy[observed].mean():.2f}"
)
print(f"correlation over pixels: {correlation:.2f}")
best = dm.probs_test.gather(1, torch.where(observed, dm.Y_test, 0).unsqueeze(1))[:, 0].log()
print(f"NLL of the true probabilities: {-(best * observed).sum((1, 2)).mean():.1f}")
wrong = inside.probs.argmax(1) != dm.Y_test
unavoidable = (dm.probs_test.argmax(1) != dm.Y_test)[observed].float().mean()
print(f"wrong pixels: {wrong[observed].float().mean():.1%}, with the true probabilities {unavoidable:.1%}")
for low, high in ((0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 1.1)):
    chosen = observed & (inside.predictive_entropy >= low) & (inside.predictive_entropy < high)
    share, errors = chosen.sum() / observed.sum(), wrong[chosen].float().mean()
    print(f"entropy {low} to {high} nats: {share:.0%} of the pixels, {errors:.0%} of them wrong")

figure = Figure(figsize=(9.5, 4.6), layout="constrained")
columns = {
    "image": dm.X_test[:, 0],
    "entropy of the true probabilities": true,
    "expected entropy": inside.expected_entropy,
    "wrong pixels": (wrong & observed).float(),
}
panels = figure.subplots(2, 4)
for axes, (title, maps) in zip(panels.T, columns.items(), strict=True):
    axes[0].set_title(title, fontsize=10)
    limits = {} if title == "image" else {"vmin": 0.0, "vmax": 1.0}
    cmap = {"image": "gray", "wrong pixels": "Reds"}.get(title, "magma")
    shown = maps if title == "image" else torch.where(observed, maps, torch.nan)
    for ax, each in zip(axes, shown, strict=False):
        drawn = ax.imshow(each, cmap=cmap, **limits)
        ax.set(xticks=[], yticks=[])
        if title == "expected entropy":
            figure.colorbar(drawn, ax=ax, shrink=0.8, label="nats")
figure.savefig("entropy.png")

# %% [markdown]
# The map resembles the true one. Its mean is a little larger, and the NLL is above that of the true probabilities:
# the network knows the shapes only by their noisy images. The entropy tells where errors are: six pixels in ten have
# less than 0.1 nats, with 1% of them wrong, and where it is largest nearly half are wrong. Most errors are those of
# labels that are off: with the true probabilities 9.6% would be wrong, and with the network 11.5% are.
#
# ## Sets of classes
#
# `ConformalRiskControl` gives each pixel a set of classes. On average over images, at most 10% of an image's labels are
# outside of their sets. This holds for any network, if the images are like those of the calibration.

# %%
control = ConformalRiskControl(method, risk=0.1)
control.calibrate(dm.calibration_dataloader())
control.test_metrics.add_metrics({"image_coverage": ImageCoverage(share=0.9)})
(found,) = trainer.test(control, dm, verbose=False)
print({name: round(found[f"test_{name}"], 3) for name in ("conformal_risk", "conformal_set_size", "image_coverage")})

# %% [markdown]
# The risk is 8.8%, and a set has 1.06 classes on average: a second one is needed at few pixels. It is an average
# over images. Of the single images 60% have at least 90% of their labels inside.
#
# One class may be the one that matters. With `positive_class` the risk is the share of its pixels that are missed:

# %%
squares = ConformalRiskControl(method, risk=0.1, positive_class=2)
squares.calibrate(dm.calibration_dataloader())
(found,) = trainer.test(squares, dm, verbose=False)
print({name: round(found[f"test_{name}"], 3) for name in ("conformal_risk", "conformal_set_size")})

# %% [markdown]
# ## Out of distribution
#
# The shapes are now darker than the background, which the network has never seen.

# %%
outside = method.predict(dm.X_ood)
labeled = dm.Y_ood != dm.ignore_index
for name, prediction, labels, mask in (
    ("inside", inside, dm.Y_test, observed),
    ("outside", outside, dm.Y_ood, labeled),
):
    right = (prediction.probs.argmax(1) == labels)[mask & (labels > 0)].float().mean()
    entropy, information = prediction.predictive_entropy[mask].mean(), prediction.mutual_information[mask].mean()
    print(f"{name}: {right:.0%} of the shapes' pixels right, entropy {entropy:.2f}, information {information:.5f} nats")
for score in ("pred_uct", "epistemic_uct", "nearest_neighbors"):
    detection = ood_detection(
        method, [dm.X_test], [dm.X_ood], score=score, training_data=dm.ordered_train_dataloader()
    )  # fmt: skip
    print(f"AUROC of {score}: {detection.auroc:.2f}")
darkest_in, darkest_out = (-images.amin((1, 2, 3)) for images in (dm.X_test, dm.X_ood))
print(f"AUROC of the darkest pixel: {auroc(darkest_in, darkest_out):.2f}")
plot_segmentation(dm.X_ood, outside, dm.Y_ood, ignore_index=255, class_names=dm.class_names, max_images=3).savefig(
    "out_of_distribution.png"
)

# %% [markdown]
# The network finds 22% of the shapes' pixels, and hardly knows it. Entropy rises where the shapes are, but only from
# 0.22 to 0.26 nats on average, and the mutual information stays the same: the last layer's weights are certain, and
# the uncertainty of the features before it is not part of the posterior. An AUROC of 0.5 is chance. The distance to
# the nearest training features, averaged over pixels, is even *smaller* for these images. The darkest pixel alone,
# which needs no network, separates them: look at the inputs too.
#
# The guarantee of the sets does not hold either.

# %%
figure = Figure(figsize=(6, 3), layout="constrained")
ax = figure.subplots()
for name, images, labels in (("inside", dm.X_test, dm.Y_test), ("outside", dm.X_ood, dm.Y_ood)):
    missed = 1 - covered_share(control.predict(images).pred_set, labels, labels != dm.ignore_index)
    below = (missed <= 0.1).float().mean()
    print(f"{name}: {missed.mean():.1%} of the labels missed, at most 10% in {below:.0%} of the images")
    ax.hist(missed.numpy(), bins=24, range=(0, 0.6), alpha=0.6, label=name)
ax.axvline(0.1, color="black", linestyle=":", label="risk")
ax.set(xlabel="share of an image's labels outside of their sets", ylabel="images")
ax.legend()
figure.savefig("risk.png")

# %% [markdown]
# Outside, 23.5% of the labels are missed instead of 10%. The guarantee is for images like those of the calibration; to
# have it for other images, calibrate on such images.
