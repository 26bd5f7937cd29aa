"""A page shows the student all that is the student's, and nothing of hidden tests; it runs nothing."""

from __future__ import annotations

import base64
import copy
import re
from typing import Any

import nbformat
import pytest
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import v4
from nbgrader.server_extensions.formgrader import handlers
from traitlets.config import Config

from cnlab.grading.attempt import capture
from cnlab.grading.steps.display import (
    SEALED,
    SealHiddenTests,
    ShowHiddenTests,
    harmless,
    harmless_text,
    seal,
    unseal,
    with_message,
)

SOURCE = """\
assert f(1) == 1
### BEGIN HIDDEN TESTS
assert f(7919) == 42
### END HIDDEN TESTS
assert f(2) == 2"""


def stream(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def error(message: str, *trace: str) -> dict[str, Any]:
    return {"output_type": "error", "ename": "AssertionError", "evalue": message, "traceback": list(trace)}


def number(text: str) -> dict[str, Any]:
    data = {"text/plain": text}
    return {"output_type": "execute_result", "execution_count": 1, "data": data, "metadata": {}}


def check(*outputs: dict[str, Any], source: str = SOURCE) -> dict[str, Any]:
    metadata = {"nbgrader": {"grade": True, "grade_id": "check"}}
    return {"cell_type": "code", "source": source, "metadata": metadata, "outputs": list(outputs)}


def shown(cell: dict[str, Any]) -> str:
    """All of a cell that a page could show: the metadata are in none."""
    return repr((cell["source"], cell["outputs"]))


def test_source_of_hidden_tests_is_replaced_by_a_comment() -> None:
    """The student sees that there are some."""
    cell = check()
    seal(cell)

    assert cell["source"] == "assert f(1) == 1\n# hidden checks stand here\nassert f(2) == 2"


def test_cell_without_hidden_tests_stays_as_it_is() -> None:
    """The student sees all of it while working."""
    cell = check(stream("7919"), source="assert f(7919)")
    before = copy.deepcopy(cell)
    seal(cell, status="failed")

    assert cell == before


@pytest.mark.parametrize("status", ["ok", "failed", "timeout", "died", "skipped"])
def test_nothing_that_came_of_hidden_tests_is_shown(status: str) -> None:
    """Whatever was printed, raised or shown after they began may hold their input."""
    cell = check(stream("hello"), stream("7919"), error("f(7919) is 0", "7919"))
    seal(cell, status=status, shown=1, line=3)

    assert "7919" not in shown(cell)
    assert cell["outputs"][0] == stream("hello")
    assert cell["outputs"][1]["output_type"] == "error"


def test_partial_credit_is_shown() -> None:
    """It stands as the score on the page anyway; any other last value may be an input."""
    cell = check(number("1.5"), number("[7919]"))
    seal(cell, status="ok", shown=0)

    assert cell["outputs"] == [number("1.5")]


def test_visible_failure_keeps_its_message_and_loses_hidden_lines() -> None:
    """A traceback shows the lines around the one that failed."""
    trace = ["line 1", "----> 1 assert f(1) == 1", "      3 assert f(7919) == 42"]
    cell = check(error("expected 1, got 2", *trace))
    seal(cell, status="failed", shown=1, line=1)

    assert cell["outputs"] == [error("expected 1, got 2", *trace[:2])]


def test_visible_line_below_hidden_tests_tells_nothing_of_them() -> None:
    """What it says may be what they have prepared."""
    source = SOURCE.replace("assert f(7919) == 42", "cases += [7919]").replace("f(2)", "f(cases[-1])")
    cell = check(stream("called with 7919"), error("expected f(7919) to be 2", "7919"), source=source)
    seal(cell, status="failed", shown=0, line=5)

    assert "7919" not in shown(cell)
    assert [output["evalue"] for output in cell["outputs"]] == ["a hidden check failed"]


def test_line_above_hidden_tests_in_a_loop_may_have_run_after_them() -> None:
    """In a notebook that nbgrader ran, only the line says how far the cell had come."""
    source = "for x in (1, 2):\n    f(x)\n    ### BEGIN HIDDEN TESTS\n    f(7919)\n    ### END HIDDEN TESTS"
    cell = check(stream("called with 7919"), error("f(2) after f(7919)"), source=source)
    seal(cell, line=2)

    assert "7919" not in shown(cell)


def test_marks_of_the_course_count_in_feedback_too() -> None:
    """They are set in one place, for nbgrader's release."""
    config = Config()
    config.ClearHiddenTests.begin_test_delimeter = "HIDE FROM"
    config.ClearHiddenTests.end_test_delimeter = "HIDE TO"
    source = SOURCE.replace("BEGIN HIDDEN TESTS", "HIDE FROM").replace("END HIDDEN TESTS", "HIDE TO")
    cell = nbformat.from_dict(check(stream("7919"), error("f(7919)"), source=source))
    sealed, _ = SealHiddenTests(config=config).preprocess_cell(cell, {}, 0)

    assert "7919" not in shown(sealed)
    assert "a hidden check failed" in shown(sealed)


def test_traceback_of_ipython_tells_where_a_check_failed() -> None:
    """So that feedback of notebooks that nbgrader itself ran keeps visible messages too."""
    sealing = SealHiddenTests()
    trace = "Cell \x1b[0;32mIn[3], line 1\x1b[0m\n----> 1 assert"
    visible, hidden = (
        check(error("visible", trace)),
        check(error("hidden", trace.replace("line 1", "line 3"))),
    )
    seen = [sealing.preprocess_cell(nbformat.from_dict(cell), {}, 0)[0] for cell in (visible, hidden)]

    assert [cell.outputs[0].evalue for cell in seen] == ["visible", "a hidden check failed"]


def test_sealing_twice_loses_nothing() -> None:
    """Feedback seals what the autograding may have sealed."""
    cell = check(error("f(7919)"))
    seal(cell, status="failed")
    once = copy.deepcopy(cell)
    again = SealHiddenTests().preprocess_cell(nbformat.from_dict(cell), {}, 0)[0]

    assert dict(again) == once


def test_what_was_sealed_can_be_opened() -> None:
    """The instructor sees all of it."""
    cell = check(stream("7919"), error("f(7919)"))
    before = copy.deepcopy(cell)
    seal(cell, status="failed")
    unseal(cell)

    assert cell == before


def test_message_is_shown_when_asked_for_and_the_source_never() -> None:
    """What the author wrote for the student to read."""
    cell = check(error("expected 42"))
    seal(cell, status="failed", line=3)
    with_message(cell)

    assert cell["outputs"][0]["evalue"] == "a hidden check failed: AssertionError: expected 42"
    assert "7919" not in shown(cell)


@pytest.mark.parametrize("template", ["formgrade", "feedback"])
def test_only_the_formgrader_shows_hidden_tests(template: str) -> None:
    """Both pages are made by the same settings; the student sees the second."""
    cell = check(error("f(7919)"))
    seal(cell, status="failed")
    code = v4.new_code_cell(cell["source"], outputs=[nbformat.from_dict(o) for o in cell["outputs"]])
    code.metadata[SEALED] = nbformat.from_dict(cell["metadata"][SEALED])
    config = Config()
    config.HTMLExporter.template_name = template
    config.HTMLExporter.extra_template_basedirs = [handlers.template_path]
    exporter = HTMLExporter(config=config)
    showing = ShowHiddenTests(parent=exporter)
    notebook, _ = showing.preprocess(v4.new_notebook(cells=[code]), {})

    assert ("7919" in notebook.cells[0].source) == (template == "formgrade")


@pytest.mark.parametrize(
    "kind", ["application/javascript", "application/vnd.jupyter.widget-view+json", "x/y"]
)
def test_output_that_would_run_is_dropped(kind: str) -> None:
    """In the instructor's browser."""
    kept = harmless(
        {"output_type": "display_data", "data": {kind: "alert(1)", "text/plain": "a"}, "metadata": {}}
    )

    assert kept == {"output_type": "display_data", "data": {"text/plain": "a"}, "metadata": {}}


def test_metadata_of_outputs_are_dropped() -> None:
    """A picture's width stands in the page unquoted."""
    picture = base64.b64encode(b"png").decode()
    output = {
        "output_type": "display_data",
        "data": {"image/png": picture},
        "metadata": {"image/png": {"width": "1 onerror=alert(1)"}},
    }
    kept = harmless(output)

    assert kept is not None
    assert (kept["data"], kept["metadata"]) == ({"image/png": picture}, {})


@pytest.mark.parametrize("kind", sorted(capture.PICTURES | capture.TEXTS))
def test_what_passes_in_the_attempt_passes_on_the_page(kind: str) -> None:
    """Else a display would become an output without anything in it."""
    data = {kind: base64.b64encode(b"picture").decode()}
    kept = harmless({"output_type": "display_data", "data": capture.harmless(dict(data)), "metadata": {}})

    assert kept is not None
    assert kept["data"] == data


def test_table_stays_a_table() -> None:
    """What pandas shows has no script in it."""
    page = "<style>td {}</style><table onclick='x()'><tr><th>a</th></tr><script>x()</script></table>"
    kept = harmless({"output_type": "display_data", "data": {"text/html": page}})

    assert kept is not None
    assert kept["data"] == {"text/html": "<table><tr><td>a</td></tr></table>"}


@pytest.mark.parametrize("output", [{}, {"output_type": "update"}, {"output_type": ["error"]}])
def test_unknown_output_is_dropped(output: dict[str, Any]) -> None:
    """Whatever it is."""
    assert harmless(output) is None


@pytest.mark.parametrize(
    ("markdown", "safe"),
    [
        ("a <b>bold</b> claim", "a <b>bold</b> claim"),
        ("$a<b$ and 1 < 2", "$a< b$ and 1 < 2"),
        ("see <https://example.org/a?b=c>", "see <https://example.org/a?b=c>"),
        ("<script>x()</script>", "< script>x()< /script>"),
        ("<b onclick=x()>", "< b onclick=x()>"),
        ("<img src=x onerror=x()", "< img src=x onerror=x()"),
        ("<!-- -->", "< !-- -->"),
        ('<https://x" onclick=x()>', '< https://x" onclick=x()>'),
    ],
)
def test_only_plain_tags_are_tags(markdown: str, safe: str) -> None:
    """nbgrader's pages take the HTML in an answer as it is."""
    assert harmless_text(markdown) == safe


def test_picture_that_is_missing_is_no_picture() -> None:
    """nbconvert would refuse the whole notebook."""
    text = harmless_text("![a](attachment:a.png) ![b](attachment:b.png)", {"a.png"})

    assert text == "![a](attachment:a.png) ![b](attachment b.png)"


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "java\tscript:alert(1)",
        "&#106;avascript:alert(1)",
        "javascript&colon;alert(1)",
        "&amp;#106;avascript:alert(1)",
        "javascript\\:alert(1)",
        "vbscript:x",
        "data:text/html,x",
    ],
)
@pytest.mark.parametrize("form", ["[x]({})", "[x](<{}>)", "![x]({})", "[x][a]\n\n[a]: {}", "[x](\n{})"])
def test_link_runs_nothing(form: str, address: str) -> None:
    """One click of the instructor would run a student's script with the instructor's rights."""
    page = MarkdownWithMath(renderer=IPythonRenderer(escape=False)).render(
        harmless_text(form.format(address))
    )

    targets = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(target.startswith("#") for target in targets), page


def test_honest_links_stay() -> None:
    """Answers cite pages."""
    text = "[a](https://example.org) [b](#there) [c](mailto:a@example.org) see d[1]: two words, [e](file.txt)"

    assert harmless_text(text) == text
