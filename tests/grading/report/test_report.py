"""The report says what came of an assignment, and nothing in it is a student's markup."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from grading.classroom import LAB, POINTS, Work, make_course
from student import ROOT

from cnlab.grading.report import figures, write_report
from cnlab.grading.report.reasons import common_reasons, gist
from cnlab.grading.report.tables import Table, read
from cnlab.grading.steps.course import Course

READ_BOOK = ROOT / "tests" / "browser" / "read_book.mjs"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>"
EVIL = "<b onclick=alert(1)>eve"
BOB = "<u>bob"
OWN = f"""def total(numbers):
    remark = '</td></table>{MARKUP}'
    so_far = 0
    for each in list(numbers):
        if each is None or each != each:
            continue
        so_far = so_far + each * 1
    while so_far > 10 ** 9:
        so_far -= 1
    return so_far
"""
OURS = frozenset(
    {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "main",
        "section",
        "h1",
        "h2",
        "h3",
        "p",
        "a",
    }
    | {"nav", "dl", "div", "dt", "dd", "picture", "source", "img", "details", "summary"}
    | {"table", "thead", "tbody", "tr", "th", "td"}
)
CLASS = {
    "ada": Work(OWN),
    BOB: Work(OWN.replace("so_far", "s").replace("each", "e"), late_h=30, penalty=2),
    "cyd": Work(
        OWN.replace("list", "sorted").replace(
            "while so_far > 10 ** 9:\n        so_far -= 1\n", "print(so_far, 3)\n"
        ),
        scores={**POINTS, "check-mean": 0, "question": None},
        reasons={"check-mean": "AssertionError: expected mean([3]) to be 3, got 4; look at the sum"},
        notes=["`check-mean` ran out of time and was run again in a fresh sandbox"],
        wall_s=2.5,
    ),
    "dan": Work(
        scores={**POINTS, "check-mean": 1.5, "check-total": 0, "check-total-empty": 0},
        reasons={
            "check-mean": "AssertionError: expected mean([17]) to be 17, got 2.5; look at the sum",
            "check-total": "NotImplementedError: ",
        },
        repairs=["the check `check-total` had been deleted; it was put back after task `total`"],
    ),
    EVIL: Work(
        f"def total(numbers):\n    return '''</td></table>{MARKUP}'''",
        scores=dict.fromkeys(POINTS, 0),
        reasons={"check-total": f"=HYPERLINK(1): {MARKUP}"},
        events=[
            {"kind": "files", "text": f"open({MARKUP})", "cell": cell} for cell in ("total", None, "mean")
        ],
        repairs=[MARKUP] * 1000,
    ),
    "fay": Work(scores=dict.fromkeys(POINTS), error=f"the machine went away {MARKUP}"),
    "mia": None,
}


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A class of seven."""
    return make_course(tmp_path_factory.mktemp("course"), CLASS, {"ada": (MARKUP, "=1+1")})


@pytest.fixture(scope="module", autouse=True)
def kernels_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the kernel that executes the notebook leaves what it leaves."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="module")
def report(course: Course) -> Path:
    """The directory with the report on it."""
    return write_report(course, LAB, course.root / "report" / LAB).parent


@pytest.fixture(scope="module")
def tables(report: Path) -> dict[str, Table]:
    """Its tables by name, as a program reads them."""
    return {path.stem: read(path) for path in report.glob("*.csv")}


def rows(table: Table, *headings: str) -> list[tuple[object, ...]]:
    """Some columns of a table."""
    return list(zip(*(table.column(heading) for heading in headings), strict=True))


class Elements(HTMLParser):
    """The names of all elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in {"src", "srcset", "href"}]


def test_tasks_show_how_many_have_their_points(tables: dict[str, Table]) -> None:
    """In the notebook's order; the answer that waits for a person is not counted as none."""
    assert rows(tables["tasks"], "task", "points", "all points", "some", "none") == [
        ("Task 1 · Add up", 3, 3, 0, 2),
        ("Task 2 · $\\mu$ & <more>", 3, 2, 1, 2),
        ("Question", 4, 3, 0, 1),
    ]


