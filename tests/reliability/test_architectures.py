"""Architectures that people have: sampling, checkpoints and every family of methods on a small stand-in of each."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architecture_cases import (
    ARCHITECTURES,
    Architecture,
    Experts,
    FlattenedTokens,
    GraphNetwork,
    QKVReadByParent,
    graph,
    graphs,
    ring,
)
from helpers import fit, randomize_posteriors
from network_cases import EXAMPLES, Example
from torch import Tensor, nn

from lightning_vi import IVON, SNGP, SWAG, Laplace, LastLayerVI, MCDropout, MeanFieldVI, RankOneVI
from lightning_vi.likelihoods import Categorical, Gaussian, Likelihood
from lightning_vi.sampling import NetworkInput, SamplingEngine, call, memory
from lightning_vi.sampling import engine as engines
from lightning_vi.sampling.agreement import compare_samples
from lightning_vi.sampling.probe import Probe, probe

Tally = Callable[..., None]
each_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def problem(case: Architecture, network: nn.Module, x: NetworkInput) -> tuple[Likelihood, Tensor]:
    """A likelihood and targets for the output of a network."""
    with torch.no_grad():
        shape = call(network.eval(), x).shape
    network.train()
    if case.pixels:
        return Categorical(shape[1]), torch.randint(0, shape[1], (shape[0], *shape[2:]))
    return Gaussian(0.5, shape[-1]), torch.randn(shape)


def built(name: str, kind: Any, **options: Any) -> tuple[Any, NetworkInput, Tensor]:
    """A method with wide posteriors, fitted where it has to be, an input and targets."""
    case = ARCHITECTURES[name]
    network, x = case.make(), case.make_input()
    likelihood, target = problem(case, network, x)
    method = kind(network, likelihood, **options)
    randomize_posteriors(method.backbone, 0.05, 0.1)
    if kind is SWAG:
        for _ in range(2):
            method.backbone.requires_grad_(True)
            with torch.no_grad():
                for parameter in method.backbone.parameters():
                    parameter.mul_(1.1)
            method.collect()
    if hasattr(method, "fit_posterior"):
        method.fit_posterior([{"input": x, "target": target}])
    return method, x, target


@each_architecture
def test_training_samples_have_the_variance_of_prediction_samples(name: str, tally: Tally) -> None:
    """In evaluation mode, each by its own path; the ratio of mean variances has a standard error near 0.1."""
    method, x, _ = built(name, MeanFieldVI)
    method.eval()
    with torch.no_grad():
        trained = method.engine.training_samples(x, 400)
        predicted = torch.cat(list(method.engine.prediction_samples(x, 400, seed=3)))
    ratio = float(trained.var(0).mean() / predicted.var(0).mean())
    tally("architectures", "training and prediction agree", tried=1, right=int(0.5 < ratio < 2))
    assert 0.5 < ratio < 2
    error = (trained.mean(0) - predicted.mean(0)).abs() / (trained.var(0) + predicted.var(0)).sqrt()
    assert error.max() < 6 / 20  # six standard errors
    method.elbo(x, problem(ARCHITECTURES[name], method.backbone, x)[1], num_data=10).loss.backward()
    for label, parameter in method.named_parameters():
        assert not label.endswith("_rho") or parameter.grad is not None, f"{label} has no gradient"


@each_architecture
def test_each_sample_is_the_network_with_the_drawn_weights(name: str) -> None:
    """Prediction samples against the original network, with the drawn weights loaded into it one at a time."""
    method, x, _ = built(name, MeanFieldVI)
    method.eval()
    network = ARCHITECTURES[name].make().eval()
    engine = method.engine
    with torch.no_grad():
        samples = torch.cat(list(engine.prediction_samples(x, 3, seed=5)))
        drawn = engine._weights.for_prediction(0, 3, None, 5)
        names = {id(module): label for label, module in method.backbone.named_modules()}
        for index, sample in enumerate(samples):
            state = {
                f"{names[id(slot.owner.module)]}.{slot.name}".lstrip("."): weight[index]
                for slot, weight in zip(engine._weights.slots, drawn, strict=True)
            }
            network.load_state_dict(state, strict=False)
            torch.testing.assert_close(sample, call(network, x), rtol=1e-4, atol=1e-5)


@each_architecture
def test_checkpoints_come_back(name: str, tally: Tally) -> None:
    first, x, _ = built(name, MeanFieldVI)
    second = built(name, MeanFieldVI)[0]
    second.load_state_dict(first.state_dict())
    expected, found = (method.predict(x, num_samples=5) for method in (first, second))
    torch.testing.assert_close(found.as_dict(), expected.as_dict())
    tally("architectures", "checkpoints", tried=1, right=1)


REFUSED = {
    ("T5, shared embedding", LastLayerVI): "tied to",
    ("T5, shared embedding", Laplace): None,
    ("layer that only its parent reads", Laplace): "called 0 times",
    ("layer that only its parent reads", SNGP): "weight",
}


@each_architecture
@pytest.mark.parametrize("kind", [MCDropout, SWAG, Laplace, LastLayerVI, IVON, RankOneVI])
@pytest.mark.filterwarnings("ignore:no layer of the network drops", "ignore:.*drops units", "ignore:.*dropped units")
def test_methods_train_and_predict(name: str, kind: Any, tally: Tally) -> None:
    refusal = REFUSED.get((name, kind))
    if refusal is not None:
        with pytest.raises(ValueError, match=refusal):
            built(name, kind)
        return
    method, x, target = built(name, kind)
    assert method.elbo(x, target, num_data=10).loss.isfinite()
    prediction = method.predict(x, num_samples=4)
    assert all(value.isfinite().all() for value in prediction.as_dict().values())
    tally("architectures", kind.__name__, tried=1, right=1)


@pytest.mark.parametrize(("pooled", "make_input"), [(False, graph), (True, graphs)])
def test_laplace_on_graphs_is_exact(pooled: bool, make_input: Any) -> None:
    """Against the Jacobian of the whole graph."""
    x = make_input()
    method = Laplace(
        GraphNetwork(pooled), Gaussian(0.5, 2), structure="full", stochastic_module_names=None, prior_std=1.0
    ).eval()
    with torch.no_grad():
        shape = method(x).shape
    method.fit_posterior([{"input": x, "target": torch.randn(shape)}])
    weights = {label: parameter.detach() for label, parameter in method.backbone.named_parameters()}
    jacobians = torch.func.jacrev(lambda each: torch.func.functional_call(method.backbone, each, (), x).flatten())(
        weights
    )
    jacobian = torch.cat([block.flatten(jacobians, 1) for block in method._blocks], -1).double()
    covariance = torch.linalg.inv(jacobian.T @ jacobian / 0.25 + torch.eye(jacobian.shape[1]))
    expected = ((jacobian @ covariance) * jacobian).sum(1).view(shape).float()
    torch.testing.assert_close(method.predict(x).epistemic_var, expected, rtol=1e-3, atol=1e-5)


def test_dropout_masks_of_a_graph_are_the_same_for_each_node() -> None:
    """All nodes of a ring with equal features are alike, and so are their predictions."""
    method = MCDropout(GraphNetwork(), Gaussian(0.5, 2))
    x = {"x": torch.ones(6, 3), "edge_index": ring(6)}
    samples = method.predict(x, num_samples=8, return_samples=True).samples
    assert samples is not None
    torch.testing.assert_close(samples, samples[:, :1].expand_as(samples))
    assert samples.var(0).min() > 0


# The comparison of training with prediction finds faults that the specific checks are blind for.


def blind(network: nn.Module, layers: Any, x: NetworkInput) -> Probe:
    """A trial pass that finds nothing."""
    seen = probe(network, layers, x)
    return Probe(
        dict.fromkeys(layers.values(), 1), frozenset(), frozenset(), frozenset(), None, seen.width, seen.num_rows
    )


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (QKVReadByParent, lambda: torch.randn(8, 3)),
        (FlattenedTokens, lambda: 1 + 0.1 * torch.randn(8, 12, 3)),
        (lambda: GraphNetwork(pooled=True), lambda: graph(24)),
    ],
    ids=["weight read by the parent", "flattened rows", "nodes pooled"],
)
def test_the_comparison_finds_wrong_noise(make: Any, x: Any, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    monkeypatch.setattr(engines, "probe", blind)
    network = MeanFieldVI(make(), Gaussian(0.5, 2), stochastic_biases=False).backbone
    if make is FlattenedTokens:  # the pooled noise is all there is
        nn.init.constant_(network.get_parameter("head.weight_rho"), -20.0)
    engine, inputs = SamplingEngine(network), x()
    with torch.no_grad():
        trained = engine.training_samples(inputs, 400).var(0).mean()
        predicted = torch.cat(list(engine.prediction_samples(inputs, 400, seed=1))).var(0).mean()
    assert any("times the variance" in owner.reason for owner in engine._owners)
    assert 0.5 < trained / predicted < 2
    tally("architectures", "faults found by comparing samples", tried=1, right=1)


def test_the_comparison_finds_copies_that_are_mixed(monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    monkeypatch.setattr(engines, "copies_stay_apart", lambda *_: True)
    x = {"x": torch.randn(2, 3), "edge_index": torch.tensor([[0, 1], [1, 0]])}
    for kept in ({}, {"edge_index": torch.tensor([[0, 1, 1], [1, 0, 1]])}):
        engine = SamplingEngine(MeanFieldVI(GraphNetwork(), Gaussian(0.5, 2)).backbone.eval())
        monkeypatch.setattr(engines, "probe", blind)
        inputs = {**x, **kept}
        with torch.no_grad():
            samples = engine.training_samples(inputs, 400)
            exact = torch.cat(list(engine.prediction_samples(inputs, 400, seed=1)))
        assert not engine._runner.copies_stay_apart
        assert (samples.mean(0) - exact.mean(0)).abs().max() < 6 * (2 * exact.var(0).max() / 400).sqrt()
    tally("architectures", "faults found by comparing samples", tried=1, right=1)


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("seed", [0, *[pytest.param(seed, marks=pytest.mark.thorough) for seed in range(1, 20)]])
def test_the_comparison_raises_no_false_alarm(name: str, seed: int, tally: Tally) -> None:
    example: Example = EXAMPLES[name]
    torch.manual_seed(seed)
    method = MeanFieldVI(example.make(), Gaussian(0.5, 2))
    randomize_posteriors(method.backbone)
    found = compare_samples(method.engine, example.make_input())
    assert found.keeps_network
    assert found.keeps_means
    assert found.same_variance
    tally("architectures", "false alarms of the comparison", tried=1, right=1)


def test_vmap_is_not_needed_for_laplace() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.inner(x)
            output: Tensor = self.head(hidden.tanh() if float(hidden.detach().sum()) < 1e9 else hidden)
            return output

    network, x, y = Branching(), torch.randn(5, 3), torch.randn(5, 2)
    plain = nn.Sequential(network.inner, nn.Tanh(), network.head)
    methods = [Laplace(each, Gaussian(0.5, 2), stochastic_module_names=None) for each in (network, plain)]
    for method in methods:
        method.fit_posterior([(x, y)])
    torch.testing.assert_close(methods[0].predict(x).epistemic_var, methods[1].predict(x).epistemic_var)


def test_subclasses_of_linear_layers_have_kronecker_factors() -> None:
    class Cast(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return super().forward(input.float())

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            return 2 * super().forward(input)

    x, y, variances = torch.randn(5, 3), torch.randn(5, 2), []
    state = nn.Linear(3, 2).state_dict()
    for kind in (nn.Linear, Cast, Doubled):
        layer = kind(3, 2)
        layer.load_state_dict(state)
        method = Laplace(nn.Sequential(nn.Tanh(), layer), Gaussian(0.5, 2))
        if kind is Doubled:
            with pytest.raises(ValueError, match=r"'1' \(Doubled\) has a forward of its own.*structure='diagonal'"):
                method.fit_posterior([(x, y)])
            continue
        method.fit_posterior([(x, y)])
        variances.append(method.predict(x).epistemic_var)
    torch.testing.assert_close(*variances)


@pytest.mark.parametrize("kind", [Laplace, SNGP])
def test_convolutions_of_volumes_can_be_last(kind: Any) -> None:
    network = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 1))
    method = kind(network, Categorical(2))
    x = torch.randn(3, 1, 2, 2, 2)
    method.fit_posterior([(x, torch.randint(0, 2, (3, 2, 2, 2)))])
    probs = method.predict(x).probs
    assert probs is not None
    torch.testing.assert_close(probs.sum(1), torch.ones(3, 2, 2, 2))


def test_complex_weights_are_averaged() -> None:
    class Fourier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filter = nn.Parameter(torch.randn(3, dtype=torch.cfloat))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=4))
            return output

    method, x = SWAG(Fourier(), Gaussian(0.5, 2)), torch.randn(5, 4)
    values = []
    for factor in (1.0, 2.0):
        with torch.no_grad():
            method.backbone.filter.mul_(factor * 1j)
        values.append(method.backbone.filter.detach().clone())
        method.collect()
    torch.testing.assert_close(method.mean_network()["filter"], (values[0] + values[1]) / 2)
    drawn = method.sample_parameters(4000)["filter"]
    assert drawn.is_complex()
    torch.testing.assert_close(drawn.mean(0), (values[0] + values[1]) / 2, rtol=0, atol=0.15)
    assert method.predict(x).epistemic_var.min() > 0
    with pytest.raises(ValueError, match=r"complex weights.*stochastic_module_names"):
        Laplace(Fourier(), Gaussian(0.5, 2), structure="diagonal", stochastic_module_names=[0])


def test_rank_one_components_need_rows() -> None:
    method = RankOneVI(GraphNetwork(), Gaussian(0.5, 2), num_components=2)
    with pytest.raises(ValueError, match=r"num_components=2 repeats the rows.*num_components=1"):
        method.elbo(graph(), torch.randn(8, 2), num_data=8)


def test_copies_can_be_refused_by_name() -> None:
    method = MeanFieldVI(GraphNetwork(), Gaussian(0.5, 2), vectorization="repeat")
    with pytest.raises(ValueError, match=r"vectorization='repeat'.*'auto'"):
        method.elbo(graph(), torch.randn(8, 2), num_data=8)


def test_the_comparison_leaves_the_noise_of_training_alone() -> None:
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    losses = []
    for warm in (False, True):
        torch.manual_seed(0)
        method = MeanFieldVI(Experts(), Gaussian(0.5, 2), num_data=7)
        if warm:
            compare_samples(method.engine, x)
        losses.append(method.elbo(x, y).loss)
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)


@pytest.mark.thorough
@pytest.mark.parametrize("pooled", [False, True])
def test_graphs_train_under_a_trainer(pooled: bool) -> None:
    x = graphs() if pooled else graph()
    y = torch.randn(4 if pooled else 8, 2)
    data = torch.utils.data.DataLoader([{"input": x, "target": y}] * 3, batch_size=None)
    for kind in (MeanFieldVI, MCDropout, SWAG, Laplace, LastLayerVI):
        options = {"num_data": 24} if kind in (MeanFieldVI, LastLayerVI) else {}
        method = kind(GraphNetwork(pooled, normalized=True), Gaussian(num_targets=2), **options)
        fit(method, data, max_epochs=2)
        assert method.predict(x).mean.isfinite().all()


def test_the_curvature_of_many_classes_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(7, 3), torch.randint(0, 5, (7,))
    state, sizes, results = nn.Linear(3, 5).state_dict(), list[int](), []
    factor = Categorical.information_factor
    monkeypatch.setattr(
        Categorical, "information_factor", lambda self, outputs: sizes.append(len(outputs)) or factor(self, outputs)
    )
    for budget in (2**25, 2 * 5**2):
        monkeypatch.setattr(memory, "MAX_INFORMATION_NUMBERS", budget)
        layer = nn.Linear(3, 5)
        layer.load_state_dict(state)
        method = Laplace(nn.Sequential(nn.Tanh(), layer), Categorical(5))
        method.fit_posterior([(x, y)])
        results.append(method.predict(x, num_samples=3).as_dict())
    assert sizes == [7, 2, 2, 2, 1]
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4)
