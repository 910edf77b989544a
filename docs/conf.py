"""How Sphinx builds the pages of this folder into a site: `make site`.

The pages are Markdown that a code host shows as it is; the reference of the Python interface (api.md) comes
from docstrings. Only `annotate_transformer.store` is imported, so a build does not load PyTorch. A reader's
browser needs no network: the theme brings its own files, and formulas are MathML, which browsers draw.
"""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "Annotate Transformer"
author = copyright = "Annotate Transformer contributors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # the anchors of headings are those of a code host

default_role = "code"  # `name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
nitpicky = False  # types of pandas, DuckDB and SQLAlchemy are named without a link


def show_formula(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def escape_bars(_app: Sphinx, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Let |x| in a docstring be an absolute value, and no substitution of reStructuredText."""
    lines[:] = [re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", line) for line in lines]


def setup(app: Sphinx) -> None:
    """Register how formulas and docstrings are read."""
    app.connect("autodoc-process-docstring", escape_bars)
    app.add_html_math_renderer("mathml", (show_formula, None), (show_formula, None))


html_math_renderer = "mathml"
