"""Curvature against brute-force Jacobians and Hessians."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi.backbones import MLP
from lightning_vi.curvature import (
    Block,
    Curvature,
    DiagonalCurvature,
    FullCurvature,
    KroneckerCurvature,
    Linearization,
    PerOutputCurvature,
    best_prior_precision,
    choose_blocks,
    flat_weights,
    linearize,
    log_evidence,
)
from lightning_vi.curvature import linearization as linearization_module
from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    StudentT,
)

B = 5


class Recurrent(nn.Module):
    """A network that vmap does not support."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.cell(x)[0][:, -1])
        return output


CASES: dict[str, tuple[Callable[[], nn.Module], Likelihood, tuple[int, ...], list[str | int] | None]] = {
    "last layer, Gaussian": (lambda: MLP(3, [4], 2), Gaussian([0.3, 1.7], 2), (B, 3), [-1]),
    "last layer, classes": (lambda: MLP(3, [4], 3), Categorical(3), (B, 3), [-1]),
    "last layer, tokens": (lambda: MLP(3, [4], 3), Categorical(3, class_dim=-1), (B, 2, 3), [-1]),
    "last layer without bias": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)), Categorical(2), (B, 3), [-1]
    ),
    "all layers, heteroscedastic": (
        lambda: MLP(3, [4], 2, activation_fn=nn.Tanh()), HeteroscedasticGaussian(), (B, 3), None
    ),
    "first layer": (lambda: MLP(3, [4], 3, activation_fn=nn.Tanh()), Categorical(3), (B, 3), [0]),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv2d(3, 2, 2, stride=2),
            nn.Flatten(), nn.Linear(8, 2),
        ), Categorical(2), (B, 2, 4, 4), None,
    ),
    "one-dimensional convolution": (
        lambda: nn.Sequential(nn.Conv1d(2, 2, 3, dilation=2), nn.Flatten(), nn.Linear(4, 1)),
        Bernoulli(), (B, 2, 6), None,
    ),
    "last convolution of width 1": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Conv1d(3, 2, 1, bias=False)),
        Categorical(2), (B, 2, 4), [-1],
    ),
    "spatial classes": (lambda: nn.Sequential(nn.Conv2d(2, 3, 1)), Categorical(3), (B, 2, 2, 2), None),
}  # fmt: skip
each_case = pytest.mark.parametrize(("build", "likelihood", "shape", "names"), CASES.values(), ids=CASES)


def brute_force(network: nn.Module, names: list[str], x: Tensor) -> Tensor:
    """Jacobians [B, E, P] by one backward pass for each output."""
    parameters = [network.get_parameter(name) for name in names]
    rows = []
    for outputs in network(x).flatten(1):
        gradients = [torch.autograd.grad(output, parameters, retain_graph=True) for output in outputs]
        rows.append(torch.stack([torch.cat([part.flatten() for part in each]) for each in gradients]))
    return torch.stack(rows)


def hessian_of_outputs(likelihood: Likelihood, outputs: Tensor) -> Tensor:
    """Output-space Fisher information [B, E, E], the expected Hessian of the negative log-likelihood."""
    if likelihood.task == "classification":
        target = torch.zeros(likelihood.point_prediction(outputs.unsqueeze(0))[:1, 0].shape, dtype=torch.long)

        def nll(flat: Tensor) -> Tensor:
            return -likelihood.elementwise_log_prob(flat.view(1, 1, *outputs.shape[1:]), target).sum()

        return torch.stack([torch.autograd.functional.hessian(nll, row) for row in outputs.flatten(1)])
    samples = 200_000
    generator = torch.Generator().manual_seed(0)
    mean, std = likelihood.standardized_moments(outputs.unsqueeze(0))  # type: ignore[operator]
    noise = torch.randn((samples, *mean.shape[1:]), generator=generator)
    leaf = outputs.clone().requires_grad_()
    targets = (mean + std * noise).detach()
    total = torch.zeros(len(outputs), outputs[0].numel(), outputs[0].numel())
    for row in range(len(outputs)):
        scores = torch.func.vmap(
            torch.func.grad(lambda f, y: likelihood.elementwise_log_prob(f.view(1, 1, -1), y.view(1, -1)).sum()),
            in_dims=(None, 0),
        )(leaf[row].detach().flatten(), targets[:, row])
        total[row] = scores.mT @ scores / samples
    return total


