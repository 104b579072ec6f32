"""`VBLL` against the reference implementation: the two differ by the prior's scale and the terms of the noise.

For several outputs vbll averages the log-likelihood over the outputs, where ours is a sum.
"""

import math
from typing import Any

import pytest
import torch

from lightning_vi import VBLL
from lightning_vi.likelihoods import Gaussian

vbll = pytest.importorskip("vbll")

IN, OUT, N = 4, 1, 50


@pytest.mark.parametrize("parameterization", ["dense", "diagonal"])
def test_loss_differs_by_the_documented_terms(parameterization: Any) -> None:
    prior_scale, wishart_scale, dof = 3.0, 0.02, 1.0
    noise_std = torch.tensor([0.4])
    method = VBLL(
        torch.nn.Linear(IN, OUT, bias=False),
        Gaussian(noise_std.tolist(), num_targets=OUT),
        parameterization=parameterization,
        prior_std=math.sqrt(prior_scale / IN),
        init_std=0.3,
        num_data=N,
    )
    layer = vbll.Regression(
        IN, OUT, regularization_weight=1 / N, parameterization=parameterization,
        prior_scale=prior_scale, wishart_scale=wishart_scale, dof=dof,
    )  # fmt: skip
    with torch.no_grad():
        layer.W_mean.copy_(method.head.weight_mu)
        layer.W_logdiag.fill_(math.log(0.3))
        if parameterization == "dense":
            layer.W_offdiag.zero_()
        layer.noise_logdiag.copy_(noise_std.log())
    x, y = torch.randn(10, IN), torch.randn(10, OUT)
    theirs = layer(x).train_loss_fn(y)
    precision = noise_std.square().reciprocal()
    wishart = (dof + OUT + 1) / 2 * precision.log().sum() - wishart_scale / 2 * precision.sum()
    expected = method.elbo(x, y).loss + (IN * OUT / 2 - wishart) / N
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x).predictive.mean, method.predict(x).mean, rtol=1e-4, atol=1e-5)
    variance = layer(x).predictive.variance
    torch.testing.assert_close(variance, method.predict(x).total_var, rtol=1e-4, atol=1e-5)
