"""Training steps of several methods of one kind in one pass."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lightning_vi.core import UQMethod
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.divergence import watched_step
from lightning_vi.core.members import call_members, clip_norms
from lightning_vi.core.strategies import involving_all_parameters
from lightning_vi.methods.averaging import SWA
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.methods.variational.base import VariationalMethod
from lightning_vi.methods.variational.ivon import IVON
from lightning_vi.methods.variational.rank_one_vi import RankOneVI, weight_penalty
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.optim import trained_stds
from lightning_vi.sampling import MemberEngine, NetworkInput, StackedRunner
from lightning_vi.sampling.member_engine import Fresh
from lightning_vi.sampling.network import is_random

_BY_NORM = (LightningModule.configure_gradient_clipping, VariationalMethod.configure_gradient_clipping)


class MembersAtOnce(ABC):
    """Computes the training losses of M methods in one pass, as `UQMethod.training_step` does one by one.

    Parameters stay those of the members: each step stacks them, so that gradients, optimizers, clipping and checkpoints
    are those of the members.

    Args:
        members: Methods for which `can_train` is true.
    """

    def __init__(self, members: Sequence[UQMethod]) -> None:
        self.members = members

    @staticmethod
    @abstractmethod
    def can_train(method: UQMethod) -> bool:
        """Returns True if a method and its network are of a known kind, for which one pass takes less time."""

    def takes(self, x: Tensor) -> bool:  # noqa: ARG002
        """Returns True if a step on these inputs is taken at once.

        Args:
            x: Inputs of the members, shape [M, B, ...].
        """
        return True

    @abstractmethod
    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Computes training samples.

        Args:
            x: Inputs of the members, shape [M, B, ...].

        Returns:
            Outputs [M, S, B, ...], and the sum of the members' divergences, or None.
        """

    def clip(
        self, optimizers: Sequence[Optimizer], gradient_clip_val: float | None, gradient_clip_algorithm: str | None
    ) -> bool:
        """Clips the norms of the members' gradients in one pass.

        Args:
            optimizers: Those of the members.
            gradient_clip_val: The Trainer's limit, see `VariationalMethod.configure_gradient_clipping`.
            gradient_clip_algorithm: ``"norm"`` or ``"value"``.

        Returns:
            False if the gradients are to be clipped in turn, because it is done in another way.
        """
        first = self.members[0]
        hook, largest = type(first).configure_gradient_clipping, gradient_clip_val
        if gradient_clip_algorithm == "value" or hook not in _BY_NORM:
            return False
        if largest is None and isinstance(first, VariationalMethod):
            largest = first.max_gradient_norm
        if largest:
            clip_norms([_gradients(optimizer) for optimizer in optimizers], float(largest))
        return True

    def training_step(self, batches: Sequence[Any], batch_idx: int) -> Tensor | None:
        """Computes the sum of the members' losses.

        Args:
            batches: A batch for each member.
            batch_idx: Index of the batch in the epoch.

        Returns:
            A scalar tensor; None if this step cannot be taken at once.
        """
        first, num_members = self.members[0], len(self.members)
        rows = _stacked_rows([first._labeled(batch) for batch in batches])
        if rows is None or not self.takes(rows[0]):
            return None
        x, target, weight = rows
        flat_x, flat_target = x.flatten(0, 1), target.flatten(0, 1)
        flat_weight = None if weight is None else weight.flatten(0, 1)
        first._begin_step(flat_x, flat_target, flat_weight)
        check_batch = partial(first._check_values, flat_x, flat_target, flat_weight)
        factors = first.likelihood.element_weights(flat_target, flat_weight)
        given = [target] if factors is None else [target, factors.view(*target.shape[:2], *factors.shape[1:])]
        with watched_step(first, check_batch), explained(first, x[0]):
            outputs, divergence = self.outputs(x)
            first.likelihood.check(outputs[0], target[0])
            if first.in_burnin:
                loss = self._call("point_loss", outputs, *given).mean() * num_members
                logged = {"train_loss": loss.detach() / num_members}
                for member in self.members:
                    loss = involving_all_parameters(loss, member)
            else:
                loss, logged = self._loss(self._call("log_prob", outputs, *given), divergence)
            if not first._is_layout_checked:
                for member, inputs, own in zip(self.members, x, outputs, strict=True):
                    member._check_layout(inputs, own)
        samples = outputs.detach().transpose(0, 1).flatten(1, 2)
        first._end_step(samples, flat_target, logged, check_batch, batch_idx, self._point_prediction(outputs.detach()))
        return loss

    def _loss(self, log_prob: Tensor, divergence: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses, and the means of the logged terms, from log probabilities [M, S B]."""
        first, num_members = self.members[0], len(self.members)
        nll = -log_prob.sum() / log_prob.shape[1]
        loss, kl = nll, nll.new_zeros(())
        if divergence is not None:
            factor = first.effective_kl_weight() / first.require_num_data(first.num_data)
            loss, kl = nll + factor * divergence, divergence.detach()
        means = ObjectiveTerms(*(each.detach() / num_members for each in (loss, nll, kl)))
        return loss, first._logged_terms(means)

    def _call(self, method: str, outputs: Tensor, *given: Tensor) -> Tensor:
        """Calls a method of the members' likelihoods on outputs [M, S, B, ...], and on what the samples share."""
        likelihood, num_samples = self.members[0].likelihood, outputs.shape[1]
        parameters = {
            name: torch.stack([member.likelihood.get_parameter(name) for member in self.members])
            for name, _ in likelihood.named_parameters()
        }
        spread = [part.unsqueeze(1).expand(-1, num_samples, *part.shape[1:]).flatten(1, 2) for part in given]
        result = call_members(likelihood, method, outputs.flatten(1, 2), *spread, parameters=parameters)
        return cast(Tensor, result)

    def _point_prediction(self, outputs: Tensor) -> Tensor:
        """Mean predictions [M B, ...] of all members."""
        if not any(True for _ in self.members[0].likelihood.parameters()):
            return self.members[0].likelihood.point_prediction(outputs.transpose(0, 1).flatten(1, 2))
        members = zip(self.members, outputs, strict=True)
        return torch.cat([member.likelihood.point_prediction(own) for member, own in members])


class VariationalMembers(MembersAtOnce):
    """Variational methods whose network is a chain of small linear layers and activations, after their burn-in."""

    def __init__(self, members: Sequence[VariationalMethod]) -> None:
        super().__init__(members)
        self._engine = MemberEngine([member.engine for member in members])
        self._num_samples = members[0].num_mc_samples_train

    @staticmethod
    def can_train(method: UQMethod) -> bool:  # noqa: D102
        if isinstance(method, RankOneVI):
            is_known = type(method).objective is RankOneVI.objective and method.num_components == 1
        else:
            is_known = isinstance(method, VariationalMethod) and type(method).objective is VariationalMethod.objective
        return is_known and not method.in_burnin and MemberEngine.can_run(cast(VariationalMethod, method).engine)

    def takes(self, x: Tensor) -> bool:  # noqa: D102
        return self._engine.fits(x, self._num_samples)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        outputs, divergence = self._engine.training_pass(x, self._num_samples, self._fresh())
        first = self.members[0]
        if isinstance(first, RankOneVI) and first.weight_prior_std is not None:
            divergence = divergence + weight_penalty(
                [member.backbone for member in self.members], first.weight_prior_std
            )
        return outputs, divergence

    def _fresh(self) -> list[Fresh]:
        """Makes the random states of a step."""
        return [partial(member.noise.fresh, member.global_rank, member.device) for member in self.members]


class IVONMembers(VariationalMembers):
    """IVON, of networks as for `VariationalMembers`."""

    def __init__(self, members: Sequence[IVON]) -> None:
        super().__init__(members)
        parameters = [member.engine.parameters() for member in members]
        self._scales = [scale for own in parameters for scale in own[1::2]]

    @staticmethod
    def can_train(method: UQMethod) -> bool:  # noqa: D102
        is_known = type(method).objective is IVON.objective and not method.in_burnin
        return is_known and MemberEngine.can_run(cast(IVON, method).engine)

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        outputs, means, stds = self._engine.pass_with_stds(
            x, self._num_samples, self._fresh(), trained_stds(self._scales)
        )
        first = cast(IVON, self.members[0])
        return outputs, first._kl(means, stds, first.require_num_data(first.num_data))


class BurninMembers(VariationalMembers):
    """Variational methods in their burn-in, of networks as for `VariationalMembers`."""

    def __init__(self, members: Sequence[VariationalMethod]) -> None:
        super().__init__(members)
        self._num_samples = 1

    @staticmethod
    def can_train(method: UQMethod) -> bool:  # noqa: D102
        return (
            isinstance(method, VariationalMethod)
            and method.in_burnin
            and type(method).point_outputs in (VariationalMethod.point_outputs, RankOneVI.point_outputs)
            and MemberEngine.can_run_means(method.engine)
        )

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        _count_step(self.members)
        return self._engine.mean_outputs(x), None


class PointMembers(MembersAtOnce):
    """Methods that train one deterministic network each, such as SWAG."""

    def __init__(self, members: Sequence[PointMethod]) -> None:
        super().__init__(members)
        self._runner = StackedRunner(members[0].backbone)
        self._networks = [member.backbone for member in members]
        named = [dict[str, Tensor](network.named_parameters()) for network in self._networks]
        self._parameters = {name: [parameters[name] for parameters in named] for name in named[0]}
        self._buffer_names = [name for name, _ in self._networks[0].named_buffers()]

    @staticmethod
    def can_train(method: UQMethod) -> bool:  # noqa: D102
        if not isinstance(method, PointMethod):
            return False
        kind = type(method)
        return (
            kind.objective is PointMethod.objective
            and kind.loss is PointMethod.loss
            and (kind.training_outputs is SWA.training_outputs or kind.point_outputs is PointMethod.point_outputs)
            and not is_random(method.backbone)
            and StackedRunner(method.backbone).runs_at_once(method.device)
        )

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:  # noqa: D102
        first, *others = self.members
        _count_step(others)
        buffers = {name: [network.get_buffer(name) for network in self._networks] for name in self._buffer_names}
        weights = {name: torch.stack(values) for name, values in (self._parameters | buffers).items()}
        with first.noise.fresh(first.global_rank, first.device):
            outputs = self._runner(weights, x, own_inputs=True).unsqueeze(1)
        for name, values in buffers.items():
            if weights[name]._version:  # the pass has changed the stacked copy
                torch._foreach_copy_(values, list(weights[name]))
        return outputs, None


def members_at_once(members: Sequence[UQMethod]) -> MembersAtOnce | None:
    """Returns the way to train methods at once; None if they are to be trained in turn.

    Args:
        members: The methods, after `prepare`.
    """
    if len(members) == 1 or members[0].trainer.precision != "32-true":
        return None
    if any(getattr(member.training_step, "__func__", None) is not UQMethod.training_step for member in members):
        return None
    kinds: tuple[type[MembersAtOnce], ...] = (BurninMembers, VariationalMembers, IVONMembers, PointMembers)
    kind = next((kind for kind in kinds if all(map(kind.can_train, members))), None)
    return kind(members) if kind is not None and _are_alike(members) else None


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]


