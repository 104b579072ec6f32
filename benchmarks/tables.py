"""Rows x time and memory: a table of many rows is fitted for an epoch, and a new one predicted.

    python benchmarks/tables.py                     # 1e6 rows
    python benchmarks/tables.py --rows 100000

Each step is a process of its own. The peak is that of its resident memory, from which that of the same step on a table
of 1000 rows, with PyTorch and Lightning loaded, is subtracted.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = 10
LEVELS = 8


def write_table(path: Path, rows: int, seed: int) -> None:
    """Writes a table of numbers and categories, chunk by chunk."""
    noise = np.random.default_rng(seed)
    for start in range(0, rows, 100_000):
        size = min(100_000, rows - start)
        frame = pd.DataFrame(noise.normal(size=(size, COLUMNS)).round(4), columns=[f"x{k}" for k in range(COLUMNS)])
        frame["kind"] = noise.choice([f"level {k}" for k in range(LEVELS)], size)
        frame["y"] = (frame["x0"] * frame["x1"] + noise.normal(0, 0.1, size)).round(4)
        frame.to_csv(path, index=False, mode="w" if start == 0 else "a", header=start == 0)


def make_method(n_inputs: int):
    """Returns a method, and a Trainer of one epoch."""
    from lightning import Trainer

    from lightning_vi import MeanFieldVI
    from lightning_vi.backbones import MLP
    from lightning_vi.likelihoods import HeteroscedasticGaussian

    method = MeanFieldVI(
        MLP(n_inputs, [32], 2), HeteroscedasticGaussian(), num_mc_samples_train=2, num_mc_samples_test=10
    )
    return method, Trainer(max_epochs=1, logger=False, enable_progress_bar=False, enable_checkpointing=False)


def fit(folder: Path, rows: int) -> None:
    """Fits an epoch and writes a checkpoint."""
    from lightning_vi.datamodules import TabularDataModule

    data = TabularDataModule(folder / f"{rows}.csv", "y", "regression", batch_size=1024)
    method, trainer = make_method(data.n_inputs)
    trainer.fit(method, data)
    trainer.save_checkpoint(folder / f"{rows}.ckpt")


def predict(folder: Path, rows: int) -> None:
    """Predicts a new table by the checkpoint, and writes the predictions."""
    from lightning_vi.callbacks import PredictionWriter
    from lightning_vi.datamodules import NewTableDataModule

    data = NewTableDataModule(folder / f"new_{rows}.csv", folder / "1000.ckpt", batch_size=1024)
    method, trainer = make_method(len(data.feature_names))
    trainer.callbacks.append(PredictionWriter(folder, f"predictions_{rows}.csv"))
    trainer.predict(method, data, return_predictions=False, ckpt_path=folder / "1000.ckpt", weights_only=True)


def measure(step: str, folder: Path, rows: int) -> tuple[float, float]:
    """Returns the seconds and the peak of the resident memory in MB of a step, in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--rows", str(rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = done.stdout.splitlines()[-1].split()
    return float(seconds), float(peak)


def main() -> None:
    """Prints the tables, or runs one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step", choices=["fit", "predict"])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.step:
        start = time.perf_counter()
        {"fit": fit, "predict": predict}[options.step](options.folder, options.rows)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.perf_counter() - start, peak)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for rows in (1000, options.rows // 10, options.rows):
            write_table(folder / f"{rows}.csv", rows, seed=0)
            write_table(folder / f"new_{rows}.csv", rows, seed=1)
        print("| step | rows | seconds | peak MB beyond that of 1000 rows |\n|---|---|---|---|")
        for step in ("fit", "predict"):
            _, base = measure(step, folder, 1000)
            for rows in (options.rows // 10, options.rows):
                seconds, peak = measure(step, folder, rows)
                print(f"| {step} | {rows} | {seconds:.0f} | {peak - base:.0f} |", flush=True)


if __name__ == "__main__":
    main()
