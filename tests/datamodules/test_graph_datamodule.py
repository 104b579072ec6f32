"""Graphs: which nodes count in each split, wrong graphs, and fits of several methods from the data to a checkpoint."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, params_of, quiet_trainer
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import (
    AdaptivePredictionSets,
    DeepEnsemble,
    Laplace,
    LastLayerVI,
    MCDropout,
    MeanFieldVI,
    TemperatureScaling,
)
from lightning_vi.backbones import GCN
from lightning_vi.datamodules import GraphDataModule, ToyGraphDataModule
from lightning_vi.likelihoods import Categorical, Gaussian

METHODS: dict[str, Callable[..., Any]] = {
    "MeanFieldVI": partial(MeanFieldVI, num_mc_samples_test=5),
    "LastLayerVI": partial(LastLayerVI, num_mc_samples_test=5),
    "DeepEnsemble": partial(DeepEnsemble, num_members=2),
    "Laplace": partial(Laplace, num_mc_samples_test=5),
    "MCDropout": partial(MCDropout, dropout_p=0.2, dropout_module_names=["layers.0"], num_mc_samples_test=5),
}


def batch_of(dataloader: Any) -> dict[str, Any]:
    (batch,) = dataloader
    assert isinstance(batch, dict)
    return batch


def test_each_split_has_its_own_targets() -> None:
    dm, twin, other = ToyGraphDataModule(100), ToyGraphDataModule(100), ToyGraphDataModule(100, data_seed=1)
    loaders = {
        "train": dm.train_dataloader(),
        "val": dm.val_dataloader(),
        "calib": dm.calibration_dataloader(),
        "test": dm.test_dataloader(),
    }
    counted = torch.zeros(100, dtype=torch.int64)
    for name, dataloader in loaders.items():
        batch = batch_of(dataloader)
        assert torch.equal(batch["input"]["x"], dm.x)
        assert torch.equal(batch["input"]["edge_index"], dm.edge_index)
        known = batch["target"] != -100
        counted += known
        assert torch.equal(known.nonzero().flatten(), dm.nodes[name].sort().values)  # type: ignore[index]
        assert torch.equal(batch["target"][known], dm.target[known])
    assert (counted == 1).all()
    assert torch.equal(twin.edge_index, dm.edge_index)
    assert torch.equal(dm.edge_index.flip(0).unique(dim=1), dm.edge_index.unique(dim=1))
    assert other.edge_index.shape != dm.edge_index.shape
    assert (dm.edge_index[0] != dm.edge_index[1]).all()


def test_neighbors_are_mostly_of_the_same_community() -> None:
    dm = ToyGraphDataModule(2000)
    source, target = dm.edge_index
    same = (dm.target[source] == dm.target[target]).float().mean()
    assert float(same) == pytest.approx(8 / 11, abs=0.02)
    assert dm.edge_index.shape[1] / 2000 == pytest.approx(11.0, abs=0.5)


@pytest.mark.parametrize("name", params_of({name: (name,) for name in METHODS}, default=("MeanFieldVI", "Laplace")))
def test_from_a_fit_to_a_checkpoint(name: str, tmp_path: Path) -> None:
    dm, make = ToyGraphDataModule(80), METHODS[name]
    network, likelihood = GCN(16, [6], 4), Categorical(4, ignore_index=-100)
    method = make(network, likelihood)
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(method, dm)
    assert method.num_data == 80
    (scores,) = trainer.test(method, dm, verbose=False)
    (predicted,) = trainer.predict(method, dm)  # type: ignore[misc]
    nodes = dm.nodes["test"]
    labels = predicted["pred"].argmax(1)[nodes]  # type: ignore[index, call-overload]
    assert scores["test_accuracy"] == pytest.approx(float((labels == dm.target[nodes]).float().mean()))
    trainer.save_checkpoint(tmp_path / "graph.ckpt")
    loaded = type(method).load_from_checkpoint(tmp_path / "graph.ckpt", backbone=network, likelihood=likelihood)
    again = loaded.predict({"x": dm.x, "edge_index": dm.edge_index})
    assert_close(again.mean, predicted["pred"])  # type: ignore[index, call-overload]
    calibrated = TemperatureScaling(method)
    calibrated.calibrate(dm.calibration_dataloader())
    assert calibrated.predict({"x": dm.x, "edge_index": dm.edge_index}).mean.shape == (80, 4)
    sets = AdaptivePredictionSets(method, coverage=0.8)
    sets.calibrate(dm.calibration_dataloader())
    (scores,) = trainer.test(sets, dm, verbose=False)
    chosen = sets.predict({"x": dm.x, "edge_index": dm.edge_index}).pred_set[nodes]  # type: ignore[index]
    held = chosen.gather(1, dm.target[nodes][:, None]).float().mean()
    assert scores["test_conformal_coverage"] == pytest.approx(float(held))


def test_ignored_nodes_have_no_part_in_the_training() -> None:
    dm = ToyGraphDataModule(80)
    changed = dm.target.clone()
    changed[torch.cat([dm.nodes[name] for name in ("val", "calib", "test")])] = 0
    other = GraphDataModule(dm.x, dm.edge_index, changed, dm.nodes, num_classes=4)
    results = []
    for data in (dm, other):
        torch.manual_seed(0)
        method = MeanFieldVI(GCN(16, [6], 4), Categorical(4, ignore_index=-100))
        quiet_trainer(max_epochs=3, limit_val_batches=0).fit(method, data)
        results.append(method.predict({"x": dm.x, "edge_index": dm.edge_index}).mean)
    assert torch.equal(*results)


def test_noise_is_shared_by_nodes_whose_rows_are_mixed() -> None:
    dm = ToyGraphDataModule(80)
    method = MeanFieldVI(GCN(16, [6], 4), Categorical(4, ignore_index=-100))
    fit(method, dm, max_epochs=1)
    estimators = {row.name: row.estimator for row in method.conversion.modules}
    assert estimators == {"layers.0": "reparameterization", "layers.1": "local_reparameterization"}


def test_numbers_at_nodes() -> None:
    dm = ToyGraphDataModule(80)
    numbers = 50 + 10 * dm.x[:, :1]
    data = GraphDataModule(dm.x, dm.edge_index, numbers, dm.nodes)
    assert batch_of(data.test_dataloader())["target"].isnan().sum() == 80 - len(dm.nodes["test"])
    method = LastLayerVI(GCN(16, [6], 1), Gaussian(missing="ignore"))
    trainer = quiet_trainer(max_epochs=3)
    trainer.fit(method, data)
    (scores,) = trainer.test(method, data, verbose=False)
    nodes = dm.nodes["test"]
    error = method.predict({"x": dm.x, "edge_index": dm.edge_index}).mean[nodes] - numbers[nodes]
    assert scores["test_rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
    assert float(method.likelihood.target_mean) == pytest.approx(float(numbers[dm.nodes["train"]].mean()), rel=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_batches_of_graphs_with_adjacency_matrices(name: str) -> None:
    """The graphs are the rows, and their nodes are positions."""
    x, target = normal(12, 5, 3), torch.arange(60).view(12, 5) % 2
    target[:, 4] = -1
    matrices = (normal(12, 5, 5) > 0.5).float()
    matrices = (matrices + matrices.mT).clamp(max=1)
    rows = [{"input": {"x": x[i], "edge_index": matrices[i]}, "target": target[i]} for i in range(12)]
    method = METHODS[name](GCN(3, [4], 2), Categorical(2, class_dim=-1, ignore_index=-1))
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, DataLoader(rows, batch_size=5, shuffle=True))  # type: ignore[arg-type]
    assert method.num_data == 12
    (scores,) = trainer.test(method, DataLoader(rows, batch_size=5), verbose=False)  # type: ignore[arg-type]
    prediction = method.predict({"x": x, "edge_index": matrices})
    assert prediction.mean.shape == (12, 2, 5)
    right = (prediction.mean.argmax(1) == target)[:, :4].float().mean()
    assert scores["test_accuracy"] == pytest.approx(float(right))


EDGES, X, Y = torch.tensor([[0, 1], [1, 0]]), torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
NODES: Any = {"train": [0, 1], "test": [2]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[0], EDGES, Y, NODES), r"x must be finite, floating point, of shape \[N, F\]"),
        ((X + torch.inf, EDGES, Y, NODES), "x must be finite"),
        ((X, EDGES.T[:1], Y, NODES), r"edge_index must be int64 of shape \[2, E\], got torch.int64 \[1, 2\]"),
        ((X, EDGES + 3, Y, NODES), "edge_index must hold node numbers from 0 to 3, got 3 to 4"),
        ((X, EDGES, Y.float(), NODES), r"target must be int64 labels \[N\] for 4 nodes, got torch.float32 \[4\]"),
        ((X, EDGES, Y, {"train": [0]}), r"none for \['test'\]"),
        ((X, EDGES, Y, NODES | {"ood": [3]}), r"must have the keys .* got \['ood'\]"),
        ((X, EDGES, Y, NODES | {"val": [4]}), r"nodes\['val'\] must be node numbers from 0 to 3"),
        ((X, EDGES, Y, NODES | {"val": []}), r"nodes\['val'\] must be node numbers"),
        ((X, EDGES, Y, NODES | {"val": [0]}), "nodes must have each node in one split alone"),
    ],
)
def test_wrong_graphs(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GraphDataModule(*arguments, num_classes=2)


def test_other_errors() -> None:
    with pytest.raises(ValueError, match="labels from 0 to 1 at the nodes of the splits, got 0 to 5"):
        GraphDataModule(X, EDGES, Y * 5, NODES, num_classes=2)
    with pytest.raises(TypeError, match="x must be a tensor, got a list"):
        GraphDataModule([[0.0]], EDGES, Y, NODES, num_classes=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_nodes must be an integer >= 50, got 10"):
        ToyGraphDataModule(10)
    with pytest.raises(ValueError, match="has no calibration nodes"):
        GraphDataModule(X, EDGES, Y, NODES, num_classes=2).calibration_dataloader()
    assert GraphDataModule(X, EDGES, Y, NODES, num_classes=2).val_dataloader() == []
    method = MeanFieldVI(GCN(2, [2], 2), Categorical(2, ignore_index=-100))
    with pytest.raises((TypeError, ValueError), match="edge_index"):
        fit(method, loader(X, Y))
