"""Errors that are caused by the user's input."""


class InputError(Exception):
    """Base class of errors that are caused by the user's input.

    The message names the argument, the value and what was expected, so it needs no traceback: the console script prints
    it in one line. Every subclass is also the built-in exception that Python code expects in its place.

    Example:
        >>> try:
        ...     raise InputValueError("batch_size must be an integer >= 1, got 0")
        ... except InputError as error:
        ...     print(f"error: {error}")
        error: batch_size must be an integer >= 1, got 0
    """


class InputValueError(InputError, ValueError):
    """An argument or a batch of data has a wrong value.

    Example:
        >>> issubclass(InputValueError, ValueError)
        True
    """


class InputTypeError(InputError, TypeError):
    """An argument or a batch of data has a wrong type.

    Example:
        >>> issubclass(InputTypeError, TypeError)
        True
    """


class NotFittedError(InputError, RuntimeError):
    """A method was asked for predictions before it was fitted.

    Example:
        >>> issubclass(NotFittedError, RuntimeError)
        True
    """


class DivergenceError(InputError, FloatingPointError):
    """A fit has diverged: its loss or its weights are no longer finite, or have grown beyond any sense.

    Example:
        >>> issubclass(DivergenceError, FloatingPointError)
        True
    """
