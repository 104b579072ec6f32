"""Property-based tests of conversion on random small networks."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from helpers import copy_of_state, randomize_posteriors, same_state
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from lightning_vi.conversion import ConversionReport, convert
from lightning_vi.priors import GaussianPrior
from lightning_vi.sampling import SamplingEngine


class Skip(nn.Module):
    """A residual connection with a learned gate."""

    def __init__(self, inside: nn.Module, width: int) -> None:
        super().__init__()
        self.inside = inside
        self.gate = nn.Parameter(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = x + self.gate * self.inside(x)
        return output


def tied(width: int, previous: list[nn.Module]) -> nn.Module:
    """A square layer, tied to the first square layer before it if there is one."""
    layer = nn.Linear(width, width)
    for module in previous:
        if isinstance(module, nn.Linear) and module.weight.shape == layer.weight.shape:
            layer.weight = module.weight
    return layer


def repeated(width: int, previous: list[nn.Module]) -> nn.Module:
    """The first `Skip` module of the same width, used again if there is one."""
    fitting = [module for module in previous if isinstance(module, Skip) and len(module.gate) == width]
    return fitting[0] if fitting else nn.Tanh()


def convolution(width: int) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (1, width)), nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Flatten())


PIECES: dict[str, Callable[[int, list[nn.Module]], nn.Module]] = {
    "linear": lambda width, _: nn.Linear(width, width),
    "no bias": lambda width, _: nn.Linear(width, width, bias=False),
    "tied": tied,
    "repeated": repeated,
    "skip": lambda width, _: Skip(nn.Sequential(nn.Linear(width, 2), nn.Tanh(), nn.Linear(2, width)), width),
    "convolution": lambda width, _: convolution(width),
    "layer norm": lambda width, _: nn.LayerNorm(width) if width > 1 else nn.Tanh(),  # of one unit it leaves rounding
    "batch norm": lambda width, _: nn.BatchNorm1d(width),
    "prelu": lambda *_: nn.PReLU(),
    "tanh": lambda *_: nn.Tanh(),
    "dropout": lambda *_: nn.Dropout(0.5),
}


@dataclass(frozen=True)
class Recipe:
    """A random network: the width and the pieces of each section."""

    sections: list[tuple[int, list[str]]]
    seed: int

    def build(self) -> nn.Sequential:
        torch.manual_seed(self.seed)
        modules: list[nn.Module] = []
        inputs = 3
        for width, pieces in self.sections:
            modules.append(nn.Linear(inputs, width))
            for piece in pieces:
                modules.append(PIECES[piece](width, modules))
            inputs = width
        return nn.Sequential(*modules)


sections = st.lists(
    st.tuples(st.integers(1, 4), st.lists(st.sampled_from(sorted(PIECES)), max_size=4)), min_size=1, max_size=3
)
recipes = st.builds(Recipe, sections, st.integers(0, 1000))
each_network = given(recipe=recipes)
few = settings(max_examples=25, deadline=None)


def means_of(network: nn.Module) -> dict[str, Tensor]:
    """Posterior means of a converted network, counting tied ones once."""
    return {name: value for name, value in network.named_parameters() if name.endswith("_mu")}


def check_sums(report: ConversionReport, network: nn.Module, converted: nn.Module) -> None:
    """Checks the counts of a report against the original and the converted network."""
    assert report.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert report.num_stochastic == sum(mean.numel() for mean in means_of(converted).values())
    rows = {row.name: row for row in report.modules}
    owners = {name: module for name, module in network.named_modules() if list(module.parameters(recurse=False))}
    assert rows.keys() == owners.keys()
    for name, module in owners.items():
        assert rows[name].kind == type(module).__name__
        assert rows[name].num_parameters == sum(p.numel() for p in module.parameters(recurse=False))
        own = converted.get_submodule(name).named_parameters(recurse=False)
        assert rows[name].num_stochastic == sum(p.numel() for label, p in own if label.endswith("_mu"))
        assert (rows[name].estimator is not None) == rows[name].stochastic
    assert str(report).count("\n") == len(rows) + 1


@few
@each_network
def test_input_network_is_not_changed(recipe: Recipe) -> None:
    network = recipe.build().double()  # normalization amplifies the rounding errors of constant units
    network[0].eval()
    untouched, modes = copy_of_state(network), [module.training for module in network.modules()]
    types = [type(module) for module in network.modules()]
    converted, _ = convert(network)
    SamplingEngine(converted).training_samples(torch.randn(4, 3).double(), 2).sum().backward()
    randomize_posteriors(converted)
    assert same_state(network.state_dict(), untouched)
    assert [type(module) for module in network.modules()] == types
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    shared = {id(t) for t in network.state_dict(keep_vars=True).values()}
    assert shared.isdisjoint(id(t) for t in converted.state_dict(keep_vars=True).values())


@few
@each_network
def test_kl_counts_each_stochastic_weight_once(recipe: Recipe) -> None:
    converted, _ = convert(recipe.build(), prior=GaussianPrior(-0.4, 1.3))
    randomize_posteriors(converted)
    parameters = dict(converted.named_parameters())
    expected = sum(
        kl_divergence(Normal(mean, F.softplus(parameters[f"{name[:-3]}_rho"])), Normal(-0.4, 1.3)).sum()
        for name, mean in means_of(converted).items()
    )
    torch.testing.assert_close(SamplingEngine(converted).kl(), expected)


@few
@given(recipe=recipes, data=st.data(), biases=st.booleans())
def test_report_totals(recipe: Recipe, data: st.DataObject, biases: bool) -> None:
    network = recipe.build()
    _, everything = convert(network)
    check_sums(everything, network, convert(network)[0])
    count = len(everything.modules)
    positions = st.integers(-count, count - 1).filter(lambda position: position != -1)  # which is the layer called last
    wanted = data.draw(st.lists(positions, min_size=1, max_size=3))
    try:
        converted, report = convert(network, wanted, stochastic_biases=biases)
    except ValueError as error:
        assume("tied to" not in str(error) and "nothing that can be stochastic" not in str(error))
        raise
    check_sums(report, network, converted)
    names = {everything.modules[position].name for position in wanted}
    assert {row.name for row in report.modules if row.stochastic} <= names


@few
@each_network
def test_samples_with_tiny_std_match_the_network(recipe: Recipe) -> None:
    """In double precision, because batch normalization amplifies the rounding errors of constant units."""
    network, x = recipe.build().double(), torch.randn(4, 3, dtype=torch.float64)
    converted, _ = convert(copy.deepcopy(network), init_std=1e-20)
    for training in (False, True):
        for module in (network, converted):
            module.train(training)
            for part in module.modules():
                if isinstance(part, nn.Dropout):
                    part.eval()
        with torch.no_grad():
            expected = network(x)
            assume(expected.abs().max() > 1e-9)  # a layer normalization of one unit leaves rounding errors alone
            samples = SamplingEngine(converted).training_samples(x, 2)
        torch.testing.assert_close(samples, expected.expand(2, *expected.shape), rtol=1e-6, atol=1e-6)
