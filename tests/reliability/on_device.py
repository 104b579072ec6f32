"""Runs cases on the CPU and on another device, and prints their errors as JSON.

    python tests/reliability/on_device.py sim
    python tests/reliability/on_device.py cuda --all

It is a script because a PyTorch backend cannot be taken back, and needs the folders `tests` and `tests/methods` on the
path. Random numbers are those of the CPU. With "--all" it runs every case; "--part 2/8" is the second eighth of them.
"""

import copy
import io
import itertools
import json
import logging
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerators import SIMULATED, CPUDraws, CPUGenerator, Waits
from helpers import quiet_trainer
from lightning.pytorch.callbacks import Callback, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from matplotlib import pyplot as plt
from method_cases import CASES, DEFAULT, METHODS, Case
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_vi import (
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    Deterministic,
    Ensemble,
    Laplace,
    MeanFieldVI,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
    evaluation,
    plots,
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian

QUICK = (
    "MeanFieldVI",
    "FullRankVI",
    "Laplace",
    "SWAG",
    "DeepEnsemble",
    "MCDropout",
    "VBLL",
    "LatentVariableVI",
    "SNGP",
)
NAME = sys.argv[1] if __name__ == "__main__" else "cpu"
if NAME == SIMULATED:
    import simulated_device

DEVICE = torch.device(NAME, 0)
PART, PARTS = map(int, sys.argv[sys.argv.index("--part") + 1].split("/")) if "--part" in sys.argv else (1, 1)
COUNT = itertools.count()
WAITS = Waits()
X = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))
Y, LABELS = X[:, :1] ** 2, torch.arange(24) % 3
RESULTS: dict[str, str] = {}


def trainer(device: torch.device, **options: Any) -> Any:
    if device.type == "cpu":
        return quiet_trainer(inference_mode=False, **options)
    strategy = SingleDeviceStrategy(device=DEVICE)
    accelerator: Any = simulated_device.SimulatedAccelerator() if DEVICE.type == SIMULATED else "auto"
    return quiet_trainer(accelerator=accelerator, strategy=strategy, inference_mode=False, **options)


def batches(x: Tensor, y: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, y), batch_size=6)


def on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu").double()
    if isinstance(value, dict):
        return {name: on_cpu(entry) for name, entry in value.items()}
    return [on_cpu(entry) for entry in value] if isinstance(value, list | tuple) else value


def attempt(name: str, act: Callable[[torch.device], Any], tolerance: float = 1e-3) -> None:
    """Compares what a case returns on the two devices."""
    if next(COUNT) % PARTS != PART - 1:
        return
    results = []
    try:
        for device in (torch.device("cpu"), DEVICE):
            torch.manual_seed(0)
            results.append(on_cpu(act(device)))
        torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance, equal_nan=True)
        RESULTS[name] = ""
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        RESULTS[name] = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"


def smooth_scores(used: Any, method: Any, data: DataLoader[Any]) -> dict[str, float]:
    """Test scores but for those in which rounding may move a row to the other side of a bound."""
    scores = used.test(method, data, verbose=False)[0]
    return {name: score for name, score in scores.items() if name != "test_ece" and not name.endswith("coverage")}


def trained(case: Case, device: torch.device, **options: Any) -> Any:
    x, y = case.problem.data()
    method = case.method.make(case.backbone(), case.problem.likelihood())
    used = trainer(device, max_epochs=2, **options)
    used.fit(method, batches(x, y))
    scores = smooth_scores(used, method, batches(x, y))
    predictions = used.predict(method, batches(x, y))
    if isinstance(method, Laplace) and DEVICE.type != SIMULATED:  # eigenvectors, which draws need, are not unique
        return method.to(device).point_outputs(x.to(device, method.dtype))
    return [scores, predictions]


def asked(case: Case, device: torch.device) -> Any:
    x, y = case.problem.data()
    method = case.build().to(device)
    terms = method.elbo(x.to(device), y.to(device), num_data=50)
    prediction = method.predict(x.to(device), return_samples=True)
    assert prediction.mean.device.type == device.type
    copied = copy.deepcopy(method).to("cpu")
    copied.load_state_dict(method.state_dict())
    assert copied.predict(x).mean.device.type == "cpu"
    return [list(terms), prediction.mean, prediction.total_var, prediction.samples, copied.predict(x.numpy()).mean]


