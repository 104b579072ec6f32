"""Random numbers that are independent of the global random state."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_vi.locks import RANDOM_STATE
from lightning_vi.tracing import constant

_BLOCK = 2**16
"""Numbers that one generator draws before it is seeded again."""
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # as a signed number


def mix_seed(*parts: int) -> int:
    """A seed that depends on every one of several integers and on their order.

    The finalizer of SplitMix64 (Steele et al., 2014), folded over the parts.

    Args:
        *parts: Any integers.

    Returns:
        An integer from 0 to 2^63 - 1 whose low 32 bits, all that a CPU generator uses, are well mixed.

    Example:
        >>> mix_seed(1, 2) == mix_seed(2, 1)
        False
    """
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def antithetic_pairs(noise: Tensor, num_samples: int) -> Tensor:
    """Noise vectors, each followed by its negative.

    Args:
        noise: Shape [ceil(S / 2), ...].
        num_samples: S.

    Returns:
        Shape [S, ...]; the last vector has no partner if S is odd.

    Example:
        >>> antithetic_pairs(torch.tensor([[1.0], [2.0]]), num_samples=3).flatten()
        tensor([ 1., -1.,  2.])
    """
    return torch.stack([noise, -noise], dim=1).flatten(0, 1)[:num_samples]


def standard_normal(shape: Sequence[int], *, device: torch.device) -> Tensor:
    """Standard normal numbers from the global random state.

    `torch.randn` draws on one thread of a CPU. Large tensors are therefore filled in blocks with generators of their
    own, on as many threads as PyTorch uses. The numbers are the same for any number of threads.

    Args:
        shape: Of the result.
        device: Where they are drawn.

    Returns:
        Shape `shape`, float32.

    Example:
        >>> standard_normal((2, 3), device=torch.device("cpu")).shape
        torch.Size([2, 3])
    """
    if device.type != "cpu" or math.prod(shape) < 2 * _BLOCK or torch.compiler.is_compiling():
        return torch.randn(*shape, device=device)
    noise = torch.empty(*shape, device="cpu")
    fill_normal(noise.view(-1), int(torch.randint(2**62, (), device="cpu")))
    return noise


def draws_in_blocks(tensor: Tensor) -> bool:
    """Returns True if `fill_normal` can fill a tensor, and takes less time than `Tensor.normal_`.

    Args:
        tensor: Any tensor.
    """
    return tensor.device.type == "cpu" and tensor.numel() >= 2 * _BLOCK and tensor.is_contiguous()


def fill_normal(flat: Tensor, seed: int, std: float = 1.0) -> None:
    """Fills a tensor on a CPU with normal numbers that depend on the seed alone.

    Args:
        flat: One-dimensional; modified in place.
        seed: An integer.
        std: Standard deviation.
    """
    blocks = torch.split(flat, _BLOCK)
    _fill_parts(blocks, [mix_seed(seed, index) for index in range(len(blocks))], std)


def _fill_parts(parts: Sequence[Tensor], seeds: Sequence[int], std: float = 1.0) -> None:
    """Fills each part with normal numbers of its own seed, on all threads unless there are few numbers."""
    num_threads = min(torch.get_num_threads(), len(parts)) if sum(map(torch.numel, parts)) >= 2 * _BLOCK else 1

    def fill(thread: int) -> None:
        generator = torch.Generator()
        with torch.inference_mode(parts[0].is_inference()):  # a setting of each thread
            for part, seed in list(zip(parts, seeds, strict=True))[thread::num_threads]:
                part.normal_(std=std, generator=generator.manual_seed(seed))

    helpers = [threading.Thread(target=fill, args=(thread,)) for thread in range(1, num_threads)]
    for helper in helpers:
        helper.start()
    fill(0)
    for helper in helpers:
        helper.join()


def sample_noise(seed: int, first: int, stop: int, size: int, *, antithetic: bool = False) -> Tensor:
    """Standard normal vectors that depend only on the seed and each sample's index.

    They are drawn on the CPU, so that one seed gives the same numbers on every device.

    Args:
        seed: Which family of vectors.
        first: Index of the first vector.
        stop: Index after the last one.
        size: Length of each vector.
        antithetic: Whether each vector of odd index is the negative of the one before.

    Returns:
        Shape [stop - first, size], float32.

    Example:
        >>> torch.equal(sample_noise(0, 3, 5, 4), sample_noise(0, 0, 9, 4)[3:5])
        True
    """
    if antithetic:
        pairs = sample_noise(seed, first // 2, (stop + 1) // 2, size)
        return antithetic_pairs(pairs, stop - first + first % 2)[first % 2 :]
    return constant(lambda: _drawn(seed, first, stop, size))


def _drawn(seed: int, first: int, stop: int, size: int) -> Tensor:
    noise = torch.empty(stop - first, size, device="cpu")
    if noise.numel():
        _fill_parts(noise.unbind(), [mix_seed(seed, index) for index in range(first, stop)])
    return noise


def row_uniforms(rows: Sequence[Tensor], num_places: int = 1) -> Tensor:
    """Uniform numbers in [0, 1) that depend only on the values of a row.

    Equal rows have equal numbers, in every batch and on every device. Floating-point values are taken in float32 and
    hashed bit by bit with the finalizer of SplitMix64 (Steele et al., 2014).

    Args:
        rows: Tensors of shape [B, ...], which together make up the rows.
        num_places: P, the number of numbers for each row.

    Returns:
        Shape [B, P], float32.

    Example:
        >>> x = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]])
        >>> first, second, third = row_uniforms([x]).flatten().tolist()
        >>> first == third, first == second
        (True, False)
    """
    columns = torch.cat([_bits(tensor).reshape(tensor.shape[0], -1) for tensor in rows], dim=1)
    digest = _finalize(columns + _GOLDEN * _counted(columns)).sum(1, keepdim=True)
    places = digest.new_zeros(1, num_places)
    numbers = _finalize(digest + _GOLDEN * _counted(places))
    return ((numbers >> 40) & (2**24 - 1)).to(torch.float32) / 2**24


def _bits(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.long()
    return (tensor.float() + 0.0).view(torch.int32).long()  # maps -0.0 to 0.0


def _counted(columns: Tensor) -> Tensor:
    return torch.arange(1, columns.shape[1] + 1, device=columns.device)


def _finalize(state: Tensor) -> Tensor:
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor
    return state ^ ((state >> 31) & (2**33 - 1))


@contextmanager
def private_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Runs its body on a private random state and restores the global one, also after an exception.

    Threads that do so wait for each other, because the state belongs to the process.

    Args:
        seed: Seed of the body's random numbers.
        device: Device whose random state is replaced in addition to the CPU's.
    """
    generators = [torch.default_generator, *_device_generators(device)]
    with RANDOM_STATE:
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _device_generators(device: torch.device) -> list[torch.Generator]:
    if device.type == "cpu":
        return []
    if device.type == "mps":
        return [torch.mps._get_default_mps_generator()]
    backend = torch.get_device_module(device)
    return [backend.default_generators[backend.current_device() if device.index is None else device.index]]


