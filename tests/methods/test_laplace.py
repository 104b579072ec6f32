"""Laplace approximation against exact posteriors, and its fit and memory."""

import itertools
import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal, quiet_trainer, same_state
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from lightning_vi import Laplace, NotFittedError
from lightning_vi.backbones import MLP
from lightning_vi.core.batch import joined_batches
from lightning_vi.likelihoods import Bernoulli, Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods.laplace import laplace as laplace_module
from lightning_vi.methods.laplace.laplace import Structure
from lightning_vi.sampling import memory

NOISE, PRIOR = 0.4, 0.8
N = 30
X = normal(N, 3)
Y = X @ torch.tensor([[1.0], [-0.5], [0.2]]) + 0.3 + NOISE * normal(N, 1)


def design(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1).double()


def exact_posterior() -> tuple[Tensor, Tensor]:
    """Returns mean [4] and covariance [4, 4] of Bayesian linear regression."""
    precision = design(X).T @ design(X) / NOISE**2 + torch.eye(4).double() / PRIOR**2
    covariance = torch.linalg.inv(precision)
    return covariance @ design(X).T @ Y.double()[:, 0] / NOISE**2, covariance


def at_the_mode(structure: Structure = "full", prior_std: Any = PRIOR, **options: Any) -> Laplace:
    network = nn.Linear(3, 1)
    mean, _ = exact_posterior()
    with torch.no_grad():
        network.weight.copy_(mean[:3].float().unsqueeze(0))
        network.bias.copy_(mean[3:].float())
    method = Laplace(network, Gaussian(NOISE), structure=structure, prior_std=prior_std, **options)
    method.fit_posterior(loader(X, Y))
    return method


