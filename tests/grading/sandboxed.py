"""Run a function as a student's code would run: in a sandbox, confined by what this machine has."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from cnlab.clock import wait_until
from cnlab.grading.limits import MIB, Event, Limits, Usage
from cnlab.grading.sandbox import Sandbox

GROUPS = ("cgroup-memory", "cgroup-pids", "cgroup-cpu")
SMALL = Limits(memory_bytes=256 * MIB, tmp_bytes=16 * MIB, tmp_files=200, pids=40, cpu_s=20, notebook_s=20)
BOTH = pytest.mark.parametrize(
    "grader", [pytest.param("unprivileged", marks=pytest.mark.as_student), "whoever runs the tests"]
)
"""Grading by root has control groups, grading by a user mostly not: what holds must hold for both."""


def accepted() -> Collection[str]:
    """The parts to do without: an ordinary user rarely has control groups."""
    return () if os.geteuid() == 0 else GROUPS


@dataclass(frozen=True)
class Outcome:
    """What came of the student's code."""

    answer: Any  # what the function returned, as JSON keeps it
    ended: bool  # the process had ended by itself or by a limit
    events: list[Event]
    usage: Usage

    @property
    def kinds(self) -> set[str]:
        """What the events are about."""
        return {event.kind for event in self.events}


@contextlib.contextmanager
def student_runs(
    function: Callable[[], Any],
    *,
    limits: Limits = SMALL,
    files: Mapping[str, bytes] | None = None,
) -> Iterator[tuple[Sandbox, Callable[[], Any]]]:
    """Let a student's process call `function`; yields the sandbox, and what reads the function's answer."""
    reading, writing = os.pipe()

    def program() -> None:
        try:
            answer = json.dumps({"answer": function()})
        except BaseException:
            answer = json.dumps({"failed": traceback.format_exc()})
        os.write(writing, f"{answer}\n".encode())
        os.close(writing)
        signal.pause()

    def read() -> Any:
        with open(reading, closefd=False) as answers:
            answer = json.loads(answers.readline() or "{}")
        assert "failed" not in answer, answer["failed"]
        return answer.get("answer")

    try:
        with Sandbox(limits, files=files, accept=accepted()) as box:
            box.start(program, keep_fds=[writing])
            os.close(writing)
            yield box, read
    finally:
        os.close(reading)


def outcome_of(function: Callable[[], Any], *, limits: Limits = SMALL, **options: Any) -> Outcome:
    """Run `function` to its end, or to the sandbox's."""
    with student_runs(function, limits=limits, **options) as (box, read):
        answer = read()
        events = box.events()
        ended = wait_until(lambda: not box.processes(), timeout_s=20) if answer is None else False
        return Outcome(answer, bool(ended), [*events, *box.events()], box.usage())


def errno_of(attempt: Callable[[], Any]) -> int:
    """Return the errno that the kernel answers with, 0 if it does what was asked."""
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0
