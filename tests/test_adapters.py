"""Adapters of a frozen network: start, formula, methods that train them, merging, and refusals."""

import copy
import importlib.util
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, randomize_posteriors
from network_cases import Attending, TiedLanguage
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import (
    IVON,
    SNGP,
    SWA,
    SWAG,
    VBLL,
    DeepEnsemble,
    Deterministic,
    FullRankVI,
    Laplace,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    MCDropout,
    MeanFieldVI,
    RankOneVI,
)
from lightning_vi.backbones import MLP, SelectOutput
from lightning_vi.conversion import add_adapters, convert_to_low_rank_weights, merge_low_rank_weights
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.testing import check_method

X, Y = normal(12, 6), torch.arange(12) % 3


class Texts(nn.Module):
    """A transformer of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8, padding_idx=0)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.head(self.encoder(self.embed(tokens)).mean(1))
        return output


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, padding_mode="circular", stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)
    )


TOKENS = torch.arange(1, 41).view(8, 5) % 11
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "MLP": (partial(MLP, 6, [8, 8], 3), X),
    "images": (images, normal(5, 2, 4, 4)),
    "attention": (Attending, normal(5, 4, 4)),
    "texts": (Texts, TOKENS),
    "tied": (TiedLanguage, TOKENS % 5),
}
each_network = pytest.mark.parametrize("name", NETWORKS)


def perturbed(network: nn.Module) -> nn.Module:
    """Changes all parameters that are trained."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return network


def frozen(network: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in network.named_parameters() if not each.requires_grad}


