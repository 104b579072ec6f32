"""Options of the methods, for the help and for printed configurations."""

import inspect
import textwrap
from typing import Any

from docstring_parser import parse

from lightning_vi.arguments import accepted_arguments
from lightning_vi.compare.entries import public_classes
from lightning_vi.core import Predictor

WIDTH = 100


def plain_defaults(method: type) -> dict[str, Any]:
    """Returns the defaults of a method that a configuration file can hold.

    Args:
        method: The class.

    Returns:
        Numbers, strings, lists, None, and paths of functions, by option.
    """
    return {
        name: value
        for name, default in accepted_arguments(method).items()
        if (value := _plain(default)) is not inspect.Parameter.empty
    }


def options_text(name: str | None) -> str:
    """Writes the options of one method with their descriptions, or the names of those of all methods.

    Args:
        name: Name of the method, with or without its module; None for all.

    Returns:
        Text for the help.
    """
    kind = None if name is None else public_classes().get(name.rpartition(".")[2])
    if kind is not None:
        return f"\noptions of {kind.__name__}, as --model.NAME VALUE or under model.init_args:\n{_described(kind)}"
    lines = [
        _listed(each)
        for each in public_classes().values()
        if issubclass(each, Predictor) and not inspect.isabstract(each)
    ]
    return "\n".join(
        [
            "\noptions of each method, as --model.NAME VALUE or under model.init_args (fit --model METHOD --help, or",
            "fit --config FILE --help, describes them):",
            *lines,
            "",
        ]
    )


def _described(kind: type) -> str:
    descriptions = _descriptions(kind)
    lines = []
    for option, default in accepted_arguments(kind).items():
        value = _plain(default)
        end = " (required)" if default is inspect.Parameter.empty else ""
        if value is not inspect.Parameter.empty:
            end = f" (default: {value})"
        text = f"{descriptions.get(option, '')}{end}".strip()
        lines += [f"  --model.{option}", textwrap.fill(text, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)]
    return "\n".join(lines) + "\n"


def _listed(kind: type) -> str:
    names = [name for name in accepted_arguments(kind) if name not in ("backbone", "likelihood")]
    text = f"{kind.__name__}: {', '.join(names)}"
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent=" " * 6, break_on_hyphens=False)


def _descriptions(kind: type) -> dict[str, str]:
    """Descriptions of the arguments from the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed([each for each in kind.__mro__ if issubclass(each, Predictor)]):
        for parameter in parse(inspect.cleandoc(base.__doc__ or "")).params:
            text = " ".join((parameter.description or "").split()).replace("``", "").replace("`", "")
            if not text.startswith("As for "):
                found[parameter.arg_name] = text
    return found


def _plain(default: Any) -> Any:
    """A default as a configuration file holds it; `inspect.Parameter.empty` if it cannot."""
    if default is None or isinstance(default, bool | int | float | str):
        return default
    if isinstance(default, tuple | list):
        return [_plain(each) for each in default]
    if inspect.isfunction(default):
        return f"{default.__module__}.{default.__qualname__}"
    return inspect.Parameter.empty
