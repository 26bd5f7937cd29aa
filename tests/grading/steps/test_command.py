"""The command says in a line what it did, or what is wrong and what to do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shutil
import sqlite3
import termios
from collections.abc import Iterable, Iterator
from pathlib import Path

import nbformat
import pytest
from grading.problem_set import NAME, answered, cell_of, make_course, source, submit

from cnlab.cli import main
from cnlab.grading.job import Job, Result
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.autograde import Autograding
from cnlab.grading.steps.command import _in_brief
from cnlab.grading.steps.course import Course, CourseError
from cnlab.grading.steps.progress import _Log, progress


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A released assignment; nothing was handed in."""
    return make_course(tmp_path_factory.mktemp("command") / "course")


@pytest.fixture
def course(made: Course, tmp_path: Path) -> Course:
    """A copy of it, to change."""
    shutil.copytree(made.root, tmp_path / "course")
    return Course.load(tmp_path / "course")


def grade(course: Course, step: str, *arguments: str) -> int:
    return main(["grade", step, "--course", str(course.root), *arguments])


def test_whole_way_of_an_assignment(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    """From the release to the grades, each step a command."""
    submit(course, "ada", answered(course))
    codes = [
        grade(course, "release", NAME),
        grade(course, "validate", NAME),
        grade(course, "autograde", NAME, "--jobs", "1"),
        grade(course, "feedback", NAME),
        grade(course, "report", NAME),
        grade(course, "export", NAME),
    ]
    said, warned = capsys.readouterr()

    assert codes == [0] * 6
    assert "an answer of 1 student waits for a person, and counts 0 points so far\n" in warned
    assert "the solution of `ps1` passes all its checks" in said
    assert "graded 1 of 1 submission\n" in said
    assert "wrote feedback for 1 of 1 student\n" in said


def test_assignment_that_was_not_released_is_named(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that helps."""
    code = grade(course, "autograde", "ps2")

    assert code == 1
    assert capsys.readouterr().err == (
        "cnlab grade autograde: the gradebook has no assignment `ps2`: run `cnlab grade release ps2`\n"
    )


@pytest.mark.parametrize("step", ["release", "validate"])
def test_assignment_that_was_not_written_is_named(
    course: Course, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    """With the place where it is looked for."""
    code = grade(course, step, "ps2")

    assert code == 1
    assert one_line(capsys) == (f"cnlab grade {step}: there is no assignment in {course.source('ps2')}\n")


def test_release_passes_on_what_nbgrader_does_not_like(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line instead of a traceback."""
    notebook = source()
    cell_of(notebook, "cube").metadata.nbgrader.grade_id = "square"
    nbformat.write(notebook, course.source(NAME) / f"{NAME}.ipynb")
    code = grade(course, "release", NAME)
    said = capsys.readouterr().err

    assert code == 1
    assert "Duplicate grade id: square" in said or "Notebook failed to validate" in said
    assert len(said.splitlines()) == 1


def test_wrong_solution_of_the_instructor_is_found(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before students find it."""
    notebook = source()
    cell_of(notebook, "cube").source = "def cube(x):\n    return 8"
    nbformat.write(notebook, course.source(NAME) / f"{NAME}.ipynb")
    code = grade(course, "validate", NAME)

    assert code == 1
    assert "`check-partly`: 0 of 3 points" in capsys.readouterr().err


def test_check_can_be_tried_before_its_release(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    """The checks that count are those of the notebook as it is now; nobody else gets to see them yet."""
    (course.root / "gradebook.db").unlink()
    shutil.rmtree(course.release(NAME))
    notebook = source()
    cell_of(notebook, "check-cube").source = "assert cube(2) == 9, 'a check that is wrong'"
    nbformat.write(notebook, course.source(NAME) / f"{NAME}.ipynb")
    before = sorted(course.root.rglob("*"))
    code = grade(course, "validate", NAME)

    assert code == 1
    assert "a check that is wrong" in one_line(capsys)
    assert sorted(course.root.rglob("*")) == before


def test_released_notebook_and_gradebook_must_have_the_same_cells(course: Course) -> None:
    """Else a check would be graded that nobody was given."""
    path = course.release(NAME) / f"{NAME}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.remove(cell_of(notebook, "check-cube"))
    nbformat.write(notebook, path)

    with pytest.raises(CourseError, match=r"do not have the same cells \(check-cube\)"):
        course.masters(NAME)


def test_notebook_in_another_language_is_left_to_nbgrader(course: Course) -> None:
    """Only Python is run here."""
    path = course.release(NAME) / f"{NAME}.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["kernelspec"]["language"] = "R"
    path.write_text(json.dumps(notebook))

    with pytest.raises(CourseError, match="use `nbgrader autograde`"):
        course.masters(NAME)


def test_unknown_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rather than graded in the checkout's own course."""
    code = main(["grade", "autograde", NAME, "--course", str(tmp_path / "none")])

    assert code == 1
    assert capsys.readouterr().err == f"cnlab grade autograde: there is no directory {tmp_path / 'none'}\n"


STEPS = ("release", "collect", "autograde", "feedback", "report", "export", "validate")


@pytest.mark.parametrize("step", STEPS)
def test_directory_without_settings_is_no_course(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    """A slip of the pen would make a gradebook in /etc."""
    code = main(["grade", step, NAME, "--course", str(tmp_path)])

    assert code == 1
    assert f"there is no nbgrader_config.py in {tmp_path}" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", STEPS[1:-1])
def test_only_release_makes_a_gradebook(
    course: Course, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    """Elsewhere its absence says that this is the wrong directory."""
    gradebook = course.root / "gradebook.db"
    gradebook.unlink()
    code = grade(course, step, NAME)

    assert code == 1
    assert f"there is no gradebook {gradebook}" in one_line(capsys)
    assert not gradebook.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c.Sandbox.limits = (", ", line 6: SyntaxError: '(' was never closed"),
        ("c.Sandbox.limits = later", ", line 6: NameError: name 'later' is not defined"),
    ],
)
def test_settings_that_cannot_be_read_stop_the_step(
    course: Course, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    """What follows in the file may be the root of the course, or the limits of the sandbox."""
    settings = course.root / "nbgrader_config.py"
    settings.write_text(settings.read_text().rstrip() + f"\n{line}\n")
    code = grade(course, "autograde", NAME)

    assert code == 1
    assert one_line(capsys) == f"cnlab grade autograde: {settings}{said}\n"


@pytest.mark.parametrize(
    "setting",
    ["limits = [1]", "limits_of = [1]", f"limits_of = {{{NAME!r}: 1}}"],
    ids=["all", "some", "this"],
)
def test_limits_of_another_type_are_named(
    course: Course, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    """As wrong numbers are."""
    with (course.root / "nbgrader_config.py").open("a") as settings:
        settings.write(f"c.Sandbox.{setting}\n")
    code = grade(course, "autograde", NAME)

    assert code == 1
    assert "expected a dictionary such as {'cell_s': 120}" in one_line(capsys)


@pytest.mark.parametrize("step", ["autograde", "report", "export"])
def test_file_that_is_no_gradebook_is_named(
    course: Course, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    """In one line, by every step that opens it."""
    (course.root / "gradebook.db").write_text("no database " * 1000)
    code = grade(course, step, NAME)

    assert code == 1
    assert f"the gradebook {course.root}/gradebook.db: file is not a database" in one_line(capsys)


@contextlib.contextmanager
def held(gradebook: Path) -> Iterator[None]:
    """Hold the gradebook as another program does in the middle of writing."""
    with contextlib.closing(sqlite3.connect(gradebook, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_gradebook_that_another_program_holds_is_named(
    course: Course, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what to do; without a word in the settings nbgrader waits for it for five seconds."""
    with (course.root / "nbgrader_config.py").open("a") as settings:
        settings.write(f"c.CourseDirectory.db_url = 'sqlite:///{course.root}/gradebook.db?timeout=0.1'\n")
    with held(course.root / "gradebook.db"):
        code = grade(course, "export", NAME)

    assert code == 1
    assert "database is locked: close the other program that writes to it" in one_line(capsys)


def test_gradebook_that_stays_locked_while_grading_ends_no_run(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the marks nor the failure can be written; who was at it waits for the next run."""
    monkeypatch.setattr("cnlab.grading.steps.gradebook._LOCK_TIMEOUT_S", 0.1)
    for student in ("ada", "ben"):
        submit(course, student, b"no notebook")
    run = Autograding(course, Assignment.load(course, NAME))

    def no_jobs(jobs: Iterable[Job]) -> Iterator[Result]:
        with held(course.root / "gradebook.db"):
            yield from (Result(job.key, job.notebook) for job in jobs)

    outcomes = list(run.run(no_jobs))

    assert [outcome.student for outcome in outcomes] == ["ada", "ben"]
    assert all("database is locked" in outcome.error for outcome in outcomes)
    assert Autograding(course, Assignment.load(course, NAME)).students == ["ada", "ben"]


def test_release_that_fails_keeps_the_earlier_one(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    """Else nothing could be graded until it is mended."""
    path = course.source(NAME) / f"{NAME}.ipynb"
    before = (course.release(NAME) / f"{NAME}.ipynb").read_bytes()
    path.write_text("no notebook")
    code = grade(course, "release", NAME)

    assert code == 1
    assert "NotJSONError" in one_line(capsys)
    assert (course.release(NAME) / f"{NAME}.ipynb").read_bytes() == before


def test_release_into_a_broken_gradebook_says_so(course: Course, capsys: pytest.CaptureFixture[str]) -> None:
    """SQLAlchemy's traceback ends in an advertisement for its pages."""
    (course.root / "gradebook.db").write_text("no database " * 1000)
    code = grade(course, "release", NAME)

    assert code == 1
    assert "file is not a database" in one_line(capsys)


@pytest.mark.parametrize(
    ("step", "said"), [("autograde", "nobody has handed in `ps1`"), ("feedback", "nothing of `ps1` has been")]
)
def test_nothing_to_do_is_told(
    course: Course, capsys: pytest.CaptureFixture[str], step: str, said: str
) -> None:
    """It is mostly the wrong course, or nothing was collected."""
    code = grade(course, step, NAME)

    assert code == 1
    assert said in one_line(capsys)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said, which has to be one line."""
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1, said
    return said


@pytest.mark.parametrize("jobs", ["0", "-1", "many"])
def test_number_of_jobs_is_checked(capsys: pytest.CaptureFixture[str], jobs: str) -> None:
    """Used wrongly, it exits with 2 as other programs do."""
    with pytest.raises(SystemExit) as ended:
        main(["grade", "autograde", NAME, "--jobs", jobs])

    assert ended.value.code == 2


def test_what_is_true_of_many_cells_is_said_once() -> None:
    """Who has emptied all checks would fill the screen, and hide what else was found."""
    notes = [f"the check `{name}` had been edited" for name in ("area", "cube", "root")]

    assert list(_in_brief([*notes, "cell 9 was stopped"])) == [
        "the check `area` had been edited (and 2 more such)",
        "cell 9 was stopped",
    ]


def test_log_has_a_line_now_and_then_with_rate_and_time_left() -> None:
    """A bar that redraws itself fills a log with rubbish."""
    out = io.StringIO()
    times = iter([0.0, 1.0, 11.0, 12.0, 13.0])
    log = _Log(4, "submissions", out, lambda: next(times))
    for name in "abcd":
        log(name)

    assert out.getvalue() == (
        "2 of 4 submissions, 10.9 a minute, 11 s left\n4 of 4 submissions, 18.5 a minute, 0 s left\n"
    )


def test_terminal_has_a_bar_with_rate_and_time_left() -> None:
    """Three hundred submissions take a minute or more."""
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with open(terminal, "w") as screen, open(controller, "rb", buffering=0) as display:
        with progress(2, "submissions", screen) as advance:
            advance("ada")
            advance("ben")
        os.set_blocking(display.fileno(), False)
        shown = (display.read() or b"").decode()

    assert "/2" in shown
    assert "submissions/s" in shown


def test_bar_is_drawn_while_one_submission_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that loops takes minutes; a bar that stands still looks as if nothing went on."""
    monkeypatch.setattr("cnlab.grading.steps.progress._TICK_S", 0.01)
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    shown = b""
    with (
        open(terminal, "w") as screen,
        open(controller, "rb", buffering=0) as display,
        progress(2, "submissions", screen),
    ):
        while shown.count(b"0/2") < 3:
            shown += display.read(1000)
