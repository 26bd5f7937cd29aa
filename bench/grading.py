"""Grading by ``cnlab grade`` beside nbgrader's own: the same submissions, the same checks, in one run.

Both are measured over one submission and over many: the difference is the rate, what one takes is mostly
start-up. Then a class of 300 hands in within a minute, and a lab is graded on the private kernel.
"""

from __future__ import annotations

import copy
import logging
import os
import pwd
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from cnlab import host

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from labs.course import filled_in, solutions, source_of

ROOT = Path(__file__).resolve().parents[1]
NAME = "numbers"
OURS, THEIRS = 101, 11  # submissions; the first is for what starting up takes
LAB, OUR_LABS, THEIR_LABS = "lab01-namespaces", 8, 3
STUDENTS, MINUTE = 300, 60
_FIRST_UID = 60_000

SETTINGS = """
c = get_config()
load_subconfig({shipped!r})
c.Exchange.root = {exchange!r}
"""
TASKS = {
    "mean": ("def mean(values):", "return np.mean(values)", "assert mean([1, 2, 6]) == 3"),
    "scale": ("def scale(values):", "return np.array(values) * 2", "assert list(scale([1, 2])) == [2, 4]"),
    "table": (
        "def table(n):",
        "return {i: i * i for i in range(n)}",
        "assert table(3) == {0: 0, 1: 1, 2: 4}",
    ),
    "invert": (
        "def invert(m):",
        "return np.linalg.inv(m)",
        "assert np.allclose(invert(np.eye(2)), np.eye(2))",
    ),
}


@dataclass(frozen=True)
class Course:
    """A course in a directory of its own, with nbgrader's settings."""

    directory: Path
    source: Path = ROOT / "labs"

    def run(self, *argv: str) -> float:
        """Run a command at the instructor's desk and return the seconds it took."""
        env = os.environ | {
            "CNLAB_COURSE": str(self.directory),
            "CNLAB_SOURCE": str(self.source),
            "PYTHONPATH": str(ROOT),
        }
        started = time.monotonic()
        done = subprocess.run(argv, cwd=self.directory, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv)[:100]}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return time.monotonic() - started

    def release(self, assignment: str) -> NotebookNode:
        """Make the students' version and return it."""
        self.run("cnlab", "grade", "release", assignment)
        path = self.directory / "release" / assignment / f"{assignment}.ipynb"
        return nbformat.read(path, as_version=4)

    def submit(self, student: str, assignment: str, notebook: NotebookNode) -> None:
        """Put a submission where collecting puts it."""
        directory = self.directory / "submitted" / student / assignment
        directory.mkdir(parents=True)
        nbformat.write(notebook, directory / f"{assignment}.ipynb")

    def marks(self) -> dict[tuple[str, str], float | None]:
        """What the gradebook has for each student and check."""
        query = """
            SELECT submitted_assignment.student_id, base_cell.name, grade.auto_score FROM grade
            JOIN base_cell ON base_cell.id = grade.cell_id
            JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
            JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
        """
        database = sqlite3.connect(self.directory / "gradebook.db")
        try:
            return {(student, check): score for student, check, score in database.execute(query)}
        finally:
            database.close()


def main() -> None:
    """Measure and print."""
    with _directory() as work:
        _compare_many(work)
        if host.probe("uml").is_available:
            _compare_on_private_kernel(work)
        else:
            print("labs on the private kernel   not measured: it does not start here")
    if os.geteuid() == 0:
        command = [sys.executable, "-m", "bench.grading", "class"]
        subprocess.run(["unshare", "--mount", "--propagation=private", *command], check=True, cwd=ROOT)
    else:
        print("a class that hands in        not measured: its students are users, which takes root")


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cnlab-bench-") as work:
        path = os.environ["PATH"]  # nbgrader calls programs of its own by name
        os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), path])
        try:
            yield Path(work)
        finally:
            os.environ["PATH"] = path


