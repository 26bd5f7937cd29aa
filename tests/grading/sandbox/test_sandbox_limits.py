"""What a student's code can use up: each limit holds, ends what it must, and tells of it."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from grading.sandboxed import BOTH, SMALL, accepted, errno_of, outcome_of, student_runs

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.grading.limits import MIB, Event, Limits
from cnlab.grading.sandbox.groups import Reading
from cnlab.grading.sandbox.watchdog import Refusals, Watch

pytestmark = [pytest.mark.needs_userns, pytest.mark.needs_landlock]


@BOTH
def test_memory_of_all_processes_together_is_limited(grader):
    """Each of them alone would be small enough."""

    def hog():
        for _ in range(6):
            if os.fork() == 0:
                held = mmap.mmap(-1, 40 * MIB)
                held.write(b"x" * (40 * MIB))
                signal.pause()
        signal.pause()

    with student_runs(hog, limits=replace(SMALL, memory_bytes=128 * MIB)) as (box, _):
        events: list[Event] = []
        wait_until(lambda: events.extend(box.events()) or "memory" in {e.kind for e in events}, timeout_s=20)

        assert "128 MiB" in events[0].text


@BOTH
def test_one_process_cannot_take_all_memory(grader):
    """It ends, or is told that there is none; the machine does not swap for it."""

    def hog():
        with open("/dev/zero", "rb") as zero:
            try:
                return len(zero.read(400 * MIB))
            except MemoryError:
                return "MemoryError"

    assert outcome_of(hog).answer in (None, "MemoryError")


@BOTH
def test_fork_bomb_meets_a_limit(grader):
    """And the close after it finds nobody who gets away."""

    def bomb():
        born = 0
        while True:
            try:
                if os.fork() == 0:
                    signal.pause()
            except BlockingIOError:
                return born
            born += 1

    outcome = outcome_of(bomb)

    assert outcome.answer < SMALL.pids
    assert grader == "unprivileged" or "cgroup-pids" in accepted() or outcome.kinds == {"pids"}


@BOTH
def test_threads_count_as_processes(grader):
    """The kernel gives both a number."""

    def bomb():
        stop = threading.Event()
        try:
            while True:
                threading.Thread(target=stop.wait, daemon=True).start()
        except RuntimeError:
            return threading.active_count()

    assert outcome_of(bomb).answer <= SMALL.pids


@BOTH
def test_endless_loop_ends_after_its_processor_time(grader):
    """Whoever burns it: the time of all processes is added up, and signals are not asked."""

    def burn():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU):
            signal.signal(number, signal.SIG_IGN)
        os.fork()
        while True:
            pass

    outcome = outcome_of(burn, limits=replace(SMALL, cpu_s=0.3))

    assert outcome.ended
    assert [event.text for event in outcome.events] == ["ended after 0.3 s of processor time"]


@BOTH
def test_sleeping_does_not_outlast_the_notebook(grader):
    """Waiting costs no processor time; the clock on the wall counts too."""
    outcome = outcome_of(signal.pause, limits=replace(SMALL, notebook_s=0.3))

    assert outcome.ended
    assert [event.text for event in outcome.events] == ["ended after 0.3 s"]


@BOTH
def test_full_disk_is_an_error_of_the_write_and_told(grader):
    """All places to write to share one limit."""

    def fill():
        block = bytes(MIB)
        written = 0
        for name in ("/tmp/a", "/var/tmp/b", "/dev/shm/c", "d"):
            with open(name, "wb", buffering=0) as file:
                try:
                    while True:
                        written += file.write(block)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
        return written

    outcome = outcome_of(fill)

    assert outcome.answer <= SMALL.tmp_bytes
    assert outcome.kinds == {"disk"}


@BOTH
def test_number_of_files_is_limited(grader):
    """Empty files take memory as well, and none of the blocks."""

    def litter():
        for number in range(SMALL.tmp_files + 1):
            if reason := errno_of(lambda number=number: Path(f"/tmp/{number}").touch()):
                return reason
        return 0

    outcome = outcome_of(litter)

    assert outcome.answer == errno.ENOSPC
    assert outcome.kinds == {"disk"}


@BOTH
def test_size_of_a_file_is_limited(grader):
    """Also of one with a hole, which takes no space."""
    limits = replace(SMALL, file_bytes=MIB)
    program = (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); open('x', 'wb').truncate(2 << 20)"
    )

    def grow():
        with open("x", "wb") as file:
            truncated = errno_of(lambda: file.truncate(2 * MIB))
        return truncated, subprocess.run(["python3", "-c", program]).returncode

    assert outcome_of(grow, limits=limits).answer == [errno.EFBIG, -signal.SIGXFSZ]


@BOTH
def test_pipes_and_open_files_are_limited(grader):
    """What the kernel holds on behalf of a process is the machine's memory too."""

    def open_many():
        held = []
        while True:
            try:
                held.append(os.pipe())
            except OSError as error:
                return error.errno

    assert outcome_of(open_many).answer == errno.EMFILE


