"""Batches: their keys and weights, and pairs whose second element may be an input."""

from typing import Any

import pytest
import torch
from helpers import loader, normal, quiet_trainer
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import DeepEnsemble, Deterministic, MeanFieldVI, SplitConformal
from lightning_vi.core.batch import sample_weight, split_batch
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.methods import Ensemble


def batches_of(*batches: Any) -> DataLoader[Any]:
    """A dataloader of given batches."""
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


X, Y = normal(8, 3), normal(8, 1)
MASK = torch.arange(8).view(8, 1) % 2 == 0


class Masked(nn.Module):
    """Takes a mask besides, which it needs if `forward` says so."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        output: Tensor = self.linear(x)
        return output if mask is None else output * mask


class NeedsMask(Masked):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, mask)


def conformal() -> SplitConformal:
    base = Deterministic(Masked(), Gaussian())
    base.is_trained = True
    method = SplitConformal(base, coverage=0.5)
    method.calibrate([(X, Y)])
    return method


PREDICTORS: dict[str, Any] = {
    "method": lambda: MeanFieldVI(Masked(), Gaussian()),
    "stacked ensemble": lambda: DeepEnsemble(lambda: Masked(), Gaussian()),
    "ensemble": lambda: Ensemble([Deterministic(Masked(), Gaussian())]),
    "calibration": conformal,
}


@pytest.mark.parametrize("make", PREDICTORS.values(), ids=PREDICTORS)
def test_a_second_input_is_not_dropped(make: Any) -> None:
    method = make()
    with pytest.raises(ValueError, match=r"second element is no target .*Masked.* give \(\(x, mask\), y\)"):
        method.predict_step((X, MASK))
    both = method.predict_step({"input": (X, MASK)})["pred"]
    assert_close(method.predict_step(((X, MASK), Y))["pred"], both)
    assert_close(method.predict_step(((X, MASK),))["pred"], both)
    assert not both[1::2].any()
    assert_close(method.predict_step((X, Y))["pred"], method.predict_step(X)["pred"])


def test_a_network_that_needs_two_inputs_says_how_to_write_them() -> None:
    method = Deterministic(NeedsMask(), Gaussian())
    with pytest.raises(ValueError, match=r"NeedsMask.forward needs 2 inputs, but a pair is input and target"):
        method.predict_step((X, MASK))


def test_the_inputs_of_training_decide() -> None:
    mask_like_a_target = MASK.float()
    several, one = Deterministic(Masked(), Gaussian()), Deterministic(Masked(), Gaussian())
    quiet_trainer().fit(several, batches_of(((X, mask_like_a_target), Y)))
    quiet_trainer().fit(one, loader(X, Y))
    with pytest.raises(ValueError, match="the method was trained on several inputs"):
        several.predict_step((X, mask_like_a_target))
    assert one.predict_step((X, MASK))["pred"].shape == Y.shape


def test_networks_of_one_input_take_any_pair() -> None:
    method = Deterministic(nn.Linear(3, 1), Gaussian())
    assert method.predict_step((X, ["a", "b"]))["pred"].shape == Y.shape


def test_unknown_keys_are_named() -> None:
    with pytest.raises(ValueError, match=r"may have the keys \['input', 'target', 'weight'\], got \['weights'\] too"):
        split_batch({"input": X, "target": Y, "weights": Y})


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        ([1.0] * 8, TypeError, "weight must be a tensor of numbers, one for each row, got a list"),
        (MASK[:, 0], TypeError, "weight must be a tensor of numbers, one for each row, got a tensor of torch.bool"),
        (torch.ones(8, 1), ValueError, r"weight must have the shape \(8,\), got \(8, 1\)"),
    ],
)
def test_wrong_weights(weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sample_weight({"input": X, "target": Y, "weight": weight})


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_wrong_values_of_weights(value: float) -> None:
    weight = torch.ones(8)
    weight[3] = value
    method = Deterministic(nn.Linear(3, 1), Gaussian())
    with pytest.raises(ValueError, match="weight must hold finite numbers that are not negative"):
        quiet_trainer().fit(method, batches_of({"input": X, "target": Y, "weight": weight}))
    with pytest.raises(ValueError, match="weight must hold finite numbers that are not negative"):
        method.elbo(X, Y, weight)


def test_weights_change_the_fit_but_not_the_test_metrics() -> None:
    weight = torch.ones(8)
    weight[:4] = 100.0
    method = Deterministic(nn.Linear(3, 1), Gaussian())
    test = [
        quiet_trainer().test(method, batches_of(batch), verbose=False)[0]
        for batch in ((X, Y), {"input": X, "target": Y, "weight": weight})
    ]
    assert test[0] == test[1]
    fitted = Deterministic(nn.Linear(3, 1), Gaussian(), optimizer=lambda p: torch.optim.Adam(p, 0.05))
    quiet_trainer(max_epochs=200).fit(fitted, batches_of({"input": X, "target": Y, "weight": weight}))
    residual = (fitted.predict(X).mean - Y).abs()
    assert residual[:4].mean() < 0.2 * residual[4:].mean()


def test_class_weights_are_weights_of_rows() -> None:
    labels, factors = torch.arange(8) % 3, [1.0, 3.0, 0.5]
    torch.manual_seed(0)
    plain = MeanFieldVI(nn.Linear(3, 3), Categorical(3))
    torch.manual_seed(0)
    weighted = MeanFieldVI(nn.Linear(3, 3), Categorical(3, class_weights=factors))
    by_rows = plain.elbo(X, labels, torch.tensor(factors)[labels], num_data=8)
    assert_close(weighted.elbo(X, labels, num_data=8), by_rows)
    assert set(weighted.state_dict()) == set(plain.state_dict())
