r"""Ensemble of M methods of one kind, trained in one fit: a mixture of M posteriors, with one at each of M modes.

Wilson and Izmailov, "Bayesian deep learning and a probabilistic perspective of generalization", NeurIPS 2020, for SWAG
(MultiSWAG).

.. math:: p(y \mid x) = \frac1M \sum_m \mathrm{E}_{q_m(w)}[p(y \mid f_w(x))]

=================================  ===============================================================
symbol                             argument
=================================  ===============================================================
:math:`M`                          `num_members`
:math:`q_m`                        the posterior of a method that `member` makes
:math:`f`                          `backbone`, with other initial values in each member
=================================  ===============================================================

A step trains all members at once where that takes less time, see `lightning_vi.methods.ensembles.at_once`, and
otherwise in turn, so that a fit takes up to M times as long as that of one member.
"""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vi.arguments import check_at_least
from lightning_vi.core import MixturePredictive, Predictive, UQMethod
from lightning_vi.core.members import make_networks
from lightning_vi.core.method import PLANNED_BURNIN
from lightning_vi.core.separate_orders import SeparateOrders
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.ensembles.at_once import MembersAtOnce, members_at_once, prepare
from lightning_vi.methods.ensembles.ensemble import Ensemble
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.optim import JointOptimizer
from lightning_vi.sampling import NetworkInput

SUMS = "members_so_far"
"""Key of a checkpoint for the members' sums of the epoch."""


