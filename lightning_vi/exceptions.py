"""Errors of the package's own."""


class NotFittedError(RuntimeError):
    """Raised when something is asked of an object that only fitting it provides."""
