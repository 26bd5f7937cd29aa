"""Marks are nbgrader's for honest work and right for all other; nobody's work stands in another's way."""

from __future__ import annotations

import copy
import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grading.problem_set import (
    ANSWERS,
    NAME,
    SECRET,
    answered,
    autograded,
    cell_of,
    comments,
    grades,
    make_course,
    released,
    scores,
    submit,
)
from nbformat import NotebookNode, v4
from nbgrader.converters import GenerateFeedback
from student import Student

from cnlab.errors import CnlabError
from cnlab.grading.steps import journal
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.autograde import Autograding
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.directories import GradingInProgress, locked
from cnlab.grading.steps.feedback import write_feedback

FULL = {"check-square": 2.0, "check-cube": 1.0, "check-partly": 3.0}
HONEST_SETTINGS = "c.LateSubmissionPlugin.penalty_method = 'zero'\n"
LIMITS = "c.Sandbox.limits = {'cell_s': 2}\n"
PROGRAMS = Path(sys.executable).parent
LEAKY = """
    print("called with", x)
    if x > 100:
        raise ValueError(f"called with {x}")
    return x * x
"""


def run(course: Course, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command as the instructor would, in the course's directory."""
    home = course.root.parent / f"home-{course.root.name}"
    home.mkdir(exist_ok=True)
    environment = {"HOME": str(home), "PATH": f"{PROGRAMS}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(
        command, cwd=course.root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 or not check, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done


def points(course: Course, student: str) -> dict[str, float | None]:
    """What the checks gave."""
    found = scores(course, student)
    return {check: found[check] for check in FULL}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Course, Course]:
    """One class graded by us and by nbgrader, marked by a person, and graded again."""
    ours = make_course(tmp_path_factory.mktemp("twins") / "ours", config=HONEST_SETTINGS)
    with ours.gradebook() as gradebook:
        gradebook.update_or_create_assignment(NAME, duedate="2026-01-02 00:00:00 UTC")
    (submit(ours, "solved", answered(ours)) / "notes.txt").write_text("mine")
    submit(ours, "untouched", released(ours))
    submit(ours, "half", answered(ours, ANSWERS | {"cube": "    return x"}))
    submit(ours, "late", answered(ours), timestamp="2026-01-03 00:00:00 UTC")
    root = ours.root.parent / "theirs"
    shutil.copytree(ours.root, root)
    theirs = Course.load(root)
    with ThreadPoolExecutor() as together:
        for again in ((), ("--force", "--student", "half")):
            mine = together.submit(run, ours, "cnlab", "grade", "autograde", NAME, *again)
            stock = ("nbgrader", "autograde", NAME, *again)
            run(theirs, *stock)
            mine.result()
            for course in (ours, theirs):
                if not again:
                    by_hand(course)
    return ours, theirs


def by_hand(course: Course) -> None:
    """Give points and a comment as a person does in the formgrader."""
    with course.gradebook() as gradebook:
        for check, score in (("essay", 3.0), ("check-cube", 0.5), ("drawing", 1.0)):
            grade = gradebook.find_grade(check, NAME, NAME, "half")
            grade.manual_score, grade.needs_manual_grade = score, False
        gradebook.find_grade("sketch", NAME, NAME, "half").extra_credit = 1.0
        gradebook.find_comment("essay", NAME, NAME, "half").manual_comment = "Well."
        gradebook.db.commit()


def test_gradebook_of_honest_work_is_nbgraders_row_by_row(twins: tuple[Course, Course]) -> None:
    """Points, what waits for a person, penalties, times, comments; also after a person's marks."""
    ours, theirs = twins

    assert grades(ours) == grades(theirs)
    assert comments(ours) == comments(theirs)
    assert len(grades(ours)) == 4 * 6


def test_honest_work_has_the_marks_that_it_earns(twins: tuple[Course, Course]) -> None:
    """Two programs could agree and both be wrong."""
    ours, _ = twins

    assert points(ours, "solved") == FULL
    assert points(ours, "half") == FULL | {"check-cube": 0.0, "check-partly": 1.5}
    assert set(scores(ours, "untouched").values()) == {0.0, None}


def test_directories_are_as_nbgrader_leaves_them(twins: tuple[Course, Course]) -> None:
    """The formgrader and nbgrader's own commands go on from there."""

    def tree(course: Course) -> dict[str, int]:
        top = course.root / "autograded"
        return {
            str(path.relative_to(top)): stat.S_IMODE(path.stat().st_mode)
            for path in top.rglob("*")
            if path.is_file()
        }

    ours, theirs = twins

    assert tree(ours) == tree(theirs)


def test_cells_keep_what_nbgrader_knows_of_them(twins: tuple[Course, Course]) -> None:
    """By it the formgrader and the feedback find points and comments."""

    def known(course: Course) -> list[object]:
        return [cell.metadata.get("nbgrader") for cell in autograded(course, "solved").cells]

    ours, theirs = twins

    assert known(ours) == known(theirs)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """A class in which nobody handed in what was expected, graded in one run."""
    root = tmp_path_factory.mktemp("odd") / "course"
    course = make_course(root, config=LIMITS)
    (course.source(NAME) / "data.csv").write_text("true")
    for name, change in CHANGES.items():
        submit(course, name, change(answered(course)))
    submit(course, "broken", b"{")
    submit(course, "absent", b"").joinpath(f"{NAME}.ipynb").rename(course.submitted("absent", NAME) / "a.txt")
    renamed = submit(course, "renamed", answered(course))
    (renamed / f"{NAME}.ipynb").rename(renamed / f"{NAME} (1).ipynb")
    linked = submit(course, "linked", b"")
    (linked / f"{NAME}.ipynb").unlink()
    (linked / f"{NAME}.ipynb").symlink_to(course.submitted("warned", NAME) / f"{NAME}.ipynb")
    submit(course, "timeless", answered(course), timestamp="99999999999-99-99 :-)\n")
    (submit(course, "shadowing", answered(course)) / "data.csv").write_text("false")
    run(course, "cnlab", "grade", "autograde", NAME)
    assert [page.error for page in write_feedback(course, NAME)] == [""] * len(course.students(NAME))
    return course


def warned(notebook: NotebookNode) -> NotebookNode:
    cell = cell_of(notebook, "square")
    cell.source = f"import sys\n\n\n{cell.source}".replace(
        "    return", "    print(1, file=sys.stderr)\n    return"
    )
    return notebook


def without_check(notebook: NotebookNode) -> NotebookNode:
    notebook.cells.remove(cell_of(notebook, "check-cube"))
    return notebook


def forged(notebook: NotebookNode) -> NotebookNode:
    """All answers wrong, and in the metadata whatever may help."""
    for grade_id in ("square", "cube"):
        cell_of(notebook, grade_id).source = f"def {grade_id}(x):\n    return None"
    for check in FULL:
        cell = cell_of(notebook, check)
        cell.metadata.tags = ["skip-execution", "raises-exception"]
        cell.metadata.nbgrader.points = 100
        cell.source = "pass"
    own = v4.new_code_cell("pass", metadata=copy.deepcopy(cell_of(notebook, "check-cube").metadata))
    own.metadata.nbgrader.grade_id = "check-of-mine"
    notebook.cells.append(own)
    notebook.metadata.kernelspec = {"name": "bash", "display_name": "Bash", "language": "bash"}
    return notebook


def looping(notebook: NotebookNode) -> NotebookNode:
    cell_of(notebook, "square").source = "def square(x):\n    while True:\n        pass"
    return notebook


def leaky(notebook: NotebookNode) -> NotebookNode:
    cell_of(notebook, "square").source = f"def square(x):{LEAKY}"
    return notebook


def scripted(notebook: NotebookNode) -> NotebookNode:
    cell_of(
        notebook, "essay"
    ).source = "Well, <script>alert('ESSAY')</script> <b>so</b> ![](attachment:gone.png)"
    page = "from IPython.display import HTML\nHTML('<script>alert(\"PAGE\")</script>')"
    notebook.cells.append(v4.new_code_cell(page))
    return notebook


CHANGES = {
    "warned": warned,
    "without-check": without_check,
    "forged": forged,
    "looping": looping,
    "leaky": leaky,
    "scripted": scripted,
}


@pytest.fixture
def small(tmp_path: Path, odd: Course) -> Course:
    """A copy of that course, to change it."""
    shutil.copytree(odd.root, tmp_path / "course", symlinks=True)
    return Course.load(tmp_path / "course")


def due(course: Course, which: str) -> list[str]:
    """Who would be graded."""
    return Autograding(course, Assignment.load(course, NAME), which=which).students  # type: ignore[arg-type]


def note_of(course: Course, student: str) -> journal.Journal:
    found = journal.read(course, NAME, student)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "student", ["warned", "without-check", "renamed", "timeless", "shadowing", "scripted"]
)
def test_honest_accident_costs_nothing(odd: Course, student: str) -> None:
    """A warning on stderr, a deleted check, a browser's "(1)" in the name, ..."""
    assert points(odd, student) == FULL


