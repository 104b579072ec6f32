"""Sphinx directives that read the documented methods from the package.

- ``.. method-table::`` makes a table of all methods of each room, with links to their pages. A method that no page
  documents is a warning.
- ``.. method-reference:: NAME`` documents a method under the name that users import, ``lightning_vi.NAME``: the
  formulas of its module, then the class. Listed are the public members that no base class has, or those in the option
  ``:members:``.
- ``.. room-reference:: MODULE`` does the same for all methods of a room.
"""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole
from sphinx.util.nodes import make_refnode

from lightning_vi import methods

logger = logging.getLogger(__name__)


class method_link(nodes.Inline, nodes.TextElement):  # noqa: N801
    """A link to the page that documents a method; resolved when all pages are read."""


class MethodLink(SphinxRole):
    """Role that links to a method's page, such as ``:method-page:`MeanFieldVI```."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        link = method_link("", "", nodes.literal(self.text, self.text, classes=["xref"]), method=self.text)
        self.set_source_info(link)
        return [link], []


def resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Points each link to the page on which its method is documented."""
    objects = app.env.domains.python_domain.objects
    for link in list(doctree.findall(method_link)):
        name = f"lightning_vi.{link['method']}"
        if name in objects:
            link.replace_self(make_refnode(app.builder, docname, objects[name].docname, None, link.children, name))
        else:
            logger.warning("no page documents %s", name, location=link, type="ref", subtype="method")
            link.replace_self(link.children)


def is_base(kind: type) -> bool:
    return inspect.isabstract(kind) or kind.__module__.endswith(".base")


def methods_of(room: ModuleType) -> list[str]:
    """Public names of the methods in a room, without base classes."""
    kinds = {name: getattr(methods, name) for name in methods.__all__}
    prefix = f"{room.__name__}."
    return [name for name, kind in kinds.items() if kind.__module__.startswith(prefix) and not is_base(kind)]


def rooms() -> list[ModuleType]:
    """Modules that define methods, the largest first, and calibrations last."""
    packages = [
        importlib.import_module(f"{methods.__name__}.{module.name}")
        for module in pkgutil.iter_modules(methods.__path__)
        if module.ispkg
    ]
    packages.sort(key=lambda room: -len(methods_of(room)))
    return [*packages, importlib.import_module("lightning_vi.calibration")]


def summary(kind: object) -> str:
    """First line of a docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0]


class MethodTable(SphinxDirective):
    """A table of methods for each room, or for the room that is given."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        chosen = [importlib.import_module(self.arguments[0])] if self.arguments else rooms()
        lines = []
        for room in chosen:
            if not self.arguments:
                lines += [f".. rubric:: {summary(room).rstrip('.')}", ""]
            lines += [".. list-table::", "   :widths: 25 75", ""]
            for name in methods_of(room):
                lines += [f"   * - :method-page:`{name}`", f"     - {summary(getattr(methods, name))}"]
            lines.append("")
        return self.parse_text_to_nodes("\n".join(lines))


def reference(name: str, members: str | None = None) -> list[str]:
    """Source text that documents a method under its public name."""
    kind: Any = getattr(methods, name)
    if members is None:
        inherited = {member for base in kind.__mro__[1:] for member in vars(base)}
        members = ", ".join(
            member
            for member, value in vars(kind).items()
            if not member.startswith("_") and member not in inherited and not isinstance(value, str | int | float)
        )
    chosen = [f"   :members: {members}"] if members else []
    return [f".. automodule:: {kind.__module__}", "", f".. autoclass:: lightning_vi.{name}", *chosen, ""]


class MethodReference(SphinxDirective):
    """The reference of one method."""

    required_arguments = 1
    option_spec: ClassVar = {"members": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        return self.parse_text_to_nodes("\n".join(reference(self.arguments[0], self.options.get("members"))))


class RoomReference(SphinxDirective):
    """The reference of all methods of a room."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        names = methods_of(importlib.import_module(self.arguments[0]))
        return self.parse_text_to_nodes("\n".join(line for name in names for line in reference(name)))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(method_link)
    app.add_role("method-page", MethodLink())
    app.add_directive("method-table", MethodTable)
    app.add_directive("method-reference", MethodReference)
    app.add_directive("room-reference", RoomReference)
    app.connect("doctree-resolved", resolve_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
