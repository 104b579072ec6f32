"""Sphinx directives that write the reference of a module, and of the options of its classes.

- ``.. module-reference:: MODULE`` documents the public names of a module: its docstring, a table of contents with the
  first line of each docstring, and one section for each file that defines names. ``:names:`` chooses names, and
  ``:exclude-members:`` leaves members of classes out.
- ``.. class-options:: MODULE`` is a table of all classes of a module with the arguments of their constructors, those
  that they pass on to base classes included.
- ``.. command-options::`` are the options of the commands of the console script.

Arguments that a class passes on as ``**arguments`` are spelled out, with the descriptions of the class that has them.
"""

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any, ClassVar, get_type_hints

from docstring_parser import parse
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation

from lightning_vi.arguments import accepted_arguments
from lightning_vi.cli import compare, configs, init, plot, report

NO_DEFAULT = inspect.Parameter.empty
COMMANDS = (init, configs, compare, plot, report)


def summary(value: object) -> str:
    """First line of a docstring, in reStructuredText."""
    return (inspect.getdoc(value) or "").partition("\n")[0]


def public_names(module: ModuleType, chosen: str | None) -> list[str]:
    """The chosen names, or those of a package's `__all__`, or the functions and classes that a file defines."""
    if chosen is not None:
        return [name.strip() for name in chosen.split(",")]
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
    return sorted(names, key=str.lower)


def is_documented(value: object) -> bool:
    return (inspect.isclass(value) or inspect.isroutine(value)) and hasattr(value, "__module__")


def grouped(module: ModuleType, names: list[str]) -> dict[str, list[str]]:
    """Names by the file that defines them; constants are in a group of their own, last."""
    groups: dict[str, list[str]] = {}
    constants = []
    for name in names:
        value = getattr(module, name)
        if is_documented(value):
            groups.setdefault(value.__module__, []).append(name)
        else:
            constants.append(name)
    return groups | ({"": constants} if constants else {})


def title_of(file: str, path: str, names: list[str]) -> str:
    """Title of the section of one file; the names themselves for constants and those that another module has."""
    if not file.startswith(path):
        return ", ".join(names)
    return summary(sys.modules[file]).rstrip(".").replace("`", "")


def entry(module: str, name: str, value: object, excluded: str) -> list[str]:
    """Source text that documents one name."""
    if not is_documented(value):
        return [f".. autodata:: {module}.{name}", ""]
    if not inspect.isclass(value):
        return [f".. autofunction:: {module}.{name}", ""]
    leave_out = [f"   :exclude-members: {excluded}"] if excluded else []
    return [f".. autoclass:: {module}.{name}", "   :members:", *leave_out, ""]


def link(module: str, name: str, value: object) -> str:
    kind = "class" if inspect.isclass(value) else "func" if is_documented(value) else "data"
    return f":py:{kind}:`{name} <{module}.{name}>`"


