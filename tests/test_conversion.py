"""Conversion of networks: weights, structure, selection and report."""

import copy
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import copy_of_state, randomize_posteriors, same_state
from network_cases import Block
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from lightning_vi.conversion import convert
from lightning_vi.layers import VariationalConv2d, VariationalConvTranspose2d, VariationalLinear
from lightning_vi.posteriors import inverse_softplus
from lightning_vi.priors import GaussianPrior
from lightning_vi.sampling import SamplingEngine


class Scaled(nn.Linear):
    """A subclass with another attribute and the forward pass of its parent."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.label = "kept"


class Masked(nn.Linear):
    """A subclass with another forward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.tril(), self.bias)


class SharedAndTied(nn.Module):
    """A module under two names, and a weight in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 3, bias=False)
        self.again = self.encode
        self.middle = nn.Linear(3, 3)
        self.decode = nn.Linear(3, 3)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.decode(self.middle(self.again(self.encode(x)).tanh()).tanh())
        return output


def convolutional() -> nn.Sequential:
    """Linear layer, convolutions and transposed convolution with options that are not the defaults."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect", groups=2, dilation=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, dilation=2, padding=2, padding_mode="circular", bias=False),
        nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(2 * 6 * 6, 3),
    )


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, dropout=0.0, batch_first=True)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear root": (lambda: nn.Linear(3, 2), (5, 3)),
    "nested": (Block, (5, 4)),
    "convolutions": (convolutional, (2, 2, 6, 6)),
    "float64": (lambda: convolutional().double(), (2, 2, 6, 6)),
    "subclass": (lambda: nn.Sequential(Scaled(3), nn.Tanh(), nn.Linear(3, 1)), (5, 3)),
    "shared and tied": (SharedAndTied, (5, 3)),
    "attention and a head": (lambda: nn.Sequential(attention(), nn.Linear(4, 1)), (2, 3, 4)),
    "batch norm and dropout": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)),
        (5, 3),
    ),
}


