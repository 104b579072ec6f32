"""Alpha-divergence minimization against manually sampled weights, exact evidence and the evidence lower bound."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer, randomize_posteriors
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from lightning_vi import AlphaDivergenceVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.objectives import alpha_divergence_energy
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, LaplacePrior
from lightning_vi.sampling import SamplingEngine

X, Y = normal(12, 2), normal(12, 1)


def method(alpha: float, **options: Any) -> AlphaDivergenceVI:
    torch.manual_seed(3)
    built = AlphaDivergenceVI(
        MLP(2, [3], 1),
        Gaussian(0.5),
        alpha=alpha,
        num_data=12,
        num_mc_samples_train=options.pop("samples", 6),
        **options,
    )
    randomize_posteriors(built.backbone)
    return built


@pytest.mark.parametrize("alpha", [1e-3, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("kl_weight", [1.0, 0.2])
def test_energy_matches_its_formula(alpha: float, kl_weight: float) -> None:
    log_prob = torch.randn(5, 7, dtype=torch.float64)
    log_ratio = 3 * torch.randn(5, dtype=torch.float64)
    terms = alpha_divergence_energy(log_prob, log_ratio, torch.tensor(2.0), 9, alpha, kl_weight)
    factors = (log_prob.exp() * log_ratio.neg().exp().pow(kl_weight / 9).unsqueeze(-1)).pow(alpha)
    torch.testing.assert_close(terms.loss, -(factors.mean(0).log() / alpha).mean(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(terms.nll, -log_prob.mean())
    assert terms.kl == 2.0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_sampled_weights_and_densities_match_torch_distributions(alpha: float) -> None:
    """A pass written out with the same random numbers."""
    built = method(alpha, prior=GaussianPrior(0.2, 1.4))
    built.backbone.double()
    x, y = X.double(), Y.double()
    state = built.backbone.state_dict()
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]
    built.engine.mean_output(x)
    torch.manual_seed(11)
    outputs, log_ratio, kl = built.engine.weighted_pass(x, 6)
    torch.manual_seed(11)
    noise = torch.randn(6, 13)
    total, log_probs = [], []
    for row in noise.double():
        parts = dict(zip(names, row.split([6, 3, 3, 1]), strict=True))
        weights, ratio = {}, torch.zeros((), dtype=torch.float64)
        for name, eps in parts.items():
            posterior = Normal(state[f"{name}_mu"], F.softplus(state[f"{name}_rho"]))
            weights[name] = posterior.mean + posterior.stddev * eps.view_as(posterior.mean)
            ratio = ratio + (posterior.log_prob(weights[name]) - Normal(0.2, 1.4).log_prob(weights[name])).sum()
        hidden = F.linear(x, weights["0.weight"], weights["0.bias"]).relu()
        f = F.linear(hidden, weights["2.weight"], weights["2.bias"])
        log_probs.append(Normal(f, 0.5).log_prob(y).squeeze(-1))
        total.append(ratio)
    torch.testing.assert_close(log_ratio, torch.stack(total))
    torch.testing.assert_close(built.likelihood.log_prob(outputs, y), torch.stack(log_probs))
    torch.testing.assert_close(kl, built.engine.kl())


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_energy_of_the_exact_posterior_of_one_datum_is_the_negative_log_evidence(alpha: float) -> None:
    """p(y | w) p(w) / q(w) is then the same for every w, so that the energy has no sampling noise."""
    built = AlphaDivergenceVI(
        nn.Linear(1, 1, bias=False), Gaussian(0.5), alpha=alpha, num_data=1, prior=GaussianPrior(0.0, 2.0)
    )
    x, y = torch.tensor([[1.5]]), torch.tensor([[0.7]])
    precision = 1.5**2 / 0.5**2 + 1 / 2.0**2
    with torch.no_grad():
        built.backbone.weight_mu.fill_(1.5 * 0.7 / 0.5**2 / precision)
        built.backbone.weight_rho.fill_(math.log(math.expm1(precision**-0.5)))
    evidence = Normal(0.0, math.sqrt(1.5**2 * 2.0**2 + 0.5**2)).log_prob(torch.tensor(0.7))
    for _ in range(3):
        torch.testing.assert_close(built.elbo(x, y).loss, -evidence, rtol=1e-4, atol=1e-4)


def gradient_of(loss: Tensor, built: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(built.parameters()))])


def test_gradient_for_small_alpha_is_that_of_the_evidence_lower_bound() -> None:
    tiny, zero = method(1e-6, samples=400).double(), method(0.0, samples=400).double()
    x, y = X.double(), Y.double()
    with_alpha, limit = (gradient_of(built.elbo(x, y).loss, built.backbone) for built in (tiny, zero))
    torch.testing.assert_close(with_alpha, limit, rtol=0.01, atol=1e-3)
    vi = MeanFieldVI(
        MLP(2, [3], 1), Gaussian(0.5), num_data=12, num_mc_samples_train=20_000, estimator="reparameterization"
    ).double()
    vi.backbone.load_state_dict(zero.backbone.state_dict())
    draws = torch.stack([gradient_of(zero.elbo(x, y).loss, zero.backbone) for _ in range(60)])
    exact = gradient_of(vi.elbo(x, y).loss, vi.backbone)
    standard_error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() < 5 * standard_error + 0.02 * exact.abs().max()).all()


def test_larger_alpha_gives_wider_predictions() -> None:
    """On data with two clusters of targets for one input, the predictive of alpha = 1 is wider than that of 0."""
    widths = []
    for alpha in (0.0, 1.0):
        torch.manual_seed(0)
        built = AlphaDivergenceVI(
            nn.Linear(2, 1),
            Gaussian(0.3),
            alpha=alpha,
            init_std=0.05,
            num_mc_samples_train=50,
            optimizer=torch.optim.Adam,
            lr_scheduler=None,
            kl_warmup_epochs=0,
        )
        x = torch.cat([normal(64, 1), torch.ones(64, 1)], 1)
        y = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0).unsqueeze(1)
        fit(built, loader(x, y, batch_size=64), max_epochs=300)
        widths.append(built.predict(x).epistemic_var.mean().item())
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"alpha": 0.5}, [0.0] * 7 + [0.5 / 3, 1 / 3, 0.5]),
        ({"alpha": 1e-4}, [0.0] * 9 + [1e-4]),
        ({"alpha": 0.5, "kl_warmup_epochs": 0}, [0.5] * 10),
        ({"alpha": 0.5, "burnin_epochs": 5}, [0.0] * 3 + [1 / 6, 0.5]),
    ],
)
def test_alpha_increases_in_the_last_three_tenths_of_a_fit(options: Any, expected: list[float]) -> None:
    alphas = []

    class Recorded(AlphaDivergenceVI):
        def objective(self, *args: Any, **options: Any) -> Any:
            alphas.append(self.effective_alpha())
            return super().objective(*args, **options)

    built = Recorded(MLP(2, [3], 1), Gaussian(0.5), **options)
    fit(built, loader(X, Y, batch_size=12), max_epochs=10)
    assert alphas == pytest.approx(expected)
    assert built.effective_alpha() == options["alpha"]


@pytest.mark.parametrize("prior", [None, LaplacePrior(), EmpiricalBayesPrior(), {"*.bias": GaussianPrior(std=2.0)}])
def test_training_and_reloading_with_each_prior(prior: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = AlphaDivergenceVI(MLP(2, [8], 1), Gaussian(), alpha=0.7, prior=prior)
    history = fit(built, loader(X, X[:, :1]), max_epochs=60)
    assert history["train_nll"][-1] < history["train_nll"][0]
    assert {"train_loss", "train_kl", "train_elbo"} <= history.keys()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(built, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "alpha.ckpt")
    loaded = AlphaDivergenceVI.load_from_checkpoint(
        tmp_path / "alpha.ckpt", backbone=MLP(2, [8], 1), likelihood=Gaussian(), prior=prior, weights_only=True
    )
    assert loaded.alpha == 0.7
    torch.testing.assert_close(loaded.predict(X).epistemic_var, built.predict(X).epistemic_var)


def test_padding_row_of_an_embedding_is_excluded() -> None:
    built = AlphaDivergenceVI(nn.Embedding(4, 2, padding_idx=1), Categorical(2), num_data=4)
    built.elbo(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 1])).loss.backward()
    gradient = built.backbone.weight_rho.grad
    assert gradient is not None
    assert torch.equal(gradient[1], torch.zeros(2))
    assert (gradient[[0, 2, 3]] != 0).all()


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_invalid_alpha(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha must be non-negative and finite"):
        method(alpha)
    with pytest.raises(ValueError, match="alpha must not be negative"):
        alpha_divergence_energy(torch.zeros(2, 2), torch.zeros(2), torch.tensor(0.0), 2, alpha)


def test_estimators_that_sample_outputs_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"estimator must be 'auto' or 'reparameterization', .*got 'flipout'"):
        method(0.5, estimator="flipout")
    converted = MeanFieldVI(MLP(2, [3], 1), Gaussian()).backbone
    with pytest.raises(ValueError, match=r"\['0', '2'\] draw outputs and no weights"):
        SamplingEngine(converted).weighted_pass(X, 2)


@pytest.mark.parametrize(("options", "limit"), [({}, 1.0), ({"gradient_clip_val": 0.5}, 0.5)])
def test_trainer_limits_the_gradient_of_an_outlier(options: Any, limit: float) -> None:
    """One input far away, where all samples miss its target, would otherwise stop Adam for thousands of steps."""
    norms = []

    class Recording(torch.optim.Adam):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            loss = closure()
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
            super().step()
            return loss

    network = nn.Linear(1, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0], [-1.0]]))  # far away, a small noise in the wrong place
    built = AlphaDivergenceVI(
        network, HeteroscedasticGaussian(), optimizer=lambda p: Recording(p, lr=1e-3), init_std=0.01
    )
    x = torch.cat([normal(31, 1), torch.full((1, 1), 20.0)])
    quiet_trainer(max_epochs=2, **options).fit(built, loader(x, normal(32, 1), batch_size=32))
    assert max(norms) == pytest.approx(limit, rel=1e-3)

    quiet_trainer(max_epochs=2, gradient_clip_val=0).fit(built, loader(x, normal(32, 1), batch_size=32))
    assert max(norms[2:]) > 1e4
