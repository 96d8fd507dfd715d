"""How Sphinx renders the pages: `sphinx-build -W --keep-going docs site` writes them to site/."""

from importlib.metadata import version as version_of

project = "distillgen"
version = release = version_of("distillgen")
copyright = "distillgen contributors, Apache-2.0"  # noqa: A001
extensions = ["myst_nb", "sphinx_external_toc"]  # myst_nb reads Markdown as myst_parser does, and notebooks
nb_execution_mode = "off"  # a test runs them
external_toc_path = "_toc.yml"  # the navigation, so that the pages hold plain Markdown only
myst_heading_anchors = 3  # links to headings, with the anchors that forges give them
exclude_patterns = ["examples", "**/examples", "**/*.py", "**/_toc.yml"]
html_theme = "furo"
html_title = "distillgen"
html_extra_path = ["."]  # the Markdown of each page beside its HTML, for llms.txt
html_copy_source = False
