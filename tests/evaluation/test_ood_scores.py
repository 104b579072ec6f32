"""Scores of out-of-distribution detection against scikit-learn, scipy and features by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import copy_of_state, loader, normal, quiet_trainer, randomize_posteriors, same_state
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors as SklearnNeighbors
from torch import Tensor, nn

from lightning_vi import (
    SNGP,
    SWAG,
    DeepEnsemble,
    Deterministic,
    Ensemble,
    Laplace,
    MCDropout,
    MeanFieldVI,
    RankOneVI,
    TemperatureScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.errors import InputError, InputTypeError, InputValueError
from lightning_vi.evaluation import OOD_SCORES, OODScores, ood_detection
from lightning_vi.evaluation.feature_distances import ClassGaussians, NearestNeighbors
from lightning_vi.evaluation.features import PointPasses
from lightning_vi.functional import detection_average_precision
from lightning_vi.likelihoods import Bernoulli, Categorical, Gaussian
from lightning_vi.sampling import evaluating

CLASSES = 3
X, Y = normal(90, 4), torch.arange(90) % CLASSES
NEW = normal(11, 4) + 1
TRAIN: Any = loader(X, Y, batch_size=32)


def deterministic() -> Deterministic:
    torch.manual_seed(0)
    return Deterministic(MLP(4, [6], CLASSES), Categorical(CLASSES))


def features_of(network: nn.Module, x: Tensor) -> Tensor:
    return nn.Sequential(*list(network)[:-1])(x).detach()  # type: ignore[call-overload]


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_that_of_scikit_learn(ties: bool) -> None:
    scores_in, scores_out = normal(40).double(), normal(23).double() + 0.5
    if ties:
        scores_in, scores_out = scores_in.round(), scores_out.round()
    labels = np.repeat([0, 1], [40, 23])
    expected = average_precision_score(labels, torch.cat([scores_in, scores_out]))
    assert float(detection_average_precision(scores_in, scores_out)) == pytest.approx(expected, abs=1e-12)


def test_mahalanobis_is_that_of_scipy() -> None:
    mixing = normal(5, 5)
    features, new = normal(200, 5) @ mixing, normal(30, 5) @ mixing + 2
    labels = torch.arange(200) % CLASSES
    features = features + 3 * labels.unsqueeze(1)
    gaussians = ClassGaussians(CLASSES)
    for rows in torch.arange(200).split(64):
        gaussians.update(features[rows], labels[rows])
    gaussians.finish()
    means = np.stack([features[labels == c].double().numpy().mean(0) for c in range(CLASSES)])
    residuals = features.double().numpy() - means[labels.numpy()]
    inverse = np.linalg.inv(residuals.T @ residuals / 200)
    expected = cdist(new.double().numpy(), means, "mahalanobis", VI=inverse).min(1)
    np.testing.assert_allclose(gaussians.distances(new).numpy(), expected, rtol=1e-3)


def test_unused_features_do_not_break_the_covariance() -> None:
    features = torch.cat([normal(50, 2), torch.zeros(50, 3)], 1)
    gaussians = ClassGaussians(1)
    gaussians.update(features, torch.zeros(50, dtype=torch.long))
    gaussians.finish()
    inside, outside = gaussians.distances(torch.stack([torch.zeros(5), torch.eye(5)[4]]))
    assert inside < 1
    assert outside > 100  # a feature that no training datum has


@pytest.mark.parametrize("chunk", [7, 2**24])
def test_nearest_neighbors_are_those_of_scikit_learn(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_vi.evaluation.feature_distances.MAX_DISTANCES", chunk)
    features, new = normal(60, 5), normal(20, 5)
    neighbors = NearestNeighbors(4)
    for rows in features.split(25):
        neighbors.update(rows)
    unit = [(rows / rows.norm(dim=1, keepdim=True)).double().numpy() for rows in (features, new)]
    expected = SklearnNeighbors(n_neighbors=4).fit(unit[0]).kneighbors(unit[1])[0][:, -1]
    np.testing.assert_allclose(neighbors.distances(new).numpy(), expected, atol=1e-5)


def test_no_more_rows_are_kept_than_allowed_and_each_as_probably() -> None:
    counts = torch.zeros(10)
    for seed in range(200):
        neighbors = NearestNeighbors(1, max_rows=4, seed=seed)
        for rows in torch.eye(10).split(3):
            neighbors.update(rows)
        assert len(neighbors._rows) == 4
        counts += neighbors._rows.sum(0)
    assert (counts - 80).abs().max() < 4 * (200 * 0.4 * 0.6) ** 0.5


def test_the_scores_of_one_network_by_hand() -> None:
    method = deterministic()
    found = OODScores(method, TRAIN, num_neighbors=5)([NEW[:4], NEW[4:]])
    assert tuple(found) == OOD_SCORES
    logits = method.backbone(NEW).detach().double()
    probs = logits.softmax(1)
    torch.testing.assert_close(found["entropy"].double(), -(probs * probs.log()).sum(1), rtol=1e-5, atol=1e-6)
    assert not found["mutual_information"].any()
    torch.testing.assert_close(found["max_probability"].double(), 1 - probs.amax(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["energy"].double(), -torch.logsumexp(logits, 1), rtol=1e-5, atol=1e-6)
    train, new = features_of(method.backbone, X), features_of(method.backbone, NEW)
    gaussians, neighbors = ClassGaussians(CLASSES), NearestNeighbors(5)
    gaussians.update(train, Y)
    gaussians.finish()
    neighbors.update(train)
    torch.testing.assert_close(found["mahalanobis"], gaussians.distances(new), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["nearest_neighbors"], neighbors.distances(new), rtol=1e-4, atol=1e-4)


def test_the_energy_of_one_output_is_that_of_two_opposite_ones() -> None:
    method = Deterministic(MLP(4, [6], 1), Bernoulli())
    half = method.backbone(NEW).detach() / 2
    expected = -torch.cat([half, -half], 1).logsumexp(1)
    torch.testing.assert_close(OODScores(method, scores=["energy"])([NEW])["energy"], expected)


def test_a_regression_has_scores_without_classes() -> None:
    method = Deterministic(MLP(4, [6], 1), Gaussian())
    found = OODScores(method, loader(X, X[:, :1]))([NEW])
    assert list(found) == ["entropy", "mutual_information", "mahalanobis", "nearest_neighbors"]


def pass_of(method: Any) -> tuple[Tensor, Tensor]:
    with evaluating(method), torch.no_grad():
        (only,) = PointPasses(method)(NEW)
    return only.outputs, only.features


def test_features_are_those_at_posterior_means_and_without_dropout() -> None:
    backbone = MLP(4, [6], CLASSES, dropout_p=0.5)
    dropout = MCDropout(backbone, Categorical(CLASSES))
    vi = MeanFieldVI(MLP(4, [6], CLASSES), Categorical(CLASSES))
    randomize_posteriors(vi.backbone)
    means = MLP(4, [6], CLASSES)
    means.load_state_dict(
        {name.removesuffix("_mu"): value for name, value in vi.backbone.state_dict().items() if "_mu" in name}
    )
    for method, network in ((dropout, dropout.backbone.eval()), (vi, means)):
        outputs, features = pass_of(method)
        torch.testing.assert_close(outputs, network(NEW))
        torch.testing.assert_close(features, features_of(network, NEW))


def test_components_of_one_network_are_averaged() -> None:
    method = RankOneVI(MLP(4, [6], CLASSES), Categorical(CLASSES), num_components=3)
    seen: list[Tensor] = []
    handle = method.backbone[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # type: ignore[index]
    outputs, features = pass_of(method)
    handle.remove()
    assert outputs.shape == (len(NEW), CLASSES)
    torch.testing.assert_close(features, torch.stack([seen[-1][k::3] for k in range(3)]).mean(0))


class ConvLast(nn.Module):
    """A network whose last layer is a convolution of width 1."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(5, CLASSES, 1)
        self.body = nn.Conv2d(1, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu()).mean((-2, -1))


