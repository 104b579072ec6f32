"""Dropout behind named modules, and functional dropout."""

import copy
from typing import Any

import pytest
import torch
from helpers import copy_of_state, fit, loader, normal
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_vi import MCDropout
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian
from lightning_vi.sampling import hooks_behind, private_draws

X, Y = normal(12, 3), normal(12, 1)


class Nested(nn.Module):
    """Names of two levels, an attention, and a list that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4))
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x).unsqueeze(1)
        hidden = self.attention(hidden, hidden, hidden)[0].squeeze(1)
        output: Tensor = self.head(self.blocks[0](hidden))
        return output


def behind(method: MCDropout) -> list[str]:
    return [name for name, module in method.backbone.named_modules() if hooks_behind(module)]


@pytest.mark.parametrize(
    ("selectors", "names"),
    [
        (["encoder"], ["encoder"]),
        (["encoder.*"], ["encoder.0", "encoder.1", "encoder.2"]),
        ([nn.ReLU], ["encoder.1"]),
        ([0, -1], ["encoder.0", "head"]),
        ([1, "encoder.2"], ["encoder.2"]),
        ([lambda name, module: isinstance(module, nn.Linear) and name.startswith("bl")], ["blocks.0"]),
        (["attention"], ["attention"]),
        (["*"], ["encoder", "encoder.0", "encoder.1", "encoder.2", "attention", "blocks.0", "head"]),
    ],
)
def test_dropout_stands_behind_the_named_modules(selectors: Any, names: list[str]) -> None:
    network = Nested()
    before = copy_of_state(network)
    method = MCDropout(network, Gaussian(), dropout_p=0.5, dropout_module_names=selectors)
    assert behind(method) == names
    assert not any(hooks_behind(module) for module in network.modules())
    assert list(method.backbone.state_dict()) == list(before)
    assert_close(method.eval()(X), network.eval()(X))
    assert_close(method.backbone(X), network(X))
    assert method.predict(X, num_samples=20).epistemic_var.mean() > 1e-4
    method.backbone.load_state_dict(before)


def test_dropout_behind_a_layer_is_the_same_as_a_layer() -> None:
    """Behind a sequence too, which runs its children."""
    first, last = nn.Linear(3, 5), nn.Linear(5, 1)
    written = nn.Sequential(nn.Sequential(first, nn.Tanh()), nn.Dropout(0.4), last)
    plain = nn.Sequential(nn.Sequential(first, nn.Tanh()), last)
    expected = MCDropout(written, Gaussian()).predict(X, num_samples=5, seed=3, return_samples=True).samples
    for name in ("0", "0.1"):
        method = MCDropout(plain, Gaussian(), dropout_p=0.4, dropout_module_names=[name])
        assert_close(method.predict(X, num_samples=5, seed=3, return_samples=True).samples, expected)
        assert len(method.sampler._survey[1].layouts) == 1  # type: ignore[index]
        kept = torch.cat([method.train().backbone[0](X) for _ in range(50)]) != 0  # type: ignore[index, operator]
        assert abs(kept.float().mean().item() - 0.6) < 4.5 * (0.24 / kept.numel()) ** 0.5


def test_dropout_behind_a_tuple() -> None:
    class LastStep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.GRU(1, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.recurrent(x.unsqueeze(-1))[0][:, -1]
            return output

    method = MCDropout(LastStep(), Gaussian(num_targets=4), dropout_p=0.5, dropout_module_names=["recurrent"])
    drawn = method.predict(X, num_samples=20, return_samples=True).samples
    assert drawn is not None
    assert ((drawn == 0).float().mean() - 0.5).abs() < 0.25
    assert torch.equal(drawn[:, :1] == 0, (drawn == 0).all(1, keepdim=True))


def test_dropout_behind_what_has_no_tensor() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = Both(), nn.Linear(3, 1)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.both(x)["x"])
            return output

    method = MCDropout(Net(), Gaussian(), dropout_p=0.5, dropout_module_names=["both"])
    with pytest.raises(TypeError, match=r"dropout behind Both needs an output that is a tensor or a tuple .* got dict"):
        method.predict(X)


@pytest.mark.parametrize(
    ("selectors", "message"),
    [
        (["nothing"], r"dropout_module_names: 'nothing' matches none of the modules \['encoder', 'encoder.0'"),
        (["blocks"], "dropout_module_names: 'blocks' matches none of the modules"),
        (["attention.out_proj"], "'attention.out_proj' matches none"),
        ([3], r"dropout_module_names: \['attention.out_proj'\] are read by their attention and never called"),
        ([9], "dropout_module_names: index 9 is out of range for the 6 layers"),
        ("encoder", "dropout_module_names must be a list of .* got the string 'encoder'"),
        ([0.5], "dropout_module_names: a name, glob, index, class or predicate is expected, got 0.5"),
        ([True], "dropout_module_names: a name, glob, index, class or predicate is expected, got True"),
    ],
)
def test_wrong_names(selectors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCDropout(Nested(), Gaussian(), dropout_p=0.5, dropout_module_names=selectors)


def test_a_rate_for_every_kind_of_layer() -> None:
    network = nn.ModuleList(
        [
            *(nn.Dropout(0.1), nn.Dropout1d(0.1), nn.Dropout2d(0.1), nn.Dropout3d(0.1), nn.AlphaDropout(0.1)),
            *(nn.FeatureAlphaDropout(0.1), nn.MultiheadAttention(4, 2, dropout=0.1)),
            *(kind(2, 3, num_layers=2, dropout=0.1) for kind in (nn.LSTM, nn.GRU, nn.RNN)),
        ]
    )
    method = MCDropout(network, Gaussian(), dropout_p=0.25)
    rates = [getattr(layer, "p", getattr(layer, "dropout", None)) for layer in method.backbone]  # type: ignore[union-attr]
    assert rates == [0.25] * 10
    assert network[0].p == 0.1
    assert network[6].dropout == 0.1


class Functional(nn.Module):
    """Calls dropout in its forward, in one of several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.first, self.head, self.way = nn.Linear(3, 8), nn.Linear(8, 1), way

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        match self.way:
            case "by mode":
                hidden = F.dropout(hidden, 0.4, training=self.training)
            case "always":
                hidden = F.dropout(hidden, 0.4)
            case "in place":
                F.dropout(hidden, 0.4, self.training, inplace=True)
            case "torch":
                hidden = torch.dropout(hidden, 0.4, self.training)
            case "torch, by name":
                hidden = torch.dropout(input=hidden, p=0.4, train=self.training)
            case "torch, in place":
                torch.dropout_(hidden, 0.4, self.training)
            case "if training" if self.training:
                hidden = F.dropout(hidden, 0.4)
        output: Tensor = self.head(hidden)
        return output