@each_case
def test_ggn_matches_brute_force(
    build: Callable[[], nn.Module], likelihood: Likelihood, shape: tuple[int, ...], names: list[str | int] | None
) -> None:
    torch.manual_seed(0)
    network, x = build().eval(), torch.randn(shape)
    blocks = choose_blocks(network, names)
    with torch.no_grad():
        outputs = network(x)
        factor = likelihood.information_factor(outputs)
    information = hessian_of_outputs(likelihood, outputs)
    is_sampled = likelihood.task == "regression"
    assert_close(factor @ factor.mT, information, rtol=0.05 if is_sampled else 1e-4, atol=0.05 if is_sampled else 1e-5)

    jacobian = brute_force(network, [name for block in blocks for name in block.names], x)
    expected = torch.einsum("bep,bef,bfq->pq", jacobian, factor @ factor.mT, jacobian)
    order = order_of_weights(network, blocks)
    expected = expected[order][:, order]
    linearized = linearize(network, blocks, x)
    assert_close(linearized.ggn(factor), expected, rtol=1e-4, atol=1e-5)
    assert_close(linearized.ggn_diagonal(factor), expected.diagonal(), rtol=1e-4, atol=1e-5)

    deltas = torch.randn(3, len(order))
    assert_close(linearized.jvp(deltas).flatten(2), torch.einsum("bep,sp->sbe", jacobian[..., order], deltas))


def order_of_weights(network: nn.Module, blocks: list[Block]) -> Tensor:
    """Index of each weight of the flat vector in the concatenated flattened parameters."""
    start, numbers = 0, {}
    for block in blocks:
        for name in block.names:
            size = network.get_parameter(name).numel()
            numbers[name] = torch.arange(start, start + size).view_as(network.get_parameter(name))
            start += size
    return torch.cat([block.flatten(numbers) for block in blocks])


@each_case
def test_structures_match_dense_matrices(
    build: Callable[[], nn.Module], likelihood: Likelihood, shape: tuple[int, ...], names: list[str | int] | None
) -> None:
    """Variances against J inv(G + delta I) J^T with the dense matrix G of the structure."""
    torch.manual_seed(1)
    network, x, new = build().eval(), torch.randn(shape), torch.randn(shape)
    blocks = choose_blocks(network, names, matrices_only=True)
    order = order_of_weights(network, blocks)
    jacobian = brute_force(network, [name for block in blocks for name in block.names], new)[..., order]
    precision = torch.tensor(0.7)
    linearized = linearize(network, blocks, x)
    factor = likelihood.information_factor(linearized.outputs)
    for kind, dense in dense_matrices(network, blocks, linearized, factor, x).items():
        structure = kind(blocks)
        structure.fit([(linearized, factor, None)], lambda tensor: tensor)
        covariance = torch.linalg.inv(dense.double() + 0.7 * torch.eye(len(dense)).double()).float()
        expected = torch.einsum("bep,pq,beq->be", jacobian, covariance, jacobian)
        found = structure.variances(linearize(network, blocks, new), precision)
        assert_close(found, expected, rtol=1e-3, atol=1e-5)
        for dim in range(1, linearized.outputs.dim()):
            by_dim = jacobian.view(*linearized.outputs.shape, -1)
            centered = (by_dim - by_dim.mean(dim, keepdim=True)).flatten(1, -2)
            expected = torch.einsum("bep,pq,beq->be", centered, covariance, centered)
            found = structure.variances(linearize(network, blocks, new, centered_dim=dim), precision)
            assert_close(found, expected, rtol=1e-3, atol=1e-5)
        eigenvalues = torch.linalg.eigvalsh(dense.double()).clamp_min(0).float()
        assert_close(structure.eigenvalues().sort().values, eigenvalues, rtol=1e-3, atol=1e-4)
        root = structure.draw(torch.eye(len(dense)), precision)
        assert_close(root.mT @ root, covariance, rtol=1e-3, atol=1e-4)


