r"""Agreement of training samples with prediction samples, and of the mean network with the deterministic one.

Training may sample the outputs of layers, and runs copies of the batch; prediction samples weights. For one posterior
both must have the same variance, and without noise both must be the deterministic network. The comparison knows nothing
of layers: it finds whatever makes the two differ.

Variances are compared by the ratio of their geometric means over G groups of samples, with its standard error from the
groups. A ratio counts as different if it lies outside [1/2, 2] and more than `NUM_STANDARD_ERRORS` standard errors from
1; with 30 degrees of freedom this has a probability below 1e-7 for equal variances.
"""

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError
from lightning_vi.layers import VariationalModule, stochastic_parameters
from lightning_vi.layers.rank_one import RankOneModule
from lightning_vi.noise import private_random_state
from lightning_vi.sampling.network import NetworkInput, device_of, evaluating, few_rows
from lightning_vi.sampling.probe import agrees, trial

if TYPE_CHECKING:
    from lightning_vi.sampling.engine import SamplingEngine

MAX_ROWS = 8
GROUPS, QUICK_GROUP, FULL_GROUP = 16, 4, 32
MAX_RATIO = 2.0
NUM_STANDARD_ERRORS = 7.0


@dataclass(frozen=True)
class Agreement:
    """How training samples compare with prediction samples.

    Attributes:
        ratio: Variance of training samples divided by that of prediction samples.
        num_errors: Number of standard errors between the logarithm of the ratio and zero.
        keeps_means: Whether training samples without noise are the output on posterior means.
        keeps_network: Whether the output on posterior means is that of the deterministic network.
    """

    ratio: float
    num_errors: float
    keeps_means: bool
    keeps_network: bool

    @property
    def same_variance(self) -> bool:
        """True unless the variances differ by more than chance and rounding."""
        return abs(math.log(self.ratio)) <= math.log(MAX_RATIO) or self.num_errors <= NUM_STANDARD_ERRORS


def compare_samples(engine: "SamplingEngine", x: NetworkInput) -> Agreement:
    """Compares training samples with prediction samples on the first rows of a batch.

    The network is run in evaluation mode and without gradients, on a private random state. A few samples are enough
    where the variances agree; 512 of each kind decide where they seem to differ.

    Args:
        engine: The engine, with the weights that it has now.
        x: Network input, each tensor of shape [B, ...].

    Returns:
        The comparison.
    """
    x = few_rows(x, MAX_ROWS)
    network = engine.network
    with torch.no_grad(), evaluating(network), private_random_state(0, device_of(x)):
        means = engine.mean_output(x)
        keeps_network = agrees(means, trial(deterministic_copy(network), x))
        keeps_means = _keeps_means(engine, x, means)
        ratio, num_errors = 1.0, 0.0
        if keeps_means:
            for size in (QUICK_GROUP, FULL_GROUP):
                ratio, num_errors = _variance_ratio(engine, x, size)
                if abs(math.log(ratio)) <= math.log(MAX_RATIO):
                    break
    return Agreement(ratio, num_errors, keeps_means, keeps_network)


def _keeps_means(engine: "SamplingEngine", x: NetworkInput, means: Tensor) -> bool:
    """Returns True if two training samples without noise are the output on posterior means."""
    try:
        copies = engine.zero_noise_samples(x, 2)
    except (RuntimeError, IndexError, ValueError):  # of a network that takes no copies of the batch
        return False
    return copies.shape[1:] == means.shape and all(agrees(each, means) for each in copies)


def _variance_ratio(engine: "SamplingEngine", x: NetworkInput, size: int) -> tuple[float, float]:
    """Ratio of training to prediction variance, and the number of its standard errors from 1."""
    num_samples = GROUPS * size
    drawn = torch.cat([engine.training_draws(x, GROUPS) for _ in range(size)])
    predicted = torch.cat(list(engine.prediction_samples(x, num_samples, seed=0, keep=False)))
    scale = max(float(drawn.abs().max()), float(predicted.abs().max()))
    least = (1e-6 * scale) ** 2 + 1e-300
    logs = []
    for samples in (drawn, predicted):
        groups = samples.double().reshape(size, GROUPS, *samples.shape[1:])
        logs.append((groups.var(0).flatten(1).mean(1) + least).log())
    difference = float(logs[0].mean() - logs[1].mean())
    error = math.sqrt(float(logs[0].var() + logs[1].var()) / GROUPS)
    bounded = max(-300.0, min(300.0, difference)) if math.isfinite(difference) else 0.0
    return math.exp(bounded), abs(bounded) / max(error, 1e-3)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def settle_disagreements(engine: "SamplingEngine", x: NetworkInput) -> None:
    """Makes training agree with prediction before the first training step.

    Passes over copies of the batch become separate passes, and layers that draw their outputs draw their weights, where
    only that agrees.

    Args:
        engine: The engine.
        x: Input of the first training step.

    Raises:
        ValueError: If the network on posterior means is not the network that was given, or training samples without
            noise still differ from it.
    """
    if not engine.needs_comparison:
        return
    found = compare_samples(engine, x)
    if not found.keeps_network:
        raise InputValueError(
            f"the output of {type(engine.network).__name__} on posterior means differs from that of the network that "
            "was given: a module computes something else when its parameters are stochastic. Leave it out with "
            "stochastic_module_names"
        )
    if not found.keeps_means and engine.run_apart():
        found = compare_samples(engine, x)
    if not found.keeps_means:
        raise InputValueError(
            f"training samples of {type(engine.network).__name__} without noise differ from its output on posterior "
            f"means, with vectorization={engine.vectorization!r}: use 'loop'"
        )
    if not found.same_variance and engine.draws_outputs:
        engine.draw_weights(f"its noise had {found.ratio:.2g} times the variance of predictions")


def deterministic_copy(network: nn.Module) -> nn.Module:
    """Copy of a network whose modules have their original classes again, with posterior means as weights.

    Args:
        network: A converted network. Rank-one layers stay as they are, because their weights are not stochastic.

    Returns:
        The copy.
    """
    twin = copy.deepcopy(network)
    for module in twin.modules():
        owner = stochastic_parameters(module)
        if owner is None or isinstance(module, RankOneModule):
            continue
        means = {name: owner.mu(name) for name in owner.names}
        parts = type(module).__dict__.get("_made_of")
        original = (
            parts[1]
            if parts
            else next(
                kind
                for kind in type(module).__mro__
                if not issubclass(kind, VariationalModule)
                and issubclass(kind, nn.Module)
                and kind.__module__.startswith("torch.")
            )
        )
        del module.__dict__["_stochastic"]
        object.__setattr__(module, "__class__", original)
        for name, mean in means.items():
            module._parameters[name] = cast(nn.Parameter, mean)
            if isinstance(module, nn.RNNBase):
                module._flat_weights[module._flat_weights_names.index(name)] = mean
    return twin
