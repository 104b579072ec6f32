"""Statistics of batch normalization, and parameters as one vector."""

import copy
from typing import Any

import pytest
import torch
from helpers import copy_of_state, same_state
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi.sampling import FlatParameters, estimate_statistics, first_rows, running_statistics


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 2), nn.BatchNorm1d(2))


def test_statistics_are_those_of_the_rows_for_each_set_of_weights() -> None:
    net, x = network(), torch.randn(8, 3)
    before = copy_of_state(net)
    weights = {name: torch.randn(3, *value.shape) for name, value in net.named_parameters()}
    estimates = estimate_statistics(net, weights, x)
    assert (
        list(estimates)
        == list(running_statistics(net))
        == [f"{i}.running_{kind}" for i in (1, 4) for kind in ("mean", "var")]
    )
    for index in range(3):
        weight, bias, scale, shift = (weights[name][index] for name in ("0.weight", "0.bias", "1.weight", "1.bias"))
        first = x @ weight.T + bias
        assert_close(estimates["1.running_mean"][index], first.mean(0))
        assert_close(estimates["1.running_var"][index], first.var(0))
        normalized = (first - first.mean(0)) / (first.var(0, correction=0) + 1e-5).sqrt() * scale + shift
        second = normalized @ weights["3.weight"][index].T + weights["3.bias"][index]
        assert_close(estimates["4.running_mean"][index], second.mean(0), rtol=1e-4, atol=1e-4)
        assert_close(estimates["4.running_var"][index], second.var(0), rtol=1e-4, atol=1e-4)
    assert same_state(copy_of_state(net), before)
    assert all(module.training for module in net.modules())


def test_the_first_rows_keep_the_structure_and_skip_other_shapes() -> None:
    def batch(*rows: float, width: int = 2) -> Any:
        x = torch.tensor(rows, dtype=torch.float32).unsqueeze(1).expand(-1, width)
        return {"first": x, "rest": (x + 10, [x + 20])}

    taken: Any = first_rows([batch(0, 1), batch(7, 8, width=3), batch(2, 3)], num_rows=3)
    assert_close(taken["first"][:, 0], torch.tensor([0.0, 1.0, 2.0]))
    assert_close(taken["rest"][0], taken["first"] + 10)
    assert_close(taken["rest"][1][0], taken["first"] + 20)
    with pytest.raises(ValueError, match="there are no data"):
        first_rows([], num_rows=3)


def test_the_first_rows_share_no_memory() -> None:
    x = torch.zeros(4, 2)
    rows = first_rows(iter([x]), num_rows=3)
    x.fill_(1.0)
    assert isinstance(rows, Tensor)
    assert torch.equal(rows, torch.zeros(3, 2))


def test_flat_parameters_are_the_trainable_ones_with_tied_ones_once() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    net[1].weight = net[0].weight
    net[2].bias.requires_grad_(False)
    flat = FlatParameters(net)
    assert flat.num_weights == 4 + 2 + 2 + 2
    vector = flat.join(net)
    assert_close(vector, torch.cat([net[0].weight.flatten(), net[0].bias, net[1].bias, net[2].weight.flatten()]))
    twin = copy.deepcopy(net)
    twin.load_state_dict(flat.split(vector + 1), strict=False)
    assert_close(twin[1].weight, net[0].weight + 1)
    assert_close(twin[2].bias, net[2].bias)
