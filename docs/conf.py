"""How the documentation is built: sh scripts/docs.

The source directory is the repository: pages link to each other as their files do.
"""

from typing import TYPE_CHECKING

import suture

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Suture"
author = "The Suture developers"
version = release = suture.__version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "examples/**", "benchmarks/README.md"]
exclude_patterns = ["docs/_build"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Suture"
html_extra_path = ["start"]  # where a browser begins

# The notebooks are kept with what they printed and drew, as not everybody has OpenFOAM. That they
# run is what `sh scripts/examples` checks, and tests/test_docs.py that the blocks of pages do.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

# Docstrings write `code` as Markdown does.
default_role = "code"
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = [("Calling it raises", "raises")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}


def _formulas_as_they_are(
    app: object, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Have indented paragraphs of a docstring shown as they are: formulas, tables, drawings."""
    text = ""
    for paragraph in "\n".join(lines).split("\n\n"):
        indented = all(line.startswith("    ") for line in paragraph.splitlines())
        follows_text = bool(text) and text.splitlines()[-1][:1] not in (" ", ":", ".", ">", "*")
        text += ("\n\n::\n\n" if indented and paragraph and follows_text else "\n\n") + paragraph
    lines[:] = text.strip("\n").splitlines()


def _no_type(
    app: object, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Keep napoleon from taking what stands before a colon for the type of an attribute."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # a comment, without a colon


def setup(app: "Sphinx") -> None:
    """Look at docstrings before napoleon does, and after it."""
    app.connect("autodoc-process-docstring", _no_type, priority=400)
    app.connect("autodoc-process-docstring", _formulas_as_they_are, priority=600)
