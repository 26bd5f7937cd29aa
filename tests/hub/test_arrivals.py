"""What a student can and cannot do to what is handed in; real files of real users, judged by the kernel."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from student import Student

from cnlab.grading.hub.desk import acting_as, look_after
from cnlab.grading.hub.place import Place
from cnlab.grading.steps import arrivals as exchange
from cnlab.grading.steps.arrivals import TIMESTAMP, Refused, arrivals, is_complete, receive

pytestmark = pytest.mark.needs_root

INSTRUCTOR = 19_999  # a user id that nobody has
LONG_AGO = "2020-01-01 00:00:00.000000 UTC"


@pytest.fixture
def place() -> Iterator[Place]:
    """An exchange that belongs to another user than the student, in which the student may put things."""
    with tempfile.TemporaryDirectory(prefix="cnlab-") as root:
        place = Place(Path(root))
        for directory in (place.course, place.inbound):
            directory.mkdir(parents=True)
        for path in (place.root, place.course, place.exchange, place.shelf, place.inbound):
            path.chmod(0o755)
            os.chown(path, INSTRUCTOR, INSTRUCTOR)
        place.inbound.chmod(0o3733)
        yield place


@contextmanager
def acting(student: Student) -> Iterator[None]:
    """Make and change files as the student."""
    os.setegid(student.uid)
    os.seteuid(student.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def submit(place: Place, student: Student, *, name: str = "", stamp: str = LONG_AGO) -> Path:
    """Hand in a notebook by hand, as `nbgrader submit` would; by default with a time stamp of long ago."""
    path = place.inbound / f"{name or f'user {student.uid}'}+lab+{stamp}+{os.urandom(6).hex()}"
    with acting(student):
        path.mkdir()
        (path / "lab.ipynb").write_text("my work")
        (path / "timestamp.txt").write_text(stamp)
        path.chmod(0o777)
    return path


def test_time_of_arrival_is_the_kernels(place, student):
    """Neither ``timestamp.txt`` nor the name of the directory counts."""
    before = datetime.now(UTC) - timedelta(seconds=1)  # the kernel's clock for files ticks coarsely
    submit(place, student)
    [arrival] = arrivals(place.inbound)

    assert before < arrival.at < datetime.now(UTC) + timedelta(seconds=1)


def test_time_of_files_cannot_be_set_back(place, student):
    """``touch -d`` sets the time of modification; the time of that change counts."""
    path = submit(place, student)
    before = datetime.now(UTC) - timedelta(seconds=1)
    with acting(student):
        for file in (path / "lab.ipynb", path):
            os.utime(file, (0, 0))
    [arrival] = arrivals(place.inbound)

    assert before < arrival.at


def test_later_edit_makes_a_submission_younger(place, student):
    """Before the desk has taken it in, an edit is a later submission."""
    path = submit(place, student)
    [first] = arrivals(place.inbound)
    with acting(student):
        (path / "lab.ipynb").write_text("better work")
    [second] = arrivals(place.inbound)

    assert first.at <= second.at
    assert second.at.timestamp() == pytest.approx((path / "lab.ipynb").stat().st_ctime, abs=1e-5)


def test_received_copy_is_out_of_the_students_reach(place, student):
    """Also through a file that was opened before; and what the student owned is gone."""
    path = submit(place, student)
    with acting(student), (path / "lab.ipynb").open("w") as opened:
        opened.write("my work")
        opened.flush()
        os.seteuid(0)
        look_after(place)
        os.seteuid(student.uid)
        opened.write("edited later")
    [received] = arrivals(place.inbound)
    with acting(student), pytest.raises(PermissionError):
        (received.path / "lab.ipynb").read_text()

    assert (True, "my work") == (received.is_received, (received.path / "lab.ipynb").read_text())
    look_after(place)
    assert [received.path.name] == os.listdir(place.inbound)


def test_received_copy_says_the_time_as_nbgrader_reads_it(place, student):
    """In its name and in ``timestamp.txt``, so nbgrader's own collect knows who is late."""
    submit(place, student)
    [before] = arrivals(place.inbound)
    look_after(place)
    [after] = arrivals(place.inbound)
    text = before.at.strftime(TIMESTAMP)

    assert (before.at, text) == (after.at, (after.path / "timestamp.txt").read_text())
    assert f"+lab+{text}+" in after.path.name


@pytest.mark.parametrize("name", ["root", "user 1"])
def test_renaming_a_received_copy_changes_nothing(place, student, name):
    """A student can where nbgrader made the directory; the name decides neither the time nor the student."""
    place.inbound.chmod(0o2733)
    submit(place, student)
    look_after(place)
    [before] = arrivals(place.inbound)
    with acting(student):
        before.path.rename(place.inbound / f"{name}+lab+{LONG_AGO}+abc")
    [after] = arrivals(place.inbound)

    assert (before.student, before.assignment, before.at) == (after.student, after.assignment, after.at)
    assert after.is_received


