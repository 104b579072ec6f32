r"""Mean-field variational inference, known as Bayes by Backprop.

Blundell, Cornebise, Kavukcuoglu and Wierstra, "Weight uncertainty in neural networks", ICML 2015.

.. math:: q(w) = \prod_i \mathcal{N}(w_i \mid \mu_i, \sigma_i^2), \qquad
    \mathcal{L} = -\frac1N \sum_n \mathrm{E}_q[\ln p(y_n \mid f_w(x_n))] + \frac{\beta}{N} \mathrm{KL}[q \| p]

=================== ============================================
symbol              argument
=================== ============================================
:math:`f_w`         `backbone`, `stochastic_module_names`
:math:`p(y | f)`    `likelihood`
:math:`p(w)`        `prior`
:math:`\sigma_i`    starts at `init_std`
:math:`\beta`       `kl_weight`, grows over `kl_warmup_epochs`
:math:`N`           `num_data`
:math:`\mathrm E_q` `num_mc_samples_train` draws by `estimator`
=================== ============================================
"""

from lightning_vi.methods.variational.base import VariationalMethod


class MeanFieldVI(VariationalMethod):
    """Mean-field Gaussian posterior over the weights of any network (Blundell et al., 2015).

    The arguments are those of `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = MeanFieldVI(MLP(1, [50, 50], 2), HeteroscedasticGaussian(), num_mc_samples_train=10)
        >>> prediction = method.predict(torch.zeros(8, 1))
        >>> prediction.mean.shape, prediction.epistemic_var.shape
        (torch.Size([8, 1]), torch.Size([8, 1]))
    """
