"""S passes of a network with dropout, each with separate masks that all rows share.

The mask of a dropout depends only on the seed, the sample's index and the dropout's place in the pass. Everything in
front of the first dropout is computed once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.backbones import selected_output
from lightning_vi.noise import mix_seed
from lightning_vi.sampling import memory
from lightning_vi.sampling.dropout_layers import DropoutBehind, dropout_layers, dropout_rate
from lightning_vi.sampling.dropout_mode import DropoutMode, FunctionalWatch, as_written
from lightning_vi.sampling.network import (
    NetworkInput,
    batch_size,
    call_part,
    device_of,
    map_tensors,
    rows_first,
    tensors,
    treats_rows_alike,
    unroll,
)
from lightning_vi.sampling.private_draws import PrivateDraws
from lightning_vi.tracing import constant, is_exporting, require_known


class DropoutSampler:
    """Runs a network with units dropped.

    Samples are run as copies of the batch in one pass if each row is known to be computed from itself alone, in a loop
    otherwise.

    Args:
        network: Any network, which must be in evaluation mode when it is sampled.

    Example:
        >>> sampler = DropoutSampler(nn.Sequential(nn.Linear(2, 8), nn.Dropout(), nn.Linear(8, 1)).eval())
        >>> [chunk.shape for chunk in sampler.prediction_samples(torch.ones(4, 2), num_samples=5, seed=0)]
        [torch.Size([5, 4, 1])]
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._layers = dropout_layers(network)
        self._survey: tuple[object, DropoutSurvey] | None = None

    def functional_dropout(self, x: NetworkInput) -> frozenset[str]:
        """Dropout outside dropout layers, which has no rate to set.

        Args:
            x: Network input, each tensor of shape [B, ...].

        Returns:
            Functions and the modules that call them, in words.
        """
        return self._surveyed(self._parts(x), x).functional

    def prediction_samples(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:
        """Outputs of the thinned networks 0 to S - 1 of a seed, in chunks that bound the memory.

        Args:
            x: Network input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Which family of networks.

        Yields:
            Shape [chunk, B, ...]; the chunks add up to S.
        """
        parts = self._parts(x)
        seen = self._surveyed(parts, x)
        features, tail, hidden = x, parts, x
        for position, part in enumerate(parts[: seen.start]):
            hidden = part(hidden) if position else call_part(part, hidden)
            if isinstance(hidden, Tensor):
                features, tail = hidden, parts[position + 1 :]
        if seen.start == len(parts):
            features = selected_output(hidden)
            yield features.expand(num_samples, *features.shape)
            return
        repeats = seen.rows_stay_apart and not any(map(_has_other_hooks, tail))
        max_rows = memory.max_rows(seen.width, device_of(x))
        for first, stop in memory.chunk_ranges(num_samples, memory.num_fitting(max_rows, batch_size(features))):
            if repeats and isinstance(features, Tensor):
                fits = memory.fits(max_rows, batch_size(features))
                parts_of_rows = [features] if fits else torch.split(features, max_rows)
                runs = [self._run(tail, rows, range(first, stop), seed, seen) for rows in parts_of_rows]
                yield torch.cat(runs, 1)
            else:
                runs = [self._run(tail, features, range(s, s + 1), seed, seen) for s in range(first, stop)]
                yield torch.cat(runs)

    def _parts(self, x: NetworkInput) -> list[nn.Module]:
        return unroll(self.network) if isinstance(x, Tensor) else [self.network]

    def _surveyed(self, parts: Sequence[nn.Module], x: NetworkInput) -> "DropoutSurvey":
        rates = [dropout_rate(layer) for layer in self._layers]
        first = 1 if rows_first(x) else 0
        key = rates, [(tuple(tensor.shape[first:]), tensor.dtype) for tensor in tensors(x)]
        if self._survey is None or self._survey[0] != key:
            if is_exporting():
                require_known("where the network drops units")
            with torch.no_grad(), as_written(self.network):
                self._survey = key, survey(parts, x)
        return self._survey[1]

    def _run(
        self, parts: Sequence[nn.Module], x: NetworkInput, samples: range, seed: int, seen: "DropoutSurvey"
    ) -> Tensor:
        """Passes for some samples as copies of the batch, [S, B, ...]."""
        first, *rest = parts
        draws = PrivateDraws(mix_seed(seed, samples.start)) if seen.draws else nullcontext()
        with draws, as_written(self.network), DropoutMode(_SampleMasks(seed, samples, seen.layouts)):
            hidden = call_part(first, _repeated(x, len(samples)))
            for part in rest:
                hidden = part(hidden)
        hidden = selected_output(hidden)
        return hidden.reshape(len(samples), -1, *hidden.shape[1:])


def _has_other_hooks(part: nn.Module) -> bool:
    """Returns True if hooks may mix the rows of a part of the network."""
    return any(
        module._forward_pre_hooks or any(not isinstance(hook, DropoutBehind) for hook in module._forward_hooks.values())
        for module in part.modules()
    )


def _repeated(x: NetworkInput, times: int) -> NetworkInput:
    return x if times == 1 else map_tensors(lambda tensor: tensor.repeat(times, *[1] * (tensor.dim() - 1)), x)


class _SampleMasks:
    """Masks of one pass over copies of the batch, one copy for each sample, that the rows of a copy share."""

    def __init__(self, seed: int, samples: range, layouts: Sequence["Layout | None"]) -> None:
        self._seed = seed
        self._samples = samples
        self._layouts = layouts
        self._place = 0

    def __call__(self, mask: Tensor, kept: float) -> None:
        place, self._place = self._place, self._place + 1
        layout = self._layouts[place] if place < len(self._layouts) else None
        axis, length = layout or (0, len(mask))
        shape = *mask.shape[:axis], length, *mask.shape[axis + 1 :]
        uniform = constant(lambda: self._uniform(place, shape))
        keep = (uniform >= 1 - kept).to(mask).movedim(0, axis).unsqueeze(axis + 1)
        torch.unflatten(mask, axis, (len(self._samples), -1, length)).copy_(keep)

    def _uniform(self, place: int, shape: Sequence[int]) -> Tensor:
        """Uniform numbers for each sample, shape [S, *shape]."""
        uniform = torch.empty(len(self._samples), *shape, device="cpu")
        generator = torch.Generator()
        for row, sample in zip(uniform, self._samples, strict=True):
            generator.manual_seed(mix_seed(self._seed, sample, place))
            row.uniform_(generator=generator)
        return uniform


Layout = tuple[int, int]
"""The dimension of a mask in which B rows have B k entries, row after row, and k."""


@dataclass(frozen=True)
class DropoutSurvey:
    """Places of dropout in one forward pass in evaluation mode.

    Attributes:
        start: Position of the first part of the network that drops units; the number of parts if none does.
        layouts: Layout of each mask in the order of the pass; None if no dimension grows with the batch.
        width: Elements of the widest result of an operation for one row, from that part on.
        rows_stay_apart: Whether each row is known to be computed from itself alone, from that part on.
        functional: Dropout outside dropout layers, in words.
        draws: Whether the pass draws random numbers besides the masks.
    """

    start: int
    layouts: tuple[Layout | None, ...]
    width: int
    rows_stay_apart: bool
    functional: frozenset[str]
    draws: bool


def survey(parts: Sequence[nn.Module], x: NetworkInput) -> DropoutSurvey:
    """Finds the places of dropout by passes over two and over three copies of one row. Nothing is dropped.

    Args:
        parts: Modules that make up the network when each is called on the output of the one before, in evaluation mode.
        x: Network input, each tensor of shape [B, ...].

    Returns:
        The places.
    """
    if not rows_first(x):
        return _survey_whole(parts, x)
    row = map_tensors(lambda tensor: tensor[:1], x)
    with PrivateDraws(0) as draws:
        two, three = (_look(parts, _repeated(row, num_rows)) for num_rows in (2, 3))
    start = next((position for position, look in enumerate(two) if look.drops), len(parts))
    small, large = ([shape for look in looks for shape in look.shapes] for looks in (two, three))
    layouts = tuple(map(_layout, small, large)) if len(small) == len(large) else ()
    sizes = ([size for look in looks[start:] for size in look.sizes] for looks in (two, three))
    width = max((more - less for less, more in zip(*sizes, strict=False)), default=1)
    rows_stay_apart = all(map(treats_rows_alike, parts[start:]))
    functional = frozenset().union(*(look.functional for look in two))
    return DropoutSurvey(start, layouts, width, rows_stay_apart, functional, draws.num_draws > 0)


def _survey_whole(parts: Sequence[nn.Module], x: NetworkInput) -> DropoutSurvey:
    """Finds the places of dropout for an input that cannot be repeated, such as the nodes and edges of a graph.

    Units of a mask whose first dimension is that of the output or of an input tensor are shared by its rows; other
    masks have separate units for each element.
    """
    with PrivateDraws(0) as draws:
        looks = _look(parts, x)
    rows = {len(tensor) for tensor in (*tensors(x), looks[-1].output) if tensor.dim()}
    layouts = tuple((0, 1) if len(shape) > 1 and shape[0] in rows else None for look in looks for shape in look.shapes)
    functional = frozenset().union(*(look.functional for look in looks))
    return DropoutSurvey(0, layouts, 1, False, functional, draws.num_draws > 0)


class _Look(FunctionalWatch):
    """Records the masks and the results of all operations in one pass of a part of the network."""

    def __init__(self, run: Callable[[Any], Any], x: Any) -> None:
        super().__init__()
        self.shapes: list[torch.Size] = []
        with DropoutMode(self._fill) as mode, self:
            self.output = run(x)
        self.drops = mode.num_dropouts > 0

    def _fill(self, mask: Tensor, kept: float) -> None:
        self.shapes.append(mask.shape)
        mask.fill_(kept)


def _look(parts: Sequence[nn.Module], x: NetworkInput) -> list[_Look]:
    first, *rest = parts
    looks = [_Look(partial(call_part, first), x)]
    for part in rest:
        looks.append(_Look(part, looks[-1].output))
    return looks


def _layout(two: torch.Size, three: torch.Size) -> Layout | None:
    """Layout of a mask, from its shapes with two rows and with three."""
    changed = [axis for axis, sizes in enumerate(zip(two, three, strict=False)) if sizes[0] != sizes[1]]
    if len(two) != len(three) or len(changed) != 1 or three[changed[0]] * 2 != two[changed[0]] * 3:
        return None
    return changed[0], two[changed[0]] // 2