def test_features_of_pixels_are_averaged_and_the_layer_called_last_counts() -> None:
    network, x = ConvLast(), normal(4, 1, 6, 6)
    method = Deterministic(network, Categorical(CLASSES))
    with evaluating(method), torch.no_grad():
        (only,) = PointPasses(method)(x)
        torch.testing.assert_close(only.features, method.backbone.body(x).relu().mean((-2, -1)))  # type: ignore[operator]


def test_an_ensemble_averages_the_scores_of_its_networks() -> None:
    members = [deterministic(), Deterministic(MLP(4, [5], CLASSES), Categorical(CLASSES))]
    ensemble = Ensemble(members)
    names = ["energy", "mahalanobis", "nearest_neighbors"]
    apart = [OODScores(each, TRAIN, scores=names)([NEW]) for each in members]
    together = OODScores(ensemble, TRAIN, scores=names)([NEW])
    for name in names:
        torch.testing.assert_close(together[name], (apart[0][name] + apart[1][name]) / 2)


METHODS = (
    lambda: DeepEnsemble(MLP(4, [6], CLASSES), Categorical(CLASSES), num_members=2),
    lambda: SWAG(MLP(4, [6], CLASSES), Categorical(CLASSES)),
    lambda: Laplace(MLP(4, [6], CLASSES), Categorical(CLASSES)),
    lambda: SNGP(MLP(4, [6], CLASSES), Categorical(CLASSES), num_random_features=8),
    lambda: MeanFieldVI(MLP(4, [6], CLASSES), Categorical(CLASSES)),
)


