"""The parser of the commands that run a Trainer."""

import importlib
import inspect
import re
import sys
from typing import Any, NoReturn

import yaml
from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser

import lightning_vi.backbones
import lightning_vi.datamodules
import lightning_vi.likelihoods
import lightning_vi.methods
import lightning_vi.priors
from lightning_vi.arguments import accepted_arguments, suggestion
from lightning_vi.cli.method_help import plain_defaults

ROOMS = (
    lightning_vi.methods,
    lightning_vi.likelihoods,
    lightning_vi.backbones,
    lightning_vi.datamodules,
    lightning_vi.priors,
)
KEYS = (
    *("approximation", "config", "print_config", "seed_everything", "trainer", "model", "data", "prediction_writer"),
    "ckpt_path",
)


class MethodParser(LightningArgumentParser):
    """A parser with errors in one line, suggestions for misspelled keys, and the options of the methods.

    Args:
        *args: As for `LightningArgumentParser`.
        appendix: Text after the help.
        **kwargs: As for `LightningArgumentParser`.
    """

    def __init__(self, *args: Any, appendix: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._appendix = appendix

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Returns the help with the options of the methods.

        Args:
            *args: As for `LightningArgumentParser`.
            **kwargs: As for `LightningArgumentParser`.

        Returns:
            The text.
        """
        text: str = super().format_help(*args, **kwargs)
        return text + self._appendix

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Writes a configuration; one that the user wants to see has all options of the method.

        Args:
            namespace: The configuration.
            *args: As for `LightningArgumentParser`.
            **kwargs: As for `LightningArgumentParser`.

        Returns:
            The text.
        """
        text: str = super().dump(namespace, *args, **kwargs)
        is_printed = hasattr(getattr(self, "parent_parser", self), "print_config")
        return _completed(text) if is_printed and not kwargs.get("skip_default") else text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the process with status 2 after one line on standard error.

        Args:
            message: What is wrong.
            ex: The exception.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        name = parser.prog.replace("[options] ", "").replace(" [options]", "")
        sys.stderr.write(f"{name}: error: {explain(message)}\n")
        sys.exit(2)


def explain(message: str) -> str:
    r"""Writes the parser's message in one line, and what the user may have meant.

    Args:
        message: The message.

    Returns:
        One line.

    Example:
        >>> explain("Problem with given class_path 'lightning_vi.IVON':\n Option 'hess_int' is not accepted")
        "lightning_vi.IVON: Option 'hess_int' is not accepted: did you mean hess_init?"
    """
    text = " ".join(message.split())
    if option := re.search(r"Option '(\w+)' is not accepted", text):
        paths = re.findall(r"class_path '([\w.]+)'", text[: option.start()])
        kind = _import(paths[-1]) if paths else None
        if kind is not None:
            return f"{paths[-1]}: {option[0]}{_unless_long(suggestion(option[1], accepted_arguments(kind)))}"
    if option := re.search(r"(?:does not accept option '|unrecognized arguments: --)(?:(trainer)\.)?(\w+)", text):
        known = accepted_arguments(Trainer) if option[1] else KEYS
        return text + _unless_long(suggestion(option[2], known))
    if unknown := re.search(r"Expected a dot import path string: (\w+)", text):
        names = [name for room in ROOMS for name in room.__all__]
        return f"there is no class {unknown[1]}{_unless_long(suggestion(unknown[1], names))} ({text})"
    return text


def _unless_long(text: str) -> str:
    return text if text.startswith(":") else ""


def _import(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module or "lightning_vi"), name)
    except (ImportError, AttributeError):
        return None
    return kind if inspect.isclass(kind) else None


def _completed(text: str) -> str:
    """A configuration with the defaults of the method that the parser left out."""
    content = yaml.safe_load(text)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or (kind := _import(model.get("class_path", ""))) is None:
        return text
    given = model.get("init_args") or {}
    missing = {name: value for name, value in plain_defaults(kind).items() if name not in given}
    if not missing:
        return text
    model["init_args"] = {**given, **missing}
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    return header + yaml.safe_dump(content, sort_keys=False)