@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker"])
def test_linear_gaussian_model_has_the_exact_posterior_and_evidence(structure: Structure) -> None:
    """The Kronecker structure is exact for one output."""
    method, new = at_the_mode(structure), normal(6, 3)
    mean, covariance = exact_posterior()
    prediction = method.predict(new)
    assert_close(prediction.mean[:, 0].double(), design(new) @ mean, rtol=1e-4, atol=1e-5)
    expected = torch.einsum("bi,ij,bj->b", design(new), covariance, design(new))
    assert_close(prediction.epistemic_var[:, 0].double(), expected, rtol=1e-4, atol=1e-6)
    assert_close(prediction.aleatoric_var, torch.full((6, 1), NOISE**2))
    evidence = MultivariateNormal(
        torch.zeros(N).double(), PRIOR**2 * design(X) @ design(X).T + NOISE**2 * torch.eye(N).double()
    ).log_prob(Y.double()[:, 0])
    assert_close(method.log_marginal_likelihood().double(), evidence, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker"])
def test_two_targets_with_different_noise_are_two_exact_regressions(structure: Structure) -> None:
    """The Kronecker structure is exact if the noise is the same for all data."""
    noise_std, targets = [0.3, 1.7], torch.cat([Y, 2 - Y], 1)
    network, new = nn.Linear(3, 2), normal(6, 3)
    expected, evidence = [], 0.0
    for output, std in enumerate(noise_std):
        precision = design(X).T @ design(X) / std**2 + torch.eye(4).double() / PRIOR**2
        mean = torch.linalg.solve(precision, design(X).T @ targets.double()[:, output] / std**2)
        with torch.no_grad():
            network.weight[output].copy_(mean[:3])
            network.bias[output].copy_(mean[3])
        expected.append(torch.einsum("bi,ij,bj->b", design(new), torch.linalg.inv(precision), design(new)))
        covariance = PRIOR**2 * design(X) @ design(X).T + std**2 * torch.eye(N).double()
        evidence += MultivariateNormal(torch.zeros(N).double(), covariance).log_prob(targets.double()[:, output]).item()
    method = Laplace(network, Gaussian(noise_std, 2), structure=structure, prior_std=PRIOR)
    method.fit_posterior(loader(X, targets))
    found = method.predict(new).epistemic_var.double()
    assert_close(found, torch.stack(expected, 1), rtol=1e-4, atol=1e-6)
    assert method.log_marginal_likelihood().item() == pytest.approx(evidence, rel=1e-5)


@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker", "diagonal"])
def test_frozen_weights_have_neither_posterior_nor_prior(structure: Structure) -> None:
    torch.manual_seed(0)
    network, new = MLP(3, [4], 2, activation_fn=nn.Tanh()), normal(6, 3)
    network[0].requires_grad_(False)
    options: dict[str, Any] = {"structure": structure, "prior_std": PRIOR}
    whole = Laplace(network, HeteroscedasticGaussian(), stochastic_module_names=None, **options)
    last = Laplace(network, HeteroscedasticGaussian(), **options)
    for method in (whole, last):
        method.fit_posterior(loader(X, Y))
    assert_close(whole.output_moments(new)[1], last.output_moments(new)[1])
    assert_close(whole.log_marginal_likelihood(), last.log_marginal_likelihood())
    assert_close(whole.elbo(X, Y, num_data=N).kl, last.elbo(X, Y, num_data=N).kl)
    assert all(not parameter.requires_grad for parameter in whole.backbone[0].parameters())  # type: ignore[index]


@pytest.mark.parametrize("names", [(-1,), None])
@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker", "diagonal"])
def test_fit_does_not_depend_on_the_batch_size(structure: Structure, names: Any) -> None:
    torch.manual_seed(0)
    network, new = MLP(3, [4], 2, activation_fn=nn.Tanh()), normal(6, 3)
    results = []
    for size in (1, 7, N):
        method = Laplace(network, HeteroscedasticGaussian(), structure=structure, stochastic_module_names=names)
        method.fit_posterior(loader(X, Y, batch_size=size))
        results.append([method.output_moments(new)[1], method.log_marginal_likelihood(), method.prior_std])
    for result in results[1:]:
        assert_close(result, results[0], rtol=1e-3, atol=1e-4)


def test_batches_are_joined_within_limits() -> None:
    x, y = torch.arange(60.0).view(20, 3), torch.arange(20)
    rows: list[Any] = [(*pair, None) for pair in zip(x.split(4), y.split(4), strict=True)]
    assert [len(target) for _, target, _ in joined_batches(rows, 1)] == [20]
    assert [len(target) for _, target, _ in joined_batches(rows, 1, max_rows=9)] == [8, 8, 4]
    assert [len(target) for _, target, _ in joined_batches(rows, 1, max_numbers=36)] == [12, 8]
    assert [len(target) for _, target, _ in joined_batches(rows, 1, max_rows=2)] == [4] * 5
    assert [len(target) for _, target, _ in joined_batches(rows, 100, max_numbers=90_000)] == [8, 8, 4]
    for limits in ({}, {"max_rows": 9}, {"max_rows": 1}):
        inputs, targets, weights = zip(*joined_batches(rows, 1, **limits), strict=True)
        assert torch.equal(torch.cat(inputs), x)
        assert torch.equal(torch.cat(targets), y)
        assert set(weights) == {None}
    weighted = [(*row[:2], row[1] / 10) for row in rows]
    ((*_, weight),) = joined_batches(weighted, 1)
    assert torch.equal(weight, y / 10)
    mixed: list[Any] = [
        rows[0],
        ({"x": x[4:8]}, y[4:8], None),
        rows[2],
        rows[3],
        (x[16:, :2], y[16:], None),
        (x[:1].double(), y[:1], None),
    ]
    assert [len(target) for _, target, _ in joined_batches(mixed, 1)] == [4, 4, 8, 4, 1]
    assert list(joined_batches([], 1)) == []


def test_training_with_a_given_prior_converges_to_the_mode() -> None:
    method = Laplace(
        nn.Linear(3, 1),
        Gaussian(NOISE),
        structure="full",
        prior_std=PRIOR,
        optimizer=partial(torch.optim.Adam, lr=0.02),
    )
    fit(method, loader(X, Y, batch_size=N), max_epochs=800)
    mean, covariance = exact_posterior()
    weights = torch.cat([method.backbone.weight[0], method.backbone.bias])  # type: ignore[index, list-item]
    assert_close(weights.detach().double(), mean, rtol=1e-3, atol=1e-3)
    new = normal(6, 3)
    expected = torch.einsum("bi,ij,bj->b", design(new), covariance, design(new))
    assert_close(method.predict(new).epistemic_var[:, 0].double(), expected, rtol=1e-3, atol=1e-5)


def test_samples_have_the_moments_of_the_closed_form() -> None:
    method, new = at_the_mode(), normal(6, 3)
    exact, size = method.predict(new), 4000
    sampled = method.predict(new, num_samples=size, return_samples=True)
    std = exact.epistemic_var.sqrt()
    assert ((sampled.mean - exact.mean).abs() < 4.5 * std / math.sqrt(size)).all()
    assert_close(sampled.epistemic_var, exact.epistemic_var, rtol=4.5 * math.sqrt(2 / size), atol=0.0)


@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker", "diagonal"])
def test_prior_std_maximizes_the_marginal_likelihood(structure: Structure) -> None:
    tuned = at_the_mode(structure, "marginal_likelihood")
    best = tuned.log_marginal_likelihood()
    for factor in (0.9, 1.1):
        tuned.prior_precision.mul_(factor)
        assert tuned.log_marginal_likelihood() < best
        tuned.prior_precision.div_(factor)


@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker", "diagonal"])
@pytest.mark.parametrize("names", [(-1,), None])
def test_posterior_contracts_with_more_data(structure: Structure, names: Any) -> None:
    torch.manual_seed(0)
    network, new = MLP(3, [6], 2, activation_fn=nn.Tanh()), normal(5, 3)
    variances = []
    for copies in (1, 4, 16, 64):
        options: dict[str, Any] = {"structure": structure, "prior_std": 1.0, "stochastic_module_names": names}
        method = Laplace(network, HeteroscedasticGaussian(), **options)
        method.fit_posterior([(X, Y)] * copies)
        _, std = method.output_moments(new)
        variances.append(std.square().sum())
    assert all(later < earlier for earlier, later in itertools.pairwise(variances))
    assert variances[-1] < variances[0] / 4


def test_probit_approximation_is_close_to_the_integral() -> None:
    """The integral is estimated from many samples."""
    torch.manual_seed(0)
    method = Laplace(nn.Linear(3, 1), Bernoulli(), structure="full", prior_std=2.0)
    method.fit_posterior([(X, (X[:, 0] > 0).long())])
    new = 10 * normal(7, 3)
    probit = method.predict(new)
    sampled = method.predict(new, num_samples=20_000, return_samples=True)
    assert_close(probit.mean, sampled.mean, rtol=0.0, atol=0.02)
    plain = method(new).sigmoid()[:, 0]
    assert ((probit.mean[:, 1] - 0.5).abs() < (plain - 0.5).abs()).all()
    assert (probit.mean[:, 1] - plain).abs().max() > 0.03
    assert_close(probit.as_dict()["pred_uct"], torch.special.entr(probit.mean).sum(1))
    logits, std = method.output_moments(new)
    assert_close(probit.mean[:, 1:], (logits / (1 + math.pi / 8 * std**2).sqrt()).sigmoid())


@pytest.mark.parametrize("structure", ["full", "per_output", "kronecker", "diagonal"])
def test_probit_approximation_of_several_classes(structure: Structure) -> None:
    """Mean and variance are those of the centered logits."""
    torch.manual_seed(0)
    method = Laplace(MLP(3, [4], 3), Categorical(3), structure=structure)
    method.fit_posterior([(X, torch.arange(N) % 3)])
    samples = torch.cat(list(method.sampled_outputs(X, 40_000, 1))).detach()
    centered = samples - samples.mean(2, keepdim=True)
    variance = centered.var(0) * 3 / 2
    logits = method(X).detach()
    expected = ((logits - logits.mean(1, keepdim=True)) / (1 + math.pi / 8 * variance).sqrt()).softmax(1)
    assert_close(method.predict(X).mean, expected, rtol=0.0, atol=2e-3)
    (scored,) = quiet_trainer().test(method, loader(X, torch.arange(N) % 3), verbose=False)
    chosen = method.predict(X).mean.gather(1, (torch.arange(N) % 3).unsqueeze(1))
    assert scored["test_nll"] == pytest.approx(-chosen.log().mean().item(), rel=1e-5)
    by_sampling = Laplace(MLP(3, [4], 3), Categorical(3), structure=structure, predictive="sampling")
    by_sampling.load_state_dict(method.state_dict())
    assert_close(by_sampling.predict(X).mean, method.predict(X, return_samples=True).mean)


def test_probit_approximation_of_independent_logits_is_that_of_mackay() -> None:
    torch.manual_seed(0)
    method = Laplace(nn.Linear(3, 4, bias=False), Categorical(4), structure="diagonal", prior_std=2.0)
    method.fit_posterior([(0 * X, torch.arange(N) % 4)])  # the posterior equals the prior
    logits, std = method.output_moments(X)
    assert_close(std, 2.0 * X.norm(dim=1, keepdim=True).expand(N, 4))
    assert_close(method.predict(X).mean, (logits / (1 + math.pi / 8 * std**2).sqrt()).softmax(1))


def test_uncertain_shift_of_all_logits_does_not_change_probabilities() -> None:
    """The softmax is invariant to it."""
    torch.manual_seed(0)
    network = nn.Linear(3, 3)
    method = Laplace(network, Categorical(3), structure="full", prior_std=1.0)
    method.fit_posterior([(X, torch.arange(N) % 3)] * 1000)
    with torch.no_grad():
        plain = network(X).softmax(1)
    assert_close(method.predict(X).mean, plain, rtol=0.0, atol=1e-3)
    assert method.output_moments(X)[1].min() > 0.3  # the mean over classes has the variance of the prior, divided by 3


def test_prediction_before_and_after_fitting() -> None:
    method = Laplace(MLP(3, [4], 1), Gaussian())
    with pytest.raises(NotFittedError, match="Laplace cannot predict before it is fitted"):
        method.predict(X)
    with pytest.raises(NotFittedError):
        method.predict_step(X)
    with pytest.raises(NotFittedError):
        method.log_marginal_likelihood()
    with pytest.raises(NotFittedError):
        quiet_trainer().test(method, loader(X, Y), verbose=False)
    assert method.train()(X).shape == (N, 1)
    fit(method, loader(X, Y), max_epochs=2)
    assert method.predict(X).epistemic_var.min() > 0


def test_last_validation_and_last_checkpoint_use_the_fitted_posterior(tmp_path: Path) -> None:
    method = Laplace(MLP(3, [4], 1), Gaussian())
    checkpoint = ModelCheckpoint(tmp_path)
    trainer = quiet_trainer(max_epochs=2, callbacks=[checkpoint], enable_checkpointing=True)
    trainer.fit(method, loader(X, Y), loader(X, Y))
    logged = float(trainer.callback_metrics["val_nll"])
    (scores,) = quiet_trainer().validate(method, loader(X, Y), verbose=False)
    assert scores["val_nll"] == pytest.approx(logged)
    state = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert state["is_fitted"]
    assert same_state({k: v for k, v in state.items() if isinstance(v, Tensor)}, copy_of_state(method))


def test_posterior_is_fitted_after_early_stopping() -> None:
    class Stop(ModelCheckpoint):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = True

    method = Laplace(MLP(3, [4], 1), Gaussian())
    quiet_trainer(max_epochs=50, callbacks=[Stop()], enable_checkpointing=True).fit(method, loader(X, Y))
    assert method.is_fitted
    other = Laplace(MLP(3, [4], 1), Gaussian())
    quiet_trainer(max_steps=3, max_epochs=-1).fit(other, loader(X, Y))
    assert other.is_fitted


def test_further_training_resets_the_fit() -> None:
    method = Laplace(MLP(3, [4], 1), Gaussian())
    seen = []
    fit(method, loader(X, Y), max_epochs=1)

    class Look(ModelCheckpoint):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(bool(pl_module.is_fitted))

    quiet_trainer(max_epochs=2, callbacks=[Look()], enable_checkpointing=True).fit(method, loader(X, Y))
    assert not any(seen)
    assert method.is_fitted


def test_failed_fit_has_no_side_effects() -> None:
    method = at_the_mode()
    before = copy_of_state(method)
    with pytest.raises(ValueError, match="takes 3 and not 2 features"):
        method.fit_posterior([(X, Y), (X[:, :2], Y)])
    with pytest.raises(ValueError, match="there are no data to fit the posterior to"):
        method.fit_posterior([])
    with pytest.raises(ValueError, match="needs targets of shape"):
        method.fit_posterior([(X, Y[:, 0])])
    assert same_state(copy_of_state(method), before)


def test_fit_changes_neither_random_state_nor_modes() -> None:
    method = Laplace(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 1)), Gaussian())
    method.train()
    before, random_state = copy_of_state(method.backbone), torch.get_rng_state()
    method.fit_posterior([(X, Y)])
    assert same_state(copy_of_state(method.backbone), before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in method.modules())


