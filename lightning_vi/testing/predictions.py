"""Checks of predictions: keys, values, identities, batches, samples and seeds."""

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.core import Predictor, UQMethod
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput, map_tensors, tensors
from lightning_vi.testing.contract import NUM_DATA, SEED, close, contract, require, same

_KEYS = {"pred", "pred_uct", "epistemic_uct", "aleatoric_uct"}
_OPTIONAL_KEYS = {"lower", "upper", "pred_set"}


@contract
def check_keys(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """`predict_step` returns the task's keys, on the input's device, in its dtype and without gradients."""
    result, first = method.predict_step({"input": x}), tensors(x)[0]
    required = _KEYS if method.predict(x).probs is None else _KEYS | {"probs_var"}
    required = required | {"expected_class"} if method.likelihood.is_ordered else required
    require(required <= set(result) <= required | _OPTIONAL_KEYS, f"predict_step returned the keys {sorted(result)}")
    for key, value in result.items():
        require(value.device == first.device, f"{key} is on {value.device}, the input on {first.device}")
        require(not value.requires_grad, f"{key} requires a gradient")
        if first.is_floating_point() and key != "pred_set":
            require(value.dtype == first.dtype, f"{key} has {value.dtype}, the input {first.dtype}")


@contract
def check_values(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """Predictions have the target's shape, are finite, and uncertainties are not negative."""
    _check_values(method.predict(x), y)


@contract
def check_decomposition(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """Epistemic and aleatoric uncertainty add up: as variances, and as entropies for classification."""
    _check_decomposition(method.predict(x))


@contract
def check_batches(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """`predict_step` takes every form of a batch, and the targets do not matter."""
    expected = method.predict_step({"input": x})
    batches: dict[str, Any] = {"(x, y)": (x, y), "[x, y]": [x, y], "{input, target}": {"input": x, "target": y}}
    for form, batch in (batches | ({"x": x} if isinstance(x, Tensor) else {})).items():
        require(same(method.predict_step(batch), expected), f"{form} and {{input}} have different predictions")


@contract
def check_result(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """The typed result of `predict` and the dictionary of `predict_step` say the same."""
    prediction = method.predict(x)
    typed, dictionary = prediction.as_dict(), method.predict_step({"input": x})
    for key in _KEYS & set(dictionary):
        assert_close(dictionary[key].flatten(), typed[key].flatten(), msg=f"{key} differs from that of predict")
    if prediction.probs is not None:
        assert_close(prediction.mean, prediction.probs, msg="mean and probs differ")
    require(prediction.metadata.get("method") == type(method).__name__, f"metadata are {prediction.metadata}")


@contract
def check_float64(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """A method in float64 predicts in float64."""
    x = map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, x)
    for key, value in method.double().predict_step({"input": x}).items():
        require(value.dtype == torch.float64 or key == "pred_set", f"{key} has {value.dtype}")


@contract
def check_one_sample(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """One sample gives a finite prediction whose parts add up."""
    prediction = method.predict(x, num_samples=1)
    _check_values(prediction, y)
    _check_decomposition(prediction)


@contract
def check_num_samples(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """A number of samples below 1 is a ValueError."""
    for num_samples in (0, -1):
        try:
            method.predict(x, num_samples=num_samples)
        except ValueError:
            continue
        require(False, f"num_samples={num_samples} raised no ValueError")


@contract
def check_samples(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """The samples are given on request alone, and have the mean and the variance that are returned."""
    require(method.predict(x).samples is None, "predict returned samples that were not asked for")
    prediction = method.predict(x, num_samples=9, seed=SEED, return_samples=True)
    samples = prediction.samples
    if samples is None:
        raise AssertionError("return_samples=True returned no samples")
    require(
        1 <= len(samples) <= 9 and samples.shape[1:] == prediction.mean.shape,
        f"9 samples of predictions {list(prediction.mean.shape)} have the shape {list(samples.shape)}",
    )
    if prediction.probs is None or not hasattr(method, "calibrate"):  # calibrated probabilities keep their samples
        close("mean of the samples", samples.mean(0), prediction.mean)
        close("variance of the samples", samples.var(0, correction=0), prediction.epistemic_var, prediction.mean**2)


@contract
def check_seed(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """One seed gives one prediction, whatever the global random state is and whatever was computed in between."""
    method.eval()  # in training mode `elbo` updates the statistics of batch normalization
    for seed in (None, SEED):
        first = method.predict(x, seed=seed).as_dict()
        torch.manual_seed(5)
        if isinstance(method, UQMethod):
            method.elbo(x, y, num_data=NUM_DATA)
        again = method.predict(x, seed=seed).as_dict()
        require(same(again, first), f"two predictions with seed={seed} differ")


@contract
def check_row_splits(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """The sampled functions are the same on every split of the rows, and rows do not influence each other."""
    whole = method.predict(x, seed=SEED)
    cut = max(1, len(y) // 3)
    parts = [
        method.predict(map_tensors(lambda tensor, rows=rows: tensor[rows], x), seed=SEED)  # type: ignore[misc]
        for rows in (slice(0, cut), slice(cut, None))
    ]
    for name in ("mean", "epistemic_var", "aleatoric_var"):
        value = getattr(whole, name)
        joined = torch.cat([getattr(part, name) for part in parts])
        close(f"{name} of the parts", joined, value, value.abs() + whole.mean**2)


@contract
def check_more_samples(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """More samples are further functions beside the same ones."""
    if hasattr(method, "calibrate"):  # which may scale the samples around their mean
        return
    few = method.predict(x, num_samples=3, seed=SEED, return_samples=True).samples
    many = method.predict(x, num_samples=8, seed=SEED, return_samples=True).samples
    if few is None or many is None:
        raise AssertionError("return_samples=True returned no samples")
    close("first samples of 8", many[: len(few)], few)


def _check_values(prediction: Prediction, y: Tensor) -> None:
    result = prediction.as_dict()
    wide = y.shape if prediction.probs is None else (len(y), prediction.mean.shape[1], *y.shape[1:])
    for key, value in result.items():
        shape = tuple(wide if key in {"pred", "probs_var", "pred_set"} else y.shape)
        require(value.shape == shape, f"{key} has shape {tuple(value.shape)}, expected {shape}")
        require(bool(value.isfinite().all()), f"{key} is not finite: {value}")
    for key in ("pred_uct", "epistemic_uct", "aleatoric_uct"):
        require(bool((result[key] >= 0).all()), f"{key} is negative: {result[key]}")


def _check_decomposition(prediction: Prediction) -> None:
    parts = prediction.epistemic_var + prediction.aleatoric_var
    close("total_var", prediction.total_var, parts, parts)
    result = prediction.as_dict()
    total, epistemic, aleatoric = (result[key] for key in ("pred_uct", "epistemic_uct", "aleatoric_uct"))
    if prediction.probs is None:
        close("pred_uct squared", total.square(), epistemic.square() + aleatoric.square(), parts)
        return
    one = torch.ones_like(total)
    close("sum of the probabilities", prediction.probs.sum(1), one)
    close("total_var", prediction.total_var, prediction.probs * (1 - prediction.probs), one)
    close("pred_uct", total, epistemic + aleatoric, one)
    close("pred_uct", total, torch.special.entr(prediction.probs).sum(1), one)
