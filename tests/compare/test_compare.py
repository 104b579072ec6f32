"""Comparisons from Python: scores, resumed runs, failures and refusals."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import quiet_trainer
from torch import nn

from lightning_vi import AlphaDivergenceVI, Deterministic, MeanFieldVI, SplitConformal
from lightning_vi.arguments import accepted_arguments
from lightning_vi.backbones import MLP
from lightning_vi.compare import Comparison, compare
from lightning_vi.compare.entries import method_names
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import UQMethod
from lightning_vi.metrics import PinballLoss

TIMES = ["train_seconds", "seconds_per_1000"]
WIDTH = 8


def network(datamodule: ToyHeteroscedasticDataModule) -> nn.Module:
    return MLP(datamodule.n_inputs, [WIDTH], 2)


def far(datamodule: ToyHeteroscedasticDataModule) -> list[Any]:
    return [(datamodule.X_test + 10.0, datamodule.Y_test)]


def outside(datamodule: ToyHeteroscedasticDataModule) -> list[Any]:
    return [datamodule.X_gtext[:20]]


def toy(methods: Any = ("Deterministic", "LastLayerVI"), **options: Any) -> Comparison:
    given: dict[str, Any] = {
        "data": ToyHeteroscedasticDataModule(n_points=60),
        "backbone": network,
        "likelihood": HeteroscedasticGaussian(),
        "max_epochs": 1,
        "trainer": {"accelerator": "cpu", "devices": 1},
        "seeds": 2,
        "common_options": {"num_mc_samples_test": 3},
        "progress": False,
    }
    return compare(methods, **(given | options))


def without_times(comparison: Comparison) -> pd.DataFrame:
    return comparison.frame.drop(columns=TIMES)


def failing(backbone: nn.Module, likelihood: Likelihood) -> UQMethod:
    raise RuntimeError("no weather\ntoday")


@pytest.fixture(scope="module")
def table() -> Comparison:
    return toy(test_sets={"far": far}, ood_sets={"outside": outside}, measures={"answer": lambda method, data: 42})


def test_one_row_for_each_method_seed_and_test_set(table: Comparison) -> None:
    keys = table.frame[["method", "seed", "test_set"]].to_numpy().tolist()
    methods, sets = ("Deterministic", "LastLayerVI"), ("test", "far", "outside")
    assert keys == [[method, seed, name] for method in methods for seed in (0, 1) for name in sets]
    assert (table.frame["error"] == "").all()


def test_scores_are_those_of_a_fit_by_hand(table: Comparison) -> None:
    datamodule = ToyHeteroscedasticDataModule(n_points=60)
    torch.manual_seed(1)
    method = Deterministic(network(datamodule), HeteroscedasticGaussian())
    trainer = quiet_trainer(limit_val_batches=0)
    trainer.fit(method, datamodule)
    frame = table.frame.query("method == 'Deterministic' and seed == 1").set_index("test_set")
    for name, batches in {"test": datamodule.test_dataloader(), "far": far(datamodule)}.items():
        loader = torch.utils.data.DataLoader(batches, batch_size=None) if isinstance(batches, list) else batches
        (scores,) = trainer.test(method, loader, verbose=False)
        for metric, value in scores.items():
            assert frame.loc[name, metric.removeprefix("test_")] == pytest.approx(value, rel=1e-6)
    assert frame.loc["outside", "nll"] != frame.loc["outside", "nll"]  # NaN: no labels
    assert frame.loc["outside", "ood_auroc_epistemic"] == 0.5  # a network without epistemic uncertainty
    assert frame.loc["test", "answer"] == 42
    assert frame.loc["test", "num_parameters"] == 2 * WIDTH + WIDTH * 2 + 2
    assert frame.loc["test", "passes"] == 1


def test_passes_count_what_each_sample_runs(table: Comparison) -> None:
    cheap, costly = (float(toy(["MeanFieldVI"], seeds=1, common_options={"num_mc_samples_test": s}).frame["passes"][0])
                     for s in (4, 8))  # fmt: skip
    assert costly == pytest.approx(2 * cheap)
    last_layer = table.frame.query("method == 'LastLayerVI'")["passes"].iloc[0]
    assert 1 < last_layer < 3  # the layers in front of the last one run once for all samples


def test_further_metrics_are_scored_on_all_labeled_data(tmp_path: Path) -> None:
    metrics = {"pinball": PinballLoss([0.5])}
    comparison = toy(seeds=1, metrics=metrics, test_sets={"far": far}, output_dir=tmp_path)
    frame = comparison.frame.set_index(["method", "test_set"])
    assert (frame["pinball"] > 0).all()
    assert frame.loc[("Deterministic", "test"), "pinball"] == pytest.approx(
        frame.loc[("Deterministic", "test"), "mae"] / 2
    )
    assert comparison.higher_is_better["pinball"] is False
    assert not metrics["pinball"].update_called
    with pytest.raises(ValueError, match=r"metrics"):
        toy(seeds=1, metrics={"pinball": PinballLoss([0.9])}, test_sets={"far": far}, output_dir=tmp_path)


def test_the_global_random_state_stays() -> None:
    before = torch.get_rng_state()
    toy(["Deterministic"], seeds=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_resumed_comparison_equals_an_unbroken_one(table: Comparison, tmp_path: Path) -> None:
    toy(["Deterministic"], seeds=[1], output_dir=tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    finished = path.read_text()
    resumed = toy(output_dir=tmp_path)
    assert path.read_text() == finished
    columns = ["method", "seed", "test_set", "nll", "rmse", "passes"]
    unbroken = table.frame.query("test_set == 'test'")[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(resumed.frame[columns], unbroken)
    again = toy(output_dir=tmp_path)
    pd.testing.assert_frame_equal(again.frame, resumed.frame)
    written = pd.read_csv(tmp_path / "comparison.csv")
    assert written["nll"].tolist() == pytest.approx(resumed.frame["nll"].tolist())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_epochs": 2}, "trainer.max_epochs: 1, now 2"),
        ({"options": {"Deterministic": {"lr_scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1)}}},
         "options.lr_scheduler"),
        ({"backbone": lambda datamodule: MLP(datamodule.n_inputs, [9], 2)}, "backbone.function"),
        ({"likelihood": HeteroscedasticGaussian(min_std=0.1)}, "likelihood.attributes.min_std: 0.001, now 0.1"),
        ({"data": ToyHeteroscedasticDataModule(n_points=70)}, "data.data"),
    ],
)  # fmt: skip
def test_another_configuration_is_not_mixed(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    toy(["Deterministic"], seeds=1, output_dir=tmp_path)
    with pytest.raises(InputValueError, match="another configuration") as refused:
        toy(["Deterministic"], **({"seeds": 1, "output_dir": tmp_path} | change))
    assert named in str(refused.value)
    assert len(toy(["Deterministic"], seeds=1, output_dir=tmp_path).frame) == 1


def test_overwrite_repeats_runs(tmp_path: Path) -> None:
    toy(["Deterministic"], seeds=1, output_dir=tmp_path)
    repeated = toy(["Deterministic"], seeds=1, output_dir=tmp_path, max_epochs=2, overwrite=True)
    (path,) = (tmp_path / "runs").iterdir()
    assert json.loads(path.read_text())["config"]["trainer"]["max_epochs"] == 2
    assert not repeated.failures


def test_a_failure_is_reported_and_repeated(tmp_path: Path) -> None:
    methods = {"bad": failing, "good": "Deterministic"}
    comparison = toy(methods, output_dir=tmp_path)
    assert [(run.method, run.seed, run.error) for run in comparison.failures] == [
        ("bad", seed, "RuntimeError: no weather today") for seed in (0, 1)
    ]
    assert comparison.frame.query("method == 'good'")["nll"].notna().all()
    assert "- bad, seed 0: RuntimeError: no weather today" in comparison.to_markdown()
    assert not toy(methods | {"bad": Deterministic}, output_dir=tmp_path).failures


def test_a_cost_that_is_asked_for_is_a_column_once() -> None:
    header = next(
        line
        for line in toy(["Deterministic"], seeds=1).to_markdown(["nll", "train_seconds"]).splitlines()
        if line.startswith("| method")
    )
    names = [name.strip() for name in header.strip("|").split("|")]
    assert names[:3] == ["method", "nll", "train_seconds"]
    assert len(set(names)) == len(names)


def test_scores_of_runs_that_all_failed_are_refused_with_the_reason() -> None:
    with pytest.raises(InputValueError, match="all runs failed, the first with RuntimeError: no weather today"):
        toy({"bad": failing}, seeds=1).summary(["nll"])
    with pytest.raises(InputValueError, match="'weather', but the scores are") as refused:
        toy(["Deterministic"], seeds=1).summary(["weather"])
    assert "failed" not in str(refused.value)


def test_a_method_that_does_not_fit_the_problem_is_a_failure() -> None:
    comparison = toy(["Deterministic + TemperatureScaling", "Deterministic"], seeds=1)
    (failure,) = comparison.failures
    assert "InputTypeError" in failure.error


def test_a_calibration_is_fitted_after_the_method() -> None:
    comparison = toy(["Deterministic", "Deterministic + VarianceScaling"], seeds=1)
    plain, scaled = (row for _, row in comparison.frame.iterrows())
    assert scaled["rmse"] == pytest.approx(plain["rmse"])
    assert scaled["nll"] != pytest.approx(plain["nll"])


@pytest.mark.thorough
def test_every_method_runs_by_its_name() -> None:
    assert not toy(method_names(), seeds=1).failures


def test_every_method_has_a_name() -> None:
    names = method_names()
    assert {"Deterministic", "MeanFieldVI", "DeepEnsemble", "SWAG", "QuantileRegression"} < set(names)
    assert not {"UQMethod", "VariationalMethod", SplitConformal.__name__} & set(names)


def test_the_best_weights_are_scored() -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    # The rate is so large that the first epoch is the best one.
    rate = partial(torch.optim.SGD, lr=0.3)
    options: dict[str, Any] = {"seeds": 1, "common_options": {"optimizer": rate}}
    best = {"accelerator": "cpu", "callbacks": ModelCheckpoint(monitor="train_loss", save_top_k=1, mode="max")}
    first = toy(["Deterministic"], max_epochs=1, **options).frame["nll"][0]
    kept = toy(["Deterministic"], max_epochs=4, trainer=best, **options).frame["nll"][0]
    last = toy(["Deterministic"], max_epochs=4, **options).frame["nll"][0]
    assert kept == pytest.approx(first)
    assert kept != pytest.approx(last)


def test_methods_can_be_named_and_made_by_functions() -> None:
    comparison = toy(
        {"a": partial(MeanFieldVI, init_std=0.1), "b": "MeanFieldVI", "c": MeanFieldVI},
        options={"b": {"kl_weight": 0.5}},
        seeds=1,
    )
    assert comparison.reference == "a"
    assert list(comparison.frame["method"]) == ["a", "b", "c"]
    assert comparison.frame["nll"].nunique() == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"methods": ["MeanFeeldVI"]}, "no method 'MeanFeeldVI': did you mean MeanFieldVI?"),
        ({"methods": ["Deterministic + TemperatureScalin"]}, "did you mean TemperatureScaling?"),
        ({"methods": []}, "at least one method"),
        ({"methods": ["IVON", "IVON"]}, "'IVON' twice"),
        ({"options": {"LastLayerVI": {"kl_wait": 1}}}, "LastLayerVI has no option 'kl_wait': did you mean kl_weight?"),
        ({"options": {"IVON": {}}}, "options has 'IVON', which is no method of the comparison"),
        ({"reference": "IVON"}, "reference='IVON' is none of the methods"),
        ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"max_epochs": None}, "max_epochs is missing"),
        ({"test_sets": {"test": far}}, "two test sets have the name 'test'"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, Any], said: str) -> None:
    methods = arguments.pop("methods", ("Deterministic", "LastLayerVI"))
    with pytest.raises(InputValueError) as refused:
        toy(methods, **arguments)
    assert said in str(refused.value)


def test_methods_must_be_a_list() -> None:
    with pytest.raises(InputTypeError, match="must be a list of methods"):
        toy("Deterministic")


def test_arguments_of_a_class_include_those_of_its_bases() -> None:
    accepted, base = accepted_arguments(AlphaDivergenceVI), accepted_arguments(MeanFieldVI)
    assert accepted["alpha"] == 0.5
    assert {name: accepted[name] for name in base} == base


def test_another_likelihood_is_used_where_a_method_needs_one() -> None:
    comparison = toy(
        ["Deterministic", "MeanVarianceEstimation", "QuantileRegression"],
        backbone=lambda datamodule: MLP(1, [WIDTH], 1),
        likelihood=Gaussian(),
        seeds=1,
    )
    assert not comparison.failures
    numbers = comparison.frame["num_parameters"].tolist()
    body, head = 2 * WIDTH, WIDTH + 1
    assert numbers == [body + head + 1, body + 2 * head, body + 3 * head]