@pytest.fixture(params=NETWORKS.values(), ids=NETWORKS)
def problem(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = request.param
    network: nn.Module = make()
    return network, torch.randn(shape, dtype=next(network.parameters()).dtype)


def structure(network: nn.Module) -> list[Any]:
    return [(name, type(module), module.training, repr(module)) for name, module in network.named_modules()]


def selected(network: nn.Module, names: list[str | int] | None) -> set[str]:
    _, report = convert(network, names)
    return {module.name for module in report.modules if module.stochastic}


def test_input_network_is_not_changed(problem: tuple[nn.Module, Tensor]) -> None:
    network, _ = problem
    network.train()
    next(iter(network.children()), network).eval()
    state, before = copy_of_state(network), structure(network)
    parameters = [id(parameter) for parameter in network.parameters()]
    converted, _ = convert(network)
    randomize_posteriors(converted)
    assert same_state(network.state_dict(), state)
    assert structure(network) == before
    assert [id(parameter) for parameter in network.parameters()] == parameters


def test_training_modes_are_kept(problem: tuple[nn.Module, Tensor]) -> None:
    network, _ = problem
    next(iter(network.children()), network).eval()
    converted, _ = convert(network)
    modes = {name: module.training for name, module in converted.named_modules()}
    assert all(modes[name] == module.training for name, module in network.named_modules())


def test_pretrained_weights_become_means(problem: tuple[nn.Module, Tensor]) -> None:
    network, _ = problem
    converted, report = convert(network, init_std=0.03)
    state = converted.state_dict()
    stochastic = {module.name for module in report.modules if module.stochastic}
    for name, value in network.state_dict().items():
        module_name, _, parameter_name = name.rpartition(".")
        if module_name in stochastic and f"{name}_mu" in state:
            assert parameter_name not in ("running_mean", "running_var")
            assert torch.equal(state[f"{name}_mu"], value)
            torch.testing.assert_close(F.softplus(state[f"{name}_rho"]), torch.full_like(value, 0.03))
            assert state[f"{name}_rho"].dtype == value.dtype
        elif module_name != "again":
            assert torch.equal(state[name], value)


@pytest.mark.parametrize("estimator", ["auto", "reparameterization"])
def test_samples_with_tiny_std_match_the_network(problem: tuple[nn.Module, Tensor], estimator: str) -> None:
    network, x = problem
    network.eval()
    converted, _ = convert(network, init_std=1e-9, estimator=estimator)
    expected = network(x).detach()
    engine = SamplingEngine(converted)
    with torch.no_grad():
        torch.testing.assert_close(converted(x), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(engine.mean_output(x), expected, rtol=0, atol=1e-6)
        for samples in (engine.training_samples(x, 3), torch.cat(list(engine.prediction_samples(x, 3, seed=1)))):
            torch.testing.assert_close(samples, expected.expand(3, *expected.shape), rtol=0, atol=1e-6)


def test_constructor_options_are_kept() -> None:
    network = convolutional().double()
    converted, _ = convert(network)
    options = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode", "dilation", "groups",
        "output_padding", "transposed",
    )  # fmt: skip
    for position, kind in [(0, VariationalConv2d), (2, VariationalConv2d), (3, VariationalConvTranspose2d)]:
        assert isinstance(converted[position], kind)
        assert all(getattr(converted[position], name) == getattr(network[position], name) for name in options)
    assert converted[2].stochastic_names == ("weight",)
    assert all(parameter.dtype == torch.float64 for parameter in converted.parameters())


@pytest.mark.parametrize(
    "prior",
    [GaussianPrior(0.7, 1.9), GaussianPrior(-0.3, "fan_in"), GaussianPrior(torch.tensor(0.2), torch.tensor(0.6))],
    ids=["numbers", "fan_in", "tensors"],
)
def test_kl_matches_torch_distributions(prior: GaussianPrior) -> None:
    converted, _ = convert(convolutional(), prior=prior)
    randomize_posteriors(converted)
    fan_in = {"0": 1 * 9 * 2 // 2, "2": 4 * 9, "3": 4 // 2 * 9 // 4, "5": 72}
    expected = torch.zeros(())
    for position, inputs in fan_in.items():
        layer = converted.get_submodule(position)
        for name in layer.stochastic_names:
            std = prior.std
            if prior.std == "fan_in":
                std = 1.0 if name == "bias" else (2 / inputs) ** 0.5
            q = Normal(layer.get_parameter(f"{name}_mu"), F.softplus(layer.get_parameter(f"{name}_rho")))
            expected = expected + kl_divergence(q, Normal(prior.mean, std)).sum()
    torch.testing.assert_close(SamplingEngine(converted).kl(), expected)


def test_kl_with_a_tensor_prior_around_the_weights() -> None:
    network = nn.Linear(3, 2, bias=False)
    prior_std = torch.rand(2, 3) + 0.5
    converted, _ = convert(network, prior=GaussianPrior(network.weight.detach(), prior_std), init_std=0.3)
    ratio = 0.3 / prior_std
    torch.testing.assert_close(SamplingEngine(converted).kl(), (ratio.square() / 2 - 0.5 - ratio.log()).sum())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, {"inner.0", "inner.2", "norm", "head"}),
        (["norm"], {"norm"}),
        (["head"], {"head"}),
        ([-1], {"head"}),
        ([0], {"inner.0"}),
        ([0, -1], {"inner.0", "head"}),
        (["inner"], {"inner.0", "inner.2"}),
        (["inner.2"], {"inner.2"}),
        (["inner.*"], {"inner.0", "inner.2"}),
        (["*.0", "he*"], {"inner.0", "head"}),
        (["*"], {"inner.0", "inner.2", "norm", "head"}),
    ],
)
def test_selection_by_name_glob_and_index(names: list[str | int] | None, expected: set[str]) -> None:
    assert selected(Block(), names) == expected


def test_networks_without_stochastic_parameters_raise() -> None:
    with pytest.raises(ValueError, match=r"leaves nothing stochastic"):
        convert(nn.Sequential(nn.LayerNorm(3, elementwise_affine=False)))
    counter = nn.Module()
    counter.count = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    with pytest.raises(ValueError, match=r"'counter' selects nothing .*no weight that could be stochastic"):
        convert(nn.Sequential(OrderedDict(counter=counter, head=nn.Linear(1, 1))), ["counter"])


def test_lazy_parameters_raise() -> None:
    with pytest.raises(ValueError, match=r"lazy parameters \['0.weight', '0.bias'\]"):
        convert(nn.Sequential(nn.LazyLinear(3)))


