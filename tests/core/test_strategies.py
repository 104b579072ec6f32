"""Strategies that divide parameters among devices are refused before anything changes."""

from typing import Any

import pytest
import torch
from helpers import copy_of_state, loader, quiet_trainer, same_state
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lightning_vi import DeepEnsemble, Deterministic, MeanFieldVI, VarianceScaling
from lightning_vi.likelihoods import Gaussian


def vi() -> MeanFieldVI:
    return MeanFieldVI(torch.nn.Linear(2, 1), Gaussian())


METHODS: dict[str, Any] = {
    "MeanFieldVI": vi,
    "Deterministic": lambda: Deterministic(torch.nn.Linear(2, 1), Gaussian()),
    "DeepEnsemble": lambda: DeepEnsemble(torch.nn.Linear(2, 1), Gaussian(), num_members=2),
    "VarianceScaling": lambda: VarianceScaling(vi()),
}


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_sharded_parameters_are_refused(strategy: Any, name: str, stage: str) -> None:
    method = METHODS[name]()
    before = copy_of_state(method)
    method.trainer = quiet_trainer()
    method.trainer._accelerator_connector.strategy = object.__new__(strategy)
    with pytest.raises(ValueError, match=rf"strategy={strategy.__name__} divides .* use strategy='ddp'"):
        method.setup(stage)
    assert same_state(before, copy_of_state(method))


def test_fit_calls_the_check_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("lightning_vi.core.predictor.check_strategy", lambda trainer: seen.append(trainer.strategy))
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(vi(), loader(torch.randn(8, 2), torch.randn(8, 1)))
    assert seen == [trainer.strategy]
