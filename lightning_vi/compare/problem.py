"""Problem of a comparison: data, network, likelihood, Trainer and test sets."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lightning_vi.compare.describe import describe
from lightning_vi.core import Predictor
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.errors import InputTypeError
from lightning_vi.likelihoods import Likelihood

Data: TypeAlias = LightningDataModule | Callable[[int], LightningDataModule]
"""A datamodule, or a function from the seed, or the number of the split, to one."""
TestSet: TypeAlias = LightningDataModule | Iterable[Any] | Callable[[Any], Iterable[Any]]
"""A dataloader, a list of batches, a datamodule, or a function from the datamodule of the fit to a dataloader."""
Measure: TypeAlias = Callable[[Predictor, Any], float]
"""A function from a fitted method and its datamodule to a number."""
Visitor: TypeAlias = Callable[[str, int, Predictor, Any], None]
"""A function of the name of a method, the seed, the fitted method and its datamodule."""


@dataclass(frozen=True)
class Problem:
    """Problem that all methods of a comparison have in common.

    Attributes:
        data: The data sets by name.
        backbone: A network, of which each fit gets a copy, or a function from the datamodule to a new one.
        likelihood: A likelihood, or a function from the datamodule to one.
        trainer: Arguments of the `Trainer`.
        test_sets: Further labeled test sets by name.
        ood_sets: Out-of-distribution data by name, without labels.
        measures: Further numbers by name.
        visit: Called with each fitted method.
        metrics: Further metrics of the labeled test sets by name.
    """

    data: Mapping[str, Data]
    backbone: nn.Module | Callable[[Any], nn.Module]
    likelihood: Likelihood | Callable[[Any], Likelihood]
    trainer: Mapping[str, Any]
    test_sets: Mapping[str, TestSet]
    ood_sets: Mapping[str, TestSet]
    measures: Mapping[str, Measure]
    visit: Visitor | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    def make_data(self, name: str, seed: int) -> LightningDataModule:
        """Makes the datamodule of a run.

        Args:
            name: Name of the data set.
            seed: The seed, or the number of the split.

        Returns:
            The datamodule.

        Raises:
            TypeError: If the function returns something else.
        """
        data = self.data[name]
        datamodule = data if isinstance(data, LightningDataModule) else data(seed)
        if not isinstance(datamodule, LightningDataModule):
            found = type(datamodule).__name__
            raise InputTypeError(f"data must be a LightningDataModule or a function from the seed to one, got {found}")
        return datamodule

    def make_backbone(self, datamodule: LightningDataModule) -> nn.Module:
        """Makes the network of a run.

        Args:
            datamodule: The data.

        Returns:
            A network that nothing else uses.
        """
        return copy.deepcopy(self.backbone) if isinstance(self.backbone, nn.Module) else self.backbone(datamodule)

    def make_likelihood(self, datamodule: LightningDataModule) -> Likelihood:
        """Makes the likelihood of a run.

        Args:
            datamodule: The data.

        Returns:
            A likelihood.
        """
        return self.likelihood if isinstance(self.likelihood, Likelihood) else self.likelihood(datamodule)

    def test_loaders(self, datamodule: LightningDataModule) -> dict[str, Iterable[Any]]:
        """Makes the dataloaders of the labeled test sets.

        Args:
            datamodule: The data of the fit, whose own test data come first, as ``"test"``.

        Returns:
            The dataloaders by name.
        """
        own = {"test": datamodule.test_dataloader()}
        return own | {name: _loader(each, datamodule) for name, each in self.test_sets.items()}

    def ood_loaders(self, datamodule: LightningDataModule) -> dict[str, Iterable[Any]]:
        """Makes the dataloaders of the out-of-distribution data.

        Args:
            datamodule: The data of the fit.

        Returns:
            The dataloaders by name.
        """
        return {name: _loader(each, datamodule) for name, each in self.ood_sets.items()}

    def description(self, name: str) -> dict[str, Any]:
        """Describes the problem for one of its data sets, see `describe`.

        Args:
            name: Name of the data set.

        Returns:
            The description.
        """
        facts = {
            "data": self.data[name],
            "backbone": self.backbone,
            "likelihood": self.likelihood,
            "trainer": self.trainer,
            "test_sets": self.test_sets,
            "ood_sets": self.ood_sets,
            "measures": self.measures,
            **({"metrics": self.metrics} if self.metrics else {}),  # as before there were any
        }
        return {key: describe(value) for key, value in facts.items()}


def _loader(test_set: TestSet, datamodule: LightningDataModule) -> Iterable[Any]:
    found = test_set(datamodule) if callable(test_set) else test_set
    if isinstance(found, LightningDataModule):
        if isinstance(found, ArrayDataModule) and isinstance(datamodule, ArrayDataModule):
            found.load_state_dict(datamodule.data_state)
        found.prepare_data()
        found.setup("test")
        found = found.test_dataloader()
    return DataLoader(found, batch_size=None) if isinstance(found, list) else found  # type: ignore[arg-type]
