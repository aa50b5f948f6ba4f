"""How Sphinx builds the site from these pages: ``sphinx-build -W --keep-going docs build/site``.

The site is read from files without a network. So the search shows titles alone, since such a page may not load others,
and pages have no formulas: Sphinx would fetch MathJax for them.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "divdet"
version = release = installed("divdet")
copyright = "the authors of divdet, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docs.site.pages",
    "docs.site.field_links",
]
exclude_patterns = ["pictures"]

# Markdown: anchors of headings as GitHub has them, definition lists
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Class attributes", "params_style")]

highlight_language = "text"  # of blocks without a language, which are outputs

html_theme = "furo"
html_title = "divdet"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False
html_static_path = ["site/static"]
html_css_files = ["site.css"]
copybutton_exclude = ".linenos, .gp, .go"
