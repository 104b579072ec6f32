"""Uncertainty quantification by variational inference, on PyTorch Lightning.

Every name in `lightning_vi.methods.__all__` and every submodule is an attribute of this package. They are imported at
first use (PEP 562), so that `import lightning_vi` and the help of the console script do not import PyTorch.

Example:
    >>> from lightning_vi import MeanFieldVI
    >>> MeanFieldVI.__name__
    'MeanFieldVI'
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_vi.methods import *  # noqa: F403
else:
    from importlib import import_module
    from importlib.util import find_spec

    def __getattr__(name):
        if name == "__all__":
            return import_module("lightning_vi.methods").__all__
        if name == "__version__":
            return import_module("lightning_vi.version").version_of("lightning-vi")
        if not name.startswith("_"):
            if find_spec(f"lightning_vi.{name}"):
                return import_module(f"lightning_vi.{name}")
            methods = import_module("lightning_vi.methods")
            if name in methods.__all__:
                return getattr(methods, name)
        raise AttributeError(f"module 'lightning_vi' has no attribute {name!r}", name=name)

    def __dir__():
        return sorted({*globals(), *__getattr__("__all__")})
