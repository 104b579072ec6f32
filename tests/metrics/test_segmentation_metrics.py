"""Metrics of segmentations, labels and ordered classes against scikit-learn, torchmetrics, scoringrules' formula."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import loader, quiet_trainer
from sklearn.metrics import jaccard_score
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex, MultilabelF1Score

from lightning_vi import AdaptivePredictionSets, ConformalRiskControl, Deterministic
from lightning_vi.backbones import UNet
from lightning_vi.functional import covered_share, ranked_probability_score
from lightning_vi.likelihoods import Categorical
from lightning_vi.metrics import ClassDistance, ImageCoverage, LabelF1Score, MeanIoU


def maps(num_classes: int, rows: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    probs = (2 * torch.randn(rows, num_classes, 5, 6)).softmax(1)
    target = torch.randint(num_classes, (rows, 5, 6))
    return probs, target, torch.rand(rows, 5, 6) < 0.7


@pytest.mark.parametrize("num_classes", [2, 4])
def test_mean_iou_is_the_jaccard_score_of_observed_pixels(num_classes: int) -> None:
    probs, target, observed = maps(num_classes)
    metric = MeanIoU(num_classes)
    for rows in (slice(0, 4), slice(4, None)):
        metric.update(probs[rows], torch.where(observed, target, 255)[rows], observed[rows])
    labels, found = target[observed].numpy(), probs.argmax(1)[observed].numpy()
    assert metric.compute().item() == pytest.approx(jaccard_score(labels, found, average="macro"))
    other = MulticlassJaccardIndex(num_classes, ignore_index=255)
    expected = other(probs.argmax(1), torch.where(observed, target, 255))
    torch.testing.assert_close(metric.compute(), expected)


def test_classes_that_do_not_occur_have_no_part_in_the_mean() -> None:
    metric = MeanIoU(3)
    metric.update(torch.eye(3)[torch.tensor([0, 0, 1, 1])], torch.tensor([0, 0, 0, 1]))
    assert metric.compute().item() == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_coverage_of_images_by_brute_force() -> None:
    _, target, observed = maps(4)
    observed[3] = False
    sets = torch.rand(9, 4, 5, 6) < 0.8
    shares = []
    for row in range(9):
        pixels = [bool(sets[row, target[row, i, j], i, j]) for i in range(5) for j in range(6) if observed[row, i, j]]
        shares.append(np.mean(pixels) if pixels else np.nan)
    np.testing.assert_allclose(covered_share(sets, target, observed), shares, rtol=1e-6)
    metric = ImageCoverage(0.8)
    metric.update(sets, target, observed)
    assert metric.compute().item() == pytest.approx(np.mean([share >= 0.8 for share in shares if not np.isnan(share)]))


def test_f1_of_labels_is_that_of_torchmetrics() -> None:
    probs, target, observed = torch.rand(40, 3), torch.randint(2, (40, 3)), torch.rand(40, 3) < 0.8
    metric = LabelF1Score(3)
    metric.update(torch.stack([1 - probs, probs], 1), target, observed)
    expected = MultilabelF1Score(3, ignore_index=-1)(probs, torch.where(observed, target, -1))
    torch.testing.assert_close(metric.compute(), expected)


def test_scores_of_ordered_classes_by_brute_force() -> None:
    probs, target, _ = maps(5)
    scores = ranked_probability_score(probs, target)
    for place in [(0, 0, 0), (3, 2, 5), (8, 4, 1)]:
        row, i, j = place
        expected = sum((float(probs[row, : k + 1, i, j].sum()) - float(target[place] <= k)) ** 2 for k in range(4))
        assert scores[place].item() == pytest.approx(expected, rel=1e-5)
    metric = ClassDistance()
    metric.update(probs, target)
    assert metric.compute().item() == pytest.approx(np.abs(probs.argmax(1).numpy() - target.numpy()).mean())


def segmentation() -> tuple[Deterministic, Tensor, Tensor]:
    x = torch.randn(12, 1, 8, 8)
    y = (x[:, 0] > 0).long() + (x[:, 0] > 1).long()
    y[:, 0] = 255
    method = Deterministic(UNet(1, 3, n_features=4, n_levels=2), Categorical(3, ignore_index=255))
    method.is_trained = True
    return method, x, y


def test_a_test_of_maps_logs_the_mean_iou_of_observed_pixels() -> None:
    method, x, y = segmentation()
    found = method.predict(x).mean.argmax(1)
    (logged,) = quiet_trainer().test(method, loader(x, y), verbose=False)
    expected = jaccard_score(y[y != 255], found[y != 255], average="macro")
    assert logged["test_miou"] == pytest.approx(expected, abs=1e-6)
    several: Any = quiet_trainer().test(method, [loader(x, y), loader(x[:4], y[:4])], verbose=False)
    assert several[0]["test_miou/dataloader_idx_0"] == pytest.approx(expected, abs=1e-6)


def test_labels_without_positions_have_no_mean_iou() -> None:
    method = Deterministic(nn.Linear(2, 3), Categorical(3))
    (logged,) = quiet_trainer().test(method, loader(torch.randn(6, 2), torch.zeros(6).long()), verbose=False)
    assert "test_miou" not in logged


@pytest.mark.parametrize("kind", [ConformalRiskControl, AdaptivePredictionSets])
def test_sets_of_pixels_with_ignored_labels(kind: type) -> None:
    method, x, y = segmentation()
    calibrated = kind(method)
    calibrated.calibrate(loader(x, y))
    calibrated.test_metrics.add_metrics({"image_coverage": ImageCoverage(0.8)})
    (logged,) = quiet_trainer().test(calibrated, loader(x, y), verbose=False)
    sets = calibrated.predict_step(x)["pred_set"]
    shares = covered_share(sets, y, y != 255)
    assert logged["test_image_coverage"] == pytest.approx((shares >= 0.8).float().mean().item())
    if kind is ConformalRiskControl:
        assert logged["test_conformal_risk"] == pytest.approx(1 - shares.mean().item(), abs=1e-6)
        assert logged["test_conformal_risk"] <= 0.1


def test_wrong_images_are_refused() -> None:
    method, x, y = segmentation()
    with pytest.raises(ValueError, match=r"UNet\(n_channels=1\) needs images of shape \[B, 1, H, W\]"):
        method.predict(torch.randn(4, 3, 8, 8))
    with pytest.raises(ValueError, match="labels must lie between 0 and 2 or be 255, got 0 to 3"):
        method.elbo(x, torch.where(y == 255, 3, y), num_data=12)
    with pytest.raises(
        ValueError, match=r"needs labels of shape \(12, 8, 8\), got \(12, 1, 8, 8\): use target.squeeze\(1\)"
    ):
        method.elbo(x, y.unsqueeze(1), num_data=12)
    with pytest.raises(ValueError, match="n_levels must be positive, got 0"):
        UNet(n_levels=0)
    with pytest.raises(ValueError, match="share must be larger than 0 and at most 1, got 0"):
        ImageCoverage(0)
