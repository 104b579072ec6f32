"""S passes of a network with dropout, each with masks of its own that all rows share.

The mask of a dropout depends on the seed, the sample's index and the dropout's place in the pass alone. What lies in
front of the first dropout is computed once.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_vi.noise import mix_seed, private_random_state
from lightning_vi.sampling.dropout_calls import DropoutKind, DropoutMode, as_written
from lightning_vi.sampling.dropout_layers import DropoutBehind
from lightning_vi.sampling.dropout_survey import DropoutSurvey, Layout, survey
from lightning_vi.sampling.memory import MAX_ACTIVATIONS_PER_PASS
from lightning_vi.sampling.network import (
    NetworkInput,
    batch_size,
    call,
    device_of,
    map_tensors,
    tensors,
    treats_rows_alike,
    unroll,
)

_SATURATION = 1.7580993408473766
"""What SELU tends to at minus infinity, with the sign turned."""


class DropoutSampler:
    """Runs thinned networks.

    Where each row is known to be computed from itself alone, samples are run as copies of the batch in one pass; in a
    loop elsewhere.

    Args:
        network: Any network, to be in evaluation mode when it is sampled.

    Example:
        >>> sampler = DropoutSampler(nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1)).eval())
        >>> [chunk.shape for chunk in sampler.prediction_samples(torch.ones(4, 2), num_samples=5, seed=0)]
        [torch.Size([5, 4, 1])]
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._survey: tuple[object, DropoutSurvey] | None = None

    def functional_dropout(self, x: NetworkInput) -> frozenset[str]:
        """What drops units outside of a layer.

        Args:
            x: Network input, each tensor of shape [B, ...].

        Returns:
            Functions and the modules that call them, in words.
        """
        return self._surveyed(self._parts(x), x).functional

    def prediction_samples(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:
        """Outputs of the thinned networks number 0 to S - 1 that belong to a seed, in chunks that bound the memory.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Which family of networks.

        Yields:
            Shape [chunk, B, ...]; the chunks add up to S.
        """
        parts = self._parts(x)
        seen = self._surveyed(parts, x)
        features, tail = x, parts[seen.start :]
        for part in parts[: seen.start]:
            features = call(part, features)
        if not tail and isinstance(features, Tensor):
            yield features.expand(num_samples, *features.shape)
            return
        repeats = isinstance(features, Tensor) and all(map(_is_known, tail))
        most_rows = max(1, MAX_ACTIVATIONS_PER_PASS["cpu" if device_of(x).type == "cpu" else "others"] // seen.width)
        num_rows = max(1, batch_size(features))
        chunk = math.ceil(num_samples / math.ceil(num_samples / max(1, most_rows // num_rows)))
        for first in range(0, num_samples, chunk):
            samples = range(first, min(first + chunk, num_samples))
            if repeats and isinstance(features, Tensor):
                runs = [self._run(tail, rows, samples, seed, seen) for rows in torch.split(features, most_rows)]
                yield torch.cat(runs, 1)
            else:
                runs = [self._run(tail, features, range(s, s + 1), seed, seen) for s in samples]
                yield torch.cat(runs)

    def _parts(self, x: NetworkInput) -> list[nn.Module]:
        return unroll(self.network) if isinstance(x, Tensor) else [self.network]

    def _surveyed(self, parts: Sequence[nn.Module], x: NetworkInput) -> DropoutSurvey:
        key = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors(x)]
        if self._survey is None or self._survey[0] != key:
            self._survey = key, survey(parts, x)
        return self._survey[1]

    def _run(
        self, parts: Sequence[nn.Module], x: NetworkInput, samples: range, seed: int, seen: DropoutSurvey
    ) -> Tensor:
        """Passes for some samples as copies of the batch, [S, B, ...]."""

        def copies(tensor: Tensor) -> Tensor:
            return tensor.repeat(len(samples), *[1] * (tensor.dim() - 1))

        first, *rest = parts
        with (
            private_random_state(mix_seed(seed, samples.start), device_of(x)),
            as_written(self.network),
            _Masks(seed, samples, seen.layouts),
        ):
            hidden = call(first, map_tensors(copies, x))
            for part in rest:
                hidden = part(hidden)
        return hidden.reshape(len(samples), -1, *hidden.shape[1:])


def _is_known(part: nn.Module) -> bool:
    """Whether a part computes each row from that row alone, and nobody changes what it computes."""
    hooks = (
        hook
        for module in part.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )
    return treats_rows_alike(part) and all(isinstance(hook, DropoutBehind) for hook in hooks)


class _Masks(DropoutMode):
    """Drops units by masks that belong to samples; the batch consists of copies, one for each of them."""

    def __init__(self, seed: int, samples: range, layouts: Sequence[Layout | None]) -> None:
        super().__init__()
        self._seed = seed
        self._samples = samples
        self._layouts = layouts
        self._num_calls = 0

    def drop(self, x: Tensor, p: float, kind: DropoutKind) -> Tensor:
        position = self._num_calls
        self._num_calls += 1
        if p == 0 or x.numel() == 0:
            return x
        if p == 1:
            return torch.zeros_like(x)
        layout = self._layouts[position] if position < len(self._layouts) else None
        axis, size = layout or (0, x.shape[0])
        shape = [1 if kind.whole_channels and dim > 1 else length for dim, length in enumerate(x.shape)]
        shape[axis] = size if axis < 2 or not kind.whole_channels else 1
        keep = self._draw(position, shape, p).movedim(0, axis).unsqueeze(axis + 1).to(x)
        rows = x.reshape(*x.shape[:axis], len(self._samples), -1, size, *x.shape[axis + 1 :])
        return _thinned(rows, keep, p, kind).reshape(x.shape)

    def _draw(self, position: int, shape: Sequence[int], p: float) -> Tensor:
        """Whether units are kept, in each sample, [S, *shape]."""
        generator = torch.Generator()
        uniform = torch.empty(len(self._samples), *shape)
        for row, sample in zip(uniform, self._samples, strict=True):
            generator.manual_seed(mix_seed(self._seed, sample, position))
            row.uniform_(generator=generator)
        keep: Tensor = uniform >= p
        return keep


def _thinned(x: Tensor, keep: Tensor, p: float, kind: DropoutKind) -> Tensor:
    if not kind.keeps_moments:
        return x * (keep / (1 - p))
    scale = ((1 - p) * (1 + p * _SATURATION**2)) ** -0.5
    thinned: Tensor = x * (scale * keep) + scale * _SATURATION * (keep - (1 - p))
    return thinned
