"""Variational Bayesian last layers against conjugate regression."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import loader, quiet_trainer
from linear_regression import LinearRegression, random_features
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import VBLL, LastLayerVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.priors import GaussianPrior

NUM_DATA, NOISE, PRIOR = 24, (0.8, 0.3), 1.7


def conjugate_problem() -> tuple[list[LinearRegression], Tensor, Tensor]:
    features = random_features(NUM_DATA, orthogonal=False)
    random = np.random.default_rng(1)
    true = ([1.5, -2.0, 1.0, 3.0], [-1.0, 0.5, 2.0, 0.0])
    problems = [
        LinearRegression(features, features @ np.array(w) + s * random.normal(size=NUM_DATA), s, 0.0, PRIOR)
        for w, s in zip(true, NOISE, strict=True)
    ]
    target = np.column_stack([problem.target for problem in problems])
    return problems, torch.from_numpy(features[:, :-1]), torch.from_numpy(target)


def linear_method(**options: Any) -> VBLL:
    return VBLL(nn.Linear(3, 2), Gaussian(NOISE, 2), prior_std=PRIOR, num_data=NUM_DATA, **options).double()


def train(method: VBLL, x: Tensor, y: Tensor) -> None:
    """Maximizes the deterministic ELBO with a quasi-Newton method."""
    optimizer = torch.optim.LBFGS(
        method.head.parameters(), max_iter=2000, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = method.elbo(x, y).loss
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("options", [{"parameterization": "dense"}, {"parameterization": "low_rank", "rank": 4}])
def test_training_converges_to_the_exact_posterior_and_log_evidence(options: dict[str, Any]) -> None:
    problems, x, y = conjugate_problem()
    method = linear_method(**options)
    train(method, x, y)
    elbo = -NUM_DATA * method.elbo(x, y).loss.item()
    assert elbo == pytest.approx(sum(problem.log_evidence for problem in problems), abs=2e-3)
    for output, problem in enumerate(problems):
        exact = np.linalg.inv(problem.precision)
        scale = np.sqrt(np.diag(exact))
        ours = method.head.covariance()[output].detach().numpy()
        np.testing.assert_allclose(ours / np.outer(scale, scale), exact / np.outer(scale, scale), atol=0.03)
        np.testing.assert_allclose(
            method.head.weight_mu[output].detach(), problem.posterior_mean, atol=0.03 * scale.min()
        )


def test_diagonal_posterior_is_the_best_factorized_gaussian() -> None:
    problems, x, y = conjugate_problem()
    method = linear_method(parameterization="diagonal")
    train(method, x, y)
    for output, problem in enumerate(problems):
        std = nn.functional.softplus(method.head.weight_rho[output]).detach().numpy()
        np.testing.assert_allclose(std, problem.mean_field_std, rtol=0.01)
    elbo = -NUM_DATA * method.elbo(x, y).loss.item()
    assert elbo == pytest.approx(sum(problem.best_elbo for problem in problems), abs=2e-3)


def test_diagonal_elbo_is_the_expectation_of_last_layer_vi() -> None:
    torch.manual_seed(0)
    backbone, x, y = MLP(3, [6], 1), torch.randn(8, 3), torch.randn(8, 1)
    ours = VBLL(backbone, Gaussian(0.5), parameterization="diagonal", prior_std=0.8, init_std=0.3, num_data=50)
    sampled = LastLayerVI(
        backbone, Gaussian(0.5), prior=GaussianPrior(std=0.8), init_std=0.3, num_data=50, num_mc_samples_train=20_000
    )
    _, nll, kl = sampled.elbo(x, y)
    assert_close(ours.elbo(x, y).kl, kl)
    assert_close(ours.elbo(x, y).nll, nll, rtol=0.02, atol=0)
    assert_close(ours.predict(x).total_var, sampled.predict(x).total_var)


def test_closed_form_prediction_agrees_with_samples() -> None:
    _, x, y = conjugate_problem()
    method = linear_method(init_std=0.4)
    nn.init.normal_(method.head.weight_lower)  # type: ignore[arg-type]
    exact, sampled = method.predict(x), method.predict(x, 20_000, return_samples=True)
    assert exact.metadata["num_samples"] is None
    assert_close(sampled.mean, exact.mean, rtol=0.05, atol=0.1)
    assert_close(sampled.epistemic_var, exact.epistemic_var, rtol=0.06, atol=0.0)
    assert method.elbo(x, y).nll.shape == ()


def test_frozen_backbone_trains_only_the_last_layer() -> None:
    method = VBLL(MLP(3, [6], 2), Categorical(2), freeze_backbone=True)
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert trained == {f"backbone.2.{name}" for name in ("weight_mu", "weight_rho", "weight_lower")}


class DoubledOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = 2 * self.last(x)
        return output


def test_invalid_arguments_and_networks() -> None:
    with pytest.raises(ValueError, match="must select one layer, the last, but selects"):
        VBLL(MLP(1, [3], 1), Gaussian(), stochastic_module_names=["*"])
    with pytest.raises(ValueError, match="must select a linear layer, but '0' is a Conv1d"):
        VBLL(nn.Sequential(nn.Conv1d(1, 1, 1)), Gaussian())
    with pytest.raises(ValueError, match="parameterization must be one of"):
        VBLL(MLP(1, [3], 1), Gaussian(), parameterization="full")  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="must be that of 'last', called once, but that layer was called 1 times and more"
    ):
        VBLL(DoubledOutput(), Gaussian()).predict(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="must be that of '0', called once, but that layer was called 1 times"):
        VBLL(MLP(1, [3], 1), Gaussian(), stochastic_module_names=["0"]).predict(torch.zeros(2, 1))


class TiedOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.last = nn.Linear(3, 5, bias=False)
        self.last.weight = self.embedding.weight


class OneLayerByTwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.last = nn.Linear(3, 1)
        self.alias = self.last

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.alias(torch.tanh(self.first(x)))
        return output


def test_unsupported_last_layers_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"must have weights of its own, but 'last' shares them with \['embedding'\]"):
        VBLL(TiedOutput(), Categorical(5), stochastic_module_names=["last"])
    with pytest.raises(ValueError, match="its parent MultiheadAttention reads its weight"):
        VBLL(nn.MultiheadAttention(4, 2), Gaussian(), stochastic_module_names=["out_proj"])
    with pytest.raises(ValueError, match=r"MiB.*max_mebibytes"):
        VBLL(nn.Linear(2048, 1000), Categorical(1000))


def test_layer_with_two_names_is_replaced_under_both() -> None:
    method = VBLL(OneLayerByTwoNames(), Gaussian(), stochastic_module_names=["last"])
    assert method.backbone.last is method.backbone.alias is method.head
    assert method.predict(torch.randn(4, 3)).epistemic_var.min() > 0


def test_gradients_for_zero_features_are_finite() -> None:
    method = VBLL(nn.Linear(3, 2, bias=False), HeteroscedasticGaussian(), num_data=4)
    method.elbo(torch.zeros(4, 3), torch.randn(4, 1)).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.head.parameters())


def test_selection_by_predicate_is_restored_from_a_checkpoint(tmp_path: Path) -> None:
    backbone = MLP(3, [4], 1)
    method = VBLL(backbone, Gaussian(), stochastic_module_names=[lambda name, _: name == "2"])
    assert method.hparams["stochastic_module_names"] == [1]
    trainer = quiet_trainer(limit_train_batches=1)
    trainer.fit(method, loader(torch.randn(8, 3), torch.randn(8, 1)))
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    again = VBLL.load_from_checkpoint(
        tmp_path / "method.ckpt", backbone=backbone, likelihood=Gaussian(), weights_only=True
    )
    x = torch.randn(5, 3)
    assert_close(again.predict(x).total_var, method.predict(x).total_var)
