"""The question of "predict, then run"."""

import pytest

from cnlab.errors import InvalidValue
from cnlab.widgets.mimebundle import WIDGET_VIEW
from cnlab.widgets.predict import Prediction, predict


@pytest.fixture
def question() -> Prediction:
    return predict(
        "Which process is number 1 after `unshare -p`?",
        options=["the shell", "the first child", "`init` <of the host>"],
        answer="b",
        why="A process never changes its own pid.",
    )


def live_parts(question: Prediction):
    """The widgets a front end would show: question, radio buttons, button, feedback."""
    return question._live().children


def test_answer_must_be_the_letter_of_an_option(question):
    """A question whose answer cannot be chosen would tell every reader they are wrong."""
    with pytest.raises(InvalidValue, match="expected one of a, b"):
        predict("?", options=["yes", "no"], answer="c", why="")


def test_one_option_is_no_question():
    """The reader must be able to be wrong."""
    with pytest.raises(InvalidValue, match="1 options: expected 2 to 8"):
        predict("?", options=["yes"], answer="a", why="")


def test_text_form_lists_options_and_keeps_the_answer_to_itself(question):
    """Text cannot fold, so it must not hold the answer."""
    expected = (
        "Predict. Which process is number 1 after unshare -p?\n"
        "(a) the shell\n(b) the first child\n(c) init <of the host>"
    )

    assert expected == question.as_text()


def test_html_form_shows_the_options_and_folds_the_answer(question):
    """The rendered book has no kernel: the options are read, the answer is opened after the output below."""
    shown, folded = question.as_html().split("<details>")

    assert "<li>the first child</li><li><code>init</code> &lt;of the host&gt;</li>" in shown
    assert question.why not in shown
    assert question.why in folded


def test_mime_bundle_carries_the_widget_and_both_static_forms(question):
    """One output must serve JupyterLab, the book and a terminal; an empty box serves nobody."""
    bundle = question._repr_mimebundle_()

    assert {WIDGET_VIEW, "text/html", "text/plain"} == set(bundle)
    assert question.as_html() == bundle["text/html"]


def test_reader_cannot_commit_before_choosing(question):
    """An empty commitment is none."""
    _, choice, commit, _ = live_parts(question)

    assert choice.value is None
    assert commit.disabled
    choice.value = "a"
    assert not commit.disabled


def test_committing_locks_the_choice_and_leaves_the_verdict_folded(question):
    """The next cell is to settle the question, not the widget."""
    _, choice, commit, feedback = live_parts(question)
    choice.value = "a"
    commit.click()
    shown, folded = feedback.value.split("<details>")

    assert choice.disabled
    assert commit.disabled
    assert "Noted: (a)" in shown
    assert "The run says (b): the first child." in folded


def test_right_choice_is_told_so(question):
    """A reader who was right wants to know it in so many words."""
    assert question.compare("b") == "You said (b), and so says the run."