def test_report_totals(problem: tuple[nn.Module, Tensor]) -> None:
    network, _ = problem
    converted, report = convert(network)
    owned = {name: sum(p.numel() for p in m.parameters(recurse=False)) for name, m in network.named_modules()}
    assert {row.name: row.num_parameters for row in report.modules} == {n: size for n, size in owned.items() if size}
    assert report.num_parameters == report.num_stochastic == sum(p.numel() for p in network.parameters())
    modules = SamplingEngine(converted).modules
    assert [converted.get_submodule(row.name) for row in report.modules if row.stochastic] == modules
    table = str(report).splitlines()
    assert len(table) == len(report.modules) + 2
    assert all((row.name or "(root)") in line for row, line in zip(report.modules, table[1:-1], strict=True))
    assert table[-1].split() == ["total", str(report.num_parameters), str(report.num_stochastic)]
    html = report._repr_html_()
    assert html.count("<tr>") == len(table)
    assert re.findall(r"<tr><td[^>]*>([^<]*)", html) == [line.split()[0] for line in table[1:]]


def test_weights_read_by_a_parent_use_reparameterization() -> None:
    network = nn.Sequential(attention(), nn.Linear(4, 1))
    _, report = convert(network)
    rows = {row.name: row for row in report.modules}
    assert "reads its weight directly" in rows["0.self_attn.out_proj"].reason
    assert rows["0.linear1"].estimator == "reparameterization"
    assert rows["1"].estimator == "local_reparameterization"


def test_subclass_with_inherited_forward_is_a_variational_linear() -> None:
    converted, _ = convert(nn.Sequential(Scaled(3)))
    assert isinstance(converted[0], VariationalLinear)
    assert isinstance(converted[0], Scaled)
    assert converted[0].label == "kept"
    _, report = convert(nn.Sequential(Masked(3, 3), nn.Linear(3, 1)))
    assert [row.estimator for row in report.modules] == ["reparameterization", "local_reparameterization"]
    assert "Masked is drawn in weight space" in report.modules[0].reason


def test_parameters_behind_a_parametrization_are_stochastic() -> None:
    converted, _ = convert(nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.Linear(3, 1)), ["0"])
    names = {name for name, _ in converted.named_parameters() if name.endswith("_mu")}
    assert names == {"0.bias_mu", *(f"0.parametrizations.weight.original{number}_mu" for number in (0, 1))}


def test_hooks_and_frozen_parameters_are_kept() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2).requires_grad_(False))
    calls: list[int] = []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    network[0].bias.requires_grad_(False)
    converted, report = convert(network)
    converted(torch.ones(1, 3))
    assert calls == [1]
    assert {name for name, _ in converted.named_parameters()} == {
        *("0.weight_mu", "0.weight_rho", "0.bias", "1.weight", "1.bias")
    }
    assert not any(converted.get_parameter(name).requires_grad for name in ("0.bias", "1.weight", "1.bias"))
    assert [row.reason for row in report.modules] == ["selected; only weight", "frozen (requires_grad=False)"]
    network[0].bias.requires_grad_(True)
    network[0].weight.requires_grad_(False)
    converted, report = convert(network)
    assert {name for name, each in converted.named_parameters() if each.requires_grad} == {"0.bias_mu", "0.bias_rho"}
    assert report.modules[0].reason == "selected; its weight is frozen; only bias"
    assert torch.allclose(converted(torch.ones(1, 3)), network(torch.ones(1, 3)))
    with pytest.raises(ValueError, match=r"-1 selects nothing that can be stochastic \(1: frozen"):
        convert(network[1:], [-1])
    with pytest.raises(ValueError, match=r"leaves nothing stochastic(.|\n)*frozen \(requires_grad=False\)"):
        convert(network.requires_grad_(False))


def test_shared_modules_and_tied_weights_share_one_posterior() -> None:
    converted, report = convert(SharedAndTied(), prior=GaussianPrior(), estimator="reparameterization")
    randomize_posteriors(converted)
    assert converted.again is converted.encode
    assert converted.decode.weight_mu is converted.encode.weight_mu
    assert converted.decode.weight_rho is converted.encode.weight_rho
    assert converted.middle.weight_mu is not converted.encode.weight_mu
    assert [row.name for row in report.modules] == ["encode", "middle", "decode"]
    tensors = [converted.encode.posterior("weight")]
    tensors += [layer.posterior(name) for layer in (converted.middle,) for name in ("weight", "bias")]
    tensors.append(converted.decode.posterior("bias"))
    expected = sum(kl_divergence(Normal(q.mu, q.std), Normal(0.0, 1.0)).sum() for q in tensors)
    torch.testing.assert_close(SamplingEngine(converted).kl(), expected)


