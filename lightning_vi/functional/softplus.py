"""Inverse of the softplus where its values are small."""

import torch
from torch import Tensor

_MAX_SMALL = 0.1  # the next term of the series is below the resolution of float32


def put_inverse_softplus(out: Tensor, std: Tensor) -> None:
    r"""Writes the numbers whose softplus is given.

    .. math:: \rho = \ln(e^\sigma - 1) = \ln \sigma + \frac{\sigma}{2} + \frac{\sigma^2}{24} - O(\sigma^4)

    Args:
        out: Where they are written, the shape of `std`; not `std` itself.
        std: Positive.

    Example:
        >>> rho = torch.empty(2)
        >>> put_inverse_softplus(rho, torch.tensor([0.01, 0.02]))
        >>> torch.nn.functional.softplus(rho)
        tensor([0.0100, 0.0200])
    """
    if _is_small(std):
        torch.log(std, out=out).add_(std, alpha=0.5).addcmul_(std, std, value=1 / 24)
    else:
        torch.neg(std, out=out).expm1_().neg_().log_().add_(std)


def _is_small(std: Tensor) -> bool:
    """Returns True if the series holds; not on other devices than the CPU, where the answer would take long."""
    if std.device.type != "cpu" or std.dtype != torch.float32 or torch.compiler.is_compiling():
        return False
    return std.numel() > 0 and float(std.max()) <= _MAX_SMALL
