"""Sphinx configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "lightning_vi"
author = "the lightning_vi authors"
copyright = "the lightning_vi authors"

extensions = [
    "benchmark_ranks",
    "mathml",
    "method_reference",
    "module_reference",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "lightning_vi"
html_static_path = ["_static"]
html_css_files = ["tutorials.css"]
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "py:obj"
suppress_warnings = ["ref.python"]
html_show_sourcelink = False
