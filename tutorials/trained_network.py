# ---
# section: Classification and images
# order: 21
# thumbnail: reliability
# ---

# %% [markdown]
# # Uncertainty for a network that is already trained
#
# A network that somebody has trained becomes a Bayesian one in three ways, from no work to some: MC dropout, if it
# has dropout; a Laplace approximation, one pass over the training data; a variational last layer, a short fit. The
# network here returns an output with `logits`, as those of Hugging Face's `transformers` do, and is trained in plain
# PyTorch.

# %%
from dataclasses import dataclass

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from torch import nn

from lightning_vi import Deterministic, Laplace, LastLayerVI, MCDropout, TemperatureScaling
from lightning_vi.datamodules import ArrayDataModule, DigitsDataModule
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical
from lightning_vi.plots import plot_calibration_curves

# %% [markdown]
# ## The network
#
# It reads an image as a sequence of eight rows of pixels. `torch.save` writes a state dictionary, all that is needed
# later.


# %%
@dataclass
class ClassifierOutput:
    logits: torch.Tensor
    hidden: torch.Tensor


class RowTransformer(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        self.encoder = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(width, 10)

    def forward(self, pixels):
        hidden = self.encoder(self.embed(pixels.squeeze(1)) + self.position).mean(1)
        return ClassifierOutput(self.classifier(self.dropout(hidden)), hidden)


seed_everything(0)
digits = DigitsDataModule(as_images=True, test_fraction=0.5)
few = 300  # images for training: few, so that there is something to be unsure of
dm = ArrayDataModule(
    train=(digits.X_train[:few], digits.Y_train[:few]),
    val=(digits.X_val, digits.Y_val),
    test=(digits.X_test, digits.Y_test),
    num_classes=10,
)
network = RowTransformer()
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
for _ in range(60):
    for x, y in dm.train_dataloader():
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x).logits, y).backward()
        optimizer.step()
torch.save(network.state_dict(), "trained.pt")

# %% [markdown]
# ## Three posteriors
#
# Each method takes a copy of the network and leaves it as it is. `is_trained = True` says that the weights come from
# elsewhere. `from_pretrained` makes the trained weights the means of prior and posterior, and `freeze_backbone`
# trains nothing but the last layer.

# %%
pretrained = RowTransformer()
pretrained.load_state_dict(torch.load("trained.pt", weights_only=True))
quiet = {"logger": False, "enable_checkpointing": False}

plain = Deterministic(pretrained, Categorical(10))
plain.is_trained = True

dropout = MCDropout(pretrained, Categorical(10), num_mc_samples_test=50)
dropout.is_trained = True

laplace = Laplace(pretrained, Categorical(10))
laplace.fit_posterior(dm.train_dataloader())

last_layer = LastLayerVI.from_pretrained(pretrained, Categorical(10), freeze_backbone=True, num_mc_samples_test=50)
Trainer(max_epochs=30, limit_val_batches=0, **quiet).fit(last_layer, dm)
print(last_layer.conversion)

# %% [markdown]
# ## Scores
#
# The baseline to beat is not the plain network alone, but the plain network with one number, a temperature, that is
# fitted to the validation images. Out of distribution are the test images turned by 90 degrees.

# %%
scaled = TemperatureScaling(plain)
scaled.calibrate(dm.val_dataloader())
methods = {
    "trained network": plain,
    "with a temperature": scaled,
    "MC dropout": dropout,
    "Laplace": laplace,
    "last-layer VI": last_layer,
}
turned = list(dm.X_test.rot90(1, (2, 3)).split(64))
rows = {}
for name, method in methods.items():
    (scores,) = Trainer(**quiet).test(method, dm, verbose=False)
    rows[name] = {key: scores[f"test_{key}"] for key in ("accuracy", "nll", "ece")}
    rows[name]["AUROC turned"] = ood_detection(method, dm.test_dataloader(), turned).auroc
print(pd.DataFrame(rows).T.round(3))

# %% [markdown]
# The accuracy is the same for all; what changes is the confidence. The Laplace approximation and MC dropout take a
# fifth off the NLL, and so does the temperature, the cheapest of all. The variational last layer has a *higher* NLL
# than the network that it started from: it was trained on, on images that the network knows by heart. None of them
# helps to notice the turned images, whose AUROC is that of the trained network or slightly less: the features decide
# what looks unusual, and no posterior of a last layer changes the features.
#
# So try them in the order of their price, and keep validation data to see whether they help.

# %%
predictions = {name: method.predict(dm.X_test) for name, method in methods.items()}
plot_calibration_curves(predictions, dm.Y_test, n_bins=8).savefig("reliability.png")
