"""Several sets of weights in one network, against one deep copy for each set."""

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import copy_of_state, same_state
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi.backbones import MLP
from lightning_vi.sampling import (
    StackedRunner,
    StackedVectorization,
    call,
    stack_networks,
    stacked_tensors,
    unstack_network,
)

S, B = 3, 4


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(2, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.cell(x)[0][:, -1])
        return output


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x).sin())
        return output


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(2, 2, bias=False)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        output: Tensor = self.left(left) * self.right(right)
        return output


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], object]]] = {
    "chain": (lambda: MLP(3, [5, 5], 2), lambda: torch.randn(B, 3)),
    "chain with leading dimensions": (lambda: MLP(3, [5], 2), lambda: torch.randn(B, 6, 3)),
    "one layer": (lambda: nn.Linear(3, 2, bias=False), lambda: torch.randn(B, 3)),
    "softmax over rows": (lambda: nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=0)), lambda: torch.randn(B, 3)),
    "slope of an activation": (lambda: nn.Sequential(nn.Linear(3, 2), nn.PReLU(2)), lambda: torch.randn(B, 3)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), lambda: torch.randn(B, 3)),
    "convolution": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()), lambda: torch.randn(B, 2, 5, 5)),
    "batch norm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), lambda: torch.randn(B, 3)),
    "recurrent": (Recurrent, lambda: torch.randn(B, 5, 2)),
    "tied": (Tied, lambda: torch.randn(B, 3)),
    "two inputs": (Branches, lambda: (torch.randn(B, 3), torch.randn(B, 2))),
    "keywords": (Branches, lambda: {"right": torch.randn(B, 2), "left": torch.randn(B, 3)}),
}
each_network = pytest.mark.parametrize(("build", "make_input"), NETWORKS.values(), ids=NETWORKS)


def different(build: Callable[[], nn.Module]) -> list[nn.Module]:
    networks = [build() for _ in range(S)]
    for network in networks:
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    return networks


def stacked_inputs(inputs: list[object]) -> object:
    first = inputs[0]
    if isinstance(first, Tensor):
        return torch.stack(inputs)  # type: ignore[arg-type]
    if isinstance(first, dict):
        return {key: torch.stack([x[key] for x in inputs]) for key in first}  # type: ignore[index]
    return tuple(map(torch.stack, zip(*inputs, strict=True)))  # type: ignore[call-overload]


@each_network
@pytest.mark.parametrize("own_inputs", [False, True])
@pytest.mark.parametrize("vectorization", ["auto", "loop"])
def test_every_set_gives_what_its_own_network_gives(
    build: Callable[[], nn.Module],
    make_input: Callable[[], object],
    own_inputs: bool,
    vectorization: StackedVectorization,
) -> None:
    networks = different(build)
    inputs = [make_input() for _ in networks]
    stacked = stack_networks(networks)
    run = StackedRunner(stacked, vectorization)
    x = stacked_inputs(inputs) if own_inputs else inputs[0]
    outputs = run(stacked_tensors(stacked), x, own_inputs=own_inputs)  # type: ignore[arg-type]
    expected = [call(net, inputs[i if own_inputs else 0]) for i, net in enumerate(networks)]  # type: ignore[arg-type]
    assert_close(outputs, torch.stack(expected))
    weighting = torch.randn_like(outputs)
    (outputs * weighting).sum().backward()
    (torch.stack(expected) * weighting).sum().backward()
    for name, parameter in stacked.named_parameters():
        assert_close(parameter.grad, torch.stack([network.get_parameter(name).grad for network in networks]))


def test_vmap_and_the_chain_agree() -> None:
    stacked = stack_networks([MLP(3, [5], 2) for _ in range(S)])
    x = torch.randn(B, 3)
    outputs = [StackedRunner(stacked, mode)(stacked_tensors(stacked), x) for mode in ("auto", "vmap", "loop")]  # type: ignore[arg-type]
    assert_close(outputs[1], outputs[0])
    assert_close(outputs[2], outputs[0])