@each_network
@pytest.mark.parametrize("training", [True, False])
def test_an_adapted_network_starts_as_the_one_it_was(name: str, training: bool) -> None:
    make, x = NETWORKS[name]
    network = make().train(training)
    before = copy.deepcopy(network.state_dict())
    adapted = add_adapters(network, rank=2, alpha=3.0)
    assert torch.equal(adapted(x), network(x))
    with torch.no_grad():
        assert_close(adapted(x), network(x), atol=1e-6, rtol=0)
    perturbed(adapted)
    assert not torch.allclose(adapted(x), network(x), atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert {key.rsplit(".", 2)[-2] for key, each in adapted.named_parameters() if each.requires_grad} == {"down", "up"}


@each_network
def test_merged_adapters_are_weights_plus_the_scaled_product(name: str) -> None:
    make, x = NETWORKS[name]
    network = make().eval()
    adapted = perturbed(add_adapters(network, rank=2, alpha=3.0))
    merged = merge_low_rank_weights(adapted)
    with torch.no_grad():
        assert_close(merged(x), adapted(x))
        assert_close(adapted.train()(x), merged.train()(x))
    assert merged.state_dict().keys() == network.state_dict().keys()
    assert [type(module) for module in merged.modules()] == [type(module) for module in network.modules()]
    assert_close(pickle.loads(pickle.dumps(adapted))(x), adapted(x))
    assert_close(copy.deepcopy(adapted)(x), adapted(x))


def test_the_change_is_alpha_over_r_times_the_product() -> None:
    network = nn.Linear(5, 4)
    adapted: Any = perturbed(add_adapters(network, rank=3, alpha=7.0))
    a, b = adapted.up.weight, adapted.down.weight
    assert_close(adapted.weight, network.weight + 7 / 3 * torch.einsum("mr,rn->mn", a, b))
    assert adapted.bias is adapted.base.bias
    attention: Any = perturbed(add_adapters(nn.MultiheadAttention(4, 2), [0], rank=2, alpha=1.0))
    factors, own = attention.in_proj_adapter, attention.in_proj_base
    assert_close(attention.in_proj_weight, own + 0.5 * factors.up.weight @ factors.down.weight)
    assert isinstance(attention.out_proj, nn.Linear)


METHODS: dict[str, Callable[..., Any]] = {
    "Deterministic": Deterministic,
    "MeanFieldVI": MeanFieldVI,
    "LowRankVI": partial(LowRankVI, rank=2),
    "FullRankVI": FullRankVI,
    "IVON": IVON,
    "RankOneVI": RankOneVI,
    "LastLayerVI": LastLayerVI,
    "VBLL": VBLL,
    "Laplace": Laplace,
    "Laplace, adapters": partial(Laplace, structure="kronecker", stochastic_module_names=None),
    "SNGP": partial(SNGP, num_random_features=8),
    "SWA": SWA,
    "SWAG": SWAG,
    "MCDropout": partial(MCDropout, dropout_p=0.2, dropout_module_names=[nn.ReLU]),
    "DeepEnsemble": partial(DeepEnsemble, num_members=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_leaves_frozen_weights_as_they_are(name: str) -> None:
    adapted = add_adapters(MLP(6, [8, 8], 3), ["0", "2"], rank=2, trainable=["4"])
    method = METHODS[name](adapted, Categorical(3))
    before = frozen(method.backbone)
    assert {key for key in before if "base" in key and not key.endswith(("mu", "rho"))}
    fit(method, loader(X, Y), max_epochs=2)
    after = frozen(method.backbone)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    stacked = 2 if name == "DeepEnsemble" else 1
    weights = torch.stack([adapted.get_submodule(f"{layer}.base").weight.sum() for layer in "02"]).sum()
    kept = sum(value.sum() for key, value in before.items() if key.endswith("base.weight"))
    assert_close(torch.as_tensor(kept), stacked * weights)
    optimizer: Any = method.make_optimizer()
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert not trained & {id(each) for each in method.backbone.parameters() if not each.requires_grad}
    assert method.predict(X).probs.shape == (12, 3)


@pytest.mark.parametrize("kind", [MeanFieldVI, IVON])
def test_posteriors_are_those_of_the_factors_alone(kind: Any) -> None:
    network = MLP(6, [8], 3)
    method = kind(add_adapters(network, ["0"], rank=2), Categorical(3), num_data=12)
    assert method.conversion.num_stochastic == 2 * (6 + 8)
    assert {row.name for row in method.conversion.modules if row.stochastic} == {"0.down", "0.up"}
    assert torch.equal(method.eval().point_outputs(X), network(X))
    randomize_posteriors(method.backbone)
    assert_close(merge_low_rank_weights(method.backbone)(X), method.point_outputs(X))
    if kind is MeanFieldVI:
        posteriors = [(layer.posterior("weight"), layer.prior("weight")) for layer in method.engine.modules]
        assert_close(method.engine.kl(), sum(posterior.kl(prior) for posterior, prior in posteriors))
    check_method(method, X, Y)


@pytest.mark.thorough
def test_a_transformer_with_adapters_keeps_the_contract() -> None:
    adapted = add_adapters(Texts(), ["encoder"], rank=2, trainable=["head"])
    method = MeanFieldVI(adapted, Categorical(3), num_mc_samples_train=2, num_mc_samples_test=3)
    randomize_posteriors(method.backbone, 0.05, 0.1)
    check_method(method, TOKENS, torch.arange(8) % 3)
    assert_close(merge_low_rank_weights(method.backbone)(TOKENS), method.train().point_outputs(TOKENS))


def test_weights_of_a_checkpoint(tmp_path: Path) -> None:
    network = MLP(6, [8], 3)
    method = Deterministic(network, Categorical(3))
    torch.save({"state_dict": method.state_dict()}, tmp_path / "method.ckpt")
    torch.save(network.state_dict(), tmp_path / "state.pt")
    for file in ("method.ckpt", "state.pt"):
        assert_close(add_adapters(MLP(6, [8], 3), rank=2, checkpoint=tmp_path / file)(X), network(X))
    with pytest.raises(ValueError, match=r"state.pt' holds no weights of a MLP like this one: (.|\n)*size mismatch"):
        add_adapters(MLP(6, [9], 3), rank=2, checkpoint=tmp_path / "state.pt")


def test_members_of_an_ensemble_start_at_the_same_function() -> None:
    network = MLP(6, [8, 8], 3)
    ensemble = DeepEnsemble(add_adapters(network, ["0"], rank=2), Categorical(3), num_members=3)
    members = list(ensemble._outputs(X))
    assert all(torch.equal(each, network(X)) or torch.allclose(each, network(X)) for each in members)
    downs = dict(ensemble.backbone.named_parameters())["0.down.weight"]
    assert not torch.allclose(downs[0], downs[1])


def test_refusals() -> None:
    network = MLP(6, [8], 3)
    for options, why in (
        ({"rank": 0}, "rank must be an integer of at least 1"),
        ({"alpha": -1.0}, "alpha must be positive"),
        ({"modules": ["3"]}, "modules: '3' matches no module"),
        ({"trainable": ["3"]}, "trainable: '3' matches no module"),
        ({"modules": ["2"], "trainable": [-1]}, "modules: '2' selects nothing .*one of the trainable layers"),
        ({"modules": ["2"], "rank": 4}, "2: its weight has rank 3 at most"),
        ({"rank": 9}, "no layer that can have an adapter of rank 9"),
    ):
        with pytest.raises(ValueError, match=why):
            add_adapters(network, **options)  # type: ignore[arg-type]
    for taken in (add_adapters(network, rank=2), convert_to_low_rank_weights(network, rank=1)):
        with pytest.raises(ValueError, match="adapters or low-rank weights already"):
            add_adapters(taken)
    with pytest.raises(ValueError, match=r"selects nothing that can be stochastic \(.*2: frozen"):
        LastLayerVI(add_adapters(network, ["0"], rank=2), Gaussian(0.5, 3))
    with pytest.raises(ValueError, match=r"first layer of backbone, '0.base', is frozen"):
        LatentVariableVI(add_adapters(network, ["0"], rank=2), Gaussian(0.5, 3))
    scaled = RankOneVI(add_adapters(network, ["0"], rank=2), Categorical(3))
    with pytest.raises(ValueError, match="random scales of RankOneVI cannot be merged"):
        merge_low_rank_weights(scaled.backbone)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_hugging_face_model_from_its_configuration() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    options = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(intermediate_size=32, max_position_embeddings=16, **sizes, **options)
    network = SelectOutput(BertForSequenceClassification(config), "logits").eval()
    adapted = add_adapters(network, ["*.query", "*.value"], rank=2, trainable=["*.classifier"])
    assert torch.equal(adapted(TOKENS), network(TOKENS))
    method = MeanFieldVI(adapted, Categorical(3))
    before = frozen(method.backbone)
    fit(method, loader(TOKENS, torch.arange(8) % 3), max_epochs=1)
    assert all(torch.equal(value, before[key]) for key, value in frozen(method.backbone).items())
    assert method.conversion.num_stochastic == 2 * 2 * (2 * 2 * 16) + 3 * 17
    assert_close(merge_low_rank_weights(method.backbone)(TOKENS), method.eval().point_outputs(TOKENS))
    assert method.predict(TOKENS).probs.shape == (8, 3)
