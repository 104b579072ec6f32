"""A fit that saves a checkpoint after each step, to be killed: ``python killed_fit.py FOLDER METHOD``."""

import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_vi import SWAG, DeepEnsemble, MeanFieldVI
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian

MAKERS: dict[str, Any] = {
    "MeanFieldVI": MeanFieldVI,
    "DeepEnsemble": partial(DeepEnsemble, num_members=3),
    "SWAG": partial(SWAG, start_epoch=1),
}
EPOCHS = 12
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}


def parts(name: str) -> tuple[Any, ArrayDataModule]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(3, 200), nn.Tanh(), nn.Linear(200, 2))
    x, y = torch.randn(24, 3), torch.randn(24, 1)
    method = MAKERS[name](network, HeteroscedasticGaussian(), optimizer=partial(torch.optim.Adam, lr=0.01))
    return method, ArrayDataModule(train=(x, y), test=(x, y), batch_size=8)


def run(name: str, folder: Path | None = None, path: Path | None = None) -> Any:
    """Fits to the end, from a checkpoint if there is one."""
    for message in (".*does not have many workers.*", ".*isinstance.treespec.*", ".*Be aware that when using.*"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", ".*no `val_dataloader`.*|.*Total length of .*")
    method, data = parts(name)
    callbacks: Any = []
    if folder is not None:
        callbacks = [ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)]
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        limit_val_batches=0,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        **QUIET,  # type: ignore[arg-type]
    )
    trainer.fit(method, data, ckpt_path=path)
    return method


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    run(sys.argv[2], Path(sys.argv[1]))
