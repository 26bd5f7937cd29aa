"""A run that is killed at any instant and started again ends like one that was not."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest
from grading.problem_set import ANSWERS, NAME, answered, comments, grades, make_course, submit

from cnlab.clock import wait_until
from cnlab.grading.job import CellResult, Job, Result
from cnlab.grading.sandbox.group_removal import PREFIX
from cnlab.grading.steps.assignment import Assignment
from cnlab.grading.steps.autograde import Autograding
from cnlab.grading.steps.course import Course
from cnlab.grading.steps.feedback import write_feedback

STUDENTS = ("ada", "ben", "cem", "dia", "eva", "fay")
KILLS = 100
PER_RUN = ("finished", "wall_s")  # what a journal says of its run and not of the work

pytestmark = pytest.mark.timeout(300)


def recited(jobs: Iterable[Job]) -> Iterator[Result]:
    """Stand in for workers, which keep nothing: give each job the same result every time."""
    for job in jobs:
        notebook = json.loads(job.notebook)
        cells = []
        for index, (cell, (role, grade_id)) in enumerate(zip(notebook["cells"], job.roles, strict=True)):
            fails = role == "test" and (len(job.notebook) + index) % 3 == 0
            if cell["cell_type"] != "code":
                continue
            if fails:
                cell["outputs"] = [
                    {"output_type": "error", "ename": "AssertionError", "evalue": "no", "traceback": ["no"]}
                ]
            cells.append(CellResult(index, grade_id, "failed" if fails else "ok"))
        yield Result(job.key, json.dumps(notebook), tuple(cells))


def grade(course: Course) -> None:
    """Do what the command does, in this process."""
    for outcome in Autograding(course, Assignment.load(course, NAME)).run(recited):
        assert outcome.error == ""


def state(course: Course) -> dict[str, object]:
    """All that is left of a run: gradebook, files, journals."""
    files = {
        str(path.relative_to(course.root)): path.read_bytes()
        for path in sorted(course.root.rglob("*"))
        if path.is_file() and path.name not in ("gradebook.db", "lock")
    }
    journals = {
        name: {key: value for key, value in json.loads(data).items() if key not in PER_RUN}
        for name, data in files.items()
        if name.startswith(".cnlab/runs/")
    }
    return {"grades": grades(course), "comments": comments(course), "files": files | journals}


def in_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own and return how that ended, as waitpid tells it."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass(frozen=True)
class Class:
    """A course in which six have handed in, and how it looks when it was graded in one go."""

    course: Course
    graded: dict[str, object]
    cpu_s: float

    def copied_to(self, root: Path) -> Course:
        """Return it as it was before the grading."""
        shutil.copytree(self.course.root, root)
        return Course(self.course.config, _at(self.course, root))


def _at(course: Course, root: Path) -> object:
    """The same settings for another directory; reading the file anew would take most of the test's time."""
    from nbgrader.coursedir import CourseDirectory

    coursedir = CourseDirectory(config=course.config)
    coursedir.root = str(root)
    coursedir.db_url = f"sqlite:///{root}/gradebook.db"
    return coursedir


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Class:
    """The class, and one clean run."""
    top = tmp_path_factory.mktemp("resume")
    course = make_course(top / "course")
    for number, student in enumerate(STUDENTS):
        work = answered(course, ANSWERS | {"essay": "So. " * number})
        (submit(course, student, work) / "notes.txt").write_text(student)
    clean = Class(course, {}, 0.0).copied_to(top / "clean")
    grade(clean)  # once to warm up, so that the second tells how long one takes
    shutil.rmtree(clean.private / "runs")
    before = os.times()
    in_child(lambda: grade(clean))
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return Class(course, state(clean), spent)


def test_run_killed_a_hundred_times_ends_like_one_that_was_not(classroom: Class, tmp_path: Path) -> None:
    """At random instants of its own processor time, so that it makes no odds how busy the machine is.

    SIGPROF, which a process can have sent to itself at such an instant, ends it as SIGKILL does when nobody
    handles it: at once, and without a line of Python. A run that was done before its instant does not count.
    """
    rng = random.Random(4)
    left: Counter[int] = Counter()
    for number in range(3 * KILLS):
        if left.total() == KILLS:
            break
        course = classroom.copied_to(tmp_path / str(number))
        instant = rng.uniform(0.005, max(0.01, classroom.cpu_s))

        def work(course: Course = course, instant: float = instant) -> None:
            signal.setitimer(signal.ITIMER_PROF, instant)
            grade(course)

        if in_child(work) == -signal.SIGPROF:
            left[len(list(course.runs(NAME).glob("*.json")))] += 1
            grade(course)

        assert state(course) == classroom.graded, f"killed after {instant} s of processor time"
        shutil.rmtree(course.root)

    assert left.total() == KILLS, "too few were killed for this to say anything"
    assert len(left) > 2, f"all were killed before the same student: {left}"