def reloaded(case: Case, device: torch.device) -> Any:
    """A checkpoint of this device's fit, on the other device; and the fit resumed from it."""
    x, y = case.problem.data()
    with tempfile.TemporaryDirectory() as folder:
        saving = ModelCheckpoint(folder, save_last=True)
        method = case.method.make(case.backbone(), case.problem.likelihood())
        used = trainer(device, max_epochs=1, callbacks=[saving], enable_checkpointing=True)
        used.fit(method, batches(x, y))
        arguments: dict[str, Any] = {"backbone": case.backbone(), "likelihood": case.problem.likelihood()}
        arguments |= dict(getattr(case.method.make, "keywords", {}))
        other = DEVICE if device.type == "cpu" else torch.device("cpu")
        path = Path(folder) / "last.ckpt"
        kind: Any = type(method)
        loaded = kind.load_from_checkpoint(path, map_location="cpu", weights_only=True, **arguments).to(other)
        assert loaded.device.type == other.type
        resumed = case.method.make(case.backbone(), case.problem.likelihood())
        trainer(device, max_epochs=2).fit(resumed, batches(x, y), ckpt_path=path, weights_only=True)
        resumed = resumed.to(device)
        return [loaded.predict(x.to(other)).mean, resumed.predict(x.to(device)).mean]


def calibrated(kind: Any, case: Case, device: torch.device, with_trainer: bool) -> Any:
    x, y = case.problem.data()
    method = kind(case.build())
    if with_trainer:
        used = trainer(device)
        used.fit(method, batches(x, y))
        return [smooth_scores(used, method, batches(x, y)), used.predict(method, batches(x, y))]
    method = method.to(device)
    method.calibrate(batches(x, y))
    return method.predict_step(x.to(device))


def ensemble(device: torch.device) -> Any:
    members = [Case(name, "heteroscedastic").build() for name in ("MeanFieldVI", "Laplace", "DeepEnsemble")]
    joined = Ensemble(members).to(device)
    scores = trainer(device).test(joined, batches(X, Y), verbose=False)[0]
    return [scores, joined.to(device).predict_step(X.to(device))]


def classifier(device: torch.device) -> Any:
    return MeanFieldVI(MLP(3, [8], 3), Categorical(3), num_data=24).to(device)


def evaluated(device: torch.device) -> Any:
    method = classifier(device)
    curve = evaluation.selective_prediction(method, batches(X, LABELS))
    found = evaluation.ood_detection(method, batches(X, LABELS), batches(X + 5, LABELS))
    return [{k: v for k, v in vars(result).items() if not isinstance(v, str)} for result in (curve, found)]


def plotted(device: torch.device) -> Any:
    method = MeanFieldVI(MLP(1, [8], 1), Gaussian(), num_data=24).to(device)
    x = X[:, :1].to(device)
    result = method.predict_step(x)
    y = Y.to(device)
    plots.plot_predictions_regression(x, y, x, y, result["pred"], result["pred_uct"], epistemic=result["epistemic_uct"])
    plots.plot_calibration(result["pred"], result["pred_uct"], y)
    probs = classifier(device).predict_step(X.to(device))["pred"]
    plots.plot_reliability_diagram(probs, LABELS.to(device))
    plt.close("all")
    return 0


def tuned(device: torch.device) -> Any:
    method = Deterministic(MLP(3, [8], 1), Gaussian())
    method.lr = 0.01  # type: ignore[assignment]
    finder = LearningRateFinder(num_training_steps=5, early_stop_threshold=None, update_attr=False)
    with tempfile.TemporaryDirectory() as folder:
        used = trainer(device, callbacks=[finder], default_root_dir=folder, max_epochs=3)
        used.fit(method, batches(X, Y))
    assert finder.optimal_lr is not None
    return finder.optimal_lr.results["loss"]


def in_half_precision(case: Case, device: torch.device) -> Any:
    return trained(case, device, precision="bf16-true")


def by_default(case: Case, device: torch.device) -> Any:
    """After `torch.set_default_device`."""
    x, y = case.problem.data()
    with device:
        case.method.make(case.backbone(), case.problem.likelihood()).to(device)
    method = case.build().to(device)  # made on the CPU it has the same random numbers
    with device:
        terms = method.elbo(x.to(device), y.to(device), num_data=50)
        prediction = method.predict(x.to(device), return_samples=True)
    return [list(terms), prediction.mean, prediction.samples]


