"""Sampling engine: S forward passes of a network with stochastic weights.

*Training* noise is fresh in each pass. *Prediction* noise depends on the seed and the sample's index alone, so that
the S sampled networks are the same functions on every batch and every rank. Everything in front of the first
stochastic module is computed once. `SampleRunner` runs the rest in one of three ways:

- ``"repeat"``: one pass over S copies of the batch; each layer has separate noise or weights for each copy;
- ``"vmap"``: drawn weights are stacked, and `torch.vmap` runs the network over them;
- ``"loop"``: one pass for each sample.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError
from lightning_vi.layers import (
    ACTIVATION_SPACE,
    RankOneModule,
    StochasticParameters,
    VariationalLayer,
    activation_moments,
    stochastic_parameters,
)
from lightning_vi.posteriors import CouplingFactory, NoiseCoupling
from lightning_vi.sampling import memory
from lightning_vi.sampling.agreement import settle_disagreements
from lightning_vi.sampling.estimator_choice import WEIGHT_SPACE, settle_estimators
from lightning_vi.sampling.network import (
    NetworkInput,
    batch_size,
    call,
    device_of,
    is_random,
    treats_rows_alike,
    unroll,
)
from lightning_vi.sampling.probe import MAX_ROWS, copies_stay_apart, probe
from lightning_vi.sampling.sample_runner import SampleRunner
from lightning_vi.sampling.shared_noise import means_in_slots
from lightning_vi.sampling.vectorization import Vectorization, check_copies, check_options
from lightning_vi.sampling.weights import JointPosterior, Slot, WeightSampler, in_place, known_stds, without_noise


class SamplingEngine:
    """Runs a network with sampled weights.

    Args:
        network: A network with at least one module that has stochastic parameters.
        vectorization: How samples are run: ``"repeat"``, ``"vmap"``, ``"loop"``, or ``"auto"``. ``"auto"`` repeats the
            batch if every stochastic layer can tell its copies apart and nothing else mixes rows, uses a loop for
            convolutions on a CPU and for modules that `torch.vmap` cannot trace, and vmap otherwise.
        antithetic: Whether the noise of every second sample is the negative of the one before, which halves the
            noise to draw. With vmap or a loop it applies to drawn weights, not to noise on a layer's outputs.
        coupling: Makes the joint posterior from the shapes of all stochastic tensors; None for independent weights.

    Attributes:
        shares_dropout: Whether the samples of a training step share the masks of dropout in front of the first
            stochastic module, so that it runs once. They differ between samples by default.
        check_input: Called with the input of each pass until the network is settled, and of each pass on means.

    Raises:
        ValueError: If nothing in the network is stochastic, `vectorization` is unknown or does not support the
            network, or `antithetic` is used with flipout.

    Example:
        >>> import torch
        >>> from lightning_vi.layers import VariationalLinear
        >>> engine = SamplingEngine(torch.nn.Sequential(torch.nn.Linear(2, 8), VariationalLinear(8, 1)))
        >>> engine.training_samples(torch.ones(4, 2), num_samples=3).shape
        torch.Size([3, 4, 1])
        >>> [chunk.shape for chunk in engine.prediction_samples(torch.ones(4, 2), num_samples=5, seed=0)]
        [torch.Size([5, 4, 1])]
    """

    def __init__(
        self,
        network: nn.Module,
        vectorization: Vectorization = "auto",
        *,
        antithetic: bool = False,
        coupling: CouplingFactory | None = None,
    ) -> None:
        self.network = network
        self.vectorization: Vectorization = vectorization
        self.antithetic = antithetic
        self.modules = [module for module in network.modules() if stochastic_parameters(module) is not None]
        if not self.modules:
            raise InputValueError("the network has no stochastic weight to sample")
        self._owners = [owner for module in self.modules if (owner := stochastic_parameters(module)) is not None]
        self._layers = {
            name: module for name, module in network.named_modules() if isinstance(module, VariationalLayer)
        }
        check_options(vectorization, antithetic, self.modules, self._layers)
        self._weights = WeightSampler(self._owners, antithetic, coupling)
        self._chain = unroll(network)
        only_layers = len(self._layers) == len(self.modules)
        is_row_by_row = all(map(treats_rows_alike, self._chain))
        self._rows_stay_apart = only_layers and is_row_by_row
        # a row of a rank-one module has the component of its place in the batch
        self._has_parts = is_row_by_row and not any(isinstance(module, RankOneModule) for module in self.modules)
        self._runner = SampleRunner(
            network,
            vectorization,
            self._owners,
            antithetic=antithetic,
            only_layers=only_layers,
            rows_stay_apart=self._rows_stay_apart,
        )
        self._is_settled = self._is_checked = False
        self._width = 1
        self.shares_dropout = False
        self.check_input: Callable[[NetworkInput], None] | None = None

    @property
    def coupling(self) -> NoiseCoupling | None:
        """Joint posterior of all weights; None if they are independent."""
        return self._weights.coupling

    @property
    def sampler(self) -> WeightSampler:
        """Draws the weights."""
        return self._weights

    @property
    def owners(self) -> list[StochasticParameters]:
        """Stochastic parameters of the modules."""
        return self._owners

    @property
    def is_settled(self) -> bool:
        """True after `settle_for_training`."""
        return self._is_checked

    @property
    def slots(self) -> list[Slot]:
        """Places of the stochastic weights, tied ones once."""
        return self._weights.distinct_slots

    @property
    def places(self) -> list[Slot]:
        """Places of the stochastic weights, tied ones several times."""
        return self._weights.slots

    def parameters(self) -> list[nn.Parameter]:
        """The variational parameters: means and unconstrained scales, tied ones once."""
        return cast(list[nn.Parameter], self._weights.parameters())

    @contextmanager
    def given_stds(self, stds: Sequence[Tensor]) -> Iterator[None]:
        """Runs its body with standard deviations that are already computed.

        Args:
            stds: One for each pair of means and scales in `parameters`, of its shape.
        """
        with self._weights.given_stds(stds):
            yield

    def kl(self) -> Tensor:
        """KL divergence summed over every stochastic weight, tied ones once; nats, a scalar tensor."""
        return self._weights.kl(self._weights.joints())

    def mean_output(self, x: NetworkInput) -> Tensor:
        """One forward pass on posterior means.

        Args:
            x: Network input, each tensor of shape [B, ...].

        Returns:
            Network output, shape [B, ...].
        """
        if self.check_input is not None:
            self.check_input(x)
        with self._means_in_place():
            return call(self.network, x)

    def training_pass(self, x: NetworkInput, num_samples: int) -> tuple[Tensor, Tensor]:
        """Training samples and the KL divergence, which share computations.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.

        Returns:
            The results of `training_samples` and `kl`.

        Raises:
            ValueError: See `training_samples`.
        """
        self.settle_for_training(x)
        joints = self._weights.joints()
        with known_stds(joints):
            outputs, _ = self._draw_and_run(x, num_samples, joints)
        return outputs, self._weights.kl(joints)

    def weighted_pass(self, x: NetworkInput, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Training samples, the log ratio of posterior to prior at their weights, and the KL divergence.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.

        Returns:
            The result of `training_samples`, [S, B, ...]; the log ratio in nats, summed over each sample's weights,
            [S]; and the result of `kl`.

        Raises:
            ValueError: If a module draws its outputs instead of its weights.
        """
        self.settle_for_training(x)
        others = [name for name, layer in self._layers.items() if layer.estimator in ACTIVATION_SPACE]
        if others:
            raise InputValueError(f"{others} draw outputs and no weights: use estimator='reparameterization'")
        joints = self._weights.joints()
        outputs, weights = self._draw_and_run(x, num_samples, joints)
        return outputs, self._weights.log_ratio(weights), self._weights.kl(joints)

    def training_samples(self, x: NetworkInput, num_samples: int) -> Tensor:
        """Draws of the network's output with fresh noise, differentiable in the variational parameters.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.

        Returns:
            Shape [S, B, ...].

        Raises:
            ValueError: If the first dimension of the network's output is not the batch, or a layer with an explicit
                estimator that draws outputs is called several times in one pass.
        """
        self.settle_for_training(x)
        return self._draw_and_run(x, num_samples)[0]

    def zero_noise_samples(self, x: NetworkInput, num_samples: int) -> Tensor:
        """Training samples without noise, each of which should be the result of `mean_output`.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.

        Returns:
            Shape [S, B, ...].
        """
        self._settle(x)
        slots = self._weights.training_slots
        means = [slot.mu.expand(num_samples, *slot.mu.shape).clone() for slot in slots]
        with without_noise(self._weights.slots):
            features, tail = self._shared_prefix(x)
            return self._runner(features, tail, num_samples, slots, means)

    def training_draws(self, x: NetworkInput, num_samples: int) -> Tensor:
        """Training samples as in `training_samples`, without the checks of the first training step."""
        self._settle(x)
        return self._draw_and_run(x, num_samples)[0]

    @property
    def needs_comparison(self) -> bool:
        """True if training may differ from prediction in more than random numbers: it draws outputs or runs copies."""
        return self.vectorization != "vmap" and (
            self.draws_outputs or (self._rows_stay_apart and self._runner.copies_stay_apart)
        )

    @property
    def draws_outputs(self) -> bool:
        """True if a layer draws its outputs in training, by an estimator that the user did not choose."""
        owners = [layer._stochastic for layer in self._layers.values() if layer.estimator in ACTIVATION_SPACE]
        return bool(owners) and not any(owner.is_estimator_fixed for owner in owners)

    def draw_weights(self, reason: str) -> None:
        """Makes every layer draw its weights in training.

        Args:
            reason: Reason stated in the conversion report.
        """
        for layer in self._layers.values():
            if layer.estimator in ACTIVATION_SPACE:
                layer._stochastic.replace_estimator(WEIGHT_SPACE, reason)

    def run_apart(self) -> bool:
        """Gives up passes over copies of the batch.

        Returns:
            False if they have been given up before, or were asked for.
        """
        could = self._runner.copies_stay_apart
        self._runner.copies_stay_apart = False
        return could and self.vectorization == "auto"

    def prediction_samples(
        self, x: NetworkInput, num_samples: int, seed: int, *, keep: bool = True
    ) -> Iterator[Tensor]:
        """Outputs of the sampled networks 0 to S - 1 of a seed, in chunks that bound the memory.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Which family of networks.
            keep: Whether to keep drawn weights for later calls, as far as they fit into memory.

        Yields:
            Shape [chunk, B, ...]; the chunks add up to S.
        """
        self._settle(x)
        features, tail = self._shared_prefix(x)
        max_samples, parts = self._divide(features)
        is_on_cpu = device_of(x).type == "cpu"
        keeps = keep and (not is_on_cpu or memory.fits(memory.MAX_ROWS_FOR_KEPT_WEIGHTS, batch_size(x)))
        for first, stop in memory.chunk_ranges(num_samples, max_samples):
            weights = self._weights.for_prediction(first, stop, num_samples if keeps else None, seed)
            outputs = [self._runner(part, tail, stop - first, self._weights.slots, weights) for part in parts]
            yield outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)

    def row_parts(self, x: NetworkInput, numbers_per_unit: int) -> Sequence[NetworkInput]:
        """Parts of a batch that fit into one pass; the whole batch where rows may affect each other.

        Args:
            x: Network input, each tensor of shape [B, ...].
            numbers_per_unit: How many numbers the pass keeps for each element of an activation.

        Returns:
            Inputs whose rows add up to B.
        """
        self._settle(x)
        return self._split(x, memory.max_rows(numbers_per_unit * self._width, device_of(x)))

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor] | None:
        """Exact mean and standard deviation of the output, if it is the output of one variational layer.

        Args:
            x: Network input, each tensor of shape [B, ...].

        Returns:
            Each of shape [B, ...]; None if anything in front of the last layer is random, or anything follows it.
        """
        self._settle(x)
        features, tail = self._shared_prefix(x)
        if len(tail) != 1 or not isinstance(tail[0], VariationalLayer) or not isinstance(features, Tensor):
            return None
        return activation_moments(tail[0], features)

    @contextmanager
    def _means_in_place(self) -> Iterator[None]:
        slots = self._weights.slots
        with in_place(slots, [slot.mean for slot in slots]):
            yield

    def settle_for_training(self, x: NetworkInput) -> None:
        """Checks the network before the first training step, and replaces estimators that do not suit it.

        Args:
            x: Input of the step.

        Raises:
            ValueError: If samples of the network cannot be computed.
        """
        self._settle(x)
        if not self._is_checked:
            self._is_checked = True
            settle_disagreements(self, x)

    def _settle(self, x: NetworkInput) -> None:
        """Replaces estimators that would draw one weight several times, before the first pass."""
        if self._is_settled:
            return
        if self.check_input is not None:
            self.check_input(x)
        with self._means_in_place():
            seen = probe(self.network, self._layers, x)
            self._runner.copies_stay_apart = copies_stay_apart(self.network, x, seen.num_rows)
        if isinstance(x, Tensor) and seen.num_rows != min(batch_size(x), MAX_ROWS):
            raise InputValueError(
                f"the network made {seen.num_rows} rows from {min(batch_size(x), MAX_ROWS)}: "
                "the first dimension of its input and of its output must be the batch"
            )
        settle_estimators(self._layers, seen)
        self._runner.head = seen.last
        if self.vectorization == "repeat":
            check_copies(self._layers, seen.read, self._runner.copies_stay_apart or self.modules == [self._runner.head])
        self._width = seen.width
        self._is_settled = True

    def _divide(self, features: NetworkInput) -> tuple[int, Sequence[NetworkInput]]:
        """Number of samples that fit into one pass, and the rows, in parts if not even one sample fits."""
        most_rows = memory.max_rows(self._width, device_of(features))
        max_samples = min(
            memory.num_fitting(most_rows, batch_size(features)),
            memory.num_fitting(memory.MAX_WEIGHTS_PER_PASS, self._weights.num_weights),
        )
        return max_samples, self._split(features, most_rows)

    def _split(self, features: NetworkInput, most_rows: int) -> Sequence[NetworkInput]:
        """Parts of a batch; the whole one where rows may affect each other."""
        has_parts = self._has_parts and not self._runner.mixes_rows
        if not has_parts or not isinstance(features, Tensor) or memory.fits(most_rows, batch_size(features)):
            return [features]
        return torch.split(features, most_rows)

    def _draw_and_run(
        self, x: NetworkInput, num_samples: int, joints: Sequence[JointPosterior] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        weights = self._weights.for_training(num_samples, device_of(x), joints)
        features, tail = self._shared_prefix(x)
        mean_slots = self._weights.mean_slots
        with means_in_slots(mean_slots) if mean_slots else nullcontext():
            return self._runner(features, tail, num_samples, self._weights.training_slots, weights), weights

    def _shared_prefix(self, x: NetworkInput) -> tuple[NetworkInput, list[nn.Module]]:
        """Features that all samples share, and the modules that differ between them."""
        if len(self._chain) == 1 or not isinstance(x, Tensor):
            features = self._features_of_head(x)
            return (x, [self.network]) if features is None else (features, self.modules)
        features, rest = x, self._chain
        for position, module in enumerate(self._chain):
            if isinstance(x, Tensor):
                features, rest = x, self._chain[position:]
            if is_random(module, dropout=not self.shares_dropout):
                return features, rest
            x = module(x)
        raise RuntimeError("the network's stochastic modules are no longer among its modules")

    def _features_of_head(self, x: NetworkInput) -> Tensor | None:
        """The input of the only stochastic layer, if that layer's output is the network's for this input too."""
        head = self._runner.head
        if head is None or self.modules != [head] or is_random(self.network, head, dropout=not self.shares_dropout):
            return None
        calls: list[tuple[Tensor, Tensor]] = []
        handle = head.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
        try:
            result = self.mean_output(x)
        finally:
            handle.remove()
        return calls[0][0] if len(calls) == 1 and calls[0][1] is result else None
