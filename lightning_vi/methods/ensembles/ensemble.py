r"""Ensemble of fitted methods, of one class or of several.

.. math:: p(y \mid x) = \frac1M \sum_m p_m(y \mid x)

By the law of total variance the epistemic variance is the mean of the members' epistemic variances plus the variance
of their means. Entropies are those of the averaged probabilities.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lightning_vi.core import MixturePredictive, Predictive, Predictor
from lightning_vi.core.batch_forms import InputForm
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import disagreement
from lightning_vi.likelihoods import Likelihood
from lightning_vi.noise import NoiseStream, mix_seed
from lightning_vi.sampling import NetworkInput


class Ensemble(Predictor):
    """Mixture of the predictive distributions of fitted methods.

    S samples are distributed over the M members in turn. With fewer samples than members, only the first S members
    predict. Each member predicts as it does alone, for example in closed form. An ensemble cannot be trained: fit its
    members, or use `DeepEnsemble` or `MethodEnsemble`, which train M networks or methods at once.

    Args:
        methods: Methods of any class that predict the same quantity; they are copied.

    Raises:
        TypeError: If an element is not a method.
        ValueError: If there are no methods, or they predict different quantities.

    Example:
        >>> from lightning_vi import LastLayerVI, MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> ensemble = Ensemble([kind(MLP(2, [8], 1), Gaussian()) for kind in (MeanFieldVI, LastLayerVI)])
        >>> ensemble.predict(torch.zeros(4, 2)).epistemic_var.shape
        torch.Size([4, 1])
    """

    def __init__(self, methods: Sequence[Predictor]) -> None:
        members = [copy.deepcopy(method) for method in _checked(methods)]
        share = max(member.num_mc_samples_test for member in members)
        super().__init__(members[0].likelihood, num_mc_samples_test=share * len(members))
        self._members = nn.ModuleList(members)
        self.noise = NoiseStream()
        for index, member in enumerate(members):
            member.noise.seed = mix_seed(self.noise.seed, index)
            member.num_mc_samples_test = share
        self.data_state, self.input_range = members[0].data_state, members[0].input_range

    @classmethod
    def from_checkpoints(cls, method: type[Predictor], paths: Sequence[str | Path], **arguments: Any) -> Self:
        """Loads an ensemble of methods from checkpoints.

        Args:
            method: Class of the methods.
            paths: Paths of the checkpoints.
            **arguments: Further constructor arguments, such as `backbone` and `likelihood`.

        Returns:
            The ensemble.

        Raises:
            ValueError: If there are no paths.
            FileNotFoundError: If a checkpoint does not exist.
        """
        members = [
            method.load_from_checkpoint(path, map_location="cpu", weights_only=True, **copy.deepcopy(arguments))
            for path in paths
        ]
        return cls(members)

    @property
    def members(self) -> list[Predictor]:
        """The M methods."""
        return cast(list[Predictor], list(self._members))

    @property
    def likelihood(self) -> Likelihood:  # type: ignore[override]
        """The likelihood of the first member."""
        return self.members[0].likelihood

    @property
    def is_trained(self) -> bool:  # noqa: D102
        return all(member.is_trained for member in self.members)

    def input_form(self) -> InputForm:  # noqa: D102
        return self.members[0].input_form()

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return [network for member in self.members for network in member.trained_networks()]

    def diversity(self, x: NetworkInput) -> Tensor:
        """Computes the distance between the members' predictions, see `disagreement`.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            A scalar tensor.
        """
        return disagreement(torch.stack([member.predict(x).mean for member in self.members]), self.likelihood.task)

    def forward(self, x: NetworkInput) -> Tensor:
        """Computes the mean of the members' outputs without sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return torch.stack([member(x) for member in self.members]).mean(0)

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        num_members = len(self._members)
        sizes = [(num_samples - index + num_members - 1) // num_members for index in range(num_members)]
        parts = [
            member.predictive_distribution(x, size, mix_seed(seed, index))
            for index, (member, size) in enumerate(zip(self.members, sizes, strict=True))
            if size > 0
        ]
        return MixturePredictive(self.likelihood, parts, [size for size in sizes if size > 0])

    def make_moments_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        parts = [member.predictive_distribution(x, 1, member.noise.seed, "moments") for member in self.members]
        return MixturePredictive(self.likelihood, parts, [1] * len(parts))


def _checked(methods: Sequence[Predictor]) -> Sequence[Predictor]:
    if not methods:
        raise InputValueError("methods must hold at least one method, got none")
    for method in methods:
        if not isinstance(method, Predictor):
            raise InputTypeError(f"methods must hold methods, got a {type(method).__name__}")
    kinds = [(method.likelihood.task, method.likelihood.num_predictions) for method in methods]
    if len(set(kinds)) > 1:
        raise InputValueError(f"methods must predict the same quantity, got tasks and widths {kinds}")
    return methods
