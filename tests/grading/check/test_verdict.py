"""A student reads what to do next, in a notebook and in a terminal."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup

from cnlab.grading.check.verdict import Card, TaskVerdict, Verdict

FAILED = Verdict(
    "check-start",
    "failed",
    0,
    2,
    says="It runs in new namespaces.",
    message="AssertionError: expected new namespaces ['uts'], got []; look at unshare(2): who moves?",
    printed="<b>tried</b>\n",
)
PASSED = Verdict("check-end", "passed", 1, 1)
CARD = Card((TaskVerdict("Task 2 · Call `start`", (FAILED, PASSED)),), ("Save it.",))


def test_message_of_a_lab_is_taken_apart() -> None:
    """Expected, got, where to look: three lines are read, a long one is not."""
    assert FAILED.rows == (
        ("expected", "new namespaces ['uts']"),
        ("got", "[]"),
        ("look", "at unshare(2): who moves?"),
    )


@pytest.mark.parametrize("message", ["ValueError: what got you here?", "AssertionError: no", ""])
def test_any_other_message_stays_whole(message: str) -> None:
    """Nothing of it is lost."""
    rows = Verdict("check", "failed", 0, 1, message=message).rows

    assert rows == ((("", message.removeprefix("AssertionError: ")),) if message else ())


def test_lines_and_page_say_the_same() -> None:
    """A terminal and a screen reader get all that the card has."""
    page = BeautifulSoup(CARD.as_html(), "html.parser").get_text(" ")
    for word in ("Task 2 · Call start", "check-start", "failed, 0 of 2 points", "at unshare(2): who moves?"):
        assert word in CARD.as_text()
        assert word in " ".join(page.split())
    assert "1 of 3 points" in page


def test_what_was_printed_is_no_markup() -> None:
    """A page that prints HTML would otherwise be drawn into the card."""
    assert "<b>" not in CARD.as_html()
    assert BeautifulSoup(CARD.as_html(), "html.parser").find("pre").get_text() == "<b>tried</b>"


def test_state_is_told_by_a_sign_and_a_word_not_by_colour_alone() -> None:
    """Not everybody sees colours."""
    page = BeautifulSoup(CARD.as_html(), "html.parser").get_text(" ")

    assert "✗ failed" in page
    assert "✓ passed" in page
