"""Sphinx's settings: python -m sphinx -W -b html docs site. Nothing is fetched; the API pages are made from the docstrings."""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import ovdense  # noqa: E402

project = "ovdense"
author = "the ovdense authors"
copyright = "the ovdense authors, Apache-2.0"  # noqa: A001
version = release = ovdense.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "plain_docstrings", "model_table"]
exclude_patterns = ["_ext", "examples/*.py"]
html_theme = "furo"
html_title = f"ovdense {release}"
html_static_path = ["_static"]
html_css_files = ["ovdense.css"]
html_theme_options = {"sidebar_hide_name": False, "light_css_variables": {"color-brand-primary": "#0b6e4f", "color-brand-content": "#0b6e4f"},
                      "dark_css_variables": {"color-brand-primary": "#5bd1a5", "color-brand-content": "#5bd1a5"}}
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}
default_role = "code"
pygments_style = "tango"
pygments_dark_style = "monokai"
suppress_warnings = ["toc.not_included"]  # a page is found by search before it has its place in index.md
