"""Markers for what a test needs of its machine, and the student on whose behalf most of them run.

A missing feature skips the test and is named. Where CNLAB_REQUIRE lists the feature
(``CNLAB_REQUIRE=uml,userns``, as CI does) the test fails instead: a skipped test is not a passed test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from student import Student

from cnlab import host
from cnlab.clock import wait_until

# Tests marked `as_student` fork; gRPC's own fork handlers end a child while another thread is in a call.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

NEEDS = {
    f"needs_{name}": name for name in ("userns", "mntns", "cgroup2", "uml", "root", "landlock", "ptrace")
}

# What `browser` means, as `browser/chromium.mjs` starts it.
CHROMIUM = os.environ.get("CNLAB_CHROMIUM", "/usr/bin/chromium")
PLAYWRIGHT = Path(__file__).parent / "browser" / "node_modules" / "playwright-core"

# What may outlive a file of tests, and why.
KEPT = {"cnlab.grading.attempt.forkserver": "it is warm for the next job, and ends with the process it is of"}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    # A script starts what it does not wait for, `make test &`, with Ctrl-C ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for marker, name in NEEDS.items():
        config.addinivalue_line("markers", f"{marker}: needs {name} of this machine")
    config.addinivalue_line("markers", "as_student: the test's body runs as an unprivileged student")
    config.addinivalue_line("markers", "needs_programs(name, ...): runs these programs of this machine")
    config.addinivalue_line("markers", "browser: drives a headless Chromium")
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or fail where it is required, what this machine cannot run."""
    required = os.environ.get("CNLAB_REQUIRE", "").split(",")
    for marker in item.iter_markers():
        for name, lack in _lacks(marker):
            reason = f"this machine lacks {name}: {lack}"
            if name in required or (marker.name not in NEEDS and "root" in required):
                pytest.fail(f"{reason} (CNLAB_REQUIRE asks for it)", pytrace=False)
            pytest.skip(reason)


def _lacks(marker: pytest.Mark) -> Iterator[tuple[str, str]]:
    """What a marker asks for that is not here, and how we know."""
    if marker.name in NEEDS:
        feature = _probe(NEEDS[marker.name])
        if not feature.is_available:
            yield feature.name, feature.detail
    programs = marker.args if marker.name == "needs_programs" else ()
    for program in ("node", CHROMIUM) if marker.name == "browser" else programs:
        if shutil.which(program) is None:
            yield program, "not installed; run by root, `make test` installs it"
    if marker.name == "browser" and not PLAYWRIGHT.is_dir():
        yield "playwright-core", f"no {PLAYWRIGHT}; `make test` installs it where npm is"


@cache
def _probe(name: str) -> host.Feature:
    return host.probe(name)


@pytest.fixture(scope="module", autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """No file of tests leaves a process to the next, where it would be counted or wait for its memory."""
    before = _children()
    yield
    with contextlib.suppress(TimeoutError):  # what is still there then is what the assertion shows
        wait_until(lambda: _children().keys() <= before.keys(), timeout_s=60)
    left = [command for pid, command in _children().items() if pid not in before]
    assert not left, f"processes left behind: {left}"


def _children() -> dict[int, str]:
    """The children of this process with their command lines, without those that are kept."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):  # a thread or a child that has ended meanwhile
            for pid in map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return {pid: command for pid, command in found.items() if not KEPT.keys() & set(command.split())}


@pytest.fixture
def student() -> Iterator[Student]:
    """An unprivileged user with an empty home."""
    with Student() as student:
        yield student


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run the body of a test marked ``as_student`` in a child that has become the student."""
    if pyfuncitem.get_closest_marker("as_student") is None:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    with Student() as student:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _report(writing, student, pyfuncitem, arguments)
        os.close(writing)
        try:
            with open(reading, errors="replace") as report:
                said = report.read()
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        with contextlib.suppress(TimeoutError):  # what is still there then is what the assertion shows
            wait_until(lambda: not student.processes(), timeout_s=60)
        left = student.processes()
    verdict, _, details = said.partition("\n")
    if verdict != "passed":
        pytest.fail(f"as the student with uid {student.uid}:\n{details}", pytrace=False)
    assert not left, f"processes left behind: {left}"
    return True


def _report(writing: int, student: Student, test: pytest.Function, arguments: dict[str, object]) -> None:
    """In the child: run the test, say how it went, and end without pytest's own end."""
    said = "failed\n"
    try:
        student.become()
        test.obj(**arguments)
        said = "passed\n"
    except BaseException:
        said += traceback.format_exc()
    finally:
        os.write(writing, said.encode()[: 1 << 15])
        os._exit(0)
