r"""Spectral-normalized neural Gaussian process (SNGP).

Liu, Lin, Padhy, Tran, Bedrax-Weiss and Lakshminarayanan, "Simple and principled uncertainty estimation with
deterministic deep learning via distance awareness", NeurIPS 2020; Rahimi and Recht, NeurIPS 2007, for the features.

.. math:: f(x) = \beta^\top \phi(h(x)), \qquad \phi(h) = \sqrt{2 / M} \cos(W h / l + b), \qquad
    \beta \sim \mathcal{N}(0, s^2 I)

approximates a Gaussian process on the hidden features h with the kernel
:math:`s^2 \exp(-\lVert h - h' \rVert^2 / 2 l^2)`. The layers of h are made distance-preserving by
:math:`\bar{W} = W / \max(1, \sigma(W) / c)`, and :math:`\beta` has Laplace's posterior.

=================== =================================================================
symbol              argument
=================== =================================================================
:math:`h`           `backbone` without its last layer
:math:`c`           `spectral_norm_bound`
:math:`M`           `num_random_features`
:math:`W, b`        drawn once, from the global random state, and kept
:math:`l`           `length_scale`, in units of h
:math:`s`           `prior_std`
:math:`p(y | f)`    `likelihood`
covariance          `structure`
=================== =================================================================
"""

import copy

from torch import nn

from lightning_vi.arguments import check_at_least, check_instance
from lightning_vi.conversion import (
    LastLayerCheck,
    check_state_dict,
    find_last_layer,
    is_frozen,
    named_layers,
    replace_layer,
)
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.curvature import is_pointwise
from lightning_vi.errors import InputValueError
from lightning_vi.layers import RandomFourierFeatures, bound_spectral_norm, can_be_bounded
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.laplace.laplace import Laplace, PredictiveName, PriorStd, Structure


class SNGP(Laplace):
    r"""Network with spectral normalization and a random-feature Gaussian process head (Liu et al., 2020).

    The network is trained like `Deterministic`, with the penalty :math:`\lVert \beta \rVert^2 / 2 s^2 N`; a final pass
    over the training data computes the covariance. The predictive distribution is that of `Laplace`, with samples of
    :math:`\beta`: closed form with `Gaussian` noise, the probit approximation for classification, and a mixture over
    samples for other likelihoods.

    The weights of all linear layers and convolutions before the head are bounded, with the kernel of a convolution
    reshaped to a matrix. Layers whose weight is not a parameter, for example because it is parametrized, are not
    bounded. The head has no bias.

    Args:
        backbone: Any network that calls a linear layer or a convolution of width 1 last; it is copied, and that
            layer is replaced by the Gaussian process.
        likelihood: The observation model; it is copied.
        num_random_features: Number of random features M.
        length_scale: Length scale l of the kernel, in units of the last hidden features.
        normalize_features: Whether to standardize the hidden features of each datum to mean 0 and std 1. They then lie
            on a sphere, which bounds the distance between data.
        spectral_norm_bound: Bound c of the spectral norms; None for no bound.
        structure: Structure of the GGN: ``"per_output"``, a matrix for each output, which is exact for `Gaussian` and
            `HeteroscedasticGaussian`; ``"kronecker"``, one matrix for all outputs; ``"full"`` or ``"diagonal"``.
        prior_std: Prior standard deviation s, also that of the outputs far from the data. With
            ``"marginal_likelihood"`` there is no penalty, and s maximizes the marginal likelihood after training.
        predictive: Predictive distribution for classification: ``"probit"`` or ``"sampling"``.
        max_mebibytes: Maximum size of the matrices with ``"full"`` and ``"per_output"``.
        num_mc_samples_test: Number of samples for validation, test and prediction without closed form.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        num_data: Size N of the training set, for the penalty; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If the network's last module with parameters is another layer or shares its weights, an option is
            unknown, or a number is out of range.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = SNGP(MLP(1, [50], 1), Gaussian(noise_std=0.5), num_random_features=256)
        >>> method.fit_posterior([(torch.randn(20, 1), torch.randn(20, 1))])
        >>> near, far = method.predict(torch.tensor([[0.0], [30.0]])).epistemic_var
        >>> bool(near < 0.5 < far)
        True
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        num_random_features: int = 1024,
        length_scale: float = 0.5,
        normalize_features: bool = False,
        spectral_norm_bound: float | None = 0.95,
        structure: Structure = "per_output",
        prior_std: PriorStd = 1.0,
        predictive: PredictiveName = "probit",
        max_mebibytes: float = 256.0,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_at_least("num_random_features", num_random_features, 1)
        check_instance("backbone", backbone, nn.Module)
        network = copy.deepcopy(backbone)
        layer, name = _last_layer(network)
        features, head = _gaussian_process(layer, num_random_features, length_scale, normalize_features)
        network = replace_layer(network, layer, nn.Sequential(features, head))
        if spectral_norm_bound is not None:
            for module in list(network.modules()):
                if module is not head and can_be_bounded(module) and not is_frozen(module):
                    bound_spectral_norm(module, spectral_norm_bound)
            check_state_dict(network)
        super().__init__(
            network,
            likelihood,
            stochastic_module_names=[f"{name}.1" if name else "1"],
            structure=structure,
            prior_std=prior_std,
            predictive=predictive,
            max_mebibytes=max_mebibytes,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self._check_last_layer = LastLayerCheck(self.backbone, f"{name}.1" if name else "1")


def _last_layer(network: nn.Module) -> tuple[nn.Module, str]:
    """Returns the layer to replace and its name."""
    layers = named_layers(network)
    if not layers:
        raise InputValueError("SNGP needs a network with a linear last layer, but this one has no parameters")
    name = find_last_layer(network, layers, [-1])
    layer = layers[name]
    kind = next((kind for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind)), None)
    is_standard = kind is not None and type(layer).forward is kind.forward and can_be_bounded(layer)
    if not (is_standard and is_pointwise(layer)):
        raise InputValueError(
            "SNGP needs a network whose last module with parameters is a linear layer or a convolution of width 1, but "
            f"{repr(name) if name else 'the root'} is {layer}"
        )
    return layer, name


def _gaussian_process(
    layer: nn.Module, num_features: int, length_scale: float, normalize: bool
) -> tuple[RandomFourierFeatures, nn.Module]:
    """Makes the random features and the head that replace a layer."""
    weight = layer.get_parameter("weight")
    outputs, inputs = weight.shape[:2]
    dim = -1 if isinstance(layer, nn.Linear) else 1
    features = RandomFourierFeatures(inputs, num_features, length_scale, normalize=normalize, dim=dim).to(weight)
    if isinstance(layer, nn.Linear):
        return features, nn.Linear(num_features, outputs, bias=False).to(weight)
    convolution = next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(layer, kind))
    return features, convolution(num_features, outputs, 1, bias=False).to(weight)
