"""Many jobs at a time on one machine: each is done once, whatever becomes of those who do it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from student import ROOT

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.grading.attempt.execution import Job, Result
from cnlab.grading.workers import pool
from cnlab.grading.workers.worker import result_for

RUNNERS = "grading.stand_in_runners"


@pytest.fixture(autouse=True)
def runners_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is a fresh interpreter: it finds the tests' modules as it finds any others."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))


def jobs(number_of_jobs: int, **options: object) -> Iterator[Job]:
    return (Job(f"job-{number}", "{}", (), options=options) for number in range(number_of_jobs))


def run(jobs: Iterator[Job], runner: str, workers: int = 2) -> list[Result]:
    os.environ["PYTHONPATH"] = str(ROOT / "tests")  # as a student, the environment is a fresh login's
    return list(pool.run(jobs, workers=workers, runner=f"{RUNNERS}:{runner}"))


def is_gone(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    return True


def test_every_job_is_done_once() -> None:
    """A student graded twice or never is the one error that nobody forgives."""
    results = run(jobs(30), "echo")

    assert sorted(result.key for result in results) == sorted(job.key for job in jobs(30))


def test_result_of_another_job_is_nobodys() -> None:
    """Its key would write another student's marks."""
    results = run(jobs(2), "mistake")

    assert {result.key: result.error for result in results} == {
        "job-0": "its worker has sent the result of 'job-1'",
        "job-1": "its worker has sent the result of 'job-0'",
    }


@pytest.mark.parametrize("text", ["", "[]", "5", "{}", '{"key": "job-0"}', '{"key": []}'])
def test_answer_that_is_no_result_is_an_error(text: str) -> None:
    """On a cluster, other programs may speak for a worker."""
    [job] = jobs(1)
    result = result_for(job, text)

    assert result.key == job.key
    assert "its worker has sent" in result.error


def test_all_workers_work() -> None:
    """Two processors, two at a time."""
    pids = {json.loads(result.notes[0])["pid"] for result in run(jobs(30), "echo")}

    assert len(pids) == 2


def test_worker_has_a_session_of_its_own() -> None:
    """Ctrl-C at the parent's terminal is for the parent to act on, and no student reaches that terminal."""
    [result] = run(jobs(1), "echo")
    who = json.loads(result.notes[0])

    assert (who["session"], who["parent"]) == (who["pid"], os.getpid())


def test_jobs_are_taken_only_as_workers_become_free() -> None:
    """Three hundred submissions need not fit into memory."""
    taken = itertools.count()
    endless = (Job(f"job-{number}", "{}", ()) for number in taken)
    with contextlib.closing(pool.run(endless, workers=2, runner=f"{RUNNERS}:echo")) as results:
        done = len(list(itertools.islice(results, 10)))

    assert next(taken) <= done + 3 * 2 + 1


def test_large_job_and_large_result_pass_each_other() -> None:
    """Neither side waits for the other to read, so neither can wait for ever."""
    large = (Job(f"job-{number}", "x" * 10_000_000, ()) for number in range(6))

    assert {len(result.notebook) for result in run(large, "echo")} == {10_000_000}


def test_text_that_is_no_unicode_passes() -> None:
    """A lone surrogate in a submission is the student's affair and stops nobody's grading."""
    [result] = run(iter([Job("odd", "\ud800", ())]), "echo")

    assert result.notebook == "\ud800"


def test_job_whose_worker_died_is_run_again_and_says_so(tmp_path: Path) -> None:
    """The machine was out of memory, say: no student's fault."""
    [result] = run(jobs(1, count=str(tmp_path / "count"), deaths=1), "die")

    assert (result.error, result.attempts) == ("", 2)
    assert "died; it was run again" in result.notes[0]


def test_job_that_kills_two_workers_fails_alone(tmp_path: Path) -> None:
    """It must not take the others' workers one by one."""
    deadly = Job("deadly", "{}", (), options={"count": str(tmp_path / "count"), "deaths": 99})
    results = run(itertools.chain(jobs(3), [deadly], jobs(3)), "die")
    errors = {result.key: result.error for result in results if result.error}

    assert errors == {"deadly": "each of the 2 processes that ran it died, the last by signal 9"}
    assert len(results) == 7
    assert len((tmp_path / "count").read_bytes()) == 2


def test_error_of_ours_is_a_result_too() -> None:
    """It belongs to one submission, and the others go on."""
    results = run(jobs(2), "break_down")

    assert {result.error for result in results} == {
        f"RuntimeError: job-{number} is more than it can bear" for number in range(2)
    }


def test_no_worker_is_no_number_of_workers() -> None:
    """Otherwise it would wait for ever."""
    with pytest.raises(InvalidValue, match="expected 1 or more"):
        pool.run(jobs(1), workers=0)


@pytest.mark.as_student
def test_leaving_early_ends_the_workers_and_what_they_run() -> None:
    """An error in the parent must not leave submissions running."""
    os.environ["PYTHONPATH"] = str(ROOT / "tests")
    pids = Path("pids")
    stuck = Job("stuck", "{}", (), options={"pids": str(pids.absolute())})

    def interrupted() -> Iterator[Job]:
        yield stuck
        wait_until(lambda: pids.is_file() and pids.read_text().count("\n") == 2, timeout_s=20)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pool.run(interrupted(), workers=1, runner=f"{RUNNERS}:wait_for_ever"))

    assert [pid for pid in pids.read_text().split() if not is_gone(int(pid))] == []


PARENT = f"""
import sys
from cnlab.grading.workers import pool
from cnlab.grading.attempt.execution import Job
jobs = [Job(str(number), "{{}}", (), options={{"pids": sys.argv[1]}}) for number in range(2)]
list(pool.run(jobs, workers=2, runner="{RUNNERS}:wait_for_ever"))
"""


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name
)
def test_signal_to_the_parent_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Also one that it cannot catch."""
    pids = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(pids)], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: pids.is_file() and pids.read_text().count("\n") == 4, timeout_s=20)
        parent.send_signal(number)
        wait_until(lambda: all(is_gone(int(pid)) for pid in pids.read_text().split()), timeout_s=20)
    finally:
        parent.kill()
        parent.wait()
