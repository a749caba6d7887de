"""The documentation site: the repository's Markdown pages where they lie, and a reference from the code.

Sphinx reads from the root of the repository, so that links between pages are the same here and on a
page that shows the repository. `make docs` builds the site; it needs no network.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs" / "extensions"), str(ROOT / "src")]

from flag_st import __version__  # noqa: E402

project, author, release = "flag-st", "flag-st developers", __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
    "config_keys",
    "docstrings",
    "plugins",
    "mathml",
]
root_doc = "docs/index"
include_patterns = ["*.md", "config/*.md", "docs/**", "profiles/**/*.md", "results/README.md"]
#: Folders that have no pages are not even looked through.
READ = {"config", "docs", "profiles", "results"}
exclude_patterns = [p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in READ]
exclude_patterns += ["docs/_build", "docs/site", "results/[!R]*"]

# Markdown as GitHub reads it: anchors of headings, mathematics between dollar signs, diagrams.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]

# The reference from docstrings, in Google's style.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# A type in quotes names a class that is called the same in several modules.
suppress_warnings = ["ref.python"]
default_role = "code"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Class attributes", "Attributes")]
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "flag-st"
html_extra_path = ["site"]
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
# All pages are listed beside each of them, below the captions of the index.
html_sidebars = {"**": ["globaltoc"]}
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "navbar_center": []}