STEPS = [
    ("call", "_staged"),
    ("return", "_staged"),
    ("return", "remove"),
    ("return", "update_or_create_student"),
    ("return", "update_or_create_submission"),
    ("return", "record"),
    ("call", "put"),
    ("return", "put"),
    ("call", "commit_all"),
    ("return", "commit_all"),
    ("call", "write"),
    ("return", "write"),
]
"""Where the order of things matters, one step of a submission after the other."""


def grade_until(course: Course, event: str, function: str) -> None:
    """Grade, and be killed when for the second time this function is called or returns."""
    times = Counter[str]()

    def watch(frame: FrameType, happened: str, argument: object) -> None:
        if frame.f_code.co_name == function and happened == event:
            times[function] += 1
            if times[function] == 2:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    grade(course)


@pytest.mark.parametrize("step", STEPS, ids="-".join)
def test_run_killed_between_two_steps_ends_like_one_that_was_not(
    classroom: Class, tmp_path: Path, step: tuple[str, str]
) -> None:
    """The random instants seldom fall between the swap of a directory and the commit that belongs to it."""
    course = classroom.copied_to(tmp_path / "course")
    ended = in_child(lambda: grade_until(course, *step))
    grade(course)

    assert ended == -signal.SIGKILL
    assert state(course) == classroom.graded


@pytest.mark.parametrize(
    "step", [step for step in STEPS if step[1] in ("remove", "put", "commit_all")], ids="-".join
)
def test_killed_run_over_work_handed_in_again_leaves_nothing_old(
    classroom: Class, tmp_path: Path, step: tuple[str, str]
) -> None:
    """There is something to be replaced, and a journal that said it was finished."""
    course = classroom.copied_to(tmp_path / "course")
    grade(course)
    for student in STUDENTS:
        (course.submitted(student, NAME) / "notes.txt").write_text("changed")
    ended = in_child(lambda: grade_until(course, *step))
    grade(course)
    notes = [(course.autograded(student, NAME) / "notes.txt").read_text() for student in STUDENTS]

    assert ended == -signal.SIGKILL
    assert notes == ["changed"] * len(STUDENTS)
    assert grades(course) == classroom.graded["grades"]


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [number for child in children for number in (int(child), *descendants(int(child)))]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; its entry waits for whoever is the parent now."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    return True


def left_over(pids: Collection[int]) -> list[str]:
    """What is still there of processes, and of the control groups that they have made."""
    there = [f"process {pid}" for pid in pids if not is_gone(pid)]
    makers = set(map(str, pids))
    groups = (directory for directory, _, _ in os.walk("/sys/fs/cgroup") if f"/{PREFIX}" in directory)
    return there + [group for group in groups if makers & set(os.path.basename(group).split("-"))]


def test_command_killed_with_its_workers_at_work_goes_on(classroom: Class, tmp_path: Path) -> None:
    """The same with real workers and a real kill -9, while one of them waits for a student who sleeps."""
    course = classroom.copied_to(tmp_path / "course")
    submit(course, "fay", answered(course, ANSWERS | {"cube": "    import time\n    time.sleep(25)"}))
    command = [f"{Path(sys.executable).parent}/cnlab", "grade", "autograde", NAME, "--jobs", "2"]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, cwd=course.root, env=environment, stderr=subprocess.DEVNULL) as killed:
        wait_until(lambda: list(course.runs(NAME).glob("*.json")), timeout_s=60, poll_s=0.01)
        started = descendants(killed.pid)
        killed.kill()
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not left_over(started), timeout_s=60)
    assert left_over(started) == []
    submit(course, "fay", answered(course))
    subprocess.run(command, cwd=course.root, env=environment, capture_output=True, check=True)

    assert killed.returncode == -signal.SIGKILL
    assert len(started) > 2, "there was nothing to be left over"
    assert {row[0] for row in grades(course)} == set(STUDENTS)
    assert {row[3] for row in grades(course) if row[1] == "check-partly"} == {3.0}


def test_killed_feedback_ends_like_one_that_was_not(classroom: Class, tmp_path: Path) -> None:
    """Each page is old or new, and which of them are to be written is found out anew."""
    course = classroom.copied_to(tmp_path / "course")
    grade(course)
    pages: list[str] = []

    def work() -> None:
        for page in write_feedback(course, NAME):
            if page.student == "cem":
                os.kill(os.getpid(), signal.SIGKILL)

    ended = in_child(work)
    pages = [page.student for page in write_feedback(course, NAME) if page.is_new]

    assert ended == -signal.SIGKILL
    assert pages == ["dia", "eva", "fay"]