@pytest.mark.parametrize("name", ["training", "prediction"])
def test_tied_weights_share_one_sample(name: str) -> None:
    """For f(x) = w (w x) with w ~ N(m, s^2) the mean is (m^2 + s^2) x. Independent samples would give m^2 x."""
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    network[1].weight = network[0].weight
    converted, _ = convert(network)
    with torch.no_grad():
        converted[0].weight_mu.fill_(0.5)
        converted[0].weight_rho.fill_(inverse_softplus(1.2))
    engine, x = SamplingEngine(converted), torch.ones(1, 1)
    if name == "training":
        outputs = torch.cat([engine.training_samples(x, 100).flatten() for _ in range(100)])
    else:
        outputs = torch.cat(list(engine.prediction_samples(x, 10_000, seed=3))).flatten()
    standard_error = outputs.std() / len(outputs) ** 0.5
    assert (outputs.mean() - (0.5**2 + 1.2**2)).abs() < 5 * standard_error


@pytest.mark.parametrize("estimator", ["local_reparameterization", "flipout"])
def test_activation_space_estimator_for_tied_weights_raises(estimator: str) -> None:
    with pytest.raises(
        ValueError, match=r"estimator='" + estimator + "' .* does not support encode: its weight is used in"
    ):
        convert(SharedAndTied(), estimator=estimator)
    _, report = convert(SharedAndTied(), ["middle"], estimator=estimator)
    assert [row.estimator for row in report.modules] == [None, estimator, None]


def test_weight_tied_to_a_deterministic_one_raises() -> None:
    with pytest.raises(ValueError, match=r"'decode' is tied to encode.weight, which stays deterministic"):
        convert(SharedAndTied(), ["decode"])
    embedded = nn.Sequential(nn.Embedding(3, 3), nn.Linear(3, 3, bias=False), nn.Linear(3, 1))
    embedded[1].weight = embedded[0].weight
    with pytest.raises(ValueError, match=r"'1' is tied to 0.weight, which stays deterministic"):
        convert(embedded, [nn.Linear])
    _, report = convert(embedded)
    assert {row.estimator for row in report.modules[:2]} == {"reparameterization"}


def test_variational_layers_are_kept() -> None:
    by_hand = VariationalLinear(3, 3, prior=GaussianPrior(0.5, 0.2), estimator="flipout", init_std=0.4)
    network = nn.Sequential(by_hand, nn.ReLU(), nn.Linear(3, 1))
    state = copy_of_state(by_hand)
    converted, report = convert(network, estimator="reparameterization")
    assert same_state(converted[0].state_dict(), state)
    assert [row.estimator for row in report.modules] == ["flipout", "reparameterization"]
    assert converted[0].prior("weight").std == 0.2
    assert report.num_stochastic == report.num_parameters == 12 + 4
    converted, report = convert(network, [0])
    assert [row.stochastic for row in report.modules] == [True, False]


def test_copy_and_pickle(problem: tuple[nn.Module, Tensor]) -> None:
    network, x = problem
    converted, _ = convert(network.eval())
    expected = SamplingEngine(converted).mean_output(x)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        torch.testing.assert_close(SamplingEngine(twin).mean_output(x), expected)


def test_conversion_does_not_use_the_global_random_state(problem: tuple[nn.Module, Tensor]) -> None:
    network, _ = problem
    before = torch.get_rng_state()
    first, _ = convert(network)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert same_state(first.state_dict(), convert(network)[0].state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "bbb"}, "got 'bbb'"),
        ({"init_std": -1.0}, "positive and finite"),
        ({"prior": GaussianPrior(std=torch.ones(7))}, "has shape"),
    ],
)
def test_invalid_options_raise_and_change_nothing(options: dict[str, Any], message: str) -> None:
    network = Block()
    before, state = structure(network), copy_of_state(network)
    with pytest.raises(ValueError, match=message):
        convert(network, **options)
    assert structure(network) == before
    assert same_state(network.state_dict(), state)