@BOTH
def test_limits_cannot_be_raised(grader):
    """What is hard stays hard."""
    import resource

    kinds = (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_NICE)

    def more():
        for kind in kinds:
            soft, hard = resource.getrlimit(kind)
            with pytest.raises(ValueError, match="not allowed to raise maximum limit"):
                resource.setrlimit(kind, (soft, hard + 1))
        return errno_of(lambda: os.nice(-5))

    assert outcome_of(more).answer == errno.EPERM


@BOTH
def test_flood_of_refused_calls_is_told_in_few_words(grader):
    """An event a call would fill the instructor's report."""

    def flood():
        for _ in range(1500):
            errno_of(lambda: os.chroot("/"))
        return True

    texts = [event.text for event in outcome_of(flood).events]

    assert texts == [
        "chroot: refused",
        "chroot: refused, 10 times by now",
        "chroot: refused, 100 times by now",
        "chroot: refused, 1000 times by now",
    ]


@BOTH
def test_usage_adds_up_all_processes(grader):
    """Also of those that have ended."""

    def burn():
        import time

        if os.fork() == 0:
            while time.process_time() < 0.2:
                pass  # the kernel rounds to hundredths
            os._exit(0)
        os.wait()
        return True

    with student_runs(burn) as (box, read):
        read()
        during = box.usage()
    after = box.usage()

    assert during.cpu_s >= 0.15
    assert after.cpu_s >= during.cpu_s
    assert after.memory_peak_bytes > 0


def test_watch_tells_what_is_new_once():
    """It is asked ten times a second."""
    watch = Watch(Limits(pids=7))
    refused = Reading(forks_refused=3)

    assert watch.look(Reading(), wall_s=0) == []
    assert watch.look(refused, wall_s=1) == [Event("pids", "no more than 7 processes and threads")]
    assert watch.look(refused, wall_s=2) == []
    assert not watch.is_over


def test_watch_ends_what_was_born_after_the_end():
    """A fork may be under way while everything is killed."""
    watch = Watch(Limits(cpu_s=1))

    assert len(watch.look(Reading(cpu_s=1.5), wall_s=1)) == 1
    assert watch.look(Reading(cpu_s=1.6), wall_s=2) == []
    assert watch.is_over


def test_refusals_are_counted_by_name():
    """Another call is another event."""
    refusals = Refusals()

    told = [refusals.add(name) for name in ("mount", "mount", "bpf")]

    assert [event and event.text for event in told] == ["mount: refused", None, "bpf: refused"]


def test_limits_survive_a_journey_as_json():
    """They travel with a job to another machine."""
    limits = Limits(pids=3, cell_s=0.5)

    assert Limits.from_dict(limits.to_dict()) == limits


@pytest.mark.parametrize(
    "values", [{"pids": 0}, {"pids": 1.5}, {"pids": True}, {"cell_s": float("inf")}, {"x": 1}]
)
def test_limit_that_limits_nothing_is_refused(values):
    """A typing error must not open the sandbox."""
    with pytest.raises(InvalidValue, match="limit"):
        Limits.from_dict(values)
