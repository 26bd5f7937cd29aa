"""Settings of the rendered book: all is executed, nothing needs a network to be read.

See: myst-nb's documentation, "Execute and cache your notebooks" and "Configuration".
"""

from __future__ import annotations

import html
from datetime import datetime
from functools import partial
from pathlib import Path

import nbclient
from docutils import nodes
from jupyter_cache.executors import utils as jupyter_cache_executors
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

BUILD = Path(__file__).parent.parent / "build"

project = "From Containers to Functions"
author = "the cnlab authors"
project_copyright = f"{author}. Prose and figures: CC BY 4.0. Code: BSD-3-Clause"

extensions = ["myst_nb"]
exclude_patterns = ["**/.ipynb_checkpoints"]

# A notebook is executed again when its code or its kernel changed.
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "book-cache")
nb_execution_timeout = 300
nb_execution_show_tb = True
nb_output_stderr = "warn"

# What a cell prints in several writes is one output, as in JupyterLab. jupyter-cache
# has no setting for that, and nb_merge_streams of myst-nb breaks the line in between.
jupyter_cache_executors.executenb = partial(nbclient.execute, coalesce_streams=True)

# No kernel runs behind a page and no script is fetched from elsewhere: of every output
# the richest form that stands by itself is shown. An output that has only a live form
# is a warning, and so an error.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_mime_priority_overrides = [
    ("html", "application/vnd.jupyter.widget-view+json", None),
    ("html", "application/javascript", None),
]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_favicon = "_static/favicon.svg"
html_use_index = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system has it
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the side bar has a search field already
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_fullscreen_button": False,
}


class ExecutionTable(SphinxDirective):
    """Make room for the table of when, where and how long each notebook ran."""

    def run(self) -> list[nodes.Node]:
        """Have the page read in every build, because notebooks may have run since."""
        self.env.note_reread()
        return [nodes.raw(format="html", classes=["execution-table"])]


def fill_execution_table(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write a row for each page that was executed."""
    rows = [("th", "Notebook", "Seconds", "Kernel", "Python", "When")]
    for name, data in sorted(app.env.nb_metadata.items()):
        if run := data.get("exec_data"):
            page = app.env.metadata[name]
            uri = app.builder.get_relative_uri(docname, name)
            link = f'<a href="{uri}">{html.escape(app.env.titles[name].astext())}</a>'
            kernel = page["kernelspec"]["display_name"]
            python = page["language_info"]["version"]
            when = f"{datetime.fromtimestamp(run['mtime']):%Y-%m-%d %H:%M}"
            rows.append(("td", link, f"{run['runtime']:.1f}", kernel, python, when))
    lines = [
        "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"
        for tag, *cells in rows
    ]
    table = f'<table class="table">{"".join(lines)}</table>'
    for place in doctree.findall(nodes.raw):
        if "execution-table" in place["classes"]:
            place.append(nodes.Text(table))


def describe_images(_app: Sphinx, doctree: nodes.document) -> None:
    """Give each image among the outputs the text beside it as its alternative text."""
    for bundle in doctree.findall(nodes.container):
        if bundle.get("nb_element") == "mime_bundle":
            texts = [form for form in bundle if form["mime_type"] == "text/plain"]
            for image in bundle.findall(nodes.image):
                image.setdefault("alt", "".join(text.astext() for text in texts))


def leave_out_widget_state(_app: Sphinx, env: BuildEnvironment) -> None:
    """Drop the state of live widgets: no page shows them, and it outweighs the page."""
    for data in getattr(env, "nb_metadata", {}).values():
        data.pop("js_files", None)


def setup(app: Sphinx) -> None:
    """Connect the functions above to the build."""
    app.add_directive("execution-table", ExecutionTable)
    app.connect("doctree-read", describe_images)
    app.connect("doctree-resolved", fill_execution_table)
    app.connect("env-updated", leave_out_widget_state)
