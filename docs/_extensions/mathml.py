"""Formulas as MathML, which browsers show by themselves: no script, no font and no network.

A formula that the converter does not know is a warning, so that `make docs` fails.
"""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

REMAINING = {r"\_": "_", r"\|": "‖"}
"""What the converter leaves within text and after commands of size, with its meaning."""

logger = logging.getLogger(__name__)


def mathml(latex: str, display: str, location: nodes.Node | None = None) -> str:
    """A formula as a `math` element."""
    if display == "block" and r"\\" in latex and r"\begin" not in latex:
        latex = rf"\begin{{aligned}} {latex} \end{{aligned}}"
    element: str = convert(latex.strip(), display=display)
    for command, text in REMAINING.items():
        element = element.replace(command, text)
    if unknown := re.findall(r"\\\w*", element):
        logger.warning("no MathML for %s in %s", ", ".join(unknown), latex, location=location, type="mathml")
    return element


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(mathml(node.astext(), "block", node))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
