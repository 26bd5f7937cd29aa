"""Tick boxes, and what can be done with what they give."""

from cnlab.widgets.attempts import Attempts

CHOICES = ("key", "ladder")


def try_out(ticked):
    return {"open the door": "" if "key" in ticked else "it is <locked>", "walk": ""}


def test_still_form_says_what_works_and_why_the_rest_does_not():
    """In the book there is nothing to tick."""
    bundle = Attempts(try_out, CHOICES)._repr_mimebundle_()

    assert "it is &lt;locked&gt;" in bundle["text/html"]
    assert "none of them" in bundle["text/html"]
    assert "With none of them:\nopen the door: it is <locked>\nwalk: works" == bundle["text/plain"]


def test_ticking_a_box_tries_everything_anew():
    """A table that does not change with its boxes would be a picture of one."""
    attempts = Attempts(try_out, CHOICES)
    attempts._repr_mimebundle_()
    attempts._boxes["key"].value = True

    assert {"open the door": "", "walk": ""} == attempts.reasons
    assert "locked" not in attempts._table.value


def test_boxes_begin_as_they_were_asked_for():
    attempts = Attempts(try_out, CHOICES, ticked=["key"])
    attempts._repr_mimebundle_()

    assert {"key": True, "ladder": False} == {name: box.value for name, box in attempts._boxes.items()}
