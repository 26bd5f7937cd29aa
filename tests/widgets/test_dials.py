"""Dials: what they change, what is drawn of it, and what a page without a kernel shows."""

import pytest

from cnlab.errors import CnlabError, InvalidValue
from cnlab.widgets.dials import Dials
from cnlab.widgets.mimebundle import WIDGET_VIEW
from cnlab.widgets.stacks import draw_stacks

CHOICES = {"retries": [0, 3], "budget": ["none", "20 %"]}


@pytest.fixture
def turned():
    """Where the dials have stood."""
    return []


@pytest.fixture
def dials(turned):
    """Dials that draw the number of retries."""

    def turn(retries, budget):
        turned.append((retries, budget))
        return draw_stacks({"calls": {"sent": 1 + retries}}, unit="calls")

    return Dials(turn, CHOICES)


def test_first_values_are_where_the_dials_begin(dials, turned):
    """The still form shows something that has really been done."""
    assert [(0, "none")] == turned
    assert "With retries 0, budget none: Bars in calls. calls: sent 1." == repr(dials)


def test_dial_may_begin_in_the_middle_of_its_scale(turned):
    """A slider whose values are out of order cannot be read."""

    def turn(*values):
        turned.append(values)
        return draw_stacks({"calls": {"sent": 1}}, unit="calls")

    live = Dials(turn, CHOICES, start={"retries": 3})._live()

    assert [(3, "none")] == turned
    assert live.children[0].value == 3


def test_turning_one_dial_keeps_the_others_and_draws_anew(dials, turned):
    """A reader moves one thing at a time."""
    retries, _budget, _message, image = dials._live().children
    before = image.value
    retries.value = 3

    assert (3, "none") == turned[-1]
    assert image.value != before


def test_value_that_a_dial_cannot_stand_at_is_refused(dials):
    """Otherwise the picture would show what nobody can choose."""
    with pytest.raises(InvalidValue, match="dial 'retries': 7 is not among"):
        dials.set(retries=7)


def test_dial_without_values_is_refused():
    with pytest.raises(InvalidValue, match="each needs a value"):
        Dials(lambda empty: None, {"empty": []})


def test_what_goes_wrong_is_said_in_a_line(turned):
    """The mesh may have ended while the page is still open."""

    def turn(number):
        if number:
            raise CnlabError("control plane: not running")
        return draw_stacks({"a": {"b": 1}}, unit="calls")

    dial, message, _image = Dials(turn, {"number": [0, 1]})._live().children
    dial.value = 1

    assert "control plane: not running" == message.value


def test_still_form_has_the_picture_and_names_the_dials(dials):
    """The book shows the same although no kernel runs there."""
    bundle = dials._repr_mimebundle_()

    assert WIDGET_VIEW in bundle
    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert "dials change these: retries, budget." in bundle["text/html"]