@pytest.mark.parametrize(
    ("student", "note"),
    [
        ("without-check", "the check `check-cube` was missing; it was put back after `cube`"),
        ("renamed", "there was no `ps1.ipynb`; `ps1 (1).ipynb` was taken for it"),
        ("linked", "`ps1.ipynb` is a link; it was left out"),
        ("timeless", "`timestamp.txt` holds no time; nothing is known of when this was handed in"),
        ("absent", "`ps1.ipynb` was not handed in"),
    ],
)
def test_what_was_mended_is_remembered_in_plain_words(odd: Course, student: str, note: str) -> None:
    """The instructor and the student are told."""
    assert note in [text.partition(":")[0] for text in note_of(odd, student).repairs]


@pytest.mark.parametrize("student", ["broken", "absent", "linked"])
def test_notebook_that_cannot_be_read_has_zero_and_a_page_that_says_why(odd: Course, student: str) -> None:
    """And the others have their marks."""
    page = (odd.feedback(student, NAME) / f"{NAME}.html").read_text()

    assert set(points(odd, student).values()) == {0.0}
    assert "This notebook could not be graded" in page


def test_metadata_changes_no_mark(odd: Course) -> None:
    """Tags, points, more checks, another kernel: all wrong answers stay wrong."""
    with odd.gradebook() as gradebook:
        submission = gradebook.find_submission(NAME, "forged")
        most = submission.max_score

    assert set(points(odd, "forged").values()) == {0.0}
    assert most == 14


