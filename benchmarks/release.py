"""Builds the wheel and the source distribution, and tries them in empty environments.

pip install build twine
python benchmarks/release.py                 # with the newest and the oldest dependencies of pyproject.toml
python benchmarks/release.py --torch 2.13.0  # the same, with one version of PyTorch in both

Each environment installs the wheel alone, runs a fit from a configuration that comes with the package, and predicts.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = ("lightning_vi/py.typed", "lightning_vi/configs/regression/mean_field_vi.yaml")
SMOKE = """
import importlib.metadata, pathlib, torch, lightning_vi
from lightning import Trainer
from lightning_vi import MeanFieldVI, TemperatureScaling
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import TabularDataModule, TwoMoonsDataModule
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.plots import plot_reliability_diagram

assert "site-packages" in lightning_vi.__file__, lightning_vi.__file__
pathlib.Path("table.csv").write_text("a,b,y\\n" + "\\n".join(f"{i},{i % 7},{i / 3}" for i in range(90)))
table = TabularDataModule("table.csv", "y", "regression")
for method, data in (
    (MeanFieldVI(MLP(2, [8], 1), Gaussian()), table),
    (MeanFieldVI(MLP(2, [8], 2), Categorical(2)), TwoMoonsDataModule()),
):
    trainer = Trainer(max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.fit(method, data)
    trainer.test(method, data)
    method.predict(data.X_test)
probs = method.predict(data.X_test).probs
plot_reliability_diagram(probs, data.Y_test).savefig("reliability.png")
for name in ("torch", "lightning", "torchmetrics", "numpy", "pandas", "matplotlib", "scikit-learn", "jsonargparse"):
    print(name, importlib.metadata.version(name))
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Runs a command, or ends with its output if it fails."""
    result = subprocess.run([str(part) for part in command], cwd=cwd, text=True, capture_output=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    if "-c" in command:
        print(result.stdout[result.stdout.rfind("torch ") :])


def build(folder: Path) -> Path:
    """Builds and checks both distributions, and returns the wheel."""
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    distributions = sorted(folder.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions, cwd=folder)
    wheel = next(path for path in distributions if path.suffix == ".whl")
    missing = set(FILES) - set(zipfile.ZipFile(wheel).namelist())
    if missing:
        sys.exit(f"{wheel.name} has no {', '.join(sorted(missing))}")
    return wheel


def lower_bounds() -> list[str]:
    """The oldest versions of all dependencies."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = (re.match(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", each) for each in dependencies)
    return [f"{bound[1]}=={bound[2]}" for bound in bounds if bound]


def try_wheel(wheel: Path, constraints: list[str], folder: Path) -> None:
    """Installs the wheel into a new environment and uses it."""
    folder.mkdir()
    file = folder / "constraints.txt"
    file.write_text("\n".join(constraints))
    venv.create(folder / "venv", with_pip=True)
    programs = folder / "venv" / "bin"
    run(programs / "pip", "install", "--quiet", "--constraint", file, wheel, cwd=folder)
    run(programs / "python", "-I", "-c", SMOKE, cwd=folder)
    config = ("--config", "configs/regression/mean_field_vi.yaml", "--trainer.fast_dev_run", "2")
    run(programs / "lightning-vi", "fit", *config, cwd=folder)


def main() -> None:
    """Builds, checks and tries."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch", help="version of PyTorch (default: the oldest and the newest)")
    parser.add_argument("--only", choices=["oldest", "newest"], help="one of the two environments")
    options = parser.parse_args()
    chosen = [f"torch=={options.torch}"] if options.torch else []
    oldest = [bound for bound in lower_bounds() if not (chosen and bound.startswith("torch=="))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dist").mkdir()
        wheel = build(folder / "dist")
        for label, constraints in (("newest", chosen), ("oldest", oldest + chosen)):
            if options.only in (None, label):
                print(f"{label}: {', '.join(constraints)}")
                try_wheel(wheel, constraints, folder / label)


if __name__ == "__main__":
    main()
