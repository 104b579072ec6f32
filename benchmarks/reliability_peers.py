"""The same faults put to this library and to its peers: which end right, which are refused, which give wrong numbers.

    python benchmarks/reliability_peers.py

lightning-uq-box and torch-uncertainty take part if they are installed. Each library trains its own Monte Carlo dropout
network (SWAG for the best checkpoint, mean-field variational inference for growing data) on the same rows. A case
*survives* if the answer is the right one, or if an error says what is wrong where there is no answer; it *fails* if the
run ends as if well with a wrong number, or in an error from deep inside, or refuses what has an answer.
"""

import argparse
import copy
import importlib.metadata
import logging
import random
import tempfile
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

RAW_ERRORS = (IndexError, AttributeError, KeyError, AssertionError, NameError, TypeError)
Outcome = tuple[bool, str]


def network(num_outputs: int) -> nn.Sequential:
    """Returns the network of every library."""
    return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, num_outputs))


def regression_rows(num_rows: int = 128, mean: float = 0.0) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets of a smooth function with noise 0.1."""
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(num_rows, 2, generator=noise)
    return x, mean + x[:, :1].sin() + 0.1 * torch.randn(num_rows, 1, generator=noise)


class Library(ABC):
    """One library's names for the same things."""

    package: str
    takes_dictionaries = False
    target_dims = 2

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    @abstractmethod
    def regressor(self, learning_rate: float = 3e-3) -> LightningModule:
        """Returns a Monte Carlo dropout network with a learned noise."""

    @abstractmethod
    def classifier(self) -> LightningModule:
        """Returns a Monte Carlo dropout network of three classes."""

    @abstractmethod
    def swag(self) -> LightningModule:
        """Returns SWAG with snapshots from the first epoch on."""

    def growing(self) -> tuple[LightningModule, Callable[[LightningModule], int]] | None:
        """Returns a variational method and a function that reads the size of the training set from it."""
        return None

    @abstractmethod
    def mean(self, model: LightningModule, x: Tensor) -> Tensor:
        """Returns the predictive mean, shape [B]."""

    def dataset(self, x: Tensor, y: Tensor) -> Dataset[Any]:
        """Returns rows in the form that the library takes."""
        y = y.squeeze(-1) if y.is_floating_point() and self.target_dims == 1 else y
        rows = TensorDataset(x, y)
        return Dictionaries(rows) if self.takes_dictionaries else rows

    def loader(self, x: Tensor, y: Tensor) -> DataLoader[Any]:
        """Returns batches of 32."""
        return DataLoader(self.dataset(x, y), batch_size=32)