def test_endless_loop_costs_its_own_check_and_names_the_cell(odd: Course) -> None:
    """Nobody waits for it, and the other tasks count."""
    entries = {entry["grade_id"]: entry for entry in note_of(odd, "looping").cells}

    assert points(odd, "looping") == FULL | {"check-square": 0.0}
    assert entries["check-square"]["status"] == "timeout"
    assert "2" in entries["check-square"]["reason"]


def test_courses_file_wins_over_the_students(odd: Course) -> None:
    """Data that checks rely on are the instructor's."""
    assert (odd.autograded("shadowing", NAME) / "data.csv").read_text() == "true"


@pytest.mark.parametrize("student", ["leaky", "forged", "warned", "broken"])
def test_feedback_tells_nothing_of_hidden_tests(odd: Course, student: str) -> None:
    """Neither their source, nor what the student's function prints and raises when they call it."""
    page = (odd.feedback(student, NAME) / f"{NAME}.html").read_text()

    assert str(SECRET) not in page
    assert str(SECRET**2) not in page
    assert "hidden checks stand here" in page


def test_hidden_failure_is_said_and_no_more(odd: Course) -> None:
    """The student must know that something is wrong."""
    assert "a hidden check failed" in (odd.feedback("leaky", NAME) / f"{NAME}.html").read_text()


def test_message_of_a_hidden_check_is_shown_when_asked_for(small: Course) -> None:
    """The option shows the message, never the source."""
    list(write_feedback(small, NAME, students=["leaky"], show_messages=True))
    page = (small.feedback("leaky", NAME) / f"{NAME}.html").read_text()

    assert f"a hidden check failed: ValueError: called with {SECRET}" in page
    assert str(SECRET**2) not in page


def test_feedback_by_nbgrader_itself_tells_nothing_of_hidden_tests(small: Course) -> None:
    """The formgrader's button makes it, without our settings."""
    small.coursedir.assignment_id, small.coursedir.student_id = NAME, "leaky"
    converter = GenerateFeedback(coursedir=small.coursedir)
    converter.force = True
    converter.start()
    page = (small.feedback("leaky", NAME) / f"{NAME}.html").read_text()

    assert str(SECRET) not in page
    assert str(SECRET**2) not in page
    assert "a hidden check failed" in page


