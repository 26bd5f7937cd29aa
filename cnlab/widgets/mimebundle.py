"""One output, two forms: a live widget, and the same said in HTML and text where nothing is live.

A front end takes the richest type it knows. JupyterLab ranks a widget above HTML while the notebook is
trusted, and takes the HTML otherwise. The rendered book has no kernel, so its settings leave the widget type
out and the HTML is shown.
"""

from __future__ import annotations

import base64
import html
import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipywidgets import DOMWidget
    from matplotlib.figure import Figure

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def mimebundle(live: DOMWidget, *, static_html: str, text: str) -> dict[str, Any]:
    """Return what ``_repr_mimebundle_`` gives for `live` and the two static forms that say the same.

    See: "Messaging in Jupyter", ``display_data``.
    """
    view: dict[str, Any] = live._repr_mimebundle_()
    return {WIDGET_VIEW: view[WIDGET_VIEW], "text/html": static_html, "text/plain": text}


def prose_to_html(prose: str) -> str:
    """Turn plain prose into HTML: characters escaped, text between backticks set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(prose, quote=False))


def prose_to_text(prose: str) -> str:
    """Take the backticks off, for places that know no markup."""
    return prose.replace("`", "")


def figure_to_html(figure: Figure, *, alt: str, dpi: int = 110) -> str:
    """Return `figure` as an ``<img>`` that carries its picture and its alternative text in itself."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}" style="max-width: 100%">'