def test_the_hardest_check_comes_first(tables: dict[str, Table]) -> None:
    """That is the one to talk about on Monday."""
    assert rows(tables["checks"], "check", "mean %", "median %")[0] == ("check-mean", 50, 50)
    assert tables["checks"].numbers("mean %") == sorted(tables["checks"].numbers("mean %"))


def test_reasons_that_differ_in_numbers_alone_are_one(tables: dict[str, Table]) -> None:
    """Two students who erred in the same way got two different messages."""
    assert rows(tables["reasons"], "task", "check", "students", "who")[0] == (
        "Task 2 · $\\mu$ & <more>",
        "check-mean",
        2,
        "cyd, dan",
    )


def test_late_submissions_are_listed_with_their_penalty(tables: dict[str, Table]) -> None:
    """And nobody else."""
    assert tables["late"].rows == ((BOB, 30.0, 2.0),)


def test_events_repairs_and_troubles_name_the_student(tables: dict[str, Table]) -> None:
    """Each is a reason to look at one notebook."""
    assert rows(tables["events"], "student", "kind", "times", "cells") == [(EVIL, "files", 3, "total, mean")]
    assert set(tables["repairs"].column("student")) == {"dan", EVIL}
    troubles = dict(rows(tables["troubles"], "student", "trouble"))
    assert troubles["cyd"] == "`check-mean` ran out of time and was run again in a fresh sandbox"
    assert troubles["fay"].startswith("not run: the machine went away")


def test_a_student_with_a_thousand_oddities_does_not_hide_the_others(tables: dict[str, Table]) -> None:
    """A page is read from its top, and somebody may want it full."""
    assert tables["repairs"].column("student").count(EVIL) == 21
    assert (EVIL, "and 980 more of the kind") in tables["repairs"].rows


def test_who_handed_in_nothing_or_could_not_be_run_has_no_score(tables: dict[str, Table]) -> None:
    """Nothing is not zero: the mean of the class is of those whose work was graded."""
    scores = dict(rows(tables["students"], "student", "score"))

    assert scores["mia"] is scores["fay"] is None


def test_copied_answers_are_named(tables: dict[str, Table]) -> None:
    """Renamed variables and all."""
    assert rows(tables["similar"], "first", "second", "most alike in")[0] == (BOB, "ada", "total")


def test_page_holds_no_markup_of_a_student(report: Path) -> None:
    """Names, messages, events, repairs and code are hostile here, each in its way."""
    page = Elements((report / "report.html").read_text())

    assert page.elements <= OURS
    assert not {name for name in page.attributes if name.startswith("on")}
    assert {link.partition(":")[0] for link in page.links if not link.startswith("#")} == {"data"}


def test_page_quotes_students_in_words(report: Path) -> None:
    """Escaped, and not left out: it is what the instructor has to see."""
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (report / "report.html").read_text()


@pytest.mark.browser
@pytest.mark.timeout(360)
def test_page_opens_in_a_browser_in_light_and_dark(report: Path, tmp_path: Path) -> None:
    """No request, no complaint, no broken or nameless picture, nothing wider than the window."""
    pictures = ROOT / "build" / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["node", READ_BOOK, pictures, report / "report.html"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )

    readings = json.loads(done.stdout)
    assert [reading["colorScheme"] for reading in readings] == ["light", "dark"]
    for reading in readings:
        assert reading["complaints"] == reading["broken"] == reading["undescribed"] == []
        assert reading["overflow"] == 0
        assert {address.partition(":")[0] for address in reading["requests"]} <= {"file", "data"}
    light, dark = (Path(reading["picture"]).read_bytes() for reading in readings)
    assert light != dark


