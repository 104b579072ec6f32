r"""A mixture of fitted methods, of one class or of several.

.. math:: p(y \mid x) = \frac1M \sum_m p_m(y \mid x)

By the law of total variance the epistemic variance is the mean of the members' own plus the variance of their means.
Entropies are those of the averaged probabilities.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import torch
from torch import Tensor, nn

from lightning_vi.functional import RunningMoments, disagreement
from lightning_vi.likelihoods import Prediction, join_members
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.optimizers import default_optimizer
from lightning_vi.noise import mix_seed
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import NetworkInput


class Ensemble(UQMethod):
    """The average of the predictive distributions of methods that are fitted already.

    S samples are dealt out to the M members in turn; with fewer samples than members only the first S members predict.
    Members predict in their own ways, by closed forms or with noise that they have learned.

    Args:
        methods: Methods that predict the same quantity, in any classes; they are copied.

    Raises:
        TypeError: If a member is no method.
        ValueError: If there are none, or they predict different quantities.

    Example:
        >>> from lightning_vi import LastLayerVI, MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> ensemble = Ensemble([kind(MLP(2, [8], 1), Gaussian()) for kind in (MeanFieldVI, LastLayerVI)])
        >>> ensemble.predict(torch.zeros(4, 2)).epistemic_var.shape
        torch.Size([4, 1])
    """

    def __init__(self, methods: Sequence[UQMethod]) -> None:
        members = [copy.deepcopy(method) for method in _checked(methods)]
        share = max(member.num_mc_samples_test for member in members)
        super().__init__(
            nn.ModuleList(members),
            members[0].likelihood,
            num_mc_samples_test=share * len(members),
            burnin_epochs=0,
            optimizer=default_optimizer,
            lr_scheduler=None,
        )
        for index, member in enumerate(members):
            member.noise.seed = mix_seed(self.noise.seed, index)
            member.num_mc_samples_test = share

    @classmethod
    def from_checkpoints(cls, method: type[UQMethod], paths: Sequence[str | Path], **arguments: Any) -> Self:
        """An ensemble of the methods in several checkpoints.

        Args:
            method: Their class.
            paths: The checkpoints.
            **arguments: What the class needs besides, such as `backbone` and `likelihood`.

        Returns:
            The ensemble.

        Raises:
            ValueError: If there are no paths.
            FileNotFoundError: If there is no file at a path.
        """
        members = [
            method.load_from_checkpoint(path, map_location="cpu", weights_only=True, **copy.deepcopy(arguments))
            for path in paths
        ]
        return cls(members)

    @property
    def members(self) -> list[UQMethod]:
        """The M methods."""
        return list(cast(nn.ModuleList, self.backbone))  # type: ignore[arg-type]

    def diversity(self, x: NetworkInput) -> Tensor:
        """How far the members' predictions are apart, see `disagreement`.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            A scalar tensor.
        """
        return disagreement(torch.stack([member.predict(x).mean for member in self.members]), self.likelihood.task)

    def trained_network(self) -> NoReturn:  # noqa: D102
        raise TypeError("an Ensemble has several networks: give one of its members")

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return torch.stack([member.point_outputs(x) for member in self.members]).mean(0)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        for member, size, own_seed in self._shares(num_samples, seed):
            yield from member.sampled_outputs(x, size, own_seed)

    def _shares(self, num_samples: int, seed: int) -> list[tuple[UQMethod, int, int]]:
        """The members with their numbers of samples and their seeds; none without a sample."""
        members = self.members
        sizes = [(num_samples - index + len(members) - 1) // len(members) for index in range(len(members))]
        dealt = enumerate(zip(members, sizes, strict=True))
        return [(member, size, mix_seed(seed, index)) for index, (member, size) in dealt if size > 0]

    def objective(  # noqa: D102
        self,
        x: NetworkInput,
        target: Tensor,
        *,
        num_data: int | None,
        kl_weight: float,  # noqa: ARG002
    ) -> tuple[Tensor, ObjectiveTerms]:
        parts = [
            member.objective(
                x,
                target,
                num_data=member.num_data if num_data is None else num_data,
                kl_weight=member.full_kl_weight,
            )
            for member in self.members
        ]
        means = (torch.stack(column).mean(0) for column in zip(*(terms for _, terms in parts), strict=True))
        return torch.cat([outputs for outputs, _ in parts]), ObjectiveTerms(*means)

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        moments, spreads, samples = RunningMoments(), RunningMoments(), []
        for member, size, own_seed in self._shares(num_samples, seed):
            prediction = member._predict(x, size, own_seed, return_samples)
            entropy = prediction.expected_entropy
            spread = prediction.aleatoric_var if entropy is None else entropy
            moments.merge(size, prediction.mean, prediction.epistemic_var)
            spreads.merge(size, spread, torch.zeros_like(spread))
            if prediction.samples is not None:
                samples.append(prediction.samples.expand(size, *prediction.mean.shape))
        return self.likelihood.prediction(
            moments,
            spreads.mean,
            samples=_in_turn(samples) if return_samples else None,
            metadata=self._metadata(num_samples, seed),
        )

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        return join_members([member._metric_inputs(x, target) for member in self.members])

    def on_fit_start(self) -> NoReturn:
        """Refuses, because the members are fitted.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "an Ensemble is not fitted: fit its members, or use DeepEnsemble, which fits M networks at once"
        )


def _checked(methods: Sequence[UQMethod]) -> Sequence[UQMethod]:
    if not methods:
        raise ValueError("methods must hold at least one method, got none")
    for method in methods:
        if not isinstance(method, UQMethod):
            raise TypeError(f"methods must hold methods, got a {type(method).__name__}")
    kinds = [(method.likelihood.task, method.likelihood.num_predictions) for method in methods]
    if len(set(kinds)) > 1:
        raise ValueError(f"methods must predict the same quantity, got tasks and widths {kinds}")
    return methods


def _in_turn(samples: Sequence[Tensor]) -> Tensor:
    """The first sample of each member, then the second of each, and so on."""
    longest = max(map(len, samples))
    return torch.stack([member[index] for index in range(longest) for member in samples if index < len(member)])