def prepare(method: UQMethod, batch: Any) -> None:
    """Checks a method's first batch, and its network, as the method's first training step does.

    Args:
        method: Any method.
        batch: A training batch.
    """
    x, target, weight = method._labeled(batch)
    count = method.noise.count
    with explained(method, x), method.noise.fresh(method.global_rank, method.device):
        method._begin_step(x, target, weight)
        if isinstance(method, VariationalMethod) and not method.in_burnin:
            method.engine.settle_for_training(x)
    method.noise.count = count


def _count_step(members: Sequence[UQMethod]) -> None:
    """Moves the noise of members on by a step that draws none."""
    for member in members:
        member.noise.count += 1


def _are_alike(members: Sequence[UQMethod]) -> bool:
    """Returns True if methods differ in their parameters alone."""
    first, *others = map(_description, members)
    buffers = [dict(member.likelihood.named_buffers()) for member in members]
    return all(other == first for other in others) and all(
        torch.equal(value, own[name]) for name, value in buffers[0].items() for own in buffers[1:]
    )


def _description(method: UQMethod) -> tuple[Any, ...]:
    parameters = [(name, value.shape, value.dtype, value.requires_grad) for name, value in method.named_parameters()]
    options = {name: value for name, value in vars(method).items() if isinstance(value, int | float | str | None)}
    slots = method.engine.slots if isinstance(method, VariationalMethod) else ()
    return (
        type(method),
        repr((method.backbone, method.likelihood, dict(method.hparams), method.num_data)),
        {name: value for name, value in options.items() if not name.startswith("_")},
        parameters,
        [(slot.prior.joint_key, slot.is_drawn_in_training) for slot in slots],
    )


_Rows = tuple[NetworkInput, Tensor, Tensor | None]


def _stacked_rows(rows: Sequence[_Rows]) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Inputs, targets and weights of all members, [M, B, ...]; None if their shapes differ."""
    inputs, targets, weights = zip(*rows, strict=True)
    columns = [inputs, targets] if weights[0] is None else [inputs, targets, weights]
    if not all(isinstance(part, Tensor) and part.shape == column[0].shape for column in columns for part in column):
        return None
    x, target, *weight = (torch.stack(column) for column in columns)
    return x, target, weight[0] if weight else None
