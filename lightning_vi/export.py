"""Predictions as a module for `torch.export`."""

import copy

import torch
from torch import Tensor, nn

from lightning_vi.core import Predictor
from lightning_vi.sampling import NetworkInput
from lightning_vi.tracing import using_last_prediction

OLDEST_TORCH = "2.9"


class PredictionModule(nn.Module):
    """The predictions of a fitted method as a module that `torch.export.export` takes.

    The sampled networks are constants of the exported program.

    Args:
        method: A fitted method, calibration or ensemble; it is copied.
        x: An example of the input, each tensor of shape [B, ...], for a first prediction.
        num_samples: S; `num_mc_samples_test` by default.
        seed: Names the S networks; the same ones as in `Predictor.predict` by default.

    Raises:
        NotFittedError: If the method is not fitted.
        RuntimeError: If PyTorch is older than 2.9, whose `torch.export` fails, or gives other numbers.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method, x = MeanFieldVI(MLP(2, [8], 1), Gaussian()), torch.randn(4, 2)
        >>> rows = torch.export.Dim("rows")
        >>> program = torch.export.export(PredictionModule(method, x), (x,), dynamic_shapes={"x": {0: rows}})
        >>> x = torch.randn(9, 2)
        >>> torch.allclose(program.module()(x)["pred"], method.predict(x).mean)
        True
    """

    def __init__(
        self, method: Predictor, x: NetworkInput, *, num_samples: int | None = None, seed: int | None = None
    ) -> None:
        if torch.__version__ < OLDEST_TORCH:
            raise RuntimeError(
                f"PredictionModule needs torch {OLDEST_TORCH} or newer, whose torch.export traces predictions, but "
                f"this is torch {torch.__version__}; install a newer one, or serve the method itself"
            )
        super().__init__()
        self.method = copy.deepcopy(method).eval().requires_grad_(False)
        self.num_samples = num_samples
        self.seed = seed
        self.method.predict(x, num_samples, seed)

    def forward(self, x: NetworkInput) -> dict[str, Tensor]:
        """Predicts.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            See `Prediction.as_dict`.
        """
        with using_last_prediction():
            return self.method.predict(x, self.num_samples, self.seed).as_dict()
