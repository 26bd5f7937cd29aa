"""The process that opens a submission's sandbox, and holds it as long as the worker wants.

It is forked for each submission, so what it learns of one ends with it. It answers its worker:
``interrupt`` the cell, ``kill`` the notebook's process, ``settle`` (remember who is there), ``sweep``
(end who was not), ``close``. When the worker is gone, it closes the sandbox and ends.
"""

from __future__ import annotations

import base64
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cnlab.clock import wait_until
from cnlab.errors import CnlabError
from cnlab.grading.attempt.channel import Channel
from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import Sandbox

_SWEEP_S = 1.0  # for who was killed to be gone, with the ports and files that it held
_POLL_S = 0.001


class Steward:
    """Holds one open sandbox. `keep` are the processes in there that stay between checks."""

    def __init__(self, channel: Channel, box: Sandbox, student: Any) -> None:
        self._channel = channel
        self._box = box
        self._student = student
        self._kept: set[int] = set()

    def serve(self) -> None:
        """Answer until the worker wants no more, or is gone."""
        while True:
            try:
                request = self._channel.receive()
                answer = getattr(self, f"_op_{request['op']}")(request)
                if request["op"] == "close":
                    self._box.close()
                self._channel.send(answer | self._news())
            except (ConnectionError, BrokenPipeError):
                return
            if request["op"] == "close":
                return

    def _news(self) -> dict[str, Any]:
        return {
            "events": [event.to_dict() for event in self._box.events()],
            "usage": self._box.usage().to_dict(),
        }

    def _op_interrupt(self, request: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(ProcessLookupError):
            if self._student.wait(0):
                return {}  # its number may be another's by now
            os.killpg(self._student.pid, signal.SIGINT)  # the commands that the cell waits for too
        return {}

    def _op_kill(self, request: dict[str, Any]) -> dict[str, Any]:
        self._student.signal(signal.SIGKILL)
        return {"ended": self._student.wait(request["seconds"])}

    def _op_settle(self, request: dict[str, Any]) -> dict[str, Any]:
        self._kept = set(self._box.processes())
        return {}

    def _op_sweep(self, request: dict[str, Any]) -> dict[str, Any]:
        """End the processes that served a check, and all that it has started."""
        ends = set(request["ends"])
        self._kept -= ends
        ends |= set(request["snapshots"])
        with contextlib.suppress(TimeoutError):  # who forks on and on ends with the sandbox
            wait_until(
                lambda: not self._end_strays(ends), timeout_s=_SWEEP_S, poll_s=_POLL_S, what="strays to end"
            )
        return {}

    def _end_strays(self, ends: set[int]) -> set[int]:
        """Kill who is to end, and return those that have not ended yet."""
        strays = strays_of(self._box.processes(), self._kept, ends)
        self._box.end(strays)
        return strays

    def _op_close(self, request: dict[str, Any]) -> dict[str, Any]:
        return {}

    def _op_look(self, request: dict[str, Any]) -> dict[str, Any]:
        return {}


def strays_of(parents: Mapping[int, int], kept: set[int], ends: set[int]) -> set[int]:
    """Return those of the processes `parents` (by pid, of whom) that are to end with a check.

    `ends` served it: they end with all below them. So do orphans, whose parent is process 1. `kept` were
    there before, and what they start stays too; as does what came from outside, and has no parent in there.
    """
    strays = set()
    for pid in parents.keys() - kept:
        above = pid
        while above in parents and above not in kept | ends:
            above = parents[above]
        if above in ends or above == 1:
            strays.add(pid)
    return strays


def live(
    request: Mapping[str, Any], channel: Channel, program: Callable[[], None], fds: Sequence[int]
) -> None:
    """Open the sandbox, start the student's `program` in it, and hold it."""
    try:
        limits = Limits.from_dict(request["limits"])
        files = {name: base64.b64decode(text) for name, text in request["files"].items()}
        box = Sandbox(limits, flavour=request["flavour"], files=files, accept=request["accept"])
        with box:
            student = box.start(program, keep_fds=list(fds))
            channel.send({"reference": dict(box.reference)}, fds=[student.pidfd])
            Steward(channel, box, student).serve()
    except (CnlabError, OSError) as error:
        channel.send({"error": f"{type(error).__name__}: {error}"})
