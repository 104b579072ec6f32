"""Methods of uncertainty quantification, and calibration of any method.

Each subpackage lists its methods in its ``__init__.py``, one per line.
"""

from typing import TYPE_CHECKING

from lightning_vi.calibration import *  # noqa: F403
from lightning_vi.core import Predictor as Predictor
from lightning_vi.core import UQMethod as UQMethod
from lightning_vi.errors import NotFittedError as NotFittedError
from lightning_vi.methods.averaging import *  # noqa: F403
from lightning_vi.methods.deterministic import *  # noqa: F403
from lightning_vi.methods.ensembles import *  # noqa: F403
from lightning_vi.methods.laplace import *  # noqa: F403
from lightning_vi.methods.monte_carlo import *  # noqa: F403
from lightning_vi.methods.variational import *  # noqa: F403

if not TYPE_CHECKING:
    __all__ = sorted(name for name, value in globals().items() if isinstance(value, type))
