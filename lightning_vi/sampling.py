"""The one engine: S forward passes of a network with stochastic weights.

*Training* noise is fresh in each pass. Where all estimators work on activations, the S samples are one pass over
S copies of the batch; otherwise stacked weights run under `torch.vmap` or in a loop. *Prediction* noise depends on
the seed and the sample's index alone, so that the S networks are the same functions on every batch and every rank.
What lies in front of the first stochastic module is computed once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from lightning_vi.layers import ACTIVATION_SPACE, VariationalLayer, activation_moments
from lightning_vi.noise import sample_noise

Vectorization = Literal["auto", "vmap", "loop"]
VECTORIZATIONS: tuple[Vectorization, ...] = ("auto", "vmap", "loop")

MAX_ROWS_PER_PASS = 2**16
MAX_WEIGHTS_PER_PASS = 2**26
MAX_CACHED_WEIGHTS = 2**25


@dataclass(frozen=True)
class _Slot:
    """A place in the network for a drawn weight, and where its noise stands in a flat noise vector."""

    layer: VariationalLayer
    name: str
    start: int
    stop: int


class SamplingEngine:
    """Runs a network with sampled weights.

    Args:
        network: A network with at least one `VariationalLayer`.
        vectorization: How stacked weights are run: ``"vmap"``, ``"loop"``, or ``"auto"``, which takes a loop for
            convolutions on a CPU and vmap elsewhere, and goes over to the loop where vmap cannot trace a module.

    Raises:
        ValueError: If the network has no variational layer, or `vectorization` is unknown.

    Example:
        >>> import torch
        >>> from lightning_vi.layers import VariationalLinear
        >>> engine = SamplingEngine(torch.nn.Sequential(torch.nn.Linear(2, 8), VariationalLinear(8, 1)))
        >>> engine.training_samples(torch.ones(4, 2), num_samples=3).shape
        torch.Size([3, 4, 1])
        >>> [chunk.shape for chunk in engine.prediction_samples(torch.ones(4, 2), num_samples=5, seed=0)]
        [torch.Size([5, 4, 1])]
    """

    def __init__(self, network: nn.Module, vectorization: Vectorization = "auto") -> None:
        if vectorization not in VECTORIZATIONS:
            raise ValueError(f"vectorization must be one of {VECTORIZATIONS}, got {vectorization!r}")
        self.network = network
        self.layers = [module for module in network.modules() if isinstance(module, VariationalLayer)]
        if not self.layers:
            raise ValueError("the network has no variational layer to sample")
        self._slots, self.num_weights = _allot_noise(self.layers)
        self._chain = _unroll(network)
        self._vectorization = vectorization
        self._vmap_fails = False
        self._cache: tuple[Any, list[Tensor]] | None = None

    def kl(self) -> Tensor:
        """KL divergence summed over every stochastic weight, tied ones once; nats, a scalar tensor."""
        distinct = {slot.start: slot for slot in self._slots}
        return torch.stack([slot.layer.kl_of(slot.name) for slot in distinct.values()]).sum()

    def mean_output(self, x: Tensor) -> Tensor:
        """One forward pass on posterior means.

        Args:
            x: Network input, shape [B, ...].

        Returns:
            Network output, shape [B, ...].
        """
        with self._in_place([slot.layer.posterior(slot.name).mean for slot in self._slots]):
            output: Tensor = self.network(x)
        return output

    def training_samples(self, x: Tensor, num_samples: int) -> Tensor:
        """Draws of the network's output with fresh noise, differentiable in the variational parameters.

        Args:
            x: Network input, shape [B, ...].
            num_samples: S.

        Returns:
            Shape [S, B, ...].

        Raises:
            ValueError: If the first dimension of the network's output is not the batch.
        """
        if all(layer.estimator in ACTIVATION_SPACE for layer in self.layers):
            return self._run_repeated(x, num_samples)
        noise = torch.randn(num_samples, self.num_weights, device=self._slots[0].layer.device)
        return self._run_stacked(x, self._draws(noise))

    def prediction_samples(self, x: Tensor, num_samples: int, seed: int) -> Iterator[Tensor]:
        """Outputs of the networks number 0 to S - 1 that belong to a seed, in chunks that bound the memory.

        Args:
            x: Network input, shape [B, ...].
            num_samples: S.
            seed: Which family of networks.

        Yields:
            Shape [chunk, B, ...]; the chunks add up to S.
        """
        per_pass = min(MAX_ROWS_PER_PASS // max(x.shape[0], 1), MAX_WEIGHTS_PER_PASS // self.num_weights)
        chunk = max(1, min(num_samples, per_pass))
        for first in range(0, num_samples, chunk):
            stop = min(first + chunk, num_samples)
            yield self._run_stacked(x, self._prediction_weights(first, stop, num_samples, seed))

    def output_moments(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Exact mean and standard deviation of the output, where it is the output of one variational layer.

        Args:
            x: Network input, shape [B, ...].

        Returns:
            Each of shape [B, ...]; None where anything random lies in front of the last layer, or anything behind it.
        """
        features, tail = self._shared_prefix(x)
        return activation_moments(self.layers[0], features) if tail == self.layers else None

    def _prediction_weights(self, first: int, stop: int, num_samples: int, seed: int) -> list[Tensor]:
        if num_samples * self.num_weights > MAX_CACHED_WEIGHTS:
            return self._draws(sample_noise(seed, first, stop, self.num_weights))
        key = (seed, num_samples, [layer.fingerprint() for layer in self.layers])
        if self._cache is None or self._cache[0] != key:
            self._cache = (key, self._draws(sample_noise(seed, 0, num_samples, self.num_weights)))
        return [weight[first:stop] for weight in self._cache[1]]

    def _draws(self, noise: Tensor) -> list[Tensor]:
        """Weights for each slot, [S, *shape], from noise [S, num_weights]."""
        noise = noise.to(self._slots[0].layer.device)
        draws = []
        for slot in self._slots:
            posterior = slot.layer.posterior(slot.name)
            part = noise[:, slot.start : slot.stop].view(-1, *posterior.mu.shape)
            draws.append(posterior.rsample(part.to(posterior.mu.dtype)))
        return draws

    def _run_repeated(self, x: Tensor, num_samples: int) -> Tensor:
        features, (first, *rest) = self._shared_prefix(x)
        if isinstance(first, VariationalLayer):
            hidden = first(features, num_samples=num_samples).flatten(0, 1)
        else:
            hidden = first(features.expand(num_samples, *features.shape).flatten(0, 1))
        for module in rest:
            hidden = module(hidden)
        if hidden.shape[0] != num_samples * x.shape[0]:
            raise ValueError(
                f"the network made {hidden.shape[0]} rows from {num_samples * x.shape[0]}: "
                "the first dimension of its input and of its output must be the batch"
            )
        return hidden.view(num_samples, -1, *hidden.shape[1:])

    def _run_stacked(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        features, tail = self._shared_prefix(x)

        def run(*drawn: Tensor) -> Tensor:
            hidden = features
            with self._in_place(drawn):
                for module in tail:
                    hidden = module(hidden)
            return hidden

        failure: Exception | None = None
        if self._may_vmap(x.device):
            try:
                mapped: Tensor = torch.vmap(run, randomness="different")(*weights)
            except (RuntimeError, ValueError, NotImplementedError) as error:
                failure = error
            else:
                return mapped
        outputs = torch.stack([run(*drawn) for drawn in zip(*weights, strict=True)])
        self._vmap_fails = self._vmap_fails or failure is not None
        return outputs

    def _may_vmap(self, device: torch.device) -> bool:
        if self._vectorization != "auto":
            return self._vectorization == "vmap"
        slow_or_impossible = (nn.RNNBase, _ConvNd) if device.type == "cpu" else (nn.RNNBase,)
        return not self._vmap_fails and not any(
            isinstance(module, slow_or_impossible) or (isinstance(module, _BatchNorm) and module.training)
            for module in self.network.modules()
        )

    @contextmanager
    def _in_place(self, weights: Sequence[Tensor]) -> Iterator[None]:
        try:
            for slot, weight in zip(self._slots, weights, strict=True):
                slot.layer._parameters[slot.name] = weight  # type: ignore[assignment]
            yield
        finally:
            for slot in self._slots:
                slot.layer._parameters[slot.name] = None

    def _shared_prefix(self, x: Tensor) -> tuple[Tensor, list[nn.Module]]:
        """What all samples share, and the modules that differ between them."""
        if len(self.layers) == 1 and len(self._chain) == 1 and not _is_random(self.network, but=self.layers[0]):
            features = self._features_of_final_layer(x)
            if features is not None:
                return features, [self.layers[0]]
        for position, module in enumerate(self._chain):
            if _is_random(module):
                return x, self._chain[position:]
            x = module(x)
        raise RuntimeError("the network's variational layers are not among its modules any more")

    def _features_of_final_layer(self, x: Tensor) -> Tensor | None:
        """The input of the only variational layer, if that layer's output is the network's."""
        layer = self.layers[0]
        calls: list[tuple[Tensor, Tensor]] = []
        handle = layer.register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
        try:
            output = self.mean_output(x)
        finally:
            handle.remove()
        return calls[0][0] if len(calls) == 1 and calls[0][1] is output else None


def _allot_noise(layers: Sequence[VariationalLayer]) -> tuple[list[_Slot], int]:
    """A slot for each stochastic parameter, with one range for tied ones, and the length of the noise vector."""
    slots, ranges, total = [], dict[int, tuple[int, int]](), 0
    for layer in layers:
        for name in layer.stochastic_names:
            mu = layer.posterior(name).mu
            if id(mu) not in ranges:
                ranges[id(mu)] = (total, total + mu.numel())
                total += mu.numel()
            slots.append(_Slot(layer, name, *ranges[id(mu)]))
    return slots, total


def _unroll(network: nn.Module) -> list[nn.Module]:
    """The modules of nested plain `nn.Sequential` containers in a row; other networks as they are."""
    hooked = network._forward_hooks or network._forward_pre_hooks or network._backward_hooks
    if not isinstance(network, nn.Sequential) or type(network).forward is not nn.Sequential.forward or hooked:
        return [network]
    return [part for child in network for part in _unroll(child)]


def _is_random(module: nn.Module, but: nn.Module | None = None) -> bool:
    """Whether a module's output differs between samples: variational layers, and dropout that is switched on."""
    return any(
        part is not but
        and (isinstance(part, VariationalLayer) or (isinstance(part, _DropoutNd) and part.training and part.p > 0))
        for part in module.modules()
    )
