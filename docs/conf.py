"""Settings of the documentation: ``sphinx-build -W -n --keep-going -b html docs build/docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import flask_executor_typed  # noqa: E402  # found through the line above

project = "flask-executor-typed"
author = "The flask-executor-typed developers"
copyright = author  # noqa: A001  # Sphinx's own name for it
version = release = flask_executor_typed.__version__

extensions = ["pallets_sphinx_themes", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # The documentation of others is not loaded, so that the build needs no network.
    (r"py:.*", r"(asyncio|concurrent\.futures|contextvars|queue|werkzeug)\..*"),
]

autodoc_member_order = "bysource"
# Signatures show names and defaults. The types are in many overloads, which an editor shows better
# than a page can; typing.rst explains them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
add_module_names = False  # the page says once where its names come from

toc_object_entries_show_parents = "hide"

html_theme = "flask"
html_sidebars = {
    "**": ["globaltoc.html", "localtoc.html", "searchbox.html"],
    "404": [],  # made by the theme; a table of contents cannot be rendered on it
}
html_title = f"flask-executor-typed {version}"
html_show_sourcelink = False
html_copy_source = False


def _include_changelog(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append CHANGELOG.md to its page. It uses headings, lists, emphasis and code, no more."""
    if docname != "changelog":
        return
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    text = re.sub(r"\A# .*\n", "", text)  # the page has a title of its own
    text = re.sub(r"(?<!`)`([^`\n]+)`(?!`)", r"``\1``", text)
    source[0] += "\n" + re.sub(r"^(##+) (.*)$", _heading, text, flags=re.MULTILINE)


def _heading(match: re.Match[str]) -> str:
    underline = {"##": "-", "###": "~"}[match[1]]
    return f"{match[2]}\n{underline * len(match[2])}"


def setup(app: Sphinx) -> None:
    app.connect("source-read", _include_changelog)
