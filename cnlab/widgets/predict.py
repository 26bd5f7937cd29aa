"""Predict, then run: a question the reader answers before the cell that settles it.

The reader commits to an option first. Nobody says "right" or "wrong" then: the next cell does. After it the
reader opens the comparison. The rendered book shows the same question as a list with the answer folded away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnlab.errors import InvalidValue
from cnlab.widgets.mimebundle import mimebundle, prose_to_html, prose_to_text

if TYPE_CHECKING:
    from ipywidgets import DOMWidget

LETTERS = "abcdefgh"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A question with lettered options, the letter that the run will confirm, and why."""

    question: str
    options: tuple[str, ...]
    answer: str
    why: str

    @property
    def letters(self) -> str:
        """The letters of the options, in order."""
        return LETTERS[: len(self.options)]

    def option(self, letter: str) -> str:
        """Return the option with this letter.

        Raises:
            InvalidValue: there is no such option.
        """
        if len(letter) != 1 or letter not in self.letters:
            raise InvalidValue(f"option {letter!r}: expected one of {', '.join(self.letters)}")
        return self.options[self.letters.index(letter)]

    def compare(self, choice: str) -> str:
        """Say in one line how the reader's letter stands beside the answer."""
        self.option(choice)
        if choice == self.answer:
            return f"You said ({choice}), and so says the run."
        return f"You said ({choice}). The run says ({self.answer}): {self.option(self.answer)}."

    def as_text(self) -> str:
        """The question and its options, without the answer."""
        lines = [f"({letter}) {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return prose_to_text("\n".join([f"Predict. {self.question}", *lines]))

    def as_html(self) -> str:
        """The question and its options, and the answer folded away."""
        items = "".join(f"<li>{prose_to_html(option)}</li>" for option in self.options)
        answer = prose_to_html(f"({self.answer}) {self.option(self.answer)}. {self.why}")
        return (
            f'<div class="cnlab-predict"><p><strong>Predict.</strong> {prose_to_html(self.question)}</p>'
            f'<ol style="list-style-type: lower-alpha">{items}</ol>'
            f"<details><summary>The answer, for after the run</summary><p>{answer}</p></details></div>"
        )

    def feedback_html(self, choice: str) -> str:
        """What a reader sees who has committed to `choice`: go and run it, and the comparison folded away."""
        comparison = prose_to_html(f"{self.compare(choice)} {self.why}")
        return (
            f"<p>Noted: ({choice}). Now run the next cell: it settles the question.</p>"
            f"<details><summary>Compare, after the run</summary><p>{comparison}</p></details>"
        )

    def _live(self) -> DOMWidget:
        import ipywidgets as widgets  # 0.2 s: paid by a notebook that asks, not by whoever imports cnlab

        question = widgets.HTML(f"<strong>Predict.</strong> {prose_to_html(self.question)}")
        labels = [(prose_to_text(f"({letter}) {self.option(letter)}"), letter) for letter in self.letters]
        choice = widgets.RadioButtons(options=labels, index=None, layout=widgets.Layout(width="max-content"))
        commit = widgets.Button(description="Commit", disabled=True, tooltip="Your answer stays as it is")
        feedback = widgets.HTML()

        def allow(_change: object) -> None:
            commit.disabled = False

        def settle(_button: object) -> None:
            choice.disabled = commit.disabled = True
            feedback.value = self.feedback_html(choice.value)

        choice.observe(allow, names="value")
        commit.on_click(settle)
        return widgets.VBox([question, choice, commit, feedback])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return mimebundle(self._live(), static_html=self.as_html(), text=self.as_text())


def predict(question: str, *, options: Sequence[str], answer: str, why: str) -> Prediction:
    """Ask the reader to commit to one of `options` before the next cell settles it.

    Text between backticks is set as code. Options are short and carry no full stop.

    Args:
        question: one or two sentences, ending in the question.
        options: two to eight; the letters a, b, c … are added here.
        answer: the letter of the option the run confirms.
        why: one to three sentences, shown only after the reader has committed.

    Raises:
        InvalidValue: too few or too many options, or `answer` is the letter of none of them.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise InvalidValue(f"{len(options)} options: expected 2 to {len(LETTERS)}")
    prediction = Prediction(question, tuple(options), answer, why)
    prediction.option(answer)
    return prediction