def functional(way: str) -> tuple[MCDropout, nn.Module]:
    network = nn.Sequential(Functional(way), nn.Identity(), nn.Dropout(0.1), nn.Identity())
    method = MCDropout(network, Gaussian())
    method.backbone[2].p = 0.0  # type: ignore[index, union-attr]
    return method, network[0]


@pytest.mark.parametrize("way", ["by mode", "always", "in place", "torch", "torch, by name", "torch, in place"])
def test_functional_dropout_is_pointed_out_once_and_sampled(way: str) -> None:
    method, network = functional(way)
    name = {"torch": "dropout", "torch, in place": "dropout_"}.get(way, "dropout")
    with pytest.warns(UserWarning, match=f"{name} in the forward of Functional drops units .* make it an nn.Dropout"):
        first = method.predict(X, seed=1, return_samples=True)
    again = method.predict(X, seed=1)
    assert torch.equal(first.mean, again.mean)
    assert_close(torch.cat([method.predict(row, seed=1).mean for row in X.split(5)]), first.mean)
    written = MCDropout(
        nn.Sequential(network.first, nn.Dropout(0.4), network.head),  # type: ignore[arg-type]
        Gaussian(),
    )
    assert_close(written.predict(X, seed=1, return_samples=True).samples, first.samples)
    assert torch.equal(method.eval()(X), method(X))
    assert_close(method(X), network.head(network.first(X)))  # type: ignore[operator]


def test_functional_dropout_is_pointed_out_in_training() -> None:
    method, _ = functional("by mode")
    with pytest.warns(UserWarning, match="dropout in the forward of Functional drops units") as caught:
        method.train().elbo(X, Y)
    assert len(caught) == 1
    losses = {method.elbo(X, Y).loss.item() for _ in range(3)}
    assert len(losses) == 3
    method.predict(X)
    copy.deepcopy(method).predict(X)


def test_dropout_in_training_alone_is_pointed_out() -> None:
    method, _ = functional("if training")
    with pytest.warns(UserWarning, match="drops units outside"):
        fit(method, loader(X, Y))
    with pytest.warns(UserWarning, match="dropped units in training and is not called at prediction") as caught:
        method.predict(X)
    assert len(caught) == 1
    method.predict(X)


def test_a_network_of_functional_dropout_alone() -> None:
    with pytest.warns(UserWarning, match="unless its forward calls functional dropout"):
        method = MCDropout(Functional("by mode"), Gaussian(), dropout_p=0.2)
    with pytest.warns(UserWarning, match="dropout_p does not reach it"):
        prediction = method.predict(X, num_samples=2000)
    layer, weight = method.backbone.first, method.backbone.head.weight  # type: ignore[union-attr]
    variance = layer(X).square() @ weight.square().T * (0.4 / 0.6)  # type: ignore[operator, union-attr]
    assert_close(prediction.epistemic_var, variance.detach(), rtol=0.2, atol=0.0)


@pytest.mark.parametrize("has_overloads", [True, False], ids=["overloads with a generator", "none"])
def test_other_random_numbers_of_a_network_leave_the_global_state_alone(
    has_overloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x) + torch.rand_like(x)

    if not has_overloads:
        monkeypatch.setattr(private_draws, "_WITH_GENERATOR", {})
    method = MCDropout(nn.Sequential(MLP(3, [4], 1, dropout_p=0.1), nn.Dropout(0.1), Noisy()), Gaussian())
    state = torch.get_rng_state()
    first = method.predict(X)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert torch.equal(method.predict(X).mean, first.mean)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_backbone_is_sampled_as_it_is_written(in_place: bool) -> None:
    plain = MLP(3, [5], 1, dropout_p=0.3)
    network: Any = copy.deepcopy(plain)
    if in_place:
        network.compile(backend="eager")
    else:
        network = torch.compile(network, backend="eager")
    method = MCDropout(network, Gaussian(0.5))
    expected = MCDropout(plain, Gaussian(0.5))
    assert_close(method.predict(X, seed=1).epistemic_var, expected.predict(X, seed=1).epistemic_var)
    assert_close(method.eval()(X), expected.eval()(X))
    method.train().elbo(X, Y).loss.backward()