class CountedWaits(Callback):
    """Counts the waits of a training step after the first epoch, and of a prediction after the first batch."""

    def __init__(self) -> None:
        self.training: Counter[str] = Counter()
        self.prediction: Counter[str] = Counter()

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        WAITS.counts = self.training if trainer.current_epoch else None

    def on_predict_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        WAITS.counts = self.prediction if batch_idx else None

    def on_train_batch_end(self, *_: Any) -> None:
        WAITS.counts = None

    on_predict_batch_end = on_train_batch_end


def waits(case: Case, device: torch.device) -> Any:
    """A training step waits for nothing, and a prediction for whether weights have changed and numbers in buffers."""
    x, y = case.problem.data()
    method = case.method.make(case.backbone(), case.problem.likelihood())
    counted = CountedWaits()
    used = trainer(device, max_epochs=2, callbacks=[counted])
    used.fit(method, DataLoader(TensorDataset(x, y), batch_size=len(x) // 2))
    used.predict(method, DataLoader(TensorDataset(x, y), batch_size=len(x) // 2))
    training = {where: number for where, number in counted.training.items() if "sghmc.py" not in where}
    assert not training, training  # random numbers are those of the CPU here, which the noise of SGHMC waits for
    prediction = {where: number for where, number in counted.prediction.items() if "probe.py" not in where}
    assert sum(prediction.values()) <= 3, prediction  # a check of the network's Jacobians is made once
    return 0


def state_of(device: torch.device) -> Any:
    """A state dictionary that `torch.load(map_location=...)` moves."""
    method = classifier(device)
    file = io.BytesIO()
    torch.save(copy.deepcopy(method).to("cpu").state_dict(), file)
    file.seek(0)
    method.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return method.predict(X.to(device)).mean


def main() -> None:
    every = "--all" in sys.argv
    pairs = [case for case in (CASES if every else DEFAULT) if every or case.method_name in QUICK]
    if not every:
        seen: set[str] = set()
        pairs = [case for case in pairs if not (case.method_name in seen or seen.add(case.method_name))]  # type: ignore[func-returns-value]
    for case in pairs:
        attempt(f"fit, test, predict: {case}", lambda device: trained(case, device), 0.02)  # noqa: B023
        attempt(f"elbo, predict, state: {case}", lambda device: asked(case, device))  # noqa: B023
        attempt(f"default device: {case}", lambda device: by_default(case, device))  # noqa: B023
        attempt(f"waits: {case}", lambda device: waits(case, device))  # noqa: B023
    for name in METHODS if every else ("MeanFieldVI", "Laplace", "SWAG", "VBLL"):
        case = next(case for case in DEFAULT if case.method_name == name)
        attempt(f"checkpoint, resume: {name}", lambda device: reloaded(case, device), 0.01)  # noqa: B023
        attempt(f"half precision: {name}", lambda device: in_half_precision(case, device), 0.05)  # noqa: B023
    for kind, problem in (
        (VarianceScaling, "heteroscedastic"),
        (SplitConformal, "heteroscedastic"),
        (TemperatureScaling, "categorical"),
        (AdaptivePredictionSets, "categorical"),
        (ConformalQuantileRegression, "quantiles"),
    ):
        options = {} if kind in (VarianceScaling, TemperatureScaling) else {"coverage": 0.7}
        names = ["QuantileRegression"] if problem == "quantiles" else ["MeanFieldVI", "Laplace", "DeepEnsemble"]
        for name in names if every else names[:1]:
            for with_trainer in (False, True):
                attempt(
                    f"calibration: {kind.__name__}, {name}, {with_trainer}",
                    lambda device: calibrated(
                        lambda method: kind(method, **options),  # noqa: B023
                        Case(name, problem),  # noqa: B023
                        device,
                        with_trainer,  # noqa: B023
                    ),
                )
    attempt("ensemble: of three methods", ensemble)
    attempt("evaluation: selective prediction and detection", evaluated)
    attempt("plots: of device tensors", plotted)
    attempt("state dictionary: from the CPU", state_of)
    attempt("tuner: learning rate finder", tuned)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    plt.switch_backend("agg")
    torch.backends.cudnn.allow_tf32 = False
    torch.Generator = CPUGenerator  # type: ignore[misc]
    with WAITS, CPUDraws():
        main()
    sys.stdout.write(json.dumps(RESULTS))
