"""Ordered classes against differences of logistic distribution functions in float64."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from lightning_vi import Deterministic, Laplace
from lightning_vi.likelihoods import Bernoulli, Ordinal


def exact_probs(thresholds: Tensor, scores: Tensor) -> np.ndarray:
    """Probabilities [..., C] from scipy's logistic distribution function."""
    edges = np.concatenate([[-np.inf], thresholds.detach().double().numpy(), [np.inf]])
    return np.diff(scipy.stats.logistic.cdf(edges - scores.double().numpy()[..., None]), axis=-1)


def likelihood_at(*thresholds: float) -> Ordinal:
    likelihood = Ordinal(len(thresholds) + 1)
    values = torch.tensor(thresholds)
    with torch.no_grad():
        likelihood.threshold_rho.copy_(torch.cat([values[:1], torch.special.expm1(values.diff() - 1e-4).log()]))
    return likelihood


def test_probabilities_are_differences_of_logistic_distribution_functions() -> None:
    likelihood = likelihood_at(-1.5, -0.2, 0.1, 2.5)
    torch.testing.assert_close(likelihood.thresholds.detach(), torch.tensor([-1.5, -0.2, 0.1, 2.5]))
    scores = 3 * torch.randn(6, 7)
    log_probs = likelihood.log_probs(scores.unsqueeze(-1)).detach()  # [S, B, C]
    assert log_probs.shape == (6, 7, 5)
    np.testing.assert_allclose(log_probs.exp(), exact_probs(likelihood.thresholds, scores), rtol=2e-5, atol=1e-7)
    target = torch.randint(5, (7,))
    expected = torch.from_numpy(exact_probs(likelihood.thresholds, scores)).log()[:, range(7), target]
    torch.testing.assert_close(
        likelihood.log_prob(scores.unsqueeze(-1), target).detach().double(), expected, rtol=1e-4, atol=1e-5
    )


def test_scores_far_away_have_finite_log_probabilities() -> None:
    likelihood = likelihood_at(-1.0, 1.0, 1.001)
    for score in (-300.0, 80.0, 300.0):
        log_probs = likelihood.log_probs(torch.full((1, 1, 1), score))[0, 0].detach()
        edges = torch.tensor([-torch.inf, -1.0, 1.0, 1.001, torch.inf], dtype=torch.float64) - score
        # The logarithm of a difference: the same on the reflected side, where the numbers are small.
        low, high = (edges[:-1], edges[1:]) if score > 0 else (-edges[1:], -edges[:-1])
        parts = scipy.special.log_expit(torch.stack([high, low]).numpy())
        with np.errstate(invalid="ignore"):
            expected = parts[0] + np.log1p(-np.exp(parts[1] - parts[0]))
        np.testing.assert_allclose(log_probs, expected, rtol=1e-3, atol=1e-5)


def test_a_score_of_zero_has_equal_probabilities_at_the_start() -> None:
    for num_classes in (2, 3, 7):
        probs = Ordinal(num_classes).log_probs(torch.zeros(1, 1, 1)).exp()
        torch.testing.assert_close(probs.detach(), torch.full((1, 1, num_classes), 1 / num_classes))


def test_two_classes_are_a_bernoulli_variable() -> None:
    logits = torch.randn(3, 4, 1)
    torch.testing.assert_close(Ordinal(2).log_probs(logits).detach(), Bernoulli().log_probs(logits))


def test_information_is_the_expected_negative_hessian() -> None:
    likelihood = likelihood_at(-1.5, -0.2, 2.5).double()
    scores = torch.tensor([[-3.0], [0.2], [4.0]], dtype=torch.float64)

    def total(score: Tensor) -> Tensor:
        return likelihood.log_probs(score.unsqueeze(0))[0]  # [B, C]

    probs = total(scores).exp()
    expected = [
        -sum(
            probs[row, label]
            * torch.autograd.functional.hessian(lambda s, r=row, c=label: total(s)[r, c], scores)[row, 0, row, 0]
            for label in range(4)
        )
        for row in range(3)
    ]
    factor = likelihood.information_factor(scores)
    torch.testing.assert_close(factor.square().flatten(), torch.stack(expected))


def test_probit_approximation_agrees_with_samples() -> None:
    likelihood = likelihood_at(-1.0, 0.5, 3.0)
    mean, std = torch.tensor([[0.3], [-2.0]]), torch.tensor([[1.5], [0.7]])
    samples = likelihood.log_probs(mean + std * torch.randn(40_000, 2, 1)).exp().mean(0)
    torch.testing.assert_close(likelihood.probit_log_probs(mean, std.square()).exp(), samples, rtol=0.1, atol=0.012)


@pytest.mark.parametrize("kind", [Deterministic, Laplace])
def test_expected_class_is_the_mean_under_the_probabilities(kind: type) -> None:
    method = kind(torch.nn.Linear(2, 1), Ordinal(4))
    x, y = torch.randn(9, 2), torch.randint(4, (9,))
    if kind is Laplace:
        method.fit_posterior([(x, y)])
    result = method.predict_step(x)
    torch.testing.assert_close(result["expected_class"], (result["pred"] * torch.arange(4)).sum(1))
    assert result["pred_uct"].shape == (9,)


def test_a_fit_recovers_thresholds_and_slope() -> None:
    x = torch.linspace(-2, 2, 4000).unsqueeze(1)
    probs = torch.from_numpy(exact_probs(torch.tensor([-1.0, 0.5, 2.0]), 1.7 * x[:, 0]))
    y = torch.multinomial(probs, 1)[:, 0]
    method = Deterministic(torch.nn.Linear(1, 1, bias=False), Ordinal(4))
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = method.elbo(x, y, num_data=4000).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    # Standard errors are about 0.05.
    torch.testing.assert_close(method.likelihood.thresholds.detach(), torch.tensor([-1.0, 0.5, 2.0]), rtol=0, atol=0.2)
    assert method.backbone.weight.item() == pytest.approx(1.7, abs=0.15)


def test_weights_and_ignored_labels() -> None:
    likelihood = Ordinal(3, ignore_index=-1, class_weights=[1.0, 2.0, 5.0])
    outputs, target = torch.randn(2, 4, 1), torch.tensor([0, -1, 1, 2])
    plain = Ordinal(3).log_prob(outputs, target.clamp_min(0)).detach()
    weighted = likelihood.log_prob(outputs, target, likelihood.element_weights(target)).detach()
    torch.testing.assert_close(weighted, plain * torch.tensor([1.0, 0.0, 2.0, 5.0]))


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        Ordinal(1)
    with pytest.raises(ValueError, match="class_weights must be 3 finite numbers"):
        Ordinal(3, class_weights=[1.0])
    with pytest.raises(ValueError, match=r"needs network outputs of width 1 in dimension 1, got the shape \(4, 3\)"):
        Ordinal(3).check_outputs(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="labels must lie between 0 and 2, got 0 to 3"):
        Ordinal(3).check_values(torch.tensor([0, 3]))
    with pytest.raises(TypeError, match="integer labels"):
        Ordinal(3).check(torch.zeros(1, 2, 1), torch.zeros(2))
