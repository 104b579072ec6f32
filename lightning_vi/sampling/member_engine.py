"""Training passes of several stochastic networks of one architecture at once."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_vi.layers import SCALES, RankOneModule, StochasticParameters, VariationalLinear, stochastic_parameters
from lightning_vi.layers.estimators import least_variance
from lightning_vi.layers.local_linear import local_linear
from lightning_vi.layers.mixin import mixed_class
from lightning_vi.layers.stacked_linear import stacked_linear
from lightning_vi.sampling import memory
from lightning_vi.sampling.engine import SamplingEngine
from lightning_vi.sampling.network import is_hooked, is_random, unroll
from lightning_vi.sampling.stacked import is_plain
from lightning_vi.sampling.weights import JointPosterior, WeightSampler

Fresh = Callable[[], AbstractContextManager[None]]
"""Makes the context in which random numbers are those of one member."""
_Values = dict[tuple[StochasticParameters | None, str], Tensor]
"""Tensors of all members by the place of the parameter in the first one."""


class MemberEngine:
    """Runs M chains of small stochastic linear layers and activations in batched products.

    Each tensor has one dimension more than in a `SamplingEngine`, that of the members, which comes first. The passes
    are those of the engines, with the same noise.

    Args:
        engines: Those of M networks with the same layers, see `can_run`.
    """

    def __init__(self, engines: Sequence[SamplingEngine]) -> None:
        self._num_members = len(engines)
        self._chains = list(zip(*(unroll(engine.network) for engine in engines), strict=True))
        self._width = max(parts[0].out_features for parts in self._chains if isinstance(parts[0], nn.Linear))
        self._samplers = [engine.sampler for engine in engines]
        self._num_drawn = sum(slot.mu.numel() for slot in engines[0].slots if slot.is_drawn_in_training)
        self._weights = WeightSampler([owner for engine in engines for owner in engine.owners], antithetic=False)

    @staticmethod
    def can_run(engine: SamplingEngine) -> bool:
        """Returns True if the network is a chain that can be run, after the first training step has settled it.

        Args:
            engine: The engine of one network.
        """
        return engine.is_settled and MemberEngine.can_run_means(engine)

    @staticmethod
    def can_run_means(engine: SamplingEngine) -> bool:
        """Returns True if the network is a chain that can be run on posterior means, also before it is settled.

        Args:
            engine: The engine of one network.
        """
        chain = unroll(engine.network)
        return (
            engine.vectorization == "auto"
            and not engine.antithetic
            and engine.coupling is None
            and engine.slots == engine.places
            and all(map(_can_run_part, chain))
            and all(slot.prior.joint_key is not None for slot in engine.slots)
        )

    def fits(self, x: Tensor, num_samples: int) -> bool:
        """Returns True if the samples of all members fit into one pass, which larger ones do not make faster.

        Args:
            x: Inputs, shape [M, B, ..., I].
            num_samples: S.
        """
        num_rows = num_samples * math.prod(x.shape[:-1])
        draws_noise_at_once = num_samples * self._num_drawn <= memory.MAX_JOINED_NOISE
        return draws_noise_at_once and memory.fits(memory.max_rows(self._width, x.device), num_rows)

    def mean_outputs(self, x: Tensor) -> Tensor:
        """One pass on posterior means, see `SamplingEngine.mean_output`.

        Args:
            x: Inputs, shape [M, B, ..., I].

        Returns:
            Shape [M, 1, B, ..., O].
        """
        means = _Values()
        for parts in self._chains:
            owners = [stochastic_parameters(part) for part in parts]
            for name in () if owners[0] is None else owners[0].names:
                stacked = torch.stack([owner.mu(name) for owner in owners if owner is not None])
                means[owners[0], name] = stacked.unsqueeze(1)
        return self._run(x, means, {}, {}, iter(()))

    def training_pass(self, x: Tensor, num_samples: int, fresh: Sequence[Fresh]) -> tuple[Tensor, Tensor]:
        """Training samples, and the KL divergence, see `SamplingEngine.training_pass`.

        Args:
            x: Inputs, shape [M, B, ..., I].
            num_samples: S.
            fresh: Makes the random state of a step for each member.

        Returns:
            Outputs [M, S, B, ..., O], and the sum of the members' divergences.
        """
        joints = self._weights.joints()
        return self._draw_and_run(x, num_samples, fresh, joints), self._weights.kl(joints)

    def pass_with_stds(
        self, x: Tensor, num_samples: int, fresh: Sequence[Fresh], stds: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Training samples with standard deviations that are already computed, see `SamplingEngine.given_stds`.

        Args:
            x: Inputs, shape [M, B, ..., I].
            num_samples: S.
            fresh: Makes the random state of a step for each member.
            stds: One for each pair of means and scales of each engine, of its shape, those of one engine together.

        Returns:
            Outputs [M, S, B, ..., O], and means and standard deviations of all members, joined to few tensors.
        """
        with self._weights.given_stds(stds):
            joints = self._weights.joints()
            outputs = self._draw_and_run(x, num_samples, fresh, joints)
        return outputs, [joint.posterior.mu for joint in joints], [joint.posterior.std for joint in joints]

    def _draw_and_run(
        self, x: Tensor, num_samples: int, fresh: Sequence[Fresh], joints: Sequence[JointPosterior]
    ) -> Tensor:
        drawn = [joint for joint in joints if joint.is_drawn_in_training]
        local = [joint for joint in joints if not joint.is_drawn_in_training]
        of_weights, of_outputs = self._noise(
            x, num_samples, [joint.size // self._num_members for joint in drawn], fresh
        )
        weights, means, stds = _Values(), _Values(), _Values()
        for joint, noise in zip(drawn, of_weights, strict=True):
            mean, std = (each.view(self._num_members, 1, -1) for each in (joint.posterior.mu, joint.posterior.std))
            weights |= self._split(joint, torch.addcmul(mean, std, noise))
        for joint in local:
            means |= self._split(joint, joint.posterior.mu.view(self._num_members, -1))
            stds |= self._split(joint, joint.posterior.std.view(self._num_members, -1))
        return self._run(x, weights, means, stds, iter(of_outputs))

    def _noise(
        self, x: Tensor, num_samples: int, sizes: Sequence[int], fresh: Sequence[Fresh]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Noise [M, S, size] of weights and [M, S, B, ..., O] of outputs, in the order in which an engine draws it."""
        layers = [parts[0] for parts in self._chains if _draws_outputs(parts[0])]
        rows = (num_samples, *x.shape[1:-1])
        of_outputs = [x.new_empty(len(x), *rows, cast(nn.Linear, layer).out_features) for layer in layers]
        of_weights = []
        for index, (sampler, state) in enumerate(zip(self._samplers, fresh, strict=True)):
            with state():
                if sizes:
                    of_weights.append(list(sampler.noise_for(sizes, num_samples, x.device)))
                for noise in of_outputs:
                    torch.randn(noise.shape[1:], out=noise[index])
        return [torch.stack(noises).to(x.dtype) for noises in zip(*of_weights, strict=True)], of_outputs

    def _split(self, joint: JointPosterior, values: Tensor) -> _Values:
        """Splits values [M, ..., size] of the elements of all members into those of each parameter."""
        slots = joint.slots[: len(joint.slots) // self._num_members]
        parts = values.split_with_sizes(joint.sizes[: len(slots)], -1)
        return {
            (slot.owner, slot.name): part.view(*part.shape[:-1], *slot.mu.shape)
            for slot, part in zip(slots, parts, strict=True)
        }

    def _run(self, x: Tensor, weights: _Values, means: _Values, stds: _Values, noises: Iterator[Tensor]) -> Tensor:
        """Runs the layers, with `weights` where these are given, otherwise with noise on the outputs of a layer."""
        hidden, least = x, least_variance(x.dtype)
        for parts in self._chains:
            layer, owner = parts[0], stochastic_parameters(parts[0])
            if not isinstance(layer, nn.Linear):
                hidden = layer(hidden)
                continue
            names = () if owner is None else owner.names
            is_drawn = any((owner, name) in weights for name in names)
            values: dict[str, Any] = {name: _stacked(parts, name) for name in ("weight", "bias") if name not in names}
            values |= {name: (weights if is_drawn else means)[owner, name] for name in names}
            if is_drawn and hidden.dim() == x.dim():
                hidden = hidden.unsqueeze(1)
            if isinstance(layer, RankOneModule):
                hidden = _rank_one_linear(hidden, values, layer.scales_bias)
            elif is_drawn:
                hidden = _drawn_linear(hidden, values["weight"], values["bias"])
            elif owner is None:
                hidden = stacked_linear(hidden, values["weight"], values["bias"])
            else:
                std = {name: stds[owner, name] for name in names}
                hidden = local_linear(
                    hidden, values["weight"], std["weight"], values["bias"], std.get("bias"), next(noises), least
                )
        return hidden


def _can_run_part(part: nn.Module) -> bool:
    owner = stochastic_parameters(part)
    is_wide = isinstance(part, nn.Linear) and part.in_features * part.out_features > memory.MAX_JOINED_WEIGHTS
    if is_hooked(part) or is_wide:
        return False
    if owner is None:
        return is_plain(part) and not is_random(part)
    if isinstance(part, VariationalLinear):
        return type(part) is VariationalLinear and part.estimator in ("local_reparameterization", "reparameterization")
    is_rank_one = type(part) is mixed_class(RankOneModule, nn.Linear)
    return is_rank_one and all(len(owner.mu(name)) == 1 for name in owner.names)


def _draws_outputs(part: nn.Module) -> bool:
    return isinstance(part, VariationalLinear) and part.estimator == "local_reparameterization"


def _stacked(parts: Sequence[nn.Module], name: str) -> Tensor | None:
    values = [part._parameters[name] for part in parts]
    return None if values[0] is None else torch.stack(cast(list[Tensor], values))


def _drawn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Linear layers with weights [M, S, O, I] for inputs [M, S or 1, B, ..., I]; a bias [M, O] serves all samples."""
    sets = weight.shape[:2]
    if bias is not None:
        bias = (bias if bias.dim() == 3 else bias.unsqueeze(1)).expand(*sets, -1).flatten(0, 1)
    inputs = x.expand(*sets, *x.shape[2:]).flatten(0, 1)
    outputs = stacked_linear(inputs, weight.flatten(0, 1), bias)
    return outputs.view(*sets, *outputs.shape[1:])


def _rank_one_linear(x: Tensor, values: Mapping[str, Any], scales_bias: bool) -> Tensor:
    """Rank-one layers, see `RankOneModule`, with scales [M, S, 1, I] and [M, S, 1, O]."""
    weight, bias = values["weight"], values["bias"]
    of_inputs, of_outputs = (
        values[name].view(*values[name].shape[:2], *[1] * (x.dim() - 3), values[name].shape[-1]) for name in SCALES
    )
    outputs: Tensor = stacked_linear(x * of_inputs, weight, bias if scales_bias else None) * of_outputs
    if not scales_bias and bias is not None:
        outputs = outputs + bias.view(len(bias), *[1] * (x.dim() - 2), bias.shape[-1])
    return outputs