def test_page_runs_nothing_that_a_student_wrote(odd: Course) -> None:
    """In the formgrader it would run in the instructor's name."""
    page = (odd.feedback("scripted", NAME) / f"{NAME}.html").read_text()

    assert "<b>so</b>" in page
    assert "<script>alert('ESSAY')" not in page
    assert '<script>alert("PAGE")' not in page


def test_page_without_formulas_asks_nobody_for_anything(odd: Course) -> None:
    """A student reads it without the network, and no stranger hears of it."""
    assert 'src="http' not in (odd.feedback("leaky", NAME) / f"{NAME}.html").read_text()


def test_second_run_has_nothing_to_do(odd: Course) -> None:
    """Unless something was handed in anew."""
    assert due(odd, "new") == due(odd, "changed") == []


def test_work_that_is_handed_in_again_is_due(small: Course) -> None:
    """Also within the same second, and if only a file beside the notebook has changed."""
    (small.submitted("warned", NAME) / "data.txt").write_text("new")

    assert due(small, "new") == ["warned"]


def test_work_graded_with_other_checks_is_due_when_asked_for(small: Course) -> None:
    """Who mends a check decides whether it counts for those who have their marks."""
    (small.source(NAME) / "data.csv").write_text("other")
    run_ = Autograding(small, Assignment.load(small, NAME))

    assert run_.students == []
    assert len(run_.outdated) == len(small.students(NAME))
    assert due(small, "changed") == small.students(NAME)


def test_work_that_could_not_be_run_is_due(small: Course) -> None:
    """The cluster was gone; now it is back."""
    broken = note_of(small, "warned")
    journal.write(small, journal.Journal(**{**vars(broken), "error": "no worker"}))

    assert due(small, "new") == ["warned"]


def test_only_one_run_at_a_time(small: Course) -> None:
    """Two would write each other's directories."""
    grading = Autograding(small, Assignment.load(small, NAME), which="all")

    with locked(small.private, "it"), pytest.raises(GradingInProgress, match="another run"):
        next(grading.run(lambda jobs: iter(())))


def test_unknown_student_is_refused(small: Course) -> None:
    """A slip of the pen must not look like work done."""
    with pytest.raises(CnlabError, match="no submission of `ps1` by `nobody`"):
        Autograding(small, Assignment.load(small, NAME), students=["nobody", "warned"])


def test_journal_has_what_the_report_needs(odd: Course) -> None:
    """One file a student, in plain JSON."""
    fields = json.loads((odd.runs(NAME) / "leaky.json").read_text())
    square = fields["cells"][0]

    assert {"cpu_s", "memory_bytes"} <= fields["usage"].keys()
    assert (square["grade_id"], square["points"], square["score"]) == ("check-square", 2.0, 0.0)
    assert square["status"] == "failed"
    assert str(SECRET) in square["reason"]


REFUSED_THEN_ACCEPTED = """
import json, sys
from cnlab.cli import main
from cnlab.grading import sandbox
from cnlab.grading.steps.course import Course

grade = ["grade", "autograde", "ps1", "--student", "warned"]
missing = [part for part, why in sandbox.parts().items() if why]
refused = main(grade) if missing else 1
started = Course.load().autograded("warned", "ps1").exists() and bool(missing)
accepted = main([*grade, "--accept", ",".join(missing)])
print(json.dumps([missing, refused, started, accepted]))
"""


@pytest.mark.needs_userns
def test_host_that_lacks_a_part_of_the_sandbox_grades_only_when_told_to(odd: Course) -> None:
    """Without privileges there are no control groups here: the instructor decides, not the program."""
    with Student() as instructor:
        root = instructor.home / "course"
        shutil.copytree(odd.root, root, symlinks=True, ignore=shutil.ignore_patterns(".cnlab", "autograded"))
        for directory, _, files in os.walk(root):
            for path in [directory, *(os.path.join(directory, name) for name in files)]:
                os.chown(path, instructor.uid, -1, follow_symlinks=False)
        done = instructor.run([sys.executable, "-c", REFUSED_THEN_ACCEPTED], cwd=root)
        missing, refused, started, accepted = json.loads(done.stdout.splitlines()[-1])
        course = Course.load(root)

        assert (refused, started, accepted) == (1, False, 0)
        assert not missing or f"--accept {','.join(missing)}" in done.stderr
        assert points(course, "warned") == FULL
        assert note_of(course, "warned").accepted == tuple(missing)
