"""One process of `test_several_machines.py`: trains, tests and predicts, and writes what it found."""

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from helpers import loader, quiet_trainer

from lightning_vi import Deterministic, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.core import UQMethod
from lightning_vi.likelihoods import Gaussian

ROWS = 48
Maker = Callable[..., UQMethod]
METHODS: dict[str, Maker] = {"deterministic": Deterministic, "mean_field": MeanFieldVI}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 3, generator=generator)
    return x, x.sum(1, keepdim=True) + torch.randn(ROWS, 1, generator=generator)


def make(name: str) -> UQMethod:
    torch.manual_seed(5)
    return METHODS[name](MLP(3, [4], 1), Gaussian(), optimizer=partial(torch.optim.SGD, lr=0.05))


def main(folder: Path, num_nodes: int, batch_size: int) -> None:
    x, y = data()
    for name in METHODS:
        method = make(name)
        trainer = quiet_trainer(num_nodes=num_nodes, strategy="ddp" if num_nodes > 1 else "auto", max_epochs=4)
        trainer.fit(method, loader(x, y, batch_size=batch_size))
        report = {
            "num_data": method.num_data,
            "train_loss": float(trainer.callback_metrics["train_loss"]),
            "state": {key: value for key, value in method.state_dict().items() if isinstance(value, torch.Tensor)},
        }
        (metrics,) = trainer.test(method, loader(x, y, batch_size=batch_size), verbose=False)
        report["metrics"] = {key: float(value) for key, value in metrics.items()}
        report["pred"] = method.predict(x, seed=3).mean
        report["world_size"], report["node"] = trainer.world_size, trainer.node_rank
        torch.save(report, folder / f"{name}_{num_nodes}_{trainer.global_rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
