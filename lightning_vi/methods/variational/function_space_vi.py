r"""Variational inference in function space, with a Gaussian process prior.

Wild, Hu and Sejdinovic, "Generalized variational inference in function spaces: Gaussian measures meet Bayesian deep
learning", NeurIPS 2022, for Gaussian measures whose mean is a network; Cinquin and Bamler, "Regularized KL-divergence
for well-defined function-space variational inference in Bayesian neural networks", 2024 (GFSVI), for the regularized
divergence at context points; Titsias, AISTATS 2009, for the covariance.

.. math:: q(f) = \mathcal{GP}(f_w, v), \qquad p(f) = \mathcal{GP}(0, k), \qquad
    \mathcal{L}(w) = -\frac1N \sum_n \ln p(y_n \mid f_w(x_n))
    + \frac{\beta}{2 N} f_w(C)^\top \big(k(C, C) + \gamma s^2 I\big)^{-1} f_w(C)

The second term is the part of the divergence that depends on the mean, at context points C. The covariance v that
maximizes the evidence lower bound has a closed form, the posterior covariance of the process under the Fisher
information of the likelihood; a final pass over the training data computes it. That information vanishes where a
classifier is sure. Labels of several classes are therefore observations of the logits with known noise (Milios et al.,
"Dirichlet-based Gaussian processes for large-scale calibrated classification", NeurIPS 2018), and the network is the
prior mean of their regression (Qiu et al., "Quantifying point-prediction uncertainty in neural networks via residual
estimation with an I/O kernel", ICLR 2020).

=================== ==========================================================================
symbol              argument
=================== ==========================================================================
:math:`f_w`         `backbone`
:math:`k`           `kernel`, whose unknown scales are found before the first step
:math:`p(y | f)`    `likelihood`
:math:`C`           `num_context` points in each step; their range is `context_margin`
:math:`\gamma`      `gamma`, in units of the prior variance :math:`s^2`
:math:`\beta`       `kl_weight`, grows over `kl_warmup_epochs`
:math:`v`           `num_inducing` inducing inputs, `num_frequencies` for samples
:math:`N`           `num_data`
=================== ==========================================================================
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least, check_instance, check_positive
from lightning_vi.core import (
    DEFAULT_LEARNING_RATE,
    InformedMethod,
    LRSchedulerFactory,
    OptimizerFactory,
    default_optimizer,
)
from lightning_vi.core.batch import joined_batches
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.training_sample import training_sample
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.special import flat_at_zero
from lightning_vi.kernels import (
    CONCENTRATIONS,
    FunctionPosterior,
    Kernel,
    Matern,
    choose_inducing,
    concentration_scores,
    dirichlet_targets,
    fit_class_kernel,
    fit_kernel,
    precise,
)
from lightning_vi.likelihoods import Likelihood
from lightning_vi.noise import sample_noise
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.optim import cosine_decay
from lightning_vi.sampling import NetworkInput, call, chunk_ranges, evaluating, memory, num_fitting

LEARNING_RATE = 0.01
"""Of the network with the default optimizer."""
LOGIT_RANGE = 5.0
"""Difference between the logits of two binary labels, for the scale of a prior on logits."""


class FunctionSpaceVI(InformedMethod):
    r"""Gaussian process prior over functions, and a posterior whose mean is a network.

    The prior says how functions vary with the input: `kernel` is the prior of each network output, in standardized
    units of the target. In gaps between the training inputs and away from them the epistemic standard deviation returns
    to that of the prior, however sure the network is. Training costs a second forward pass, on the context points, and
    the Cholesky decomposition of a matrix of `num_context` rows.

    Context points are rows of the batch, and rows of which a random part of the features is drawn uniformly from their
    range in the batch, enlarged by `context_margin` on either side.

    For `Categorical` labels, one in a row, the mean is that of Gaussian process regression with the network as prior
    mean, see `lightning_vi.kernels.classes`: the final pass chooses the noise of the labels by how well each of at most
    256 is predicted from the others.

    The outputs have independent posteriors. With `Gaussian` noise the predictive distribution has a closed form;
    otherwise it is a mixture over sampled functions. The divergence of `elbo` is the part that depends on the network.

    Args:
        backbone: Any network with one floating-point tensor as input; it is copied.
        likelihood: The observation model; it is copied.
        kernel: Prior covariance of each output, on flattened inputs; it is copied. Length scales and standard
            deviation that it leaves open are found by maximum marginal likelihood of a Gaussian process on at most 256
            training rows, see `fit_kernel` and `fit_class_kernel`. None for ``Matern(None, offset_std=1.0)``.
        num_context: Number of context points in each step.
        context_margin: Enlargement of the range of the context points, in units of the range of the batch.
        gamma: Regularization :math:`\gamma` of the divergence, relative to the prior variance.
        num_inducing: Maximum number M of inducing inputs, which are training inputs. The covariance is exact for up to
            that many data.
        num_frequencies: Number of frequencies of the prior's spectrum in sampled functions.
        max_mebibytes: Maximum size of the covariances, a matrix of M rows for each output.
        num_mc_samples_test: Number of samples for validation, test and prediction without closed form. They share one
            pass of the network.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, without divergence.
        kl_weight: Weight :math:`\beta` of the divergence.
        kl_warmup_epochs: Number of epochs after burn-in over which the weight increases linearly to `kl_weight`.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer. With the default, Adam, the network learns
            at a rate of 0.01.
        lr_scheduler: Function from the optimizer to a scheduler, see `UQMethod`; None for a constant learning rate.

    Raises:
        InputValueError: If a number is out of range.
        InputTypeError: If `kernel` is no `Kernel`, or the input is not one floating-point tensor.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.kernels import RBF
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = FunctionSpaceVI(MLP(1, [50], 1), Gaussian(noise_std=0.1), kernel=RBF(length_scale=1.0, std=2.0))
        >>> method.fit_posterior([(torch.zeros(20, 1), torch.zeros(20, 1))])
        >>> method.predict(torch.tensor([[0.0], [10.0]])).epistemic_var.sqrt().flatten()
        tensor([0.0224, 2.0000])
    """

    has_kl = True

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        kernel: Kernel | None = None,
        num_context: int = 256,
        context_margin: float = 0.1,
        gamma: float = 1e-3,
        num_inducing: int = 512,
        num_frequencies: int = 512,
        max_mebibytes: float = 256.0,
        num_mc_samples_test: int = 500,
        burnin_epochs: int = 0,
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = cosine_decay,
    ) -> None:
        if kernel is not None:
            check_instance("kernel", kernel, Kernel)
        check_at_least("num_context", num_context, 1)
        check_at_least("num_inducing", num_inducing, 1)
        check_at_least("num_frequencies", num_frequencies, 1)
        check_positive("gamma", gamma)
        check_positive("max_mebibytes", max_mebibytes)
        if not 0 <= context_margin < float("inf"):
            raise InputValueError(f"context_margin must be nonnegative and finite, got {context_margin}")
        super().__init__(
            copy.deepcopy(backbone),
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            kl_weight=kl_weight,
            kl_warmup_epochs=kl_warmup_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.kernel = Matern(None, offset_std=1.0) if kernel is None else copy.deepcopy(kernel)
        self.posterior = FunctionPosterior(num_frequencies)
        self.num_context = num_context
        self.context_margin = context_margin
        self.gamma = gamma
        self.num_inducing = num_inducing
        self.max_mebibytes = max_mebibytes

    @property
    def main_factor(self) -> float:
        """Factor of the learning rate of the network."""
        return LEARNING_RATE / DEFAULT_LEARNING_RATE if self.has_default_optimizer else 1.0

    def learning_rate_factors(self) -> Mapping[nn.Parameter, float]:  # noqa: D102
        return {**super().learning_rate_factors(), **dict.fromkeys(self.backbone.parameters(), self.main_factor)}

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call(self.backbone, x)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        rows = _one_tensor(x)
        outputs = call(self.backbone, x).unsqueeze(0)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.log_prob(outputs, target, weight)
        return outputs, negative_elbo(log_prob, self.mean_divergence(rows, outputs[0]), num_data, kl_weight)

    def mean_divergence(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Computes the part of the regularized divergence that depends on the mean, at fresh context points.

        Args:
            x: Rows of the training data, shape [B, ...].
            outputs: Outputs of the network for them, shape [B, ...].

        Returns:
            Nats, summed over the outputs, a scalar tensor.
        """
        num_rows = min(len(x), self.num_context // 2)
        moved = self._moved_rows(x.flatten(1), self.num_context - num_rows)
        with evaluating(self.backbone):
            at_moved = call(self.backbone, moved.view(-1, *x.shape[1:]))
        values = torch.cat([outputs[:num_rows].flatten(1), at_moved.flatten(1)])
        return self.divergence_at(torch.cat([x.flatten(1)[:num_rows], moved]), values)

    def divergence_at(self, points: Tensor, values: Tensor) -> Tensor:
        r"""Computes :math:`\tfrac12 f^\top (k(C, C) + \gamma s^2 I)^{-1} f`.

        Args:
            points: C, shape [n, F].
            values: Values f of functions there, shape [n, E].

        Returns:
            Nats, summed over the functions, a scalar tensor.
        """
        with torch.autocast(points.device.type, enabled=False):
            points = precise(points)
            identity = torch.eye(len(points), dtype=points.dtype, device=points.device)
            ridge = self.gamma * self.kernel.variance.to(points) * identity
            root = torch.linalg.cholesky(self.kernel(points, points) + ridge)
            whitened = torch.linalg.solve_triangular(root, precise(values), upper=False)
            divergence: Tensor = 0.5 * whitened.square().sum()
            return divergence.to(torch.promote_types(values.dtype, torch.float32))

    def _moved_rows(self, rows: Tensor, size: int) -> Tensor:
        """Rows with a random part of their features drawn uniformly from the enlarged range, shape [size, F]."""
        low, high = rows.min(0).values, rows.max(0).values
        margin = self.context_margin * (high - low)
        start = rows[torch.randint(len(rows), (size,), device=rows.device)]
        anywhere = low - margin + (high - low + 2 * margin) * torch.rand_like(start)
        is_moved = torch.rand_like(start) < torch.rand_like(start[:, :1])
        return torch.where(is_moved, anywhere, start)

    def _prepare_for_data(self, dataloader: Any) -> None:
        """Finds the scales of the prior too, unless the method is trained."""
        super()._prepare_for_data(dataloader)
        if self.kernel.is_resolved or self.is_trained:
            return
        sample = training_sample(dataloader)
        if sample is None:
            return
        if sample.inputs is not None and len(sample.inputs) == len(sample.targets):
            self._find_scales(sample.inputs, sample.targets)
        else:
            inputs, targets = zip(*sample.batches, strict=True)
            self._find_scales(torch.cat([_one_tensor(x) for x in inputs]), torch.cat(targets))

    def _find_scales(self, x: Tensor, target: Tensor) -> None:
        features = self.likelihood.target_features(self.likelihood.fill(target.to(self.device)))
        if self._has_classes(target):
            observed = self.likelihood.observed(target)
            seen = torch.ones_like(target, dtype=torch.bool) if observed is None else observed.bool()
            fit_class_kernel(self.kernel, x[seen].to(self.device).flatten(1), features[seen.to(self.device)])
            return
        if self.likelihood.task == "classification":
            features = LOGIT_RANGE * (features - features.mean(0))
        fit_kernel(self.kernel, x.to(self.device).flatten(1), features.flatten(1))

    def _has_classes(self, target: Tensor) -> bool:
        """Returns True for one label of several classes in a row."""
        return self.likelihood.softmax_dim is not None and target.dim() == 1

    @torch.no_grad()
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Computes the posterior covariance in one pass over the training data, whose inputs are kept meanwhile.

        Args:
            data: The training data in labeled batches.

        Raises:
            InputValueError: If there are no data, or the covariances are too large.
        """
        rows, precisions, targets, logits = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
        with evaluating(self):
            joined = joined_batches(map(self.weighted_batch, data), self.likelihood.num_outputs)
            for x, target, weight in (part for batch in joined for part in self.parts_for_information(*batch)):
                with explained(self, x):
                    rows.append(_one_tensor(x).flatten(1))
                    outputs = call(self.backbone, x)
                self.likelihood.check(outputs.unsqueeze(0), target)
                self._check_layout(x, outputs.unsqueeze(0))
                if self._has_classes(target):
                    information = torch.ones_like(outputs)
                    logits.append(outputs)
                else:
                    information = self.likelihood.information_factor(outputs).square().sum(-1)
                weights = self.output_weights(target, weight, outputs)
                precisions.append(information if weights is None else information * weights.flatten(1))
                targets.append(target)
        if not rows:
            raise InputValueError("there are no data to fit the posterior to")
        inputs = torch.cat(rows)
        self._check_size(precisions[0].shape[1], min(self.num_inducing, len(inputs)))
        if not self.kernel.is_resolved:
            self._find_scales(inputs, torch.cat(targets))
        self.posterior.place(
            self.kernel, self._of_all_processes(choose_inducing(self.kernel, precise(inputs), self.num_inducing))
        )
        weights, projections = torch.cat(precisions), None
        if logits:
            residuals, weights = self._class_regression(inputs, torch.cat(targets), torch.cat(logits), weights)
            projections = self.sum_over_processes(self.posterior.projections(self.kernel, inputs, weights * residuals))
        information = self.posterior.information(self.kernel, inputs, weights)
        self.posterior.condition(self.sum_over_processes(information), projections)
        self.is_fitted.fill_(True)

    def _class_regression(self, x: Tensor, target: Tensor, logits: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals of the network and precisions of a regression in place of labels, each of shape [N, C]."""
        labels = self.likelihood.target_features(self.likelihood.fill(target)).to(logits)
        is_seen = weights.sum(1) > 0
        scores = concentration_scores(self.kernel, x[is_seen], labels[is_seen], logits[is_seen])
        concentration = CONCENTRATIONS[int(self.sum_over_processes(scores).argmin())]
        targets, variances = dirichlet_targets(labels, concentration)
        return targets - (logits - logits.mean(1, keepdim=True)), weights / variances

    def _check_size(self, num_outputs: int, num_inducing: int) -> None:
        size = num_outputs * num_inducing**2 * 4 / 2**20
        if size > self.max_mebibytes:
            raise InputValueError(
                f"the covariances of {num_outputs} outputs at {num_inducing} inducing inputs need {size:.0f} MiB, more "
                f"than max_mebibytes={self.max_mebibytes:g}: choose a smaller num_inducing"
            )

    def _of_all_processes(self, inducing: Tensor) -> Tensor:
        """Chooses among the inducing inputs that each process has chosen from its share of the data."""
        if self._trainer is None or self.trainer.world_size == 1:
            return inducing
        shares = [self.trainer.strategy.broadcast(inducing, rank) for rank in range(self.trainer.world_size)]
        joined = torch.cat([share.to(inducing.device) for share in shares])
        return choose_inducing(self.kernel, joined, self.num_inducing)

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        outputs = self._mean_outputs(x)
        variances = self.posterior.variances(self.kernel, _one_tensor(x).flatten(1))
        return outputs, flat_at_zero(torch.sqrt, variances).to(outputs).view_as(outputs)

    def _mean_outputs(self, x: NetworkInput) -> Tensor:
        """Network and the posterior mean of its residuals."""
        outputs = call(self.backbone, x)
        means = self.posterior.means(self.kernel, _one_tensor(x).flatten(1))
        return outputs if means is None else outputs + means.to(outputs).view_as(outputs)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        outputs, rows = self._mean_outputs(x), _one_tensor(x).flatten(1)
        size = self.posterior.noise_size
        max_chunk = num_fitting(memory.MAX_LINEARIZED_NUMBERS, max(outputs.numel(), size))
        for first, stop in chunk_ranges(num_samples, max_chunk):
            draws = self.posterior.draws(self.kernel, rows, sample_noise(seed, first, stop, size))
            yield outputs + draws.to(outputs).view(-1, *outputs.shape)


def _one_tensor(x: NetworkInput) -> Tensor:
    if not (isinstance(x, Tensor) and x.is_floating_point()):
        kind = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise InputTypeError(
            f"FunctionSpaceVI measures distances between inputs and needs one floating-point tensor, got {kind}: "
            "encode other inputs as numbers, or use another method"
        )
    return x
