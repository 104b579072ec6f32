"""Every method on every likelihood, run by a Trainer."""

import copy
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from helpers import History, fit, loader, quiet_trainer
from method_cases import ROWS, Case, each_case, each_method_once, global_states
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import SNGP, SWAG, DeepEnsemble, Laplace, LastLayerVI, MCDropout, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.priors import GaussianPrior

REGRESSION = {"rmse", "mae", "r2", "nll", "crps", "coverage", "interval_width", "epistemic_share"}
CLASSIFICATION = {"accuracy", "nll", "brier", "ece", "mutual_information"}
FURTHER = {
    "multi-label": {"f1", "exact_match"},
    "ordinal": {"mae", "rps"},
    "categorical, [B, C, H, W]": {"miou"},
    "categorical, [B, H, W, F]": {"miou"},
}


def as_mapping(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {"input": torch.stack([x for x, _ in rows]), "target": torch.stack([y for _, y in rows])}


@each_case
def test_fit_validate_test_and_predict_on_the_same_dataloader(case: Case) -> None:
    method, (x, target) = case.build(), case.problem.data()
    data, history = loader(x, target, batch_size=5), History()
    trainer = quiet_trainer(max_epochs=2, logger=history, log_every_n_steps=1)
    before = [parameter.detach().clone() for parameter in method.parameters()]
    trainer.fit(method, data, data)
    assert all(not torch.equal(old, new) for old, new in zip(before, method.parameters(), strict=True))
    wanted = (REGRESSION if case.problem.is_regression else CLASSIFICATION) | FURTHER.get(case.problem_name, set())
    logged = {"train_loss", "train_nll", "train_rmse" if case.problem.is_regression else "train_accuracy"}
    logged |= {f"val_{name}" for name in wanted} | ({"train_kl", "train_elbo"} if case.method.logs_kl else set())
    assert logged <= set(history.values)
    assert all(len(history.values[name]) == 2 for name in logged)
    (validated,) = trainer.validate(method, data, verbose=False)
    (tested,) = trainer.test(method, data, verbose=False)
    assert set(validated) == {f"val_{name}" for name in wanted}
    assert {name.removeprefix("test_"): value for name, value in tested.items()} == {
        name.removeprefix("val_"): value for name, value in validated.items()
    }
    batches: Any = trainer.predict(method, data)
    whole = method.predict_step(x)
    assert [len(batch["pred"]) for batch in batches] == [5, 5, ROWS - 10]
    for key, value in whole.items():
        assert_close(torch.cat([batch[key] for batch in batches]), value, rtol=1e-4, atol=1e-5)


@each_method_once
def test_batches_may_be_mappings(case: Case) -> None:
    x, target = case.problem.data()
    rows: Any = list(zip(x, target, strict=True))
    pairs: Any = DataLoader(rows, batch_size=5)
    mappings: Any = DataLoader(rows, batch_size=5, collate_fn=as_mapping)
    tensors: Any = DataLoader(list(x), batch_size=5)  # type: ignore[arg-type]
    torch.manual_seed(1)
    first = case.build()
    torch.manual_seed(1)
    second = case.build()
    assert fit(first, pairs)["train_loss"] == fit(second, mappings)["train_loss"]
    outputs: list[Any] = [quiet_trainer().predict(first, data) for data in (pairs, mappings, tensors)]
    for other in outputs[1:]:
        for ours, theirs in zip(outputs[0], other, strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@each_case
def test_training_leaves_the_global_random_states_alone(case: Case) -> None:
    method, (x, target) = case.build(), case.problem.data()
    trainer = quiet_trainer()
    data = loader(x, target, generator=torch.Generator().manual_seed(0))
    before = global_states()
    trainer.fit(method, data)
    assert global_states() == before


def test_a_failed_fit_does_not_change_the_logs_of_the_next_one() -> None:
    x, y = torch.randn(16, 2), torch.randn(16, 1)
    bad = y.clone()
    bad[12] = float("nan")

    def fresh() -> MeanFieldVI:
        torch.manual_seed(2)
        likelihood = Gaussian(scale_targets=False)
        return MeanFieldVI(MLP(2, [3], 1), likelihood, init_std=1e-9, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))

    method = fresh()
    with pytest.raises(ValueError, match="NaN"):
        fit(method, loader(x, bad))
    logged, expected = fit(method, loader(x, y + 3)), fit(fresh(), loader(x, y + 3))
    assert logged["train_loss"] == pytest.approx(expected["train_loss"])
    assert logged["train_rmse"] == pytest.approx(expected["train_rmse"])


@each_method_once
def test_a_method_can_be_copied_and_pickled_after_the_trainer_ran(case: Case) -> None:
    """Although the Trainer has computed tensors in inference mode."""
    method, (x, target) = case.build(), case.problem.data()
    data = loader(x, target)
    trainer = quiet_trainer()
    trainer.fit(method, data, data)
    trainer.predict(method, data)
    expected = method.predict(x).mean
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert torch.equal(twin.predict(x).mean, expected)
        fit(twin, data)


@pytest.mark.parametrize("estimator", ["reparameterization", "local_reparameterization", "flipout"])
def test_mixed_precision_keeps_the_divergence_in_float32(estimator: str) -> None:
    x, y = torch.randn(16, 3), torch.randn(16, 1)
    method = MeanFieldVI(
        MLP(3, [64], 1),
        Gaussian(),
        prior=GaussianPrior(),
        estimator=estimator,
        init_std=0.3,
        kl_warmup_epochs=0,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
    )
    expected = sum(
        kl_divergence(Normal(q.mu, q.std), Normal(0.0, 1.0)).sum()
        for layer in method.engine.modules
        for q in (layer.posterior("weight"), layer.posterior("bias"))
    )
    logged = fit(method, loader(x, y), precision="bf16-mixed")
    assert logged["train_kl"][0] == pytest.approx(expected.item(), rel=1e-5)
    full = fit(method, loader(x, y), precision="32-true")
    assert logged["train_loss"][0] == pytest.approx(full["train_loss"][0], rel=0.1)


OTHER_PRECISIONS: dict[str, Any] = {
    "MeanFieldVI": MeanFieldVI,
    "LastLayerVI": LastLayerVI,
    "MCDropout": partial(MCDropout, dropout_p=0.1, dropout_module_names=[0]),
    "DeepEnsemble": partial(DeepEnsemble, num_members=2),
    "SWAG": SWAG,
    "Laplace": Laplace,
    "SNGP": partial(SNGP, num_random_features=8),
}


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", OTHER_PRECISIONS.values(), ids=OTHER_PRECISIONS)
@pytest.mark.parametrize("is_regression", [True, False])
def test_methods_train_and_predict_in_other_precisions(kind: Any, precision: Any, is_regression: bool) -> None:
    x, y = torch.randn(16, 3), torch.randn(16, 1) if is_regression else torch.arange(16) % 3
    method = kind(MLP(3, [4], 1 if is_regression else 3), Gaussian(0.5) if is_regression else Categorical(3))
    trainer = quiet_trainer(precision=precision)
    trainer.fit(method, loader(x, y, shuffle=True), loader(x, y))
    assert torch.isfinite(trainer.callback_metrics["val_nll"])
    predictions: Any = trainer.predict(method, loader(x, y))
    assert all(value.isfinite().all() for prediction in predictions for value in prediction.values())
    assert ood_detection(method, loader(x, y), [x]).auroc == pytest.approx(0.5, abs=0.1)
