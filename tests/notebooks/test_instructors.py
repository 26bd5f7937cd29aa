"""What the instructor's page and the README tell to type is what the commands take."""

from __future__ import annotations

import ast
import builtins
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from grading.jobs import check as check_cell
from grading.jobs import run, student

from cnlab import cli
from cnlab.grading import check, scoring
from cnlab.grading.check import verdict
from cnlab.grading.limits import Limits

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "notebooks" / "instructors.md"
PAGES = (GUIDE, ROOT / "README.md")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def typed(page: Path) -> Iterator[list[str]]:
    """What stands behind a prompt, without its comment."""
    for block in blocks(page, "console"):
        for line in block.splitlines():
            yield shlex.split(line.removeprefix("$ "), comments=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_step_that_is_told_is_taken(page: Path) -> None:
    """A page that tells of an option which is gone costs a Sunday night."""
    steps = [words[1:] for words in typed(page) if words[:2] == ["cnlab", "grade"]]

    assert len(steps) >= 6
    for step in steps:
        assert cli._parser().parse_args(step).command == "grade"


def test_every_option_in_the_text_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that stand in a sentence."""
    helps = ""
    for step in ("release", "validate", "collect", "autograde", "feedback", "report", "export"):
        with pytest.raises(SystemExit):
            cli._parser().parse_args(["grade", step, "--help"])
        helps += capsys.readouterr().out
    prose = re.sub(r"^```.*?^```", "", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [span for span in re.findall(r"`([^`]+)`", prose) if not span.startswith("systemd-run ")]
    told = {option for span in spans for option in re.findall(r"(?<!\S)--[a-z-]+", span)}

    assert "--only-changed" in told
    assert {option for option in told if option not in helps} == set()


def test_every_make_target_is_there() -> None:
    """The page begins with them."""
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = {words[1] for words in typed(GUIDE) if words[:1] == ["make"]}

    assert told
    assert told <= targets


def test_modules_and_tests_that_are_told_of_are_there() -> None:
    """Who comes to mend something begins with CONTRIBUTING; modules move."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    [table] = re.findall(r"`cnlab/grading` in the order[^|]*(.*?)\n\n\*\*", text, re.DOTALL)
    rows = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in table.splitlines() if "`" in line[:3]]
    told = [ROOT / "cnlab" / "grading" / name for row in rows for name in row]
    pages = [text, *(page.read_text() for page in (*PAGES, ROOT / "grading" / "README.md"))]
    tests = {ROOT / name for page in pages for name in re.findall(r"`(tests/[^`]+)`", page)}

    assert len(told) > 10
    assert [] == [path for path in told if not (path.is_dir() or path.with_suffix(".py").is_file())]
    assert [] == [path for path in tests if not path.exists()]


def test_settings_are_those_that_the_sandbox_knows() -> None:
    """A limit that is misspelt limits nothing."""
    [settings] = [block for block in blocks(GUIDE, "python") if "c.Sandbox" in block]
    named = [eval(value) for value in re.findall(r"= (\{.*\})$", settings, re.MULTILINE)]
    limits, by_lab = named

    assert Limits.from_dict(limits).memory_bytes == 1 << 30
    assert [Limits.from_dict(some).pids for some in by_lab.values()] == [256]


def test_names_that_are_imported_exist() -> None:
    """Instructors copy these lines into their labs."""
    imports = [
        node
        for block in blocks(GUIDE, "python")
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.ImportFrom)
    ]

    assert {node.module for node in imports} == {check.__name__, scoring.__name__}
    assert all(hasattr(module, name) for module, name in ((check, "check"), (scoring, "Score")))


def test_partial_credit_of_the_page_is_given() -> None:
    """One part right, one wrong: its points, and its message."""
    [example] = [block for block in blocks(GUIDE, "python") if "Score(3)" in block]
    names = {"area": lambda width, height: width * height or 7}
    exec(example.removesuffix("score.earned\n"), names)

    assert names["score"].earned == 1


ANSWER = """
class Point:
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, other): return (self.x, self.y) == (other.x, other.y)
class Box:
    def __init__(self, items): self.items = items
    def __len__(self): return len(self.items)
    def __str__(self): return "Box"
    def size(self): return len(self)
    def text(self): return str(self)
visits, RATE = [0], 1
def visit(): visits[0] += 1
def same(x): return x
def cost(hours, rate=None): return hours * (rate or RATE)
def ask(read=None): return (read or input)()
def double(x):
    "Twice."
    return 2 * x
"""
"""A right answer to all that the page checks."""


def habits() -> list[tuple[str, str]]:
    """Each check that the page warns of, and the one it tells to write."""
    rows = re.findall(r"^\| `(.+?)` \| `(.+?)` \| \w", GUIDE.read_text(), re.MULTILINE)
    return [row for row in rows if "assert" in row[0]]


def test_checks_of_the_page_hold_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in one process, where they are written; in two only what the page tells to write."""
    monkeypatch.setattr(builtins, "input", input)  # one of them replaces it
    sources = [source for row in habits() for source in row]
    for source in sources:
        exec(ANSWER + source, {})
    ran = run(student(ANSWER), *(check_cell(source, f"check-{n}") for n, source in enumerate(sources)))
    statuses = [ran.statuses[f"check-{n}"] for n in range(len(sources))]

    assert len(sources) == 16
    assert statuses == ["failed", "ok"] * 8


def test_form_of_a_message_is_the_one_that_is_taken_apart() -> None:
    """`check()` and the report show it in three lines."""
    assert "`expected …, got …; look at …`" in GUIDE.read_text()
    message = "AssertionError: expected a, got b; look at c"
    assert len(verdict.Verdict("check", "failed", 0, 1, message=message).rows) == 3
