"""A fit beside a constant prediction on the same training rows."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.core import UQMethod
from lightning_vi.core.batch import to_device
from lightning_vi.core.training_sample import training_sample
from lightning_vi.likelihoods import Likelihood
from lightning_vi.locks import exclusive
from lightning_vi.sampling import NetworkInput, evaluating

NUM_SAMPLES = 8
MIN_ROWS = 32


@dataclass(frozen=True)
class FitReference:
    """Losses of a fit and of the best constant outputs on the same training rows, in nats per datum.

    Attributes:
        num_rows: Number of rows.
        nll: Expected negative log-likelihood under the posterior.
        nll_at_means: Negative log-likelihood of the network at its posterior means.
        constant_nll: Negative log-likelihood of the best constant outputs.
        gain_error: Standard error of ``constant_nll - nll``.
        point_loss: Loss of burn-in at the posterior means.
        constant_point_loss: Loss of burn-in of the best constant outputs.
    """

    num_rows: int
    nll: float
    nll_at_means: float
    constant_nll: float
    gain_error: float
    point_loss: float
    constant_point_loss: float

    @property
    def gain(self) -> float:
        """Nats per datum by which the fit is better than constant outputs."""
        return self.constant_nll - self.nll

    @property
    def noise_cost(self) -> float:
        """Nats that the noise of the weights costs, as a share of what the network at its means gains."""
        gain = self.constant_nll - self.nll_at_means
        return (self.nll - self.nll_at_means) / gain if gain > 0 else 0.0


def compare_with_constant(method: UQMethod, dataloader: Any) -> FitReference | None:
    """Compares a fit with the best constant outputs on at most 1024 rows of the training data.

    It changes neither the method nor the global random state.

    Args:
        method: A fitted method.
        dataloader: Its training dataloader.

    Returns:
        The comparison; None if there are less than 32 rows, or they cannot be read or predicted apart from the fit.
    """
    sample = training_sample(dataloader)
    if sample is None:
        return None
    if sample.inputs is not None and len(sample.inputs) == len(sample.targets):
        batches: list[tuple[NetworkInput, Tensor]] = [(sample.inputs, sample.targets)]
    else:
        batches = sample.batches
    try:
        with exclusive(method), evaluating(method):
            return _compare(method, [to_device(method, batch) for batch in batches])
    except (RuntimeError, TypeError, ValueError):  # rows out of the fit's context: a fit that went well must not fail
        return None


def _compare(method: UQMethod, batches: list[tuple[NetworkInput, Tensor]]) -> FitReference | None:
    likelihood = method.likelihood
    nll: list[Tensor] = []
    at_means: list[Tensor] = []
    means: list[Tensor] = []
    with torch.no_grad():
        for x, target in batches:
            draws = torch.cat(list(method.sampled_outputs(x, NUM_SAMPLES, method.noise.seed)))
            mean = method.point_outputs(x).unsqueeze(0)
            nll.append(-likelihood.log_prob(draws, target).mean(0))
            at_means.append(-likelihood.log_prob(mean, target)[0])
            means.append(mean[0])
    outputs, targets = torch.cat(means).detach(), torch.cat([target for _, target in batches])
    rows = torch.cat(nll)
    if len(rows) < MIN_ROWS or len(rows) != len(targets):
        return None
    constant = _best_constant(likelihood, outputs, lambda model, const: -model.log_prob(const, targets)[0])
    point = _best_constant(likelihood, outputs, lambda model, const: model.point_loss(const, targets).unsqueeze(0))
    gain = constant - rows
    return FitReference(
        len(rows),
        rows.mean().item(),
        torch.cat(at_means).mean().item(),
        constant.mean().item(),
        (gain.std() / len(rows) ** 0.5).item(),
        likelihood.point_loss(outputs.unsqueeze(0), targets).item(),
        point.mean().item(),
    )


@torch.enable_grad()
def _best_constant(likelihood: Likelihood, outputs: Tensor, loss: Callable[[Likelihood, Tensor], Tensor]) -> Tensor:
    """Losses of the rows under the best constant outputs and noise, for outputs [B, ...]."""
    model = copy.deepcopy(likelihood)
    value = nn.Parameter(outputs.mean(0))
    parameters = [value, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    optimizer = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def losses() -> Tensor:
        return loss(model, value.expand(1, len(outputs), *value.shape))

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = losses().mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return losses().detach()
