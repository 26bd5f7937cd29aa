"""papermill runs every notebook twice in a row as a student without privileges, on the private kernel."""

from __future__ import annotations

import re

import pytest

pytestmark = [pytest.mark.needs_uml, pytest.mark.timeout(1500)]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def bundles(notebook):
    return [output.data for output in outputs(notebook) if "data" in output]


def test_no_cell_fails_but_those_meant_to(runs, notebook):
    """As it is, the check of an exercise may fail; with the solution in the place of the stub it may not."""
    assert [run["error"] for run in runs.of(notebook)] == ["", ""]


def test_nothing_is_said_on_stderr(runs, notebook):
    """A warning beside the first output makes a reader doubt the second."""
    assert [
        output.text for output in outputs(runs.executed(notebook)) if output.get("name") == "stderr"
    ] == []


def test_a_picture_was_drawn_and_every_picture_is_described(runs, notebook):
    """Who cannot see the picture is told what it shows, by whoever knows: the code that drew it."""
    descriptions = []
    for bundle in bundles(runs.executed(notebook)):
        for image in re.findall(r"<img\b[^>]*>", bundle.get("text/html", "")):
            descriptions += re.findall(r'\balt="([^"]*)"', image) or [""]
        if "image/png" in bundle:
            descriptions.append(bundle.get("text/plain", ""))

    assert descriptions != []
    assert [text for text in descriptions if len(text) < 20 or text.startswith("<Figure")] == []


def test_a_control_can_be_moved_and_says_the_same_without_a_front_end(runs, notebook):
    """In the rendered book and on paper a control is a picture or a text, and never an empty box."""
    live = [bundle for bundle in bundles(runs.executed(notebook)) if WIDGET_VIEW in bundle]
    controls = [bundle for bundle in live if not bundle["text/plain"].startswith("Predict")]

    assert controls != []
    assert [bundle["text/plain"] for bundle in live if "text/html" not in bundle] == []


def test_nothing_is_left_when_all_have_run(runs):
    """Not a process, a namespace, a mount, a cgroup or a file: what ran is gone as if it never had."""
    assert runs.after.since(runs.before) == {}