class ModuleReference(SphinxDirective):
    """The reference of one module."""

    required_arguments = 1
    option_spec: ClassVar = {"names": directives.unchanged, "exclude-members": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        module = importlib.import_module(path)
        groups = grouped(module, public_names(module, self.options.get("names")))
        lines = [f".. automodule:: {path}", "", ".. list-table::", "   :widths: 34 66", ""]
        for name in (name for names in groups.values() for name in names):
            value = getattr(module, name)
            text = summary(value) if is_documented(value) else ""
            lines += [f"   * - {link(path, name, value)}", f"     - {text}"]
        lines.append("")
        for file, names in groups.items():
            if len(groups) > 1:
                title = title_of(file, path, names)
                lines += [title, "-" * len(title), ""]
            for name in names:
                lines += entry(path, name, getattr(module, name), self.options.get("exclude-members", ""))
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def default_text(default: Any) -> str:
    """A default as a reader would write it; empty if it is required."""
    if default is NO_DEFAULT:
        return ""
    name = default.__name__ if inspect.isroutine(default) or inspect.isclass(default) else repr(default)
    return f" = {name}"


def is_configurable(kind: object) -> bool:
    """Returns True if a configuration file can make objects of a class."""
    if not inspect.isclass(kind) or inspect.isabstract(kind) or is_dataclass(kind):
        return False
    return not issubclass(kind, BaseException | dict)


class ClassOptions(SphinxDirective):
    """The constructor arguments of all classes of a module."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        module = importlib.import_module(path)
        prefix = "lightning_vi" if path == "lightning_vi.methods" else path
        lines = [".. list-table::", "   :widths: 30 70", ""]
        for name in sorted(module.__all__, key=str.lower):
            kind = getattr(module, name)
            if not is_configurable(kind):
                continue
            options = [f"``{each}{default_text(value)}``" for each, value in accepted_arguments(kind).items()]
            lines += [f"   * - {link(prefix, name, kind)}", f"     - {', '.join(options)}"]
        return self.parse_text_to_nodes("\n".join([*lines, ""]))


class CommandOptions(SphinxDirective):
    """Tables of the options of the commands that do not run a Trainer."""

    def run(self) -> list[nodes.Node]:
        commands = argparse.ArgumentParser().add_subparsers()
        for module in COMMANDS:
            module.add_command(commands)
        lines = []
        for name, parser in commands.choices.items():
            lines += [f".. rubric:: lightning-vi {name}", "", f"{parser.description}", ""]
            lines += [".. list-table::", "   :widths: 35 65", ""]
            for action in parser._actions:
                if not isinstance(action, argparse._HelpAction):
                    option = " ".join([*(action.option_strings or [action.metavar or action.dest])][:1])
                    text = (action.help or "").replace("%(default)s", str(action.default))
                    end = " (required)" if action.required and action.option_strings else ""
                    lines += [f"   * - ``{option}``", f"     - {text}{end}"]
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


def described(kind: type) -> dict[str, tuple[str, str]]:
    """Descriptions of the arguments of a class and its bases, with the name of the class that has each."""
    found = {}
    for base in reversed(kind.__mro__):
        for parameter in parse(inspect.cleandoc(base.__doc__ or "")).params:
            if not parameter.arg_name.startswith("*"):
                found[parameter.arg_name] = (" ".join((parameter.description or "").split()), base.__name__)
    return found


def passed_on(kind: type) -> Iterator[str]:
    """Lines of an ``Args`` section for the arguments that a class passes on."""
    own = inspect.signature(kind).parameters
    packed = next(each for each in own.values() if each.kind is each.VAR_KEYWORD).annotation
    types = get_type_hints(packed.__args__[0])
    descriptions = described(kind)
    for name, default in accepted_arguments(kind).items():
        if name in own:
            continue
        text, owner = descriptions[name]
        kind_text = stringify_annotation(types[name], "smart").replace("~", "")
        value = "" if default is NO_DEFAULT or "efault" in text else f" Default: ``{default_text(default)[3:]}``."
        yield f"{name} ({kind_text}): {text}{value} (of `{owner}`)"


def spell_out(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Puts the arguments that a class passes on in place of its ``**arguments``."""
    if what != "class":
        return
    start = next((number for number, line in enumerate(lines) if line.lstrip().startswith("**arguments:")), None)
    if start is None:
        return
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    stop = start + 1
    while stop < len(lines) and lines[stop].startswith(f"{indent} "):
        stop += 1
    note = " ".join(line.strip() for line in lines[start:stop]).partition(":")[2].strip()
    lines[start:stop] = [*(f"{indent}{line}" for line in passed_on(obj)), ""]
    first = next(number for number, line in enumerate(lines) if line.strip() == "Args:")
    lines[first:first] = [f"Arguments of the base class: {note}", ""]


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("module-reference", ModuleReference)
    app.add_directive("class-options", ClassOptions)
    app.add_directive("command-options", CommandOptions)
    app.connect("autodoc-process-docstring", spell_out, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