def _course(directory: Path, source: Path = ROOT / "labs") -> Course:
    exchange = directory / "exchange"
    exchange.mkdir(parents=True)
    shipped = str(ROOT / "grading" / "nbgrader_config.py")
    settings = SETTINGS.format(shipped=shipped, exchange=str(exchange))
    (directory / "nbgrader_config.py").write_text(settings)
    return Course(directory, source)


def _compare_many(work: Path) -> None:
    _write_source(work / "source" / NAME)
    ours, theirs = (_course(work / name, work / "source") for name in ("ours", "theirs"))
    for course, number in ((ours, OURS), (theirs, THEIRS)):
        release = course.release(NAME)
        for student in range(number):
            course.submit(f"student{student:03}", NAME, _answered(release, student))
    name = f"{OURS - 1} submissions, numpy and matplotlib, 12 cells"
    ratio = _beside(name, NAME, ours, OURS, theirs, THEIRS)
    print(f"  promised: at least 10 times the throughput, is {ratio:.1f}")


def _compare_on_private_kernel(work: Path) -> None:
    ours, theirs = _course(work / "our-lab"), _course(work / "their-lab")
    answers = solutions(source_of(LAB))
    for course, number in ((ours, OUR_LABS), (theirs, THEIR_LABS)):
        release = course.release(LAB)
        for student in range(number):
            course.submit(f"student{student:03}", LAB, filled_in(release, answers))
    ratio = _beside(f"{LAB} on the private kernel", LAB, ours, OUR_LABS, theirs, THEIR_LABS)
    print(f"  promised: at least 3 times the throughput, is {ratio:.1f}")


def _beside(name: str, assignment: str, ours: Course, n: int, theirs: Course, m: int) -> float:
    """Print what both take and whether they agree; return how many times as fast we are."""
    our_first, our_rest = _rate(
        lambda *student: ours.run("cnlab", "grade", "autograde", assignment, "--jobs=2", *student), n
    )
    their_first, their_rest = _rate(
        lambda *student: theirs.run("nbgrader", "autograde", assignment, *student), m
    )
    print(f"{name}: ours {our_rest * 1e3:5.0f} ms each, nbgrader {their_rest * 1e3:5.0f} ms each;", end="")
    print(f" first one, with start-up: {our_first:4.1f} s and {their_first:4.1f} s")
    our_marks, their_marks = ours.marks(), theirs.marks()
    differ = [key for key, mark in their_marks.items() if our_marks.get(key) != mark]
    print(f"  promised: the same marks, {len(differ)} of {len(their_marks)} differ")
    return their_rest / our_rest


def _rate(autograde: Callable[..., float], number: int) -> tuple[float, float]:
    """Grade one submission and then all others; return the seconds of the first, and of each of the rest.

    The second run starts up as the first did, so that much is taken off.
    """
    first = autograde("--student=student000")
    return first, (autograde() - first) / (number - 2)


def _class_hands_in() -> None:
    """Let users hand in who exist in this mount namespace only."""
    with _directory() as work:
        students = [f"student{number:03}" for number in range(STUDENTS)]
        _add_users(work, students)
        _write_source(work / "source" / NAME)
        course = _course(work / "class", work / "source")
        release = course.release(NAME)
        course.run("cnlab", "grade", "release", NAME, "--exchange")
        for number, student in enumerate(students):
            home = work / "homes" / student / NAME
            home.mkdir(parents=True)
            nbformat.write(_answered(release, number), home / f"{NAME}.ipynb")
            subprocess.run(["chown", "-R", student, home.parent], check=True)
        submit = [sys.executable, "-m", "bench.grading", "submit", str(work / "homes"), *students]
        submitting = course.run(*submit)
        collecting = course.run("cnlab", "grade", "collect", NAME)
        grading = course.run("cnlab", "grade", "autograde", NAME, "--jobs=2")
        _report(students, course, submitting, collecting, grading)