def test_receipt_of_a_students_own_is_not_believed(place, student):
    """It lies in a directory of the student's, and what is received gets another one."""
    path = submit(place, student)
    with acting(student):
        forged = f'{{"student": "root", "assignment": "lab", "at": "{LONG_AGO}"}}'
        (path / exchange.RECEIPT).write_text(forged)
    look_after(place)
    [received] = arrivals(place.inbound)

    assert f"user {student.uid}" == received.student
    assert received.at.year > 2020


def test_nothing_but_a_received_copy_is_copied_on(place, student, tmp_path):
    """A student puts something else in the place of the copy just before it is copied."""
    place.inbound.chmod(0o2733)
    submit(place, student)
    look_after(place)
    [received] = arrivals(place.inbound)
    with acting(student):
        received.path.rename(place.inbound / "elsewhere")
        received.path.mkdir()
        (received.path / "lab.ipynb").symlink_to("/etc/shadow")

    with pytest.raises(Refused, match="was renamed"):
        exchange.copy_received(received, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_desk_leaves_alone_what_is_being_collected(place, student):
    """It would take what another one has begun for what one that was killed has left."""
    submit(place, student)
    begun = place.inbound / f"{exchange.STAGED}abc"
    begun.mkdir()
    with acting_as(INSTRUCTOR, INSTRUCTOR):
        lock = exchange.lock(place.inbound)
    with lock:
        look_after(place)
        was_left = begun.exists()
    look_after(place)

    assert was_left
    assert not begun.exists()
    assert (place.shelf / ".lock").stat().st_mode & 0o777 == 0o600


def test_submission_in_anothers_name_is_refused(place, student):
    """The owner of the directory has handed it in, whatever its name says."""
    path = submit(place, student, name="root")
    with pytest.raises(Refused, match=rf"claims to be by 'root' and belongs to 'user {student.uid}'"):
        receive(place.inbound, path.name)
    look_after(place)

    assert [] == arrivals(place.inbound)
    assert not path.exists()


def test_links_and_devices_are_left_behind(place, student):
    """A symbolic link, a hard link to another's file, a pipe: none is followed, none is waited for."""
    secret = place.inbound.parent / "secret"
    secret.write_text("hidden tests")
    path = submit(place, student)
    os.link(secret, path / "hard.txt")  # as a student can where protected_hardlinks is off
    with acting(student):
        (path / "soft.txt").symlink_to(secret)
        (path / "far").symlink_to(place.course)
        os.mkfifo(path / "pipe")
    look_after(place)
    [received] = arrivals(place.inbound)

    assert [exchange.RECEIPT, "lab.ipynb", "timestamp.txt"] == sorted(os.listdir(received.path))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: [(path / str(number)).touch() for number in range(exchange.MAX_FILES)], "files"),
        (lambda path: os.truncate(path / "lab.ipynb", exchange.MAX_BYTES + 1), "MiB"),
        (lambda path: os.makedirs(path / "/".join("d" * (exchange.MAX_DEPTH + 2))), "deep"),
    ],
    ids=["many", "large", "deep"],
)
def test_too_much_is_refused(place, student, monkeypatch, make, why):
    """Nobody fills the instructor's disk; the desk says what was too much and goes on."""
    monkeypatch.setattr(exchange, "MAX_FILES", 20)
    path = submit(place, student)
    with acting(student):
        make(path)
        path.chmod(0o777)
    with pytest.raises(Refused, match=why):
        receive(place.inbound, path.name)


def test_submission_under_way_is_waited_for(place, student):
    """`nbgrader submit` copies file by file and ends with a chmod; half of it is no submission."""
    path = submit(place, student)
    with acting(student):
        path.chmod(0o755)
    now = path.stat().st_ctime

    assert (False, True) == (is_complete(path, now + 1), is_complete(path, now + 61))


def test_desk_that_is_killed_loses_and_doubles_nothing(place, student):
    """At forty instants of its work; the run after them all takes in what is left."""
    sent = 25
    for _ in range(sent):
        submit(place, student)
    for turn in range(40):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends a process
            signal.setitimer(signal.ITIMER_REAL, 0.0003 * (turn + 1))
            with contextlib.suppress(BaseException):
                look_after(place)
            os._exit(0)
        os.waitpid(child, 0)
    for _ in range(2):  # the second removes what the first has put aside
        look_after(place)
    found = arrivals(place.inbound)

    assert sent == len(found) == len({one.path.name.rpartition("+")[2] for one in found})
    assert all(one.is_received for one in found)
    assert sent == len(os.listdir(place.inbound))