@pytest.mark.parametrize("make", METHODS, ids=["DeepEnsemble", "SWAG", "Laplace", "SNGP", "MeanFieldVI"])
def test_any_method_has_all_scores_and_stays_as_it_was(make: Any) -> None:
    method = make()
    quiet_trainer(max_epochs=2, limit_val_batches=0).fit(method, TRAIN)
    before, state, training = copy_of_state(method), torch.get_rng_state(), method.training
    scores = OODScores(method, TRAIN)
    found = scores([NEW])
    assert all(values.shape == (len(NEW),) and values.isfinite().all() for values in found.values())
    again = scores([(NEW, torch.zeros(len(NEW)))], trainer=quiet_trainer())
    for name, values in found.items():
        torch.testing.assert_close(values, again[name])
    assert same_state(before, copy_of_state(method))
    assert torch.equal(state, torch.get_rng_state())
    assert method.training is training
    assert not any(module._forward_pre_hooks for module in method.modules())


def test_a_calibration_has_the_features_of_its_method() -> None:
    method = deterministic()
    method.is_trained = True
    scaled = TemperatureScaling(method)
    scaled.calibrate(TRAIN)
    plain, calibrated = (OODScores(each, TRAIN)([NEW]) for each in (method, scaled))
    for name in ("energy", "mahalanobis", "nearest_neighbors"):
        torch.testing.assert_close(plain[name], calibrated[name])
    assert not torch.allclose(plain["entropy"], calibrated["entropy"])


def test_detection_takes_any_of_the_names() -> None:
    method = deterministic()
    scores = OODScores(method, TRAIN)
    for name in OOD_SCORES:
        result = ood_detection(method, [X], [NEW], score=name, training_data=TRAIN)
        torch.testing.assert_close(result.scores_out, scores([NEW])[name])
        torch.testing.assert_close(result.scores_in, scores([X])[name])


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"scores": ["enrgy"]}, InputValueError, "there is no score 'enrgy': did you mean energy?"),
        ({"scores": "energy"}, InputTypeError, "scores must be a list of names"),
        ({"scores": ["energy", "energy"]}, InputValueError, "none twice"),
        ({"scores": ["mahalanobis"], "training_data": None}, InputTypeError, "'mahalanobis' needs training_data"),
        ({"num_neighbors": 91}, InputValueError, "num_neighbors=91 needs as many training data, but there are 90"),
        ({"num_neighbors": 0}, InputValueError, "num_neighbors must be an integer of at least 1, got 0"),
        ({"training_data": []}, InputValueError, "training_data has no data"),
        ({"method": Deterministic(MLP(4, [6], 1), Gaussian()), "scores": ["energy"]}, InputTypeError,
         "'energy' needs a likelihood for classes, got Gaussian"),
        ({"method": nn.Linear(1, 1)}, InputTypeError, "method must be a Predictor, got a Linear"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments: dict[str, Any], error: type[InputError], said: str) -> None:
    with pytest.raises(error, match=said):
        OODScores(**{"method": deterministic(), "training_data": TRAIN} | arguments)
