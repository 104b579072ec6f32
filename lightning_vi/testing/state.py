"""Checks of side effects, the objective, copies, checkpoints and the steps of a Trainer."""

import copy
import io
import pickle
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_vi.core import Predictor, UQMethod
from lightning_vi.sampling import NetworkInput
from lightning_vi.testing.contract import NUM_DATA, SEED, close, contract, require, same


@contract
def check_predict_changes_nothing(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """`predict` leaves modes, weights and the global random states as they were."""
    with _unchanged(method, method.state_dict()):
        method.predict(x)
        method.predict(x, num_samples=2, seed=SEED, return_samples=True)
        method.predict_step({"input": x})


@contract
def check_failed_predict_changes_nothing(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """So it does when a forward pass raises."""
    with _unchanged(method, method.state_dict()), _failing_forward(method):
        method.predict(x)


@contract
def check_elbo_changes_nothing(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """`elbo` leaves modes, parameters and the global random states as they were."""
    if isinstance(method, UQMethod):
        with _unchanged(method, dict(method.named_parameters())):
            method.elbo(x, y, num_data=NUM_DATA)


@contract
def check_failed_elbo_changes_nothing(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """So it does when a forward pass raises."""
    if isinstance(method, UQMethod):
        with _unchanged(method, dict(method.named_parameters())), _failing_forward(method):
            method.elbo(x, y, num_data=NUM_DATA)


@contract
def check_elbo(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """`elbo` returns scalars, and the loss is ``nll + kl_weight * kl / num_data``, the KL divergence summed.

    A method without a divergence, or with ``minimizes_elbo = False``, may have any loss.
    """
    if not isinstance(method, UQMethod):
        return
    for num_data in (NUM_DATA, 7 * NUM_DATA):
        loss, nll, kl = terms = method.elbo(x, y, num_data=num_data)
        require(all(term.shape == () and term.isfinite() for term in terms), f"elbo returned {terms}")
        if kl != 0 and method.minimizes_elbo:
            weight = method.kl_weight if method.has_kl else 1.0
            close("loss", loss, nll + weight * kl / num_data, nll.abs() + kl.abs() / num_data)


@contract
def check_gradients(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """The loss of `elbo` has a finite gradient, which is not zero, for each parameter that requires one."""
    if not isinstance(method, UQMethod):
        return
    method.elbo(x, y, num_data=NUM_DATA).loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            require(gradient is not None and bool(gradient.any()), f"{name} has no gradient")
            require(bool(torch.as_tensor(gradient).isfinite().all()), f"the gradient of {name} is not finite")


@contract
def check_deepcopy(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """A copy predicts the same, and shares no weights."""
    _check_twin(method, copy.deepcopy(method), x)


@contract
def check_pickle(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """So does a method that was pickled, also after it has predicted."""
    method.predict(x)
    _check_twin(method, pickle.loads(pickle.dumps(method)), x)


@contract
def check_state_dict(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """The state dictionary holds tensors alone, and gives another copy the same predictions."""
    file, expected = io.BytesIO(), method.predict_step({"input": x})
    torch.save(method.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(method)
    _scale_state(other)
    other.predict_step({"input": x})
    other.load_state_dict(torch.load(file, weights_only=True))
    require(same(other.predict_step({"input": x}), expected), "predictions differ after load_state_dict")


@contract
def check_forward(method: Predictor, x: NetworkInput, y: Tensor) -> None:  # noqa: ARG001
    """In evaluation mode `forward` draws no random numbers."""
    method.eval()
    with torch.no_grad():
        require(torch.equal(method(x), method(x)), "two calls of forward differ")


@contract
def check_scores(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """A Trainer's test logs finite scores of the predictive mixture."""
    prediction = method.predict(x)
    with _trainer(method) as trainer:
        (logged,) = trainer.test(method, _one_batch(x, y), verbose=False)
    expected = {}
    if prediction.probs is None:
        expected["test_rmse"] = (prediction.mean.reshape(y.shape) - y).square().mean().sqrt()
    else:
        expected["test_accuracy"] = (prediction.probs.argmax(1) == y).to(prediction.probs).mean()
        if y.dim() == 1:
            expected["test_nll"] = -prediction.probs.gather(1, y.unsqueeze(1)).log().mean()
    require(bool(logged), "Trainer.test logged nothing")
    require(all(np.isfinite(value) for value in logged.values()), f"Trainer.test logged {logged}")
    for name in expected.keys() & logged.keys():
        close(name, expected[name].new_tensor(logged[name]), expected[name], prediction.mean)


@contract
def check_trainer_predict(method: Predictor, x: NetworkInput, y: Tensor) -> None:
    """`Trainer.predict` returns what `predict_step` returns."""
    expected = method.predict_step({"input": x})
    with _trainer(method) as trainer:
        batches: Any = trainer.predict(method, _one_batch(x, y))
    require(same(batches[0], expected), "Trainer.predict and predict_step have different predictions")


def _check_twin(method: Predictor, twin: Predictor, x: NetworkInput) -> None:
    batch = {"input": x}
    expected = method.predict_step(batch)
    require(same(twin.predict_step(batch), expected), "the copy has other predictions")
    _scale_state(twin)
    require(not same(twin.predict_step(batch), expected), "other weights do not change the predictions of the copy")
    require(same(method.predict_step(batch), expected), "other weights of the copy change the method's predictions")


@torch.no_grad()
def _scale_state(method: Predictor) -> None:
    for value in (*method.parameters(), *method.buffers()):
        if value.is_floating_point():
            value.mul_(1.1)


class _ForwardError(RuntimeError):
    """Raised on purpose in a forward pass."""


@contextmanager
def _failing_forward(method: Predictor) -> Iterator[None]:
    """Makes each layer raise, and expects its body to do so where it calls a layer."""
    calls: list[None] = []

    def fail(*_: Any) -> NoReturn:
        calls.append(None)
        raise _ForwardError("raised on purpose")

    leaves = [module for module in method.modules() if not any(True for _ in module.children())]
    handles = [leaf.register_forward_pre_hook(fail) for leaf in leaves]
    try:
        yield
    except _ForwardError:
        return
    finally:
        for handle in handles:
            handle.remove()
    require(not calls, "an exception of a forward pass was swallowed")


@contextmanager
def _unchanged(method: Predictor, tensors_by_name: Mapping[str, Any]) -> Iterator[None]:
    """Compares modes, tensors and global random states before and after its body; every other layer evaluates."""
    for module in list(method.modules())[1::2]:
        module.training = False
    before = {name: value.detach().clone() for name, value in tensors_by_name.items() if isinstance(value, Tensor)}
    modes, states = _modes(method), _random_states()
    yield
    changed = [name for name, mode in _modes(method).items() if mode != modes[name]]
    require(not changed, f"the training mode of {changed} has changed")
    now = method.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(now[name], value)]
    require(not changed, f"{changed} have changed")
    changed = [name for name, state in _random_states().items() if state != states[name]]
    require(not changed, f"the global random state of {changed} has moved")


def _modes(method: nn.Module) -> dict[str, bool]:
    return {name: module.training for name, module in method.named_modules()}


def _random_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    states = {
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "numpy": [numpy_state[1].tolist(), *numpy_state[2:]],
    }
    if torch.cuda.is_available():
        states["torch.cuda"] = [state.tolist() for state in torch.cuda.get_rng_state_all()]
    return states


@contextmanager
def _trainer(method: Predictor) -> Iterator[Trainer]:
    """A Trainer where the method is, which writes nothing."""
    accelerator = "cpu" if method.device.type == "cpu" else "auto"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Trainer(
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


def _one_batch(x: NetworkInput, y: Tensor) -> DataLoader[Any]:
    batches: Any = [{"input": x, "target": y}]
    return DataLoader(batches, batch_size=None)