def test_wide_layers_are_run_one_by_one_with_gradients() -> None:
    stacked = stack_networks([MLP(3, [600, 500], 2) for _ in range(S)])
    run, x = StackedRunner(stacked), torch.randn(B, 3)
    assert run._mode(x.device) == "loop"
    outputs = run(stacked_tensors(stacked), x)
    with torch.no_grad():
        assert run._mode(x.device) == "chain"
        assert_close(run(stacked_tensors(stacked), x), outputs)


def test_what_is_missing_is_the_networks_own() -> None:
    network = MLP(3, [5], 2)
    x, biases = torch.randn(B, 3), torch.randn(S, 2)
    outputs = StackedRunner(network)({"2.bias": biases}, x)
    plain = network(x) - network[2].bias
    assert_close(outputs, plain + biases.unsqueeze(1))


def test_weights_stay_when_a_pass_fails() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.Linear(4, 2))
    before, dtype = copy_of_state(network), [type(p) for p in network.parameters()]
    weights = {name: torch.randn(S, *value.shape) for name, value in network.named_parameters()}
    with pytest.raises(RuntimeError):
        StackedRunner(network)(weights, torch.randn(B, 3))
    with pytest.raises(RuntimeError):
        StackedRunner(network, "loop")(weights, torch.randn(B, 3))
    assert same_state(copy_of_state(network), before)
    assert [type(p) for p in network.parameters()] == dtype


def test_hooks_are_called() -> None:
    network = MLP(3, [5], 2)
    run = StackedRunner(network)
    weights = {name: torch.randn(S, *value.shape) for name, value in network.named_parameters()}
    x = torch.randn(B, 3)
    expected = run(weights, x)
    network[0].register_forward_hook(lambda module, inputs, output: 0 * output)
    assert not torch.allclose(run(weights, x), expected)


def test_batch_normalization_keeps_statistics_of_each_set() -> None:
    networks = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(S)]
    stacked = stack_networks(networks)
    x = torch.randn(S, B, 3)
    StackedRunner(stacked)(stacked_tensors(stacked), x, own_inputs=True)
    for network, rows in zip(networks, x, strict=True):
        network(rows)
    expected = stack_networks(networks)
    assert_close(stacked[1].running_mean, expected[1].running_mean)  # type: ignore[index]
    assert_close(stacked[1].num_batches_tracked, expected[1].num_batches_tracked)  # type: ignore[index]


def test_networks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must have the same parameters"):
        stack_networks([MLP(3, [5], 2), MLP(3, [6], 2)])
    with pytest.raises(ValueError, match="vectorization must be 'auto', 'vmap' or 'loop', got 'repeat'"):
        StackedRunner(MLP(3, [5], 2), "repeat")  # type: ignore[arg-type]


def test_a_stack_shares_nothing_with_its_networks() -> None:
    networks = [MLP(3, [5], 2) for _ in range(S)]
    twins = copy.deepcopy(networks)
    stacked = stack_networks(networks)
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter.add_(1.0)
    assert all(same_state(copy_of_state(a), copy_of_state(b)) for a, b in zip(networks, twins, strict=True))


@each_network
def test_a_network_comes_back_out_of_a_stack(build: Callable[[], nn.Module], make_input: Callable[[], object]) -> None:
    networks, x = different(build), make_input()
    stacked = stack_networks(networks)
    for index, network in enumerate(networks):
        single = unstack_network(stacked, index)
        assert same_state(copy_of_state(single), copy_of_state(network))
        assert_close(call(single, x), call(network, x))  # type: ignore[arg-type]
        assert len(list(single.parameters())) == len(list(network.parameters()))
        with torch.no_grad():
            next(single.parameters()).add_(1.0)
    assert same_state(copy_of_state(unstack_network(stacked, 0)), copy_of_state(networks[0]))


def test_tied_layers_of_a_chain_get_the_weights_under_either_name() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    weights = {name: torch.randn(S, *value.shape) for name, value in network.named_parameters()}
    assert "2.weight" not in weights
    x = torch.randn(B, 3)
    for mode in ("auto", "vmap", "loop"):
        outputs = StackedRunner(network, mode)(weights, x)  # type: ignore[arg-type]
        for index, output in enumerate(outputs):
            hidden = torch.tanh(x @ weights["0.weight"][index].T + weights["0.bias"][index])
            assert_close(output, hidden @ weights["0.weight"][index].T + weights["2.bias"][index])