class Dictionaries(Dataset[dict[str, Tensor]]):
    """Rows as dictionaries."""

    def __init__(self, rows: TensorDataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = self.rows[index]
        return {"input": x, "target": y}


class Ours(Library):
    """This library."""

    package = "lightning-vi"

    def regressor(self, learning_rate: float = 3e-3) -> LightningModule:  # noqa: D102
        from lightning_vi import MCDropout
        from lightning_vi.likelihoods import HeteroscedasticGaussian

        return MCDropout(network(2), HeteroscedasticGaussian(), optimizer=partial(torch.optim.Adam, lr=learning_rate))

    def classifier(self) -> LightningModule:  # noqa: D102
        from lightning_vi import MCDropout
        from lightning_vi.likelihoods import Categorical

        return MCDropout(network(3), Categorical(3))

    def swag(self) -> LightningModule:  # noqa: D102
        from lightning_vi import SWAG
        from lightning_vi.likelihoods import Gaussian

        return SWAG(network(1), Gaussian(), start_epoch=0)

    def growing(self) -> tuple[LightningModule, Callable[[LightningModule], int]]:  # noqa: D102
        from lightning_vi import MeanFieldVI
        from lightning_vi.likelihoods import Gaussian

        return MeanFieldVI(network(1), Gaussian()), lambda model: int(model.num_data)

    def mean(self, model: LightningModule, x: Tensor) -> Tensor:  # noqa: D102
        return model.predict(x).mean.squeeze(-1)


class UQBox(Library):
    """lightning-uq-box."""

    package = "lightning-uq-box"
    takes_dictionaries = True

    def regressor(self, learning_rate: float = 3e-3) -> LightningModule:  # noqa: D102
        from lightning_uq_box.uq_methods import NLL, MCDropoutRegression

        return MCDropoutRegression(network(2), 50, NLL(), optimizer=partial(torch.optim.Adam, lr=learning_rate))

    def classifier(self) -> LightningModule:  # noqa: D102
        from lightning_uq_box.uq_methods import MCDropoutClassification

        return MCDropoutClassification(network(3), 50, nn.CrossEntropyLoss())

    def swag(self) -> LightningModule:  # noqa: D102
        from lightning_uq_box.uq_methods import SWAGRegression

        return SWAGRegression(network(1), 10, 1, 20, 0.01, nn.MSELoss())

    def growing(self) -> tuple[LightningModule, Callable[[LightningModule], int]]:  # noqa: D102
        from lightning_uq_box.uq_methods import BNN_VI_ELBO_Regression

        model = BNN_VI_ELBO_Regression(network(1), nn.MSELoss(), burnin_epochs=0)
        return model, lambda model: int(model.num_training_points)

    def mean(self, model: LightningModule, x: Tensor) -> Tensor:  # noqa: D102
        return model.predict_step(x)["pred"].reshape(len(x), -1)[:, 0]


class TorchUncertainty(Library):
    """torch-uncertainty."""

    package = "torch-uncertainty"
    target_dims = 1

    def regressor(self, learning_rate: float = 3e-3) -> LightningModule:  # noqa: D102
        from torch_uncertainty.losses import DistributionNLLLoss
        from torch_uncertainty.methods import mc_dropout
        from torch_uncertainty.models.mlp import mlp
        from torch_uncertainty.routines import RegressionRoutine

        core = mlp(2, 1, hidden_dims=[32], dropout_rate=0.1, dist_family="normal")
        model = mc_dropout(core, num_estimators=50, task="regression", probabilistic=True)
        return RegressionRoutine(
            model,
            output_dim=1,
            loss=DistributionNLLLoss(),
            dist_family="normal",
            optim_recipe=torch.optim.Adam(model.parameters(), lr=learning_rate),
        )

    def classifier(self) -> LightningModule:  # noqa: D102
        from torch_uncertainty.methods import mc_dropout
        from torch_uncertainty.routines import ClassificationRoutine

        model = mc_dropout(network(3), num_estimators=50)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        return ClassificationRoutine(model, 3, nn.CrossEntropyLoss(), is_ensemble=True, optim_recipe=optimizer)

    def swag(self) -> LightningModule:  # noqa: D102
        from torch_uncertainty.methods import SWAG
        from torch_uncertainty.routines import RegressionRoutine

        model = SWAG(network(1), cycle_start=0, cycle_length=1)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        return RegressionRoutine(model, output_dim=1, loss=nn.MSELoss(), is_ensemble=True, optim_recipe=optimizer)

    def mean(self, model: LightningModule, x: Tensor) -> Tensor:  # noqa: D102
        model.eval()
        with torch.no_grad():
            return model.evaluation_forward(x)[0].reshape(len(x), -1)[:, 0]


def trainer(folder: Path, **options: Any) -> Trainer:
    """Returns a quiet trainer."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, **{"max_epochs": 3, "enable_checkpointing": False, **quiet, **options})


def fitted(library: Library, folder: Path, epochs: int = 30) -> LightningModule:
    """Returns a trained regressor."""
    model = library.regressor()
    trainer(folder, max_epochs=epochs).fit(model, library.loader(*regression_rows()))
    return model


def two_test_loaders(library: Library, folder: Path) -> Outcome:
    """Good and bad targets in two loaders must give two results."""
    model = fitted(library, folder)
    x, y = regression_rows()
    results = trainer(folder).test(model, [library.loader(x, y), library.loader(x, y + 10)], verbose=False)
    errors = [value for result in results for name, value in result.items() if "rmse" in name.lower()]
    return len(errors) > 1 and min(errors) < 1 < 9 < max(errors), f"RMSE {[round(error, 2) for error in errors]}"


def nan_test_targets(library: Library, folder: Path) -> Outcome:
    """A missing test target must not become a NaN score."""
    model = fitted(library, folder, epochs=2)
    x, y = regression_rows()
    y[5] = torch.nan
    result = trainer(folder).test(model, library.loader(x, y), verbose=False)[0]
    return False, "scores " + str(sorted({f"{float(value):.2g}" for value in result.values()}))[:60]


def labels_out_of_range(library: Library, folder: Path) -> Outcome:
    """Label 3 of three classes in the test set."""
    model, (x, y) = library.classifier(), regression_rows()
    labels = (y.squeeze(-1) > 0).long()
    trainer(folder, max_epochs=2).fit(model, library.loader(x, labels))
    result = trainer(folder).test(model, library.loader(x, torch.full_like(labels, 3)), verbose=False)
    return False, f"no error, {len(result[0])} scores"


class PoisonedRows(Dataset[Any]):
    """Rows whose targets are NaN after the first epoch."""

    def __init__(self, rows: Dataset[Any]) -> None:
        self.rows = rows
        self.num_reads = 0

    def __len__(self) -> int:
        return len(self.rows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        row = copy.deepcopy(self.rows[index])
        self.num_reads += 1
        if self.num_reads > 1.5 * len(self):
            (row["target"] if isinstance(row, dict) else row[1]).fill_(torch.nan)
        return row


def nan_targets_later(library: Library, folder: Path) -> Outcome:
    """NaN targets from the second epoch on must stop the fit."""
    model, (x, y) = library.regressor(), regression_rows()
    trainer(folder).fit(model, DataLoader(PoisonedRows(library.dataset(x, y)), batch_size=32))
    return is_finite(library, model, x)


def learning_rate_of_a_million(library: Library, folder: Path) -> Outcome:
    """A fit that explodes must not end as if well."""
    model, (x, y) = library.regressor(learning_rate=1e6), regression_rows()
    trainer(folder, max_epochs=20).fit(model, library.loader(x, y))
    return is_finite(library, model, x)


def is_finite(library: Library, model: LightningModule, x: Tensor) -> Outcome:
    """A fit that ended must predict finite numbers of a sensible size."""
    mean = library.mean(model, x)
    return bool(mean.isfinite().all() and mean.abs().max() < 1e3), f"ended; largest prediction {mean.abs().max():.3g}"


def four_threads(library: Library, folder: Path) -> Outcome:
    """Answers of SWAG to four threads must be those to one, up to the noise of Monte Carlo samples."""
    model = library.swag()
    trainer(folder, max_epochs=6).fit(model, library.loader(*regression_rows()))
    x, _ = regression_rows(8)
    alone = torch.stack([library.mean(model, x) for _ in range(100)])
    low, high = alone.mean(0) - 8 * alone.std(0) - 1e-5, alone.mean(0) + 8 * alone.std(0) + 1e-5
    wrong: list[str] = []

    def ask() -> None:
        for _ in range(100):
            try:
                mean = library.mean(model, x)
                if not ((low <= mean) & (mean <= high)).all():
                    wrong.append("value")
            except Exception as error:
                wrong.append(type(error).__name__)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return not wrong, f"{len(wrong)} of 400 answers wrong"


def flipped_bits(library: Library, folder: Path) -> Outcome:
    """A checkpoint with a flipped bit must be refused, or predict as before."""
    model, (x, y) = library.regressor(), regression_rows()
    fit = trainer(folder, max_epochs=5, enable_checkpointing=True)
    fit.fit(model, library.loader(x, y))
    path = folder / "whole.ckpt"
    fit.save_checkpoint(path)
    whole, generator, accepted = path.read_bytes(), random.Random(0), 0

    def weights() -> list[Tensor]:
        return [value.double() for value in model.state_dict().values() if value.is_floating_point()]

    before = [value.clone() for value in weights()]
    for _ in range(200):
        broken = bytearray(whole)
        broken[generator.randrange(len(broken))] ^= 1 << generator.randrange(8)
        (folder / "broken.ckpt").write_bytes(broken)
        try:
            trainer(folder, max_epochs=5).fit(model, library.loader(x, y), ckpt_path=folder / "broken.ckpt")
        except Exception:
            continue
        accepted += any(not torch.equal(one, other) for one, other in zip(before, weights(), strict=True))
        model.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
    return accepted == 0, f"{accepted} of 200 accepted with other numbers"


def best_checkpoint(library: Library, folder: Path) -> Outcome:
    """Test SWAG at the checkpoint of the best validation score."""
    model, (x, y) = library.swag(), regression_rows()
    names = {"lightning-vi": "val_nll", "torch-uncertainty": "val/reg/MSE"}
    checkpoint = ModelCheckpoint(folder, monitor=names.get(library.package), mode="min")
    fit = trainer(folder, max_epochs=6, enable_checkpointing=True, callbacks=[checkpoint])
    validation = [] if library.package == "lightning-uq-box" else [library.loader(x, y)]
    fit.fit(model, library.loader(x, y), *validation)
    result = fit.test(model, library.loader(x, y), ckpt_path="best", verbose=False)[0]
    errors = [value for name, value in result.items() if "rmse" in name.lower()]
    return bool(errors) and errors[0] < 2, f"RMSE {errors[0]:.2f}" if errors else "no RMSE"


class GrowingRows(LightningDataModule):
    """Twice as many rows in each epoch."""

    def __init__(self, library: Library) -> None:
        super().__init__()
        self.library = library
        self.num_rows = 50

    def train_dataloader(self) -> DataLoader[Any]:
        """Returns the rows that there are now."""
        self.num_rows *= 2
        return self.library.loader(*regression_rows(self.num_rows))


def growing_data(library: Library, folder: Path) -> Outcome:
    """The weight of the KL divergence must follow the number of rows."""
    parts = library.growing()
    if parts is None:
        return True, "not applicable: the user gives the weight"
    model, num_data = parts
    data = GrowingRows(library)
    trainer(folder, max_epochs=4, reload_dataloaders_every_n_epochs=1).fit(model, data)
    known = num_data(model)
    return known == data.num_rows, f"N = {known} of {data.num_rows}"


def targets_far_from_zero(library: Library, folder: Path) -> Outcome:
    """Targets of mean 28: the plain workflow must come near the noise of 0.1."""
    x, y = regression_rows(mean=28.0)
    model = library.regressor()
    trainer(folder, max_epochs=50).fit(model, library.loader(x, y))
    error = float((library.mean(model, x) - y.squeeze(-1)).square().mean().sqrt())
    return error < 1, f"RMSE {error:.2f}; the targets' std is {float(y.std()):.2f}"


NO_ANSWER = {
    "two test loaders",
    "NaN in the test targets",
    "labels out of range in test",
    "NaN targets from the second epoch on",
    "learning rate of a million",
}
CASES: dict[str, Callable[[Library, Path], Outcome]] = {
    "two test loaders": two_test_loaders,
    "NaN in the test targets": nan_test_targets,
    "labels out of range in test": labels_out_of_range,
    "NaN targets from the second epoch on": nan_targets_later,
    "learning rate of a million": learning_rate_of_a_million,
    "predictions from four threads": four_threads,
    "flipped bits in a checkpoint": flipped_bits,
    "SWAG at the best checkpoint": best_checkpoint,
    "training data that grow": growing_data,
    "targets of mean 28": targets_far_from_zero,
}


def outcome(name: str, library: Library) -> Outcome:
    """Runs a case; an error that says what is wrong counts as survived where there is no answer."""
    seed_everything(0, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return CASES[name](library, Path(folder))
        except Exception as error:
            message = str(error).splitlines()[0][:70] if str(error) else ""
            is_clear = name in NO_ANSWER and not isinstance(error, RAW_ERRORS)
            return is_clear, f"{type(error).__name__}: {message}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES), help="cases to run")
    chosen = parser.parse_args().cases
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    libraries: list[Library] = []
    for library in (Ours(), UQBox(), TorchUncertainty()):
        try:
            importlib.metadata.version(library.package)
        except importlib.metadata.PackageNotFoundError:
            continue
        libraries.append(library)
    print("| case | " + " | ".join(library.title for library in libraries) + " |")
    print("|---" * (len(libraries) + 1) + "|")
    survived = [0] * len(libraries)
    for name in chosen:
        cells = []
        for index, library in enumerate(libraries):
            is_right, note = outcome(name, library)
            survived[index] += is_right
            cells.append(f"{'yes' if is_right else '**no**'}: {note}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    totals = " | ".join(f"{number} of {len(chosen)}" for number in survived)
    print(f"| survived | {totals} |")


if __name__ == "__main__":
    main()
