"""Runs the part of a network that differs between S samples, with weights that are already drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_vi.backbones import selected_output
from lightning_vi.layers import StochasticParameters, VariationalLayer
from lightning_vi.sampling.network import NetworkInput, call_part, device_of, has_fast_path, map_tensors
from lightning_vi.sampling.vectorization import Vectorization
from lightning_vi.sampling.vmap import NetworkVmap
from lightning_vi.sampling.weights import Slot, in_place
from lightning_vi.tracing import is_exporting


class SampleRunner:
    """Runs modules with S sets of weights as copies of the batch, with `torch.vmap` or in a loop.

    Args:
        network: The network.
        vectorization: See `SamplingEngine`.
        owners: The stochastic parameters of the network.
        antithetic: Whether layers draw noise in antithetic pairs.
        only_layers: Whether all stochastic modules are variational layers.
        rows_stay_apart: Whether, besides, all modules treat the rows of a batch alike.

    Attributes:
        copies_stay_apart: Whether the network gives the same outputs for copies of the batch.
        head: The layer whose outputs are those of the network, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        vectorization: Vectorization,
        owners: Sequence[StochasticParameters],
        *,
        antithetic: bool,
        only_layers: bool,
        rows_stay_apart: bool,
    ) -> None:
        self._network = network
        self._vectorization = vectorization
        self._owners = owners
        self._antithetic = antithetic
        self._only_layers = only_layers
        self._rows_stay_apart = rows_stay_apart
        parts = list(network.modules())
        self._norms = [part for part in parts if isinstance(part, _BatchNorm)]
        self._convolves = any(isinstance(part, _ConvNd) for part in parts)
        self._vmap = NetworkVmap(network, is_required=vectorization == "vmap")
        self.copies_stay_apart = True
        self.head: VariationalLayer | None = None

    @property
    def mixes_rows(self) -> bool:
        """True if a normalization uses the statistics of the batch."""
        return any(norm.training for norm in self._norms)

    def __call__(
        self,
        features: NetworkInput,
        tail: Sequence[nn.Module],
        num_samples: int,
        slots: Sequence[Slot],
        weights: Sequence[Tensor],
    ) -> Tensor:
        """S passes with the given weights; layers with an empty slot draw their noise themselves.

        Args:
            features: Input of the modules, which all samples share, each tensor of shape [B, ...].
            tail: The modules, one behind the other.
            num_samples: S.
            slots: Where the weights go.
            weights: Shape [S, *shape of the parameter] for each slot.

        Returns:
            Shape [S, B, ...].
        """
        mode = self._mode(slots, device_of(features), self.copies_stay_apart or list(tail) == [self.head])
        if mode == "repeat" and num_samples > 1:
            with in_place(slots, weights), self._copies(num_samples):
                return _run_copies(features, tail, num_samples)

        def run(_: object, *drawn: Tensor) -> Tensor:
            with in_place(slots, drawn):
                hidden = call_part(tail[0], features)
                for module in tail[1:]:
                    hidden = module(hidden)
            return selected_output(hidden)

        def loop() -> Tensor:
            if num_samples == 1:
                return run(None, *(weight.squeeze(0) for weight in weights)).unsqueeze(0)
            draws = [torch.unsafe_split(weight, 1) for weight in weights]  # may be changed in-place, as by max_norm
            return torch.stack([run(None, *(draw[i].squeeze(0) for draw in draws)) for i in range(num_samples)])

        if mode != "vmap":
            return loop()
        index = torch.arange(num_samples, device=device_of(features))
        return self._vmap(run, 0, index, *weights, otherwise=loop)

    def _mode(self, slots: Sequence[Slot], device: torch.device, copies_stay_apart: bool) -> Vectorization:
        if self._vectorization != "auto":
            return self._vectorization
        if copies_stay_apart and not slots and self._only_layers:
            return "repeat"
        mixes = self.mixes_rows
        slow = self._convolves and device.type == "cpu"
        if slow or (self._norms and is_exporting()):  # vmap fixes the number of rows of a batch normalization
            return "loop"
        if copies_stay_apart and self._rows_stay_apart and not mixes and not is_exporting():
            return "repeat"
        return "vmap" if self._vmap.works and not mixes and not has_fast_path(self._network) else "loop"

    @contextmanager
    def _copies(self, num_samples: int) -> Iterator[None]:
        """Tells every stochastic module that the batch consists of copies."""
        try:
            for owner in self._owners:
                owner.num_copies, owner.is_antithetic = num_samples, self._antithetic
            yield
        finally:
            for owner in self._owners:
                owner.num_copies, owner.is_antithetic = None, False


def _run_copies(features: NetworkInput, tail: Sequence[nn.Module], num_samples: int) -> Tensor:
    """One pass over S copies of the batch; the first layer makes them if it is stochastic."""
    first, *rest = tail
    if isinstance(first, VariationalLayer) and isinstance(features, Tensor):
        hidden = first(features, num_samples=num_samples).flatten(0, 1)
    else:
        copies = map_tensors(lambda x: x.expand(num_samples, *x.shape).flatten(0, 1), features)
        hidden = call_part(first, copies)
    for module in rest:
        hidden = module(hidden)
    hidden = selected_output(hidden)
    outputs: Tensor = hidden.reshape(num_samples, -1, *hidden.shape[1:])
    return outputs
