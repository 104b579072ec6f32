"""Formulas as MathML, which browsers show by themselves: no script, no font and no network.

A formula that the converter does not know is a warning, so that `make docs` fails.
"""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

LETTER = re.compile(r"(\\math(?:cal|bf|bb)) ?([A-Za-z0-9])")
"""A letter without braces, of which the converter makes an attribute that browsers ignore."""

UPRIGHT = re.compile(r"\\mathrm(?: ([A-Za-z])|\{([A-Za-z])\})")
"""A single upright letter, which the converter makes italic."""

FUNCTIONS = re.compile(r"<mi>(ln|log|exp|det|sin|cos)</mi>(?!<mo[^>]*>(?:&#x00028;|[(\[]))")

SIZED = re.compile(r'(<msup>|<msub>|<msubsup>|)<mo (minsize="([^"]*)" maxsize="[^"]*")>')
"""A bracket of a given size, which browsers do not enlarge under a superscript or subscript."""

LINE = re.compile(r'<mover>((?:(?!<mover>).)*?)<mo accent="true">&#x02015;</mo></mover>')
BRACE = re.compile(r"<munder>((?:(?!<munder>).)*?)<mo>&#x23DF;</mo></munder>")
"""Lines over and braces under a formula, which few fonts have in any width; they are borders."""

REPLACEMENTS = {
    r"\_": "_",
    r"\|": "‖",
    r"\{": "{",
    r"\}": "}",
    r"\lceil": "⌈",
    r"\rceil": "⌉",
    r"\arg": "arg",
    "<mo>&#x02016;</mo>": '<mo stretchy="false">&#x02016;</mo>',
    "<mi>&#x0007E;</mi>": "<mo>&#x0223C;</mo>",
}
"""Names that the converter leaves within text and after commands of size, or writes as another character."""

logger = logging.getLogger(__name__)


def mathml(latex: str, display: str, location: nodes.Node | None = None) -> str:
    """A formula as a `math` element."""
    if display == "block" and r"\\" in latex and r"\begin" not in latex:
        latex = rf"\begin{{split}} {latex} \end{{split}}"
    latex = UPRIGHT.sub(r"\\text{\1\2}", LETTER.sub(r"\1{\2}", latex.strip()))
    element: str = convert(latex, display=display)
    for written, meant in REPLACEMENTS.items():
        element = element.replace(written, meant)
    element = SIZED.sub(sized, element)
    element = LINE.sub(r'<mrow class="line">\1</mrow>', element)
    element = BRACE.sub(r'<mrow class="brace">\1</mrow>', element)
    element = FUNCTIONS.sub(r'<mi>\1</mi><mspace width="0.17em"/>', element)
    if unknown := re.findall(r"\\\w*|<mi>&</mi>|linebreak", element):
        logger.warning("no MathML for %s in %s", ", ".join(unknown), latex, location=location, type="mathml")
    return element


def sized(found: re.Match[str]) -> str:
    """A bracket of a given size."""
    if found[1]:
        return f'{found[1]}<mo stretchy="false" style="font-size: {found[3]}">'
    return f'<mo {found[2]} stretchy="true" symmetric="true" lspace="0" rspace="0">'


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline", node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(mathml(node.astext(), "block", node))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def add_font(app: Sphinx, config: Config) -> None:  # noqa: ARG001
    """Adds the folder of the font and of its style sheet."""
    if "_static" not in config.html_static_path:
        config.html_static_path.append("_static")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", add_font)
    app.add_css_file("formulas.css")
    app.config.html_math_renderer = "mathml"
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
