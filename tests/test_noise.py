"""Noise that a method owns."""

import random

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_vi.noise import NoiseStream, mix_seed, private_random_state, sample_noise, standard_normal

CPU = torch.device("cpu")


def global_states() -> tuple[object, ...]:
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


def drawn(stream: NoiseStream, rank: int = 0) -> list[float]:
    with stream.fresh(rank, CPU):
        values: list[float] = torch.randn(3).tolist()
    return values


def test_seeds_depend_on_every_part_and_on_their_order() -> None:
    seeds = {mix_seed(a, b, c) for a in range(12) for b in range(12) for c in range(12)}
    assert len(seeds) == 12**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == 12**3


def test_neighboring_seeds_share_no_bits() -> None:
    """Each of the 63 bits flips in half of the pairs of neighboring seeds."""
    flips = [mix_seed(7, index) ^ mix_seed(7, index + 1) for index in range(2000)]
    rates = [sum(flip >> bit & 1 for flip in flips) / 2000 for bit in range(63)]
    assert max(abs(rate - 0.5) for rate in rates) < 5 * 0.5 / 2000**0.5


def test_sample_noise_depends_on_seed_and_index_alone() -> None:
    everything = sample_noise(5, 0, 9, 4)
    assert torch.equal(sample_noise(5, 3, 6, 4), everything[3:6])
    torch.manual_seed(99)
    assert torch.equal(sample_noise(5, 0, 9, 4), everything)
    assert not torch.equal(sample_noise(6, 0, 9, 4), everything)
    assert len({tuple(row) for row in everything.tolist()}) == 9


def test_sample_noise_is_standard_normal_and_independent_across_samples() -> None:
    noise = sample_noise(3, 0, 400, 50)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 1e-4
    products = (noise[1:] * noise[:-1]).flatten()
    assert products.mean().abs() < 5 / len(products) ** 0.5


def test_sample_noise_leaves_the_global_state_alone() -> None:
    before = global_states()
    sample_noise(0, 0, 3, 3)
    assert global_states() == before


def test_private_state_repeats_and_puts_the_global_one_back() -> None:
    before = global_states()
    with private_random_state(4, CPU):
        first = torch.randn(5)
    with private_random_state(4, CPU):
        second = torch.randn(5)
    assert torch.equal(first, second)
    assert global_states() == before


def test_private_state_puts_the_global_one_back_after_an_error() -> None:
    before = global_states()
    with pytest.raises(RuntimeError, match="shape"), private_random_state(4, CPU):
        torch.randn(5).view(2, 3)
    assert global_states() == before


def test_a_stream_never_repeats_and_differs_between_ranks_and_seeds() -> None:
    stream, other_rank, other_seed = NoiseStream(1), NoiseStream(1), NoiseStream(2)
    draws = [tuple(drawn(stream)) for _ in range(5)]
    draws += [tuple(drawn(other_rank, rank=1)) for _ in range(5)]
    draws += [tuple(drawn(other_seed)) for _ in range(5)]
    assert len(set(draws)) == 15
    assert tuple(drawn(NoiseStream(1))) == draws[0]


def test_a_stream_starts_from_the_global_seed_without_using_it_up() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = NoiseStream()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second = NoiseStream()
    torch.manual_seed(11)
    assert drawn(first) == drawn(NoiseStream()) != drawn(second)


def test_a_stream_goes_on_where_its_state_was_saved() -> None:
    stream = NoiseStream(1)
    drawn(stream)
    saved = stream.state_dict()
    expected = [drawn(stream) for _ in range(3)]
    resumed = NoiseStream(777)
    resumed.load_state_dict(saved)
    assert [drawn(resumed) for _ in range(3)] == expected


def test_large_samples_are_the_same_on_any_number_of_threads() -> None:
    size, threads = 100_003, torch.get_num_threads()
    expected = [torch.randn(size, generator=torch.Generator().manual_seed(mix_seed(5, index))) for index in range(2, 7)]
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            for inference in (False, True):
                with torch.inference_mode(inference):
                    assert torch.equal(sample_noise(5, 2, 7, size), torch.stack(expected))
    finally:
        torch.set_num_threads(threads)


def test_large_tensors_are_standard_normal_and_the_same_on_any_number_of_threads() -> None:
    shape, threads = (3, 100_003), torch.get_num_threads()
    draws = []
    try:
        for number in (1, 2, 7):
            torch.set_num_threads(number)
            with private_random_state(5, CPU):
                draws += [standard_normal(shape, device=CPU) for _ in range(2)]
    finally:
        torch.set_num_threads(threads)
    first, second, *others = draws
    assert not torch.equal(first, second)
    assert all(torch.equal(other, (first, second)[index % 2]) for index, other in enumerate(others))
    both = torch.cat([first.flatten(), second.flatten()])
    assert abs(both.mean().item()) < 4 * len(both) ** -0.5
    assert abs(both.square().mean().item() - 1) < 4 * (2 / len(both)) ** 0.5
    parts = both[: 8 * 2**16].view(8, -1)  # blocks have generators of their own
    assert (torch.corrcoef(parts) - torch.eye(8)).abs().max() < 5 * 2**-8


def test_large_tensors_can_be_drawn_in_inference_mode() -> None:
    with private_random_state(5, CPU):
        expected = standard_normal((200_000,), device=CPU)
    with torch.inference_mode(), private_random_state(5, CPU):
        assert torch.equal(standard_normal((200_000,), device=CPU), expected)