def test_notebook_holds_its_figures_with_words_and_no_error(report: Path) -> None:
    """It ran in a kernel, and can be run again: an instructor goes on from there."""
    notebook = nbformat.read(report / "report.ipynb", as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    figures = [output for output in outputs if "image/png" in output.get("data", {})]

    assert {output.output_type for output in outputs} == {"execute_result"}
    assert len(figures) == 5
    assert all(figure.metadata["image/png"]["alt"] == figure.data["text/plain"] for figure in figures)


def test_notebook_escapes_what_students_have_written(report: Path) -> None:
    """JupyterLab shows HTML of outputs as it is, once the notebook is trusted."""
    notebook = nbformat.read(report / "report.ipynb", as_version=4)
    pages = [
        Elements(output.data["text/html"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.data
    ]

    assert pages
    assert set.union(*(page.elements for page in pages)) == {"table", "thead", "tbody", "tr", "th", "td"}


def test_no_cell_of_the_tables_begins_a_formula(report: Path) -> None:
    """Instructors open them in a spreadsheet."""
    texts = [
        cell
        for path in report.glob("*.csv")
        for row in read(path).rows
        for cell in row
        if isinstance(cell, str)
    ]

    assert any("HYPERLINK" in text for text in texts)
    assert not [text for text in texts if text.startswith(("=", "+", "-", "@"))]


def test_report_is_for_the_instructor_alone(report: Path) -> None:
    """It has names, marks and what hidden checks said."""
    assert stat.S_IMODE(report.stat().st_mode) == 0o700


def test_report_on_an_assignment_that_nobody_handed_in(course: Course, tmp_path: Path) -> None:
    """On the first day there is little to say, and it says that."""
    page = write_report(course, "lab02", tmp_path)

    assert "<dt>handed in</dt><dd>0</dd>" in page.read_text()


def test_no_kernel_is_left_when_the_report_is_written(report: Path) -> None:
    """A class a week, a kernel a class."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in children]

    assert [command for command in commands if "ipykernel" in command] == []


def test_nobody_is_half_a_student() -> None:
    """In a class of two the axis that counts them had nine numbers."""
    [axes] = figures.shares(["area"], [2], [0], [0]).figure.axes

    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_gist_of_a_message_has_no_values() -> None:
    """What is left is what went wrong."""
    assert gist("expected 'a b' at 0x7f3a,\n got 12.5 from /tmp/x-1/y") == "expected … at #, got # from /…"


def test_messages_that_are_nearly_the_same_are_one_reason() -> None:
    """A word more or less; told apart by check all the same."""
    said = [
        ("a", "ada", "KeyError: the name 'x' is not in the table of names"),
        ("a", "bob", "KeyError: the name 'y' is not in the table of the names"),
        ("a", "cyd", "ZeroDivisionError: division by zero"),
        ("b", "ada", "ZeroDivisionError: division by zero"),
    ]

    assert [(reason.check, reason.students) for reason in common_reasons(said)] == [
        ("a", ("ada", "bob")),
        ("a", ("cyd",)),
        ("b", ("ada",)),
    ]


def test_a_thousand_different_messages_do_not_hide_the_common_one() -> None:
    """A class may be very inventive; the rest is counted together."""
    odd = [("a", f"odd{place}", chr(0x4E00 + place) * 40) for place in range(1000)]
    same = [("a", f"same{place}", "expected 1, got 2") for place in range(3)]

    reasons = common_reasons([*odd, *same])

    assert "expected 1, got 2" in {reason.message for reason in reasons}
    assert "other messages" in {reason.message for reason in reasons}
    assert sum(len(reason.students) for reason in reasons) == 1003


def test_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """The notebook works on what the spreadsheet shows; a student called 007 keeps the name."""
    table = Table(("student", "score"), (("007", 2.5), ("zoë, a", None), ("1e5", -3.0), ("line\tend", 12.0)))
    table.write(tmp_path / "table.csv")

    assert read(tmp_path / "table.csv").rows == (
        ("007", 2.5),
        ("zoë, a", None),
        ("1e5", -3.0),
        ("line end", 12.0),
    )
