"""Pictures: what a front end, the book and a screen reader get."""

import base64

from cnlab.widgets.mimebundle import picture_to_html
from cnlab.widgets.picture import PAPER, new_figure, picture


def test_picture_carries_its_alternative_text_beside_the_png():
    """The book takes the text beside an image as its alternative text."""
    data, metadata = picture(new_figure(4, 2), alt="two\n boxes")._repr_mimebundle_()

    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"] == "two boxes"
    assert {"image/png": {"alt": "two boxes", "width": 384}} == metadata


def test_figure_stands_on_paper():
    """A transparent figure is unreadable in one of the two themes."""
    red, green, blue, alpha = new_figure(1, 1).get_facecolor()

    assert PAPER == "#" + "".join(f"{round(channel * 255):02x}" for channel in (red, green, blue))
    assert alpha == 1


def test_figure_in_html_escapes_its_alternative_text():
    """A quotation mark in the text must not end the attribute."""
    html = picture_to_html(picture(new_figure(1, 1), alt='say "no"'))

    assert '<img alt="say &quot;no&quot;" src="data:image/png' in html