def _report(
    students: list[str], course: Course, submitting: float, collecting: float, grading: float
) -> None:
    graded = [student for student, check in course.marks() if check == f"check-{min(TASKS)}"]
    print(f"{STUDENTS} students submit through the exchange in {submitting:.0f} s,", end="")
    print(f" collecting takes {collecting:.1f} s, grading {grading:.0f} s")
    lost, doubled = len(set(students) - set(graded)), len(graded) - len(set(graded))
    print(f"  promised: within {MINUTE} s, none lost, none doubled; lost {lost}, doubled {doubled}")


def _add_users(work: Path, students: list[str]) -> None:
    """Put a list of users over the machine's, in a mount namespace of our own."""
    work.chmod(0o711)
    lines = [
        f"{student}:x:{_FIRST_UID + number}:{_FIRST_UID + number}::{work}/homes/{student}:/bin/sh\n"
        for number, student in enumerate(students)
    ]
    # A mount on the file itself would not outlive the next change of the machine's users: that is a rename.
    subprocess.run(["cp", "-a", "/etc", work / "etc"], check=True)
    with (work / "etc" / "passwd").open("a") as users:
        users.writelines(lines)
    subprocess.run(["mount", "--bind", work / "etc", "/etc"], check=True)


def _submit(homes: Path, students: list[str]) -> None:
    """Hand in as nbgrader's button does, each student from a process of its own; all are forks of ours."""
    from nbgrader.apps import SubmitApp

    os.environ["JUPYTER_CONFIG_PATH"] = os.getcwd()
    running = 0
    while students or running:
        if not students or running == 2 * (os.cpu_count() or 1):
            _, status = os.wait()
            running -= 1
            if status:
                raise SystemExit(f"a student could not submit: status {status}")
        elif os.fork() == 0:
            _become(students[0], homes / students[0])
            app = SubmitApp()
            app.log_level = logging.ERROR
            app.initialize([NAME])
            app.start()
            os._exit(0)
        else:
            students, running = students[1:], running + 1


def _become(student: str, home: Path) -> None:
    user = pwd.getpwnam(student)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ |= {"HOME": str(home), "USER": student, "LOGNAME": student}
    os.chdir(home)


def _write_source(directory: Path) -> None:
    """Write an assignment of twelve code cells that imports what labs import and draws a figure."""
    cells = [
        nbformat.v4.new_markdown_cell("# Numbers"),
        _cell("imports", "import numpy as np\nimport matplotlib.pyplot as plt", locked=True),
        _cell("look", "plt.plot(np.arange(10) ** 2)\nplt.show()", locked=True),
    ]
    for task, (head, answer, test) in TASKS.items():
        body = f"{head}\n    ### BEGIN SOLUTION\n    {answer}\n    ### END SOLUTION"
        hidden = f"{test}\n### BEGIN HIDDEN TESTS\n{test}\n### END HIDDEN TESTS"
        cells += [
            _cell(task, body, solution=True),
            _cell(f"check-{task}", hidden, locked=True, grade=True, points=2),
        ]
    cells += [
        _cell("sum", "np.ones((100, 100)).sum()", locked=True),
        _cell("end", "print('end')", locked=True),
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    directory.mkdir(parents=True)
    nbformat.write(notebook, directory / f"{NAME}.ipynb")


def _cell(grade_id: str, source: str, **claims: object) -> NotebookNode:
    plain = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    return nbformat.v4.new_code_cell(source, metadata={"nbgrader": plain | {"grade_id": grade_id} | claims})


def _answered(release: NotebookNode, student: int) -> NotebookNode:
    """What a student hands in, who gets the task wrong that is due by the number."""
    notebook = copy.deepcopy(release)
    wrong = [*TASKS, ""][student % (len(TASKS) + 1)]
    for cell in notebook.cells:
        task = cell.metadata.get("nbgrader", {}).get("grade_id")
        if task in TASKS:
            head, answer, _ = TASKS[task]
            cell.source = f"{head}\n    {'return None' if task == wrong else answer}"
    return notebook


if __name__ == "__main__":
    if sys.argv[1] == "submit":
        _submit(Path(sys.argv[2]), sys.argv[3:])
    else:
        _class_hands_in()
