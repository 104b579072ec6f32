"""IVON optimizers against the formulas of the paper and exact posteriors."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import end_process_group
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi.optim import IVONOptimizer, PosteriorIVON, trained_stds
from lightning_vi.optim.update import blocks

OPTIONS: dict[str, Any] = {"lr": 0.1, "ess": 50.0, "hess_init": 0.5, "betas": (0.8, 0.9), "weight_decay": 0.02}


def by_hand(m: float, h: float, g: float, noise: float, gradient: float, step: int, radius: float = math.inf) -> Any:
    """Algorithm 1 of the paper for a single weight."""
    lr, ess, h0, (b1, b2), delta = (OPTIONS[k] for k in ("lr", "ess", "hess_init", "betas", "weight_decay"))
    curvature = ess * (h + delta) * noise * gradient
    g = b1 * g + (1 - b1) * gradient
    h = b2 * h + (1 - b2) * curvature + 0.5 * (1 - b2) ** 2 * (h - curvature) ** 2 / (h + delta)
    direction = (g / (1 - b1**step) + delta * m) / (h + delta)
    return m - lr * (h0 + delta) * max(-radius, min(radius, direction)), h, g


def loss(weight: Tensor) -> Tensor:
    return (weight - 2).square().sum() + weight.pow(4).sum() / 8


@pytest.mark.parametrize("radius", [math.inf, 0.3])
def test_steps_match_the_paper(radius: float) -> None:
    weight = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    optimizer = IVONOptimizer([weight], clip_radius=radius, seed=3, **OPTIONS)
    m, h, g = 0.7, 0.5, 0.0
    for step in range(1, 6):
        with optimizer.sampled_params(train=True):
            noise = weight.item() - m
            loss(weight).backward()
        gradient = weight.grad.item()
        optimizer.step()
        optimizer.zero_grad()
        m, h, g = by_hand(m, h, g, noise, gradient, step, radius)
        assert weight.item() == pytest.approx(m, rel=1e-10)
        assert optimizer.state[weight]["hessian"].item() == pytest.approx(h, rel=1e-10)


def test_noise_has_the_posterior_std() -> None:
    weight = nn.Parameter(torch.zeros(100_000))
    optimizer = IVONOptimizer([weight], seed=0, **OPTIONS)
    with optimizer.sampled_params():
        std = weight.std().item()
    assert std == pytest.approx((50 * (0.5 + 0.02)) ** -0.5, rel=0.01)
    assert (weight == 0).all()


def test_both_optimizers_take_the_same_steps() -> None:
    """The gradients of the scales contain the curvature."""
    weight = nn.Parameter(torch.tensor([0.7, -1.0], dtype=torch.float64))
    optimizer = IVONOptimizer([weight], seed=3, **OPTIONS)
    std = torch.full((2,), (50 * 0.52) ** -0.5, dtype=torch.float64)
    mu, rho = (nn.Parameter(value.clone()) for value in (weight.detach(), std.expm1().log()))
    twin = PosteriorIVON([(mu, rho)], **OPTIONS)
    for _ in range(6):
        with optimizer.sampled_params(train=True):
            noise = (weight - mu).detach() / F.softplus(rho).detach()
            loss(weight).backward()
        loss(mu + F.softplus(rho) * noise).backward()
        for each in (optimizer, twin):
            each.step()
            each.zero_grad()
        assert_close(mu, weight)
        assert_close(F.softplus(rho), (50 * (optimizer.state[weight]["hessian"] + 0.02)) ** -0.5)


@pytest.mark.parametrize("mc_samples", [1, 2])
def test_quadratic_loss_converges_to_the_exact_diagonal_posterior(mc_samples: int) -> None:
    torch.manual_seed(0)
    root = torch.randn(4, 4, dtype=torch.float64)
    hessian, target = root @ root.T + torch.eye(4), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = IVONOptimizer(
        [weight], lr=0.3, ess=200.0, hess_init=1.0, betas=(0.9, 0.998), weight_decay=0.1, mc_samples=mc_samples, seed=0
    )
    means = []
    for step in range(2000):
        for _ in range(mc_samples):
            with optimizer.sampled_params(train=True):
                difference = weight - target
                (0.5 * difference @ hessian @ difference).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step > 700:
            means.append(weight.detach().clone())
    exact = torch.linalg.solve(hessian + 0.1 * torch.eye(4), hessian @ target)
    assert_close(torch.stack(means).mean(0), exact, rtol=0, atol=0.02)
    assert_close(optimizer.state[weight]["hessian"], hessian.diagonal(), rtol=0.15, atol=0)


def train(network: nn.Module, optimizer: IVONOptimizer, batches: list[list[tuple[Tensor, Tensor]]]) -> None:
    """Takes one step per list of micro-batches."""
    for micro_batches in batches:
        optimizer.zero_grad()
        for x, y in micro_batches:
            with optimizer.sampled_params(train=True):
                F.mse_loss(network(x), y).backward()
        optimizer.step()


def problem() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    return network, [(torch.randn(8, 3).double(), torch.randn(8, 1).double()) for _ in range(6)]


def weights(network: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(network.parameters()).detach().clone()


def test_gradient_accumulation_matches_whole_batches() -> None:
    results = []
    for parts in (1, 4):
        network, data = problem()
        optimizer = IVONOptimizer(network.parameters(), seed=5, **OPTIONS)
        train(network, optimizer, [list(zip(x.chunk(parts), y.chunk(parts), strict=True)) for x, y in data])
        results.append(weights(network))
    assert_close(*results)


def test_resumed_training_matches_uninterrupted_training() -> None:
    network, data = problem()
    optimizer = IVONOptimizer(network.parameters(), seed=5, **OPTIONS)
    train(network, optimizer, [[each] for each in data[:3]])
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    train(network, optimizer, [[each] for each in data[3:]])
    resumed, _ = problem()
    restored = IVONOptimizer(resumed.parameters(), lr=1.0, ess=1.0)
    resumed.load_state_dict(saved["network"])
    restored.load_state_dict(saved["optimizer"])
    train(resumed, restored, [[each] for each in data[3:]])
    assert torch.equal(weights(resumed), weights(network))


@pytest.mark.parametrize("training", [True, False])
def test_exception_restores_means_and_gradients(training: bool) -> None:
    network, data = problem()
    optimizer = IVONOptimizer(network.parameters(), seed=5, **OPTIONS)
    train(network, optimizer, [data[:1]])
    before, gradients = weights(network), [parameter.grad for parameter in network.parameters()]

    def fail() -> None:
        with optimizer.sampled_params(train=training):
            F.mse_loss(network(data[0][0]), data[0][1]).backward()
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert torch.equal(weights(network), before)
    if training:
        assert all(parameter.grad is old for parameter, old in zip(network.parameters(), gradients, strict=True))
    twin, _ = problem()
    reference = IVONOptimizer(twin.parameters(), seed=5, **OPTIONS)
    train(twin, reference, [data[:1], data[1:2]])
    train(network, optimizer, [data[1:2]])
    assert torch.equal(weights(network), weights(twin))


def test_gradient_clipping_does_not_change_the_hessian() -> None:
    hessians = []
    for largest in (1e9, 1e-3):
        network, data = problem()
        optimizer = IVONOptimizer(network.parameters(), seed=5, **OPTIONS)
        with optimizer.sampled_params(train=True):
            F.mse_loss(network(data[0][0]), data[0][1]).backward()
        nn.utils.clip_grad_norm_(network.parameters(), largest)
        optimizer.step()
        hessians.append(torch.cat([optimizer.state[p]["hessian"].flatten() for p in network.parameters()]))
    assert_close(*hessians)


def rank_main(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network, data = problem()
    optimizer = IVONOptimizer(network.parameters(), seed=5, **OPTIONS)
    with optimizer.sampled_params(train=True):
        drawn = weights(network)
        F.mse_loss(network(data[rank][0]), data[rank][1]).backward()
    optimizer.step()
    torch.save((drawn, weights(network)), folder / f"{rank}.pt")
    end_process_group()


@pytest.mark.slow
def test_ranks_sample_different_noise_and_take_the_same_step(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(rank_main, (tmp_path,), nprocs=2)
    (drawn, first), (other_drawn, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert not torch.equal(drawn, other_drawn)
    assert torch.equal(first, second)


def test_large_parameters_draw_the_same_noise_on_any_number_of_threads() -> None:
    drawn, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            weight = nn.Parameter(torch.zeros(2, 150_000))
            optimizer = IVONOptimizer([nn.Parameter(torch.zeros(3)), weight], seed=0, **OPTIONS)
            with optimizer.sampled_params():
                drawn.append(weight.detach().clone())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx((50 * (0.5 + 0.02)) ** -0.5, rel=0.01)
    assert drawn[0].unique().numel() > 250_000


@pytest.mark.parametrize("sizes", [(5,), (70_000, 3, 3), (200_001, 40_000, 40_000, 7)])
def test_blocks_cover_every_element_once(sizes: tuple[int, ...]) -> None:
    tensors = [torch.zeros(size) for size in sizes]
    others = [torch.zeros(size).unsqueeze(0) for size in sizes]
    for first, second in blocks(tensors, others):
        assert [each.numel() for each in first] == [each.numel() for each in second]
        torch._foreach_add_(first, 1.0)
        torch._foreach_add_(second, 2.0)
    assert all((tensor == 1).all() and (other == 2).all() for tensor, other in zip(tensors, others, strict=True))


@pytest.mark.parametrize("size", [3, 150_000])
def test_gradients_of_stds_lead_to_the_same_steps(size: int) -> None:
    results = []
    for has_gradients_of_stds in (False, True):
        torch.manual_seed(0)
        mu, rho = nn.Parameter(torch.randn(size)), nn.Parameter(torch.randn(size) - 4)
        optimizer = PosteriorIVON([(mu, rho)], has_gradients_of_stds=has_gradients_of_stds, **OPTIONS)
        for _ in range(3):
            (std,) = trained_stds([rho]) if has_gradients_of_stds else [F.softplus(rho)]
            loss(mu + std * torch.randn(size)).backward()
            optimizer.step()
            optimizer.zero_grad()
        expected = (50 * (optimizer.state[mu]["hessian"] + 0.02)) ** -0.5
        assert_close(F.softplus(rho.detach()), expected, rtol=1e-5, atol=0)
        results.append((mu.detach(), rho.detach()))
    for first, second in zip(*results, strict=True):
        assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_misuse_raises() -> None:
    network, data = problem()
    optimizer = IVONOptimizer(network.parameters(), **OPTIONS)
    with pytest.raises(RuntimeError, match="no gradient was computed"), optimizer.sampled_params(train=True):
        pass
    with pytest.raises(RuntimeError, match="cannot be nested"), optimizer.sampled_params():  # noqa: SIM117
        with optimizer.sampled_params():
            pass
    F.mse_loss(network(data[0][0]), data[0][1]).backward()
    with pytest.raises(RuntimeError, match="needs gradients of sampled weights"):
        optimizer.step()


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", -0.1), ("ess", 0.0), ("hess_init", 0.0), ("betas", (0.9, 1.0)), ("weight_decay", -1.0), ("mc_samples", 0),
     ("clip_radius", 0.0)],
)  # fmt: skip
def test_invalid_options_raise(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{option} must be"):
        IVONOptimizer([nn.Parameter(torch.zeros(1))], **(OPTIONS | {option: value}))


def test_invalid_posterior_options_raise() -> None:
    pair = (nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3)))
    with pytest.raises(ValueError, match=r"pairs of the same shape, got \(2,\) and \(3,\)"):
        PosteriorIVON([pair], **OPTIONS)
    with pytest.raises(ValueError, match="point_lr must be positive"):
        PosteriorIVON([], [nn.Parameter(torch.zeros(1))], point_lr=0.0, **OPTIONS)
