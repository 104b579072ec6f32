# ---
# section: Classification and images
# order: 22
# thumbnail: rows
# ---

# %% [markdown]
# # Bayesian LoRA: a posterior over the adapters of a trained network
#
# A trained transformer is adapted to a new task from a few rows, and only small products of low rank, the adapters,
# are trained. A posterior over the adapters costs thousands of numbers where one over all weights would cost ten
# times as many. The old task is upright digits; the new one, digits that lie on their side.

# %%
import pandas as pd
import torch
from lightning import Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_vi import IVON, DeepEnsemble, Deterministic, MeanFieldVI
from lightning_vi.conversion import add_adapters, merge_low_rank_weights
from lightning_vi.likelihoods import Categorical
from lightning_vi.optim import cosine_decay
from lightning_vi.plots import plot_calibration_curves, plot_image_grid


# %%
class DigitTransformer(nn.Module):
    """Classifies sequences of eight rows of eight pixels, [B, 8, 8]."""

    def __init__(self, width=48):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


def fit(method, x, y, epochs, batch_size):
    """Fits a method and returns it."""
    trainer = Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False)
    trainer.fit(method, DataLoader(TensorDataset(x, y), batch_size, shuffle=True))
    return method


# %% [markdown]
# ## The trained network, and ten rows of each class of the new task

# %%
seed_everything(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
x = torch.tensor(digits.images, dtype=torch.float32)[order] / 8 - 1
y = torch.tensor(digits.target)[order]
plain = Deterministic(DigitTransformer(), Categorical(10), lr_scheduler=cosine_decay)
(network,) = fit(plain, x[:1000], y[:1000], epochs=15, batch_size=50).trained_networks()

turned = x.rot90(1, (1, 2))
few = torch.cat([(y[1000:1300] == label).nonzero()[:10, 0] + 1000 for label in range(10)])
x_few, y_few, x_test, y_test = turned[few], y[few], turned[1300:], y[1300:]
print(len(few), "rows for adapting,", len(x_test), "for testing")

# %% [markdown]
# ## Adapters
#
# `add_adapters` freezes a copy of the network and adds factors of rank 4 to each linear map of the encoder, attention
# included; the head is trained as it is. Any method then trains what is not frozen.

# %%
adapted = add_adapters(network, modules=["encoder"], rank=4, alpha=8, trainable=["head"])
trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
print(sum(p.numel() for p in network.parameters()), "weights in the network,", trainable, "in adapters and head")

METHODS = {
    "point estimate": lambda: Deterministic(adapted, Categorical(10), lr_scheduler=cosine_decay),
    "MeanFieldVI": lambda: MeanFieldVI(adapted, Categorical(10), num_mc_samples_train=2),
    "IVON": lambda: IVON(adapted, Categorical(10)),
    "ensemble of 5": lambda: DeepEnsemble(adapted, Categorical(10), num_members=5, lr_scheduler=cosine_decay),
}
test = DataLoader(TensorDataset(x_test, y_test), 500)
methods, rows = {"not adapted": plain}, {}
for name, make in METHODS.items():
    seed_everything(0, verbose=False)
    methods[name] = fit(make(), x_few, y_few, epochs=60, batch_size=20)
for name, method in methods.items():
    (scores,) = Trainer(logger=False).test(method, test, verbose=False)
    rows[name] = {key: scores[f"test_{key}"] for key in ("accuracy", "nll", "ece")}
print(pd.DataFrame(rows).T.round(3))

# %% [markdown]
# All adapters learn the new task from ten rows of each class. The point estimate is overconfident; each posterior has
# a lower NLL, and `IVON` the lowest, below that of five sets of adapters at the price of one. `MeanFieldVI` errs on
# the other side: its ECE is the largest, because its probabilities are too cautious.

# %%
predictions = {name: methods[name].predict(x_test) for name in METHODS}
plot_calibration_curves(predictions, y_test, n_bins=8).savefig("calibration.png")
plot_image_grid(x_test, predictions["IVON"], y_test).savefig("rows.png")

# %% [markdown]
# Four of the eight rows that `IVON` is least sure of are eights, and it takes six of these rows for other digits.
#
# ## One network again
#
# The means of the factors can be added to the frozen weights. The result has the layers of the original network,
# costs as much, and predicts without uncertainty.

# %%
merged = merge_low_rank_weights(methods["IVON"].backbone).eval()
print(type(merged).__name__)
print("accuracy:", round((merged(x_test).argmax(1) == y_test).float().mean().item(), 3))
