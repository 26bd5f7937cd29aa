"""One output, two forms: a live widget, and the same said in HTML and text where nothing is live.

A front end takes the richest type it knows. JupyterLab ranks a widget above HTML while the notebook is
trusted, and takes the HTML otherwise. The rendered book has no kernel, so its settings leave the widget type
out and the HTML is shown.
"""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

    from cnlab.widgets.picture import Picture

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


def picture_to_html(picture: Picture) -> str:
    """Return `picture` as an ``<img>`` that carries the PNG and the alternative text in itself."""
    source = "data:image/png;base64," + base64.b64encode(picture.png()).decode()
    return f'<img alt="{html.escape(picture.alt)}" src="{source}" width="{picture.width_px}">'
