"""The one engine: S forward passes of a network with stochastic weights.

*Training* noise is fresh in each pass. Where all layers use local reparameterization, the S samples are one pass over
S copies of the batch; otherwise S passes run under `torch.vmap` or in a loop. *Prediction* noise depends on
the seed and the sample's index alone, so that the S networks are the same functions on every batch and every rank.
What lies in front of the first stochastic module is computed once.
"""

from collections.abc import Hashable, Iterator, Sequence
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
from lightning_vi.posteriors import MeanFieldGaussian

Vectorization = Literal["auto", "vmap", "loop"]
VECTORIZATIONS: tuple[Vectorization, ...] = ("auto", "vmap", "loop")

MAX_ROWS_PER_PASS = 2**16
MAX_WEIGHTS_PER_PASS = 2**26
MAX_CACHED_WEIGHTS = 2**25
MAX_JOINED_WEIGHTS = 2**14


@dataclass(frozen=True)
class _Slot:
    """A place in the network for a drawn weight, and where its noise stands in a flat noise vector."""

    layer: VariationalLayer
    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class _DrawnWeights:
    """Weights that were drawn from parameters of these values.

    The values are compared, because not every update counts up a tensor's version: fused optimizers do not.
    """

    seed: int
    num_samples: int
    parameters: list[Tensor]
    draws: list[Tensor]

    def holds(self, seed: int, num_samples: int, parameters: Sequence[Tensor]) -> bool:
        return (seed, num_samples) == (self.seed, self.num_samples) and all(
            then.device == now.device and then.dtype == now.dtype and torch.equal(then, now)
            for then, now in zip(self.parameters, parameters, strict=True)
        )


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
        self._weight_space = _allot_noise([layer for layer in self.layers if layer.estimator not in ACTIVATION_SPACE])
        self._kl_groups = _group_by_prior(self._slots)
        self._chain = _unroll(network)
        self._vectorization = vectorization
        self._vmap_fails = False
        self._cache: _DrawnWeights | None = None
        self._ends_in_its_only_layer: bool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}

    def kl(self) -> Tensor:
        """KL divergence summed over every stochastic weight, tied ones once; nats, a scalar tensor."""
        terms = [
            MeanFieldGaussian.join([slot.layer.posterior(slot.name) for slot in slots]).kl(
                slots[0].layer.prior(slots[0].name)
            )
            for slots in self._kl_groups
        ]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def mean_output(self, x: Tensor) -> Tensor:
        """One forward pass on posterior means.

        Args:
            x: Network input, shape [B, ...].

        Returns:
            Network output, shape [B, ...].
        """
        with _in_place(self._slots, [slot.layer.posterior(slot.name).mean for slot in self._slots]):
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
        if all(layer.estimator == "local_reparameterization" for layer in self.layers):
            return self._run_repeated(x, num_samples)
        slots, num_weights = self._weight_space
        noise = torch.randn(num_samples, num_weights, device=x.device)
        return self._run_stacked(*self._shared_prefix(x), num_samples, slots, _draw(slots, noise))

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
        features, tail = self._shared_prefix(x)
        for first in range(0, num_samples, chunk):
            stop = min(first + chunk, num_samples)
            weights = self._prediction_weights(first, stop, num_samples, seed)
            yield self._run_stacked(features, tail, stop - first, self._slots, weights)

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
            return _draw(self._slots, sample_noise(seed, first, stop, self.num_weights))
        if self._cache is None or not self._cache.holds(seed, num_samples, self._parameters()):
            draws = _draw(self._slots, sample_noise(seed, 0, num_samples, self.num_weights))
            self._cache = _DrawnWeights(seed, num_samples, [p.detach().clone() for p in self._parameters()], draws)
        return [weight[first:stop] for weight in self._cache.draws]

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for layer in self.layers for parameter in layer.parameters(recurse=False)]

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
        outputs: Tensor = hidden.reshape(num_samples, x.shape[0], *hidden.shape[1:])
        return outputs

    def _run_stacked(
        self,
        features: Tensor,
        tail: Sequence[nn.Module],
        num_samples: int,
        slots: Sequence[_Slot],
        weights: Sequence[Tensor],
    ) -> Tensor:
        """One pass for each sample; layers without a slot draw their own noise in it."""

        def run(_: object, *drawn: Tensor) -> Tensor:
            hidden = features
            with _in_place(slots, drawn):
                for module in tail:
                    hidden = module(hidden)
            return hidden

        failed = False
        if self._may_vmap(features.device):
            try:
                index = torch.arange(num_samples, device=features.device)
                outputs: Tensor = torch.vmap(run, randomness="different")(index, *weights)
            except (RuntimeError, ValueError, NotImplementedError):
                if self._vectorization == "vmap":
                    raise
                failed = True
            else:
                return outputs
        outputs = torch.stack([run(index, *(weight[index] for weight in weights)) for index in range(num_samples)])
        self._vmap_fails |= failed
        return outputs

    def _may_vmap(self, device: torch.device) -> bool:
        if self._vectorization != "auto":
            return self._vectorization == "vmap"
        slow_or_impossible = (nn.RNNBase, _ConvNd) if device.type == "cpu" else (nn.RNNBase,)
        return not self._vmap_fails and not any(
            isinstance(module, slow_or_impossible) or (isinstance(module, _BatchNorm) and module.training)
            for module in self.network.modules()
        )

    def _shared_prefix(self, x: Tensor) -> tuple[Tensor, list[nn.Module]]:
        """What all samples share, and the modules that differ between them."""
        if len(self.layers) == 1 and len(self._chain) == 1 and not _is_random(self.network, but=self.layers[0]):
            features = self._features_of_only_layer(x)
            if features is not None:
                return features, [self.layers[0]]
        for position, module in enumerate(self._chain):
            if _is_random(module):
                return x, self._chain[position:]
            x = module(x)
        raise RuntimeError("the network's variational layers are not among its modules any more")

    def _features_of_only_layer(self, x: Tensor) -> Tensor | None:
        """The input of the only variational layer, if that layer's output is the network's."""
        if self._ends_in_its_only_layer is False:
            return None
        first_time = self._ends_in_its_only_layer is None
        buffers = [buffer.clone() for buffer in self.network.buffers()] if first_time else []
        calls: list[tuple[Tensor, Tensor]] = []
        handle = self.layers[0].register_forward_hook(lambda _, inputs, output: calls.append((inputs[0], output)))
        try:
            output = self.mean_output(x)
        finally:
            handle.remove()
        self._ends_in_its_only_layer = len(calls) == 1 and calls[0][1] is output
        if self._ends_in_its_only_layer:
            return calls[0][0]
        for buffer, before in zip(self.network.buffers(), buffers, strict=False):
            buffer.copy_(before)
        return None


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


