r"""Deep ensembles.

Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep ensembles",
NeurIPS 2017.

.. math:: p(y \mid x) = \frac1M \sum_m p(y \mid f_{w_m}(x)), \qquad
    w_m = \arg\min_w -\frac1N \sum_n \ln p(y_n \mid f_w(x_n))

=================================  ===============================================================
symbol                             argument
=================================  ===============================================================
:math:`M`                          `num_members`
:math:`w_m`                        one network each, with its own initial values and order of data
:math:`f`                          `backbone`
first epochs on squared error      `burnin_epochs`
=================================  ===============================================================
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, Predictor, default_optimizer
from lightning_vi.core.members import unstack_likelihood
from lightning_vi.functional import disagreement
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.methods.ensembles.ensemble import Ensemble
from lightning_vi.methods.ensembles.stacked import StackedMethod
from lightning_vi.sampling import NetworkInput, StackedVectorization, unstack_network


class DeepEnsemble(StackedMethod):
    """Deep ensemble of M networks (Lakshminarayanan et al., 2017), trained together by maximum likelihood.

    The first member starts at the weights of the backbone, the others at new weights from `reset_parameters` of each
    module. If the dataloader shuffles, each member sees the training data in a different order; without shuffling, or
    with a custom sampler, all members see the same batches. Members are trained independently: the loss is the sum of
    their losses, and gradients are clipped for each member separately. The weights of all members are stacked in one
    tensor for each parameter, so the optimizer must be elementwise, such as SGD and Adam.

    The members are the samples of predictions. A `num_samples` larger than M has no effect. For members that are other
    methods, such as `MeanFieldVI`, see `MethodEnsemble`.

    Args:
        backbone: Any network; it is copied. Or a function that returns a network, which is called for each member, for
            modules without `reset_parameters`.
        likelihood: The observation model; it is copied for each member.
        num_members: Number of members M.
        own_data_order: Whether each member sees the training data in a different order.
        bootstrap_block: None to train each member on all data; an integer for a bootstrap sample of blocks of so many
            consecutive rows for each member (bagging), 1 for single rows. `EnbPI` needs it.
        vectorization: How members are run: ``"auto"``, ``"vmap"`` or ``"loop"``, see `StackedRunner`.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        TypeError: If `backbone` is neither a network nor a function that returns one.
        ValueError: If a count is out of range, or a module with parameters has no `reset_parameters`.

    Example:
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = DeepEnsemble(MLP(2, [16], 2), HeteroscedasticGaussian(), num_members=3)
        >>> method.predict(torch.zeros(4, 2), return_samples=True).samples.shape
        torch.Size([3, 4, 1])
    """

    def __init__(
        self,
        backbone: nn.Module | Callable[[], nn.Module],
        likelihood: Likelihood,
        *,
        num_members: int = 5,
        own_data_order: bool = True,
        bootstrap_block: int | None = None,
        vectorization: StackedVectorization = "auto",
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_at_least("num_members", num_members, 1)
        if bootstrap_block is not None:
            check_at_least("bootstrap_block", bootstrap_block, 1)
        super().__init__(
            backbone,
            likelihood,
            num_networks=num_members,
            num_mc_samples_test=num_members,
            own_data_order=own_data_order,
            vectorization=vectorization,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.num_members = num_members
        self.bootstrap_block = bootstrap_block

    @staticmethod
    def from_methods(methods: Sequence[Predictor]) -> Ensemble:
        """Makes an ensemble of fitted methods of any class.

        Args:
            methods: See `Ensemble`.

        Returns:
            The ensemble.
        """
        return Ensemble(methods)

    @staticmethod
    def from_checkpoints(method: type[Predictor], paths: Sequence[str | Path], **arguments: Any) -> Ensemble:
        """Loads an ensemble of methods from checkpoints.

        Args:
            method: Class of the methods.
            paths: Paths of the checkpoints.
            **arguments: Further constructor arguments, such as `backbone` and `likelihood`.

        Returns:
            The ensemble, see `Ensemble.from_checkpoints`.
        """
        return Ensemble.from_checkpoints(method, paths, **arguments)

    def member(self, index: int) -> PointMethod:
        """Returns a copy of one member as a deterministic method.

        Args:
            index: Index of the member, from 0 to M - 1.

        Returns:
            A method with the member's weights and likelihood.

        Raises:
            IndexError: If `index` is out of range.
        """
        if not 0 <= index < self.num_members:
            raise IndexError(f"index must lie between 0 and {self.num_members - 1}, got {index}")
        member = PointMethod(
            unstack_network(self.backbone, index),
            unstack_likelihood(self.likelihood, index),
            burnin_epochs=self.num_burnin_epochs,
            optimizer=self._optimizer_factory,
            lr_scheduler=self._lr_scheduler_factory,
        )
        member._train_size = self._train_size
        return member

    def diversity(self, x: NetworkInput) -> Tensor:
        """Computes the distance between the members' predictions, see `disagreement`.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            A scalar tensor.
        """
        samples = self.predict(x, return_samples=True).samples
        return disagreement(torch.as_tensor(samples), self.likelihood.task)