@each_case
def test_centered_network_matches_centered_outputs(
    build: Callable[[], nn.Module], likelihood: Likelihood, shape: tuple[int, ...], names: list[str | int] | None
) -> None:
    torch.manual_seed(2)
    network, x = build().eval(), torch.randn(shape)
    blocks = choose_blocks(network, names)
    with torch.no_grad():
        outputs = network(x)
    whole = linearize(network, blocks, x)
    factor, deltas = torch.randn(B, outputs[0].numel(), 2), torch.randn(3, sum(block.size for block in blocks))
    for dim in range(-1, outputs.dim()):
        if dim == 0:
            continue
        centered = linearize(network, blocks, x, centered_dim=dim)
        assert_close(centered.outputs, outputs - outputs.mean(dim, keepdim=True))
        changes = whole.jvp(deltas)
        axis = dim if dim < 0 else dim + 1
        assert_close(centered.jvp(deltas), changes - changes.mean(axis, keepdim=True), rtol=1e-4, atol=1e-5)
        by_dim = factor.view(*outputs.shape, 2)
        centered_factor = (by_dim - by_dim.mean(dim if dim > 0 else dim - 1, keepdim=True)).view_as(factor)
        for name in ("ggn", "ggn_diagonal"):
            expected = getattr(whole, name)(centered_factor)
            assert_close(getattr(centered, name)(factor), expected, rtol=1e-4, atol=1e-4)
        for found, product in zip(centered.ggn_per_output(factor), whole.ggn_per_output(centered_factor), strict=True):
            assert_close(found, product, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x", [(torch.ones(2, 3), torch.ones(2, 3)), {"a": torch.ones(2, 3), "b": torch.ones(2, 3)}])
def test_centered_network_with_several_inputs(x: object) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            output: Tensor = 2 * self.layer(a + b)
            return output

    network = Two()
    blocks = choose_blocks(network, None)
    change = linearize(network, blocks, x, centered_dim=1).jvp(torch.ones(1, 8))
    assert_close(change, torch.zeros(1, 2, 2))


def dense_matrices(
    network: nn.Module, blocks: list[Block], linearized: Linearization, factor: Tensor, x: Tensor
) -> dict[type[Curvature], Tensor]:
    full = linearized.ggn(factor)
    kronecker, per_output = torch.zeros_like(full), torch.zeros_like(full)
    start = 0
    for block in blocks:
        a, b = kronecker_by_hand(network, block, factor, x)
        stop = start + block.size
        kronecker[start:stop, start:stop] = torch.kron(b, a)
        for first in range(start, stop, len(a)):
            own = slice(first, first + len(a))
            per_output[own, own] = full[own, own]
        start = stop
    return {
        FullCurvature: full,
        PerOutputCurvature: per_output,
        DiagonalCurvature: full.diagonal().diag(),
        KroneckerCurvature: kronecker,
    }


def kronecker_by_hand(network: nn.Module, block: Block, factor: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Kronecker factors of a layer, one example and one direction at a time."""
    layer = network.get_submodule(block.module_name)
    seen: dict[str, Tensor] = {}

    def watch(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen["input"], seen["output"] = inputs[0], output

    handle = layer.register_forward_hook(watch)
    rows, products = [], torch.zeros(block.shape[0], block.shape[0])
    for index in range(len(x)):
        outputs = network(x[index : index + 1]).flatten()
        rows.append(input_rows(layer, seen["input"].detach()))
        for direction in factor[index].T:
            (gradient,) = torch.autograd.grad(outputs, seen["output"], direction, retain_graph=True)
            by_position = (
                gradient[0].flatten(1).T
                if isinstance(layer, nn.Conv1d | nn.Conv2d)
                else gradient.view(-1, gradient.shape[-1])
            )
            for position in by_position:
                products += torch.outer(position, position)
    handle.remove()
    stacked = torch.cat(rows)
    if layer.bias is not None:
        stacked = torch.cat([stacked, torch.ones(len(stacked), 1)], 1)
    return stacked.T @ stacked / len(stacked), products


def input_rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Layer inputs at each position, by convolution with unit kernels."""
    if isinstance(layer, nn.Linear):
        return x.view(-1, x.shape[-1])
    size = layer.weight[0].numel()
    unit = type(layer)(
        layer.in_channels, size, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False,
        padding_mode=layer.padding_mode,
    )  # fmt: skip
    unit.weight.data = torch.eye(size).view_as(unit.weight)
    rows: Tensor = unit(x).flatten(2).mT.flatten(0, 1).detach()
    return rows


@pytest.mark.parametrize("likelihood", [Poisson(), Poisson(link="softplus"), NegativeBinomial(0.7), StudentT(4.0, 0.6)])
def test_information_factor_of_other_likelihoods(likelihood: Likelihood) -> None:
    """Against the mean squared score, by summation over counts or by quadrature."""
    outputs = torch.tensor([[0.3], [-0.8], [1.1]])
    is_count = not isinstance(likelihood, StudentT)
    values = torch.arange(200.0) if is_count else torch.linspace(-400, 400, 400_001, dtype=torch.double)
    likelihood = likelihood.double()
    for row in outputs.double():
        leaf = row.expand(len(values)).clone().requires_grad_()
        log_probs = likelihood.elementwise_log_prob(leaf.view(1, -1, 1), values.double().view(-1, 1)).flatten()
        (scores,) = torch.autograd.grad(log_probs.sum(), leaf)
        weights = log_probs.exp() * (1.0 if is_count else (values[1] - values[0]).double())
        factor = likelihood.information_factor(row.view(1, 1))
        expected = (weights * scores.square()).sum().item()
        assert_close((factor @ factor.mT).item(), expected, rtol=1e-4, atol=1e-6)


def test_jacobian_in_chunks_and_without_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    network, x = Recurrent().eval(), torch.randn(B, 4, 2)
    blocks = choose_blocks(network, None)
    names = [name for block in blocks for name in block.names]
    jacobian = brute_force(network, names, x)[..., order_of_weights(network, blocks)]
    deltas = torch.randn(2, jacobian.shape[-1])
    expected = torch.einsum("bep,sp->sbe", jacobian, deltas)
    assert_close(linearize(network, blocks, x).jvp(deltas), expected)
    monkeypatch.setattr(linearization_module, "MAX_JACOBIAN", 2 * jacobian[0].numel())
    linearized, factor = linearize(network, blocks, x), torch.randn(B, 2, 2)
    assert_close(linearized.jvp(deltas), expected)
    dense = torch.einsum("bep,bef,bfq->pq", jacobian, factor @ factor.mT, jacobian)
    assert_close(linearized.ggn(factor), dense, rtol=1e-4, atol=1e-4)
    assert_close(linearized.ggn_diagonal(factor), dense.diagonal(), rtol=1e-4, atol=1e-4)
    found = torch.cat([products.diagonal(dim1=1, dim2=2).flatten() for products in linearized.ggn_per_output(factor)])
    assert_close(found, dense.diagonal(), rtol=1e-4, atol=1e-4)
    weights = torch.rand(jacobian.shape[-1])
    assert_close(linearized.variances(None, weights), (jacobian.square() * weights).sum(-1))


def test_blocks_contain_trainable_weights() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
    network[2].weight.requires_grad_(False)
    network[3].requires_grad_(False)
    assert [(b.module_name, b.size, b.is_matrix) for b in choose_blocks(network, None)] == [
        ("0", 16, True), ("1", 8, False), ("2", 4, False)
    ]  # fmt: skip
    assert [block.module_name for block in choose_blocks(network, None, matrices_only=True)] == ["0"]
    assert flat_weights(network, choose_blocks(network, None)).shape == (28,)
    with pytest.raises(ValueError, match="leaves no trainable weight"):
        choose_blocks(network, [-1])
    with pytest.raises(ValueError, match=r"structure='kronecker' needs linear layers .* but got '1' \(LayerNorm\)"):
        choose_blocks(network, [1], matrices_only=True)


def test_tied_weights_count_once() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    assert sum(block.size for block in choose_blocks(network, None)) == 15


def test_best_prior_precision_maximizes_the_evidence() -> None:
    torch.manual_seed(0)
    eigenvalues, norm = torch.rand(20).double() * 30, torch.tensor(8.0).double()
    best = best_prior_precision(eigenvalues, norm)
    grid = torch.linspace(-4, 4, 4001).double().exp()
    values = torch.stack([log_evidence(torch.zeros(()).double(), eigenvalues, norm, delta) for delta in grid])
    assert_close(best, grid[values.argmax()], rtol=3e-3, atol=0.0)


@pytest.mark.parametrize(("kind", "name"), [(FullCurvature, "full"), (PerOutputCurvature, "per_output")])
def test_too_large_matrices_raise(kind: Callable[..., Curvature], name: str) -> None:
    blocks = choose_blocks(MLP(3, [100, 100], 1), None)
    message = rf"structure='{name}' needs \d+ MiB for 10601 weights, more than max_mebibytes=1: use 'kronecker'"
    with pytest.raises(ValueError, match=message):
        kind(blocks, max_mebibytes=1)