class MethodEnsemble(SeparateOrders, Ensemble):
    """Ensemble of M methods of any trainable class, such as `MeanFieldVI`, `IVON` or `SWAG`, trained in one fit.

    The first member starts at the weights of the backbone, the others at new weights from `reset_parameters` of each
    module. Each has its own noise, likelihood and optimizer state and, if the dataloader shuffles, its own order of the
    data. All else is as if each was trained alone: size of the training set, burn-in, warm-up, schedule, clipping and
    snapshots. Logged losses of the training are means over the members, and its metrics those of the predictions of all
    members.

    It predicts as an `Ensemble` does, with `num_mc_samples_test` samples of each member. For members that are plain
    networks `DeepEnsemble` is faster.

    Args:
        backbone: Any network; it is copied. Or a function that returns a network, which is called for each member, for
            modules without `reset_parameters`.
        likelihood: The observation model; it is copied for each member.
        member: Function from a network and a likelihood to a method: a class, or
            ``partial(MeanFieldVI, burnin_epochs=20)``.
        num_members: Number of members M.
        own_data_order: Whether each member sees the training data in a different order.
        vectorization: ``"auto"`` computes the losses of all members in one pass where members and network are of a kind
            for which that takes less time; ``"loop"`` trains them in turn. The results differ by rounding alone.

    Raises:
        TypeError: If `member` does not return a trainable method, or `backbone` is neither a network nor a function
            that returns one.
        ValueError: If a count is out of range, `vectorization` is unknown, or a module with parameters has no
            `reset_parameters`.

    Example:
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = MethodEnsemble(MLP(2, [16], 2), HeteroscedasticGaussian(), member=MeanFieldVI, num_members=3)
        >>> method.predict(torch.zeros(4, 2)).metadata["num_samples"]
        150
    """

    _at_once: MembersAtOnce | None = None
    _is_decided = False

    def __init__(
        self,
        backbone: nn.Module | Callable[[], nn.Module],
        likelihood: Likelihood,
        *,
        member: Callable[[nn.Module, Likelihood], UQMethod],
        num_members: int = 5,
        own_data_order: bool = True,
        vectorization: Literal["auto", "loop"] = "auto",
    ) -> None:
        check_at_least("num_members", num_members, 1)
        if vectorization not in ("auto", "loop"):
            raise InputValueError(f"vectorization must be 'auto' or 'loop', got {vectorization!r}")
        if not callable(member):
            raise InputTypeError(
                f"member must be a class of methods or a function that returns one, got {type(member).__name__}"
            )
        methods = [member(network, likelihood) for network in make_networks(backbone, num_members)]
        for method in methods:
            if not isinstance(method, UQMethod):
                raise InputTypeError(f"member must return a trainable method, got a {type(method).__name__}")
        super().__init__(methods)
        self.num_members = num_members
        self.own_data_order = own_data_order
        self.vectorization = vectorization
        first, *others = methods = self.members
        for each in others:  # one record of the mean over the members
            each._record, each.train_metrics = first._record, first.train_metrics

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_at_once": None}

    @property
    def members(self) -> list[UQMethod]:  # type: ignore[override]
        """The M methods."""
        return cast(list[UQMethod], list(self._members))

    @property
    def num_data(self) -> int | None:
        """Size N of the training set, None if unknown."""
        return self.members[0].num_data

    @property
    def is_trained(self) -> bool:
        """True if all members are trained; setting it marks all."""
        return all(member.is_trained for member in self.members)

    @is_trained.setter
    def is_trained(self, is_trained: bool) -> None:
        for member in self.members:
            member.is_trained = is_trained

    @property
    def lr(self) -> float:
        """Learning rate of the members; setting it sets all."""
        return self.members[0].lr

    @lr.setter
    def lr(self, rate: float) -> None:
        for member in self.members:
            member.lr = rate

    @property
    def unmet_requirement(self) -> str:  # noqa: D102
        return next((member.unmet_requirement for member in self.members if member.unmet_requirement), "")

    def provisional_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        parts = [member.provisional_predictive(x) for member in self.members]
        return MixturePredictive(self.likelihood, parts, [1] * len(parts))

    def elbo(
        self, x: NetworkInput, y: Tensor, weight: Tensor | None = None, *, num_data: int | None = None
    ) -> ObjectiveTerms:
        """Computes the full objective on a batch for all members, for a training loop of your own.

        Args:
            x: Input, each tensor of shape [B, ...].
            y: Target in its original units, shape [B, ...].
            weight: Weights of the rows, shape [B]; 1 by default.
            num_data: N, the size of the training set; by default the one that was given or counted in a fit.

        Returns:
            ``(loss, nll, kl)``, differentiable: the sum of the losses, and the means of the other terms.
        """
        losses, nlls, kls = zip(*[member.elbo(x, y, weight, num_data=num_data) for member in self.members], strict=True)
        return ObjectiveTerms(torch.stack(losses).sum(), torch.stack(nlls).mean(), torch.stack(kls).mean())

    def make_optimizer(self) -> Optimizer:
        """Makes the optimizer of all members, one for each, joined.

        Returns:
            The optimizer.
        """
        return JointOptimizer([member.make_optimizer() for member in self.members])

    def configure_optimizers(self) -> Any:
        """Joins the members' optimizers under one schedule."""
        joint = JointOptimizer([member.prepare_optimizer() for member in self.members])
        scheduler = self.members[0]._make_scheduler(joint)
        return {"optimizer": joint, "lr_scheduler": scheduler} if scheduler else joint

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Computes the sum of the members' losses, each on its own batch."""
        batches = self.member_batches(batch, batch_idx, self.num_members)
        own = batches if len(batches) > 1 else batches * self.num_members
        if not self._is_decided and not torch.compiler.is_compiling():
            for member, each in zip(self.members, own, strict=True):
                prepare(member, each)
            self._is_decided, self._at_once = True, members_at_once(self.members)
        if self._at_once is not None:
            self.members[0]._current_fx_name = self._current_fx_name
            loss = self._at_once.training_step(own, batch_idx)
            if loss is not None:
                return loss
        losses = torch.stack(self._each("training_step", [(each, batch_idx) for each in own]))
        interval: int = getattr(self.trainer, "log_every_n_steps", 0)
        if interval and (batch_idx + 1) % interval == 0:
            self.log("train_loss_step", losses.detach().mean(), prog_bar=True)  # in place of the last member's
        return losses.sum()

    def _each(self, hook: str, arguments: list[tuple[Any, ...]] | None = None) -> list[Any]:
        """Calls a hook of all members, which log in the name of the ensemble."""
        results = []
        for index, member in enumerate(self.members):
            member._current_fx_name = self._current_fx_name
            results.append(getattr(member, hook)(*(() if arguments is None else arguments[index])))
        return results

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients of each member as the member does."""
        parts = cast(JointOptimizer, optimizer).parts
        if self._at_once is not None and self._at_once.clip(parts, gradient_clip_val, gradient_clip_algorithm):
            return
        for member, part in zip(self.members, parts, strict=True):
            member.configure_gradient_clipping(part, gradient_clip_val, gradient_clip_algorithm)

    def setup(self, stage: str) -> None:
        """Attaches the members to the Trainer."""
        super().setup(stage)
        for member in self.members:
            member.trainer = self.trainer
            member.setup(stage)
        self.data_state = self.members[0].data_state

    def on_fit_start(self) -> None:
        """Refuses training data that cannot be used."""
        self._each("on_fit_start")
        self.input_range = self.members[0].input_range

    def on_train_start(self) -> None:
        """Prepares the members."""
        super().on_train_start()
        self._decide_anew()
        self._each("on_train_start")
        first = self.members[0]
        if first._learning_rate is not None and first.takes_rates:
            first.restart_schedules()
        self.input_range = first.input_range

    def on_train_epoch_start(self) -> None:
        """Prepares the members for the training data of the epoch."""
        super().on_train_epoch_start()
        if any(member.num_burnin_epochs == self.current_epoch for member in self.members):
            self._decide_anew()
        self._each("on_train_epoch_start")

    def _decide_anew(self) -> None:
        """Makes the next step decide whether members are trained at once, for the fit or what follows its burn-in."""
        self._at_once, self._is_decided = None, self.vectorization == "loop"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Calls the members' hooks."""
        self._each("on_train_batch_start", [(batch, batch_idx)] * self.num_members)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Calls the members' hooks, such as those that take snapshots."""
        self._each("on_train_batch_end", [(outputs, batch, batch_idx)] * self.num_members)

    def on_train_epoch_end(self) -> None:
        """Logs the means of the members' training metrics."""
        self._each("on_train_epoch_end")

    def on_train_end(self) -> None:
        """Ends the members' fits."""
        super().on_train_end()
        self._at_once = None
        self._each("on_train_end")

    def on_validation_start(self) -> None:
        """Checks the losses so far, or makes up fits."""
        super().on_validation_start()
        self._each("on_validation_start")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the sums of the epoch so far of all members."""
        if self._trainer is not None and self.trainer.state.fn is not None:
            sums, burnins = [], []
            for member in self.members:
                own = {"state_dict": checkpoint["state_dict"]}
                member.on_save_checkpoint(own)
                checkpoint["state_dict"] = own["state_dict"]
                sums.append(own.get("epoch_so_far"))
                burnins.append(own.get(PLANNED_BURNIN, 0))
            checkpoint[PLANNED_BURNIN] = burnins
            if None not in sums:
                checkpoint[SUMS] = sums
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the checkpoint and reads the sums of its epoch.

        Raises:
            ValueError: If it is damaged or of a newer format.
        """
        super().on_load_checkpoint(checkpoint)
        is_resumed = self._trainer is not None and checkpoint["global_step"] > 0
        burnins = checkpoint.get(PLANNED_BURNIN, [0] * self.num_members)
        sums_of_members = checkpoint.get(SUMS, [None] * self.num_members)
        for member, sums, burnin in zip(self.members, sums_of_members, burnins, strict=True):
            member._resumed_epoch = sums
            member._resumed_burnin = burnin if is_resumed else None
            member.remember_data(checkpoint)