class NoiseStream(nn.Module):
    """Sequence of random states that differs between ranks and is part of the state dictionary.

    Args:
        seed: Start of the sequence; by default the global seed, without advancing the global random state.

    Example:
        >>> stream = NoiseStream(seed=1)
        >>> with stream.fresh(rank=0, device=torch.device("cpu")):
        ...     a = torch.randn(())
        >>> with stream.fresh(rank=0, device=torch.device("cpu")):
        ...     b = torch.randn(())
        >>> bool(a == b)
        False
    """

    def __init__(self, seed: int | None = None) -> None:
        super().__init__()
        self.seed = mix_seed(torch.initial_seed() if seed is None else seed)
        self.count = 0

    @contextmanager
    def fresh(self, rank: int, device: torch.device) -> Iterator[None]:
        """Runs its body on the next random state of the sequence, which stays the next one if the body fails.

        Args:
            rank: The process's index in distributed training.
            device: Device on which random numbers are drawn.
        """
        self.__dict__["count"] += 1  # nn.Module takes several times as long
        try:
            with private_random_state(mix_seed(self.seed, rank, self.count), device):
                yield
        except BaseException:
            self.count -= 1
            raise

    def get_extra_state(self) -> Tensor:  # noqa: D102
        return torch.tensor([self.seed, self.count], dtype=torch.int64)

    def set_extra_state(self, state: Tensor) -> None:  # noqa: D102
        self.seed, self.count = (int(number) for number in state.tolist())