def _draw(slots: Sequence[_Slot], noise: Tensor) -> list[Tensor]:
    """Weights for each slot, of the parameter's shape behind S, from noise [S, number of weights]."""
    draws = []
    for slot in slots:
        posterior = slot.layer.posterior(slot.name)
        part = noise[:, slot.start : slot.stop].view(-1, *posterior.mu.shape)
        draws.append(posterior.rsample(part.to(device=posterior.mu.device, dtype=posterior.mu.dtype)))
    return draws


@contextmanager
def _in_place(slots: Sequence[_Slot], weights: Sequence[Tensor]) -> Iterator[None]:
    try:
        for slot, weight in zip(slots, weights, strict=True):
            slot.layer._parameters[slot.name] = weight  # type: ignore[assignment]
        yield
    finally:
        for slot in slots:
            slot.layer._parameters[slot.name] = None


def _group_by_prior(slots: Sequence[_Slot]) -> list[list[_Slot]]:
    """Distinct parameters, small ones together where their priors allow it: one operation instead of many."""
    groups: dict[Hashable, list[_Slot]] = {}
    for slot in {slot.start: slot for slot in slots}.values():
        mu, shared_key = slot.layer.posterior(slot.name).mu, slot.layer.prior(slot.name).elementwise_key
        small = shared_key is not None and mu.numel() <= MAX_JOINED_WEIGHTS
        groups.setdefault((shared_key, mu.dtype, mu.device) if small else slot, []).append(slot)
    return list(groups.values())


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
