"""Cells run as in a notebook's kernel, and what they show cannot harm who looks at it."""

from __future__ import annotations

import base64

import pytest
from grading.jobs import Ran, run, student

from cnlab.grading.attempt import execution

pytestmark = [pytest.mark.needs_userns, pytest.mark.needs_landlock]

CELLS = {
    "value": "1 + 1",
    "quiet": "1 + 1;",
    "prints": "import sys\nprint('out')\nprint('err', file=sys.stderr)",
    "command": "print('before')\n!echo from a command\nprint('after')",
    "bash": "%%bash\necho $((40 + 2))",
    "magic": "%matplotlib inline\nimport matplotlib.pyplot as plt",
    "figure": "plt.plot([1, 2]);",
    "order": "print('one')\ndisplay('two')\nprint('three')",
    "page": "from IPython.display import HTML, Javascript, SVG\nHTML('<script>alert(1)</script>')",
    "script": "display(Javascript('alert(1)'))",
    "picture": "display({'image/png': '\"><script>', 'text/plain': 'a picture'}, raw=True)",
    "error": "def f():\n    1 / 0\n\nf()",
    "syntax": "def f(:",
    "exit": "raise SystemExit",
    "exits": "exit",
    "await": "import asyncio\nawait asyncio.sleep(0)\n'awaited'",
    "input": "input()",
    "cleared": "from IPython.display import clear_output\nprint('x')\nclear_output()\nprint('y')",
    "surrogate": "print('\\ud800')\n'\\ud800'",
    "long": "print('x' * 3_000_000)",
    "many": "for i in range(1000): display(i)",
    "process": "import os\nos.write(1, b'raw')\nos.system('echo child')",
    "underscore": "40 + 2",
    "last": "_ + 1",
}


@pytest.fixture(scope="module", name="ran")
def _ran():
    yield run(*(student(source, name) for name, source in CELLS.items()))
    execution.close()


def value(ran: Ran, name: str) -> str:
    [output] = [out for out in ran.outputs(name) if out.output_type == "execute_result"]
    text: str = output.data["text/plain"]
    return text


def test_last_value_is_shown_unless_a_semicolon_ends_it(ran):
    """As in any notebook."""
    assert value(ran, "value") == "2"
    assert ran.outputs("quiet") == []


def test_streams_are_kept_apart(ran):
    """By their names."""
    assert (ran.printed("prints"), ran.printed("prints", "stderr")) == ("out\n", "err\n")


def test_commands_print_where_python_does_and_in_order(ran):
    """A command writes to the descriptor, Python to its own buffer."""
    assert ran.printed("command") == "before\nfrom a command\nafter\n"
    assert ran.printed("bash") == "42\n"
    assert ran.printed("process").startswith("rawchild\n")


def test_figure_is_shown_at_the_end_of_its_cell(ran):
    """Inline, as students expect."""
    [figure] = ran.outputs("figure")

    assert base64.b64decode(figure.data["image/png"]).startswith(b"\x89PNG")


def test_displays_stand_between_what_was_printed(ran):
    """In the order of the cell."""
    assert [out.get("text", out.get("data")) for out in ran.outputs("order")] == [
        "one\n", {"text/plain": "'two'"}, "three\n"
    ]  # fmt: skip


def test_nothing_active_gets_into_the_notebook(ran):
    """The instructor's browser would run it, with the instructor's rights."""
    assert value(ran, "page") == "<IPython.core.display.HTML object>"
    assert ran.outputs("picture")[0].data == {"text/plain": "a picture"}
    assert "<script" not in str([ran.outputs(name) for name in ("page", "script", "picture")])


def test_error_has_its_name_message_traceback_and_line(ran):
    """The line is that of the cell, not of the function that it called."""
    [error] = ran.outputs("error")

    assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
    assert "----> 2" in "\n".join(error.traceback)
    assert (ran["error"].message, ran["error"].line) == ("ZeroDivisionError: division by zero", 4)
    assert ran["syntax"].message.startswith("SyntaxError")


def test_leaving_is_an_error_or_nothing(ran):
    """A kernel would end; the cells below would not run."""
    assert (ran["exit"].status, ran["exits"].status) == ("failed", "ok")


def test_cell_can_await(ran):
    """Without a loop of its own."""
    assert value(ran, "await") == "'awaited'"


def test_nobody_answers_input(ran):
    """There is nobody there."""
    assert ran["input"].message.startswith("EOFError")


def test_output_can_be_cleared(ran):
    """Progress displays do."""
    assert ran.printed("cleared") == "y\n"


def test_half_a_character_is_spelled_out(ran):
    """The notebook could not be written with it."""
    assert "\\ud800" in ran.printed("surrogate")


def test_long_output_is_cut_and_says_so(ran):
    """At the limit of the cell."""
    text = ran.printed("long")

    assert 1_000_000 < len(text) < 1_100_000
    assert text.endswith("[more output was left out]\n")
    assert len(ran.outputs("many")) <= 500


def test_shell_remembers_the_last_value(ran):
    """``_``."""
    assert value(ran, "last") == "43"
