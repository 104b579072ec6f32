"""The index -1 selects the layer that is called last, which a network may define first."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_vi import SNGP, VBLL, FullRankVI, Laplace, LastLayerVI, MeanFieldVI, RankOneVI
from lightning_vi.conversion import convert, named_layers
from lightning_vi.conversion.call_order import call_order, guessed_call_order
from lightning_vi.conversion.selection import last_layer
from lightning_vi.likelihoods import Gaussian


class HeadFirst(nn.Module):
    """Defines the head first and a normalization of the features last."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.inner = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.norm(self.inner(x)).relu())


class Nested(nn.Module):
    """A head below another module, and a skip connection that wrong widths do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"main": nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))})
        self.body = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

    def forward(self, x: Tensor) -> Any:
        for block in self.body:
            x = x + block(x)
        return self.heads["main"](x)


class Tied(nn.Module):
    """A language model whose embedding and output layer share a weight; another layer is defined last."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(3, 5, bias=False)
        self.embedding = nn.Embedding(5, 3)
        self.output.weight = self.embedding.weight
        self.mixer = nn.GRU(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.output(self.mixer(self.embedding(x))[0])


class WithLogits(HeadFirst):
    """Returns an object, as Hugging Face models do, and takes a second input that it can do without."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        features = self.norm(self.inner(x if mask is None else x * mask))
        return {"logits": self.head(features), "hidden_states": (features,)}


class Convolutional(nn.Module):
    """A convolution whose flattened output fits images of one size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2 * 5 * 5, 2)
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.conv(x).relu().flatten(1))


class Mapped(HeadFirst):
    """Takes a dictionary, so that no input can be guessed."""

    def forward(self, x: Any) -> Any:
        return super().forward(x["values"])


CASES: list[tuple[type[nn.Module], str, Any]] = [
    (HeadFirst, "head", torch.zeros(6, 3)),
    (Nested, "heads.main.1", torch.zeros(6, 3)),
    (Tied, "output", torch.zeros(6, 4, dtype=torch.long)),
    (WithLogits, "head", torch.zeros(6, 3)),
    (Convolutional, "head", torch.zeros(6, 1, 7, 7)),
]


@pytest.mark.parametrize(("make", "expected", "x"), CASES)
def test_the_layer_called_last_is_found_before_there_is_an_input(make: Any, expected: str, x: Any) -> None:
    """Against the order of calls on a real input. Nothing of the network or the global random state changes."""
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state, hooks = torch.get_rng_state(), [len(module._forward_pre_hooks) for module in network.modules()]
    order = guessed_call_order(network)
    assert order is not None
    assert list(order) == list(call_order(network, x))
    assert last_layer(network, named_layers(network)) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(module._forward_pre_hooks) for module in network.modules()] == hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training and "forward" not in module.__dict__ for module in network.modules())


KINDS = (LastLayerVI, Laplace, SNGP, MeanFieldVI, FullRankVI, RankOneVI)


@pytest.mark.parametrize(  # VBLL needs the output of the layer itself
    ("make", "kind"), [(make, kind) for make in (HeadFirst, WithLogits) for kind in KINDS] + [(HeadFirst, VBLL)]
)
def test_methods_take_the_layer_called_last(make: Any, kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    x, y = torch.randn(6, 3), torch.randn(6, 2)
    options = {} if kind in (LastLayerVI, Laplace, SNGP, VBLL) else {"stochastic_module_names": [-1]}
    with caplog.at_level("INFO"):
        method = kind(make(), Gaussian(0.5, 2), **options)
    said = [record.message for record in caplog.records]
    assert said == ["the last layer is 'head' (Linear), which is called last; 'norm' (BatchNorm1d) is defined last"]
    if kind in (SNGP, VBLL):
        assert not isinstance(method.backbone.head, nn.Linear)
        assert isinstance(method.backbone.norm, nn.BatchNorm1d)
    elif kind is Laplace:
        assert [block.module_name for block in method._blocks] == ["head"]
    else:
        assert [row.name for row in method.conversion.modules if row.stochastic] == ["head"]
    assert method.elbo(x, y, num_data=6).loss.isfinite()
    if kind in (Laplace, SNGP):
        method.fit_posterior([(x, y)])
    expected = method.predict(x, seed=0).as_dict()
    again = kind(make(), Gaussian(0.5, 2), **{**options, **_stored_selection(method)})
    again.load_state_dict(method.state_dict())
    torch.testing.assert_close(again.predict(x, seed=0).as_dict(), expected)


def _stored_selection(method: Any) -> dict[str, Any]:
    """Selection in the checkpoint: a position, which no later order of calls can change."""
    stored = method.hparams.get("stochastic_module_names")
    assert isinstance(method, SNGP) or stored == [0]
    return {} if stored is None else {"stochastic_module_names": stored}


def test_networks_in_order_are_selected_as_before() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)))
    for kind in (LastLayerVI, Laplace, VBLL):
        assert list(kind(network, Gaussian(0.5, 2)).hparams["stochastic_module_names"]) == [-1]
    assert str(convert(network, [-1])[1]) == str(convert(network, ["1.1"])[1])
    twice = nn.Linear(3, 3)
    chain = nn.Sequential(twice, nn.Linear(3, 3), twice)
    assert last_layer(chain, named_layers(chain)) == "0"


def test_a_normalization_is_no_last_layer() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2), nn.PReLU(2))
    method = LastLayerVI(network, Gaussian(0.5, 2))
    assert [row.name for row in method.conversion.modules if row.stochastic] == ["0"]
    assert method.elbo(torch.randn(6, 3), torch.randn(6, 2), num_data=6).loss.isfinite()
    norms = nn.Sequential(nn.LayerNorm(2), nn.LayerNorm(2))
    assert last_layer(norms, named_layers(norms)) == "1"


@pytest.mark.parametrize("kind", [LastLayerVI, Laplace, MeanFieldVI])
def test_an_order_that_is_unknown_is_checked_at_the_first_input(kind: Any) -> None:
    x, y = {"values": torch.randn(6, 3)}, torch.randn(6, 2)
    assert guessed_call_order(Mapped()) is None
    options = {"structure": "diagonal"} if kind is Laplace else {}
    method = kind(Mapped(), Gaussian(0.5, 2), stochastic_module_names=[-1], **options)
    with pytest.raises(ValueError, match=r"'norm' \(.*BatchNorm1d\), but 'head' \(.*Linear\) is called last"):
        method.elbo(x, y, num_data=6)
    if kind is Laplace:
        with pytest.raises(ValueError, match="is called last"):
            method.fit_posterior([(x, y)])
    named = kind(Mapped(), Gaussian(0.5, 2), stochastic_module_names=["norm"], **options)
    assert named.elbo(x, y, num_data=6).loss.isfinite()


def test_an_order_that_depends_on_the_input_is_checked_at_the_first_input() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.rows = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Any:
            return self.rows(x) if x.dim() == 2 else self.tokens(x)

    method = LastLayerVI(Routed(), Gaussian(0.5, 2))
    with pytest.raises(ValueError, match=r"-1 selects 'rows'.*'tokens'.*is called last.*not called"):
        method.elbo(torch.randn(4, 5, 3), torch.randn(4, 5, 2), num_data=6)


def test_networks_that_raise_errors_have_no_known_order() -> None:
    network = HeadFirst()
    network.forward = lambda x: SimpleNamespace(y=undefined(x))  # type: ignore[method-assign, name-defined]  # noqa: F821
    assert guessed_call_order(network) is None