SCRIPT = """
import sys, torch
from lightning_vi import Laplace
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import HeteroscedasticGaussian
method = Laplace.load_from_checkpoint(
    sys.argv[1], backbone=MLP(3, [4], 2), likelihood=HeteroscedasticGaussian(), weights_only=True
)
torch.save(method.predict_step(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


@pytest.mark.thorough
def test_checkpoint_gives_the_same_predictions_in_a_new_process(tmp_path: Path) -> None:
    method = Laplace(MLP(3, [4], 2), HeteroscedasticGaussian(), structure="diagonal", stochastic_module_names=None)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "laplace.ckpt")
    torch.save(X, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("laplace.ckpt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    expected = method.predict_step(X)
    for key, value in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert_close(value, expected[key])


def overtrained_classifier(**options: Any) -> tuple[Laplace, Tensor, Tensor]:
    """Returns a classifier with large weights that makes no errors on its training data, whose labels are noisy."""
    torch.manual_seed(0)
    x = torch.randn(60, 12)
    y = (x[:, 0] + torch.randn(60) > 0).long()
    network = nn.Linear(12, 2)
    for _ in range(300):
        nn.functional.cross_entropy(network(x[:30]), y[:30]).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(5.0 * parameter.grad)  # type: ignore[operator]
                parameter.grad = None
    return Laplace(network, Categorical(2), **options), x, y


def test_prior_of_an_overtrained_classifier_is_chosen_on_validation_data() -> None:
    method, x, y = overtrained_classifier()
    root_mean_square = torch.cat([p.flatten() for p in method.backbone.parameters()]).square().mean().sqrt()
    method.fit_posterior([(x[:30], y[:30])])
    assert_close(method.prior_std, root_mean_square)
    method.fit_posterior([(x[:30], y[:30])], validation_data=[(x[30:45], y[30:45]), (x[45:], y[45:])])
    chosen = method.prior_std.item() / root_mean_square.item()
    scores = {}
    for factor in (4.0, 2.0, 1.0, 0.5, 0.25):
        method.prior_precision.copy_((factor * root_mean_square) ** -2)
        probs = method.predict(x[30:]).mean
        scores[factor] = -probs.gather(1, y[30:, None]).log().sum().item()
    assert chosen == pytest.approx(min(scores, key=scores.__getitem__))
    assert chosen > 1.0  # the labels are noisy, so the network is overconfident


def test_a_fit_chooses_the_prior_of_a_classifier_on_its_validation_dataloader() -> None:
    method, x, y = overtrained_classifier(optimizer=partial(torch.optim.SGD, lr=0.0))
    quiet_trainer(max_epochs=1).fit(method, loader(x[:30], y[:30]), loader(x[30:], y[30:], batch_size=10))
    found = method.prior_std.clone()
    method.fit_posterior([(x[:30], y[:30])], validation_data=[(x[30:], y[30:])])
    assert_close(found, method.prior_std)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"structure": "block"},
            r"structure must be one of \['full', 'per_output', 'kronecker', 'diagonal'\], got 'block'",
        ),
        ({"predictive": "bridge"}, "predictive must be 'probit' or 'sampling', got 'bridge'"),
        ({"prior_std": 0.0}, "prior_std must be a positive, finite number, 'auto' or 'marginal_likelihood', got 0.0"),
        ({"prior_std": "evidence"}, "prior_std must be .* got 'evidence'"),
        ({"stochastic_module_names": ["nothing"]}, "'nothing' matches no module"),
        ({"num_mc_samples_test": 0}, "num_mc_samples_test must be"),
        ({"structure": "full", "max_mebibytes": 1e-6}, "more than max_mebibytes"),
    ],
)
def test_invalid_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Laplace(MLP(3, [4], 1), Gaussian(), **options)


@pytest.mark.parametrize("structure", ["full", "kronecker", "diagonal", "per_output"])
def test_samples_are_cached_within_the_memory_budget(structure: Structure, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    method = Laplace(MLP(3, [4], 2), HeteroscedasticGaussian(), structure=structure, num_mc_samples_test=6)
    method.fit_posterior([(X, Y)])
    drawn: list[Any] = []
    original = laplace_module.sample_noise
    monkeypatch.setattr(laplace_module, "sample_noise", lambda *args: drawn.append(args) or original(*args))
    expected = [method.predict(part) for part in X.split(10)]
    assert len(drawn) == 1
    method.predict(X, seed=1)
    assert len(drawn) == 2
    for buffer in (*method.curvature.buffers(), method.prior_precision):
        if buffer.numel() == 0:
            continue
        before = method.predict(X, seed=1, return_samples=True).samples
        buffer.data.mul_(1.7)
        assert not torch.allclose(method.predict(X, seed=1, return_samples=True).samples, before)
        buffer.data.div_(1.7)
    monkeypatch.setattr(memory, "MAX_KEPT_NUMBERS", 3)
    drawn.clear()
    again = [method.predict(part) for part in X.split(10)]
    assert len(drawn) == len(again)
    for first, second in zip(expected, again, strict=True):
        assert_close(first.mean, second.mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_rows", [3, 40])
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_samples_of_few_rows_are_those_of_drawn_weights(
    kind: str, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are too many to be kept are not drawn for few rows; the samples are the same functions."""
    head = nn.Linear(12, 5) if kind == "dense" else nn.Conv1d(12, 5, 1)
    network = nn.Sequential(nn.Linear(3, 12) if kind == "dense" else nn.Conv1d(3, 12, 1), nn.Tanh(), head)
    places = () if kind == "dense" else (2,)
    x, y = torch.randn(num_rows, 3, *places), torch.randint(0, 5, (num_rows, *places))
    for likelihood, target in ((Categorical(5), y), (Gaussian(0.5, 5), torch.randn(num_rows, 5))):
        if kind == "convolution" and isinstance(likelihood, Gaussian):
            continue
        method = Laplace(network, likelihood)
        method.fit_posterior([(x, target)])
        results = []
        for budget in (2**25, 0):
            monkeypatch.setattr(memory, "MAX_KEPT_NUMBERS", budget)
            results.append(method.predict(x, seed=1, num_samples=6, return_samples=True).as_dict())
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_a_prediction_of_few_rows_of_many_classes_draws_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    method = Laplace(nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 5)), Categorical(5))
    method.fit_posterior([(torch.randn(4, 3), torch.tensor([0, 1, 2, 3]))])
    monkeypatch.setattr(memory, "MAX_KEPT_NUMBERS", 0)
    monkeypatch.setattr(method.curvature, "draw", None)
    assert method.predict(torch.randn(4, 3)).as_dict()["pred"].sum(1).allclose(torch.ones(4))
