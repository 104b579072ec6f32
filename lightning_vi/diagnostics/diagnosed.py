"""Base class of methods whose fits are diagnosed by default."""

from collections.abc import Sequence

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from lightning_vi.diagnostics.callback import VariationalDiagnostics
from lightning_vi.diagnostics.method import PosteriorMethod


class DiagnosedMethod(PosteriorMethod):
    """Base class of methods that add `VariationalDiagnostics` to the Trainer."""

    def configure_callbacks(self) -> Sequence[Callback]:
        """Returns the callback `VariationalDiagnostics` for a fit, unless the Trainer has one."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return []
        callbacks: list[Callback] = getattr(self.trainer, "callbacks", [])
        if any(isinstance(callback, VariationalDiagnostics) for callback in callbacks):
            return []
        return [VariationalDiagnostics()]
