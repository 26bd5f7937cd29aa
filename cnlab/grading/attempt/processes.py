"""The processes of one attempt as the worker holds them: the student's in its sandbox, and the tester.

Interface: ``with World(server, job) as world:`` opens the sandbox; `World.student` runs the student's
cells and forks snapshots, `World.tester` runs checks against them. Everything is ended with the block.

What comes from the student's process is hostile: whatever it answers or does not, the outcome of a cell
or a check says so, and nothing is raised.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cnlab.errors import CnlabError
from cnlab.grading.attempt import plain
from cnlab.grading.attempt.capture import MAX_OUTPUT_BYTES, Capture, OutputFlood, Streams, follow
from cnlab.grading.attempt.channel import Channel, pair
from cnlab.grading.attempt.forkserver import ForkServer
from cnlab.grading.attempt.scores import lost_of
from cnlab.grading.job import Job, Status
from cnlab.grading.limits import Event, Limits
from cnlab.linux import syscalls

_GRACE_S = 2.0  # after an interrupt, until it is killed
_FORK_S = 15.0
_OPEN_S = 60.0
_STEWARD_S = 30.0
_SEND_S = 10.0  # who takes no message for so long is stopped, or hostile
_MAX_ANSWER_BYTES = 1 << 10  # a fork says its pid
_ENVIRONMENT = {"NBGRADER_EXECUTION": "autograde"}


class SandboxFailed(CnlabError):  # noqa: N818 - reads as what has happened
    """The sandbox could not be opened, or does not answer; no student's code is to blame."""


def hard(limits: Limits) -> Limits:
    """Return the limits at which the sandbox ends everything.

    The student's cells and the checks each have the time of a notebook: who lets cells run too long does not
    lose the checks of what was there before. Who is late is stopped by the worker first, cell by cell.
    """
    notebook_s, cpu_s = (2 * (time_s + limits.cell_s) for time_s in (limits.notebook_s, limits.cpu_s))
    return dataclasses.replace(limits, notebook_s=notebook_s, cpu_s=cpu_s)


@dataclass(frozen=True)
class Outcome:
    """How a cell went; `message` is one line."""

    status: Status = "ok"
    message: str = ""
    line: int = 0


@dataclass
class Snapshot:
    """A copy of the student's process at one place; `uses` checks, or parts of them, are still to ask it."""

    channel: Channel
    pid: int
    uses: int = 0


class Check(Protocol):
    """What a tester needs to know of a cell."""

    index: int
    snapshot: Snapshot | None


class World:
    """An open sandbox. `now` is the cell that runs, to which events are put down."""

    def __init__(self, server: ForkServer, job: Job) -> None:
        self.limits = Limits.from_dict(job.limits)
        self.events: list[Event] = []
        self.usage: dict[str, float] = {}
        self.now: int | None = None
        self._server = server
        self._job = job
        self._stack = contextlib.ExitStack()
        self._snapshots: list[int] = []

    def __enter__(self) -> World:
        with self._stack:
            self._open()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        control, its_control = pair()
        end, its_end = pair()
        out, its_out = os.pipe()
        err, its_err = os.pipe()
        checks, self.output = os.pipe()
        self._steward = Channel(control, takes_fds=True)
        self._stack.callback(self._steward.close)
        end.settimeout(_SEND_S)
        channel = Channel(end, max_bytes=MAX_OUTPUT_BYTES + (1 << 20))
        self._stack.callback(channel.close)
        streams = Streams({out: "stdout", err: "stderr"})
        self._stack.callback(streams.close)
        self.checked = Streams({checks: "stdout"})
        self._stack.callback(self.checked.close)
        self._stack.callback(os.close, self.output)
        theirs = [its_control.detach(), its_end.detach(), its_out, its_err]
        try:
            request = {"program": "steward", "environment": _ENVIRONMENT}
            self._steward_pidfd = self._server.fork(request, theirs)
        finally:
            for fd in theirs:
                os.close(fd)
        self._stack.callback(os.close, self._steward_pidfd)
        self._stack.callback(self._close_sandbox)
        self.reference, pidfd = self._meet()
        self._stack.callback(os.close, pidfd)
        self.student = StudentProcess(self, channel, streams, pidfd)
        self.tester = TesterProcess(self)
        self._stack.callback(self.tester.close)

    def _meet(self) -> tuple[dict[str, Any], int]:
        job = self._job
        order = {
            "limits": hard(self.limits).to_dict(),
            "files": {name: base64.b64encode(data).decode() for name, data in job.files.items()},
            "flavour": job.flavour,
            "accept": list(job.accept),
        }
        try:
            answer = self._steward.ask(order, time.monotonic() + _OPEN_S)
        except (OSError, plain.NotPlain) as error:
            raise SandboxFailed(f"the sandbox could not be opened: {error}") from None
        if "error" in answer:
            raise SandboxFailed(f"the sandbox could not be opened: {answer['error']}")
        [pidfd] = self._steward.take_fds()
        return answer["reference"], pidfd

    def ask_steward(self, op: str, **rest: plain.Json) -> dict[str, Any]:
        """Ask the process that holds the sandbox, and take in its news.

        Raises:
            SandboxFailed: it does not answer.
        """
        try:
            answer = self._steward.ask({"op": op} | rest, time.monotonic() + _STEWARD_S)
        except (OSError, plain.NotPlain) as error:
            raise SandboxFailed(f"the sandbox does not answer: {error}") from None
        for event in answer["events"]:
            self.events.append(Event(event["kind"], event["text"], self.now))
        self.usage = answer["usage"]
        return dict(answer)

    def note(self, error: Exception) -> None:
        """Put down that a cell was stopped for what it printed."""
        if isinstance(error, OutputFlood):
            self.events.append(Event("output", str(error), self.now))

    @property
    def cpu_s(self) -> float:
        """What the sandbox had used of the processor when its steward spoke last."""
        return float(self.usage.get("cpu_s", 0.0))

    def settle(self) -> None:
        """Remember who is in the sandbox now: they stay between checks."""
        self.ask_steward("settle")

    def sweep(self, forks: Iterable[int]) -> None:
        """End what the last check has started, and the processes `forks` that served it."""
        ends, snapshots = (sorted({pid for pid in pids if pid > 1}) for pids in (forks, self._snapshots))
        self.ask_steward("sweep", ends=ends, snapshots=snapshots)

    def serve(self, snapshot: Snapshot) -> tuple[Channel, int]:
        """Return the process that a check asks; the tester forks one that others need too."""
        return snapshot.channel, snapshot.pid

    def fork(self, channel: Channel) -> tuple[Channel, int] | None:
        """Let the process at `channel` fork; the copy prints to where the checks do."""
        ours, its = pair()
        with its:
            try:
                answer = channel.ask(
                    {"op": "fork"}, time.monotonic() + _FORK_S, fds=[its.fileno(), self.output]
                )
                pid = answer["pid"]
            except (OSError, plain.NotPlain, TypeError, KeyError):
                ours.close()
                return None
        pid = pid if type(pid) is int and pid > 1 else 0
        self._snapshots.append(pid)
        self._stack.callback(ours.close)
        return Channel(ours, max_bytes=_MAX_ANSWER_BYTES), pid

    def fork_tester(self, fds: Sequence[int]) -> int:
        """Fork a tester that joins this sandbox; return its pidfd."""
        request = {"program": "tester", "reference": self.reference, "environment": _ENVIRONMENT}
        return self._server.fork(request, fds)

    def _close_sandbox(self) -> None:
        """Let the steward close it; if it does not answer, its end closes the sandbox too."""
        with contextlib.suppress(SandboxFailed):
            self.ask_steward("close")
            return
        with contextlib.suppress(ProcessLookupError):
            syscalls.pidfd_send_signal(self._steward_pidfd, signal.SIGKILL)


class StudentProcess:
    """The notebook's own process. `gone` says why it is no more, and is empty before."""

    def __init__(self, world: World, channel: Channel, streams: Streams, pidfd: int) -> None:
        self.gone = ""
        self._world = world
        self._channel = channel
        self._streams = streams
        self._pidfd = pidfd

    def run(self, source: str, capture: Capture, deadline: float, name: str) -> Outcome:
        """Run a cell; who does not end it in time is interrupted, and then killed."""
        begun = time.monotonic()
        try:
            self._channel.send({"op": "run", "source": source})
            try:
                return _outcome(self._follow(capture, deadline), capture)
            except (TimeoutError, OutputFlood) as error:
                self._world.note(error)
                why = _why_stopped(error, deadline - begun)
                self._interrupt(name)
                capture.outputs[:] = [out for out in capture.outputs if out["output_type"] != "error"]
                capture.fail("CellTimeoutError", f"{name} was stopped: {why}", self._last_traceback)
                return Outcome("timeout", f"{name} was stopped: {why}")
        except (OSError, plain.NotPlain, OutputFlood, TypeError, KeyError) as error:
            reason = "its process ended" if isinstance(error, OSError) else f"its process answered {error}"
            self._end(f"{name} ended the notebook's process ({reason})")
            capture.fail("DeadKernelError", self.gone)
            return Outcome("died", self.gone)

    _last_traceback: list[str] | None = None

    def _follow(self, capture: Capture, deadline: float) -> dict[str, Any]:
        return follow(self._channel, self._streams, capture, deadline=deadline, ended_fd=self._pidfd)

    def _interrupt(self, name: str) -> None:
        """Stop the cell; keep the process if it lets itself be stopped."""
        self._world.ask_steward("interrupt")
        lost = Capture(1 << 16)
        try:
            done = self._follow(lost, time.monotonic() + _GRACE_S)
            error = done["done"]
            self._last_traceback = _strings(error.get("traceback")) if type(error) is dict else None
        except (OSError, plain.NotPlain, OutputFlood, KeyError):
            self._end(f"{name} did not stop when its time was up")

    def _end(self, why: str) -> None:
        self.gone = why
        self._world.ask_steward("kill", seconds=5.0)

    def snapshot(self) -> Snapshot | None:
        """Fork a copy of the process as it is now."""
        fork = self._world.fork(self._channel)
        if fork is None:
            self._end("the notebook's process does not answer any more")
            return None
        return Snapshot(*fork)


class TesterProcess:
    """The process of the checks; made by `open`, and again after it had to be ended."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pidfd = -1
        self._channel: Channel | None = None
        self._serving: dict[int, set[int]] = {}  # the processes that serve a check, by its cell
        self._served = 0  # the process that answered last
        self._orphans: set[int] = set()  # those that served a tester which is no more

    @property
    def is_open(self) -> bool:
        """Whether it is there."""
        return self._channel is not None

    def open(self, imports: str, modules: Mapping[str, str], names: Sequence[str]) -> None:
        """Make the process, and let it import what the checks need.

        Raises:
            SandboxFailed: it does not answer.
        """
        ours, its = pair()
        with its:
            self._pidfd = self._world.fork_tester([its.fileno(), self._world.output])
        self._channel = Channel(ours)
        ours.settimeout(_SEND_S)
        request: dict[str, plain.Json] = {
            "op": "prepare",
            "imports": imports,
            "modules": dict(modules),
            "names": list(names),
        }
        self._ask(request)

    def close(self) -> None:
        """End it."""
        if self._channel is not None:
            with contextlib.suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            select.select([self._pidfd], [], [], 5)
            os.close(self._pidfd)
            self._channel.close()
            self._channel = None
            self._orphans.update(*self._serving.values())
            self._serving.clear()

    def keeps(self, cell: Check) -> bool:
        """Whether the check waits in there to go on."""
        return self.is_open and cell.index in self._serving

    def own(self, source: str, why: str) -> None:
        """Let the names that a cell defines be the course's, though it has not run in here; say why."""
        self._ask({"op": "own", "source": source, "why": why})

    def lose(self, source: str, why: str) -> None:
        """Let what a locked cell was to define be absent, since it failed; say why."""
        self._ask({"op": "lose", "source": source, "why": why})

    def _ask(self, request: dict[str, plain.Json]) -> None:
        assert self._channel is not None
        try:
            self._channel.ask(request, time.monotonic() + _OPEN_S)
        except (OSError, plain.NotPlain) as error:
            raise SandboxFailed(f"the process of the checks does not answer: {error}") from None

    def run(
        self,
        cell: Check,
        source: str,
        capture: Capture,
        deadline: float,
        *,
        keeps: bool = False,
        resumes: bool = False,
        uses: int = 1,
        shows_value: bool = True,
        is_locked: bool = False,
    ) -> Outcome:
        """Run a check, a part of it or a locked cell against a fresh copy of the notebook at its place.

        `uses` says how many uses of the snapshot are its own: 2 where its second part goes on in that copy,
        and no other copy is put by for it.
        """
        assert self._channel is not None
        request: dict[str, plain.Json] = {
            "op": "resume" if resumes else "cell",
            "source": source,
            "shows_value": shows_value,
            "seconds": max(1.0, deadline - time.monotonic()),
            "is_locked": is_locked,
            "keep": cell.index + 1 if keeps or resumes else 0,
            "pid": 0,
        }
        if cell.snapshot is None:
            return self._run(request, [], capture, deadline)
        if resumes and cell.index not in self._serving:
            message = "not checked to its end: the process of the checks had to be ended before"
            capture.fail("DeadKernelError", message)
            return Outcome("died", message)
        is_shared = cell.snapshot.uses > uses
        outcome = self._run_against(cell.snapshot, cell.index, request, is_shared, capture, deadline)
        if keeps and outcome.status == "ok":
            self._world.settle()
        else:
            self._world.sweep(sorted(self._orphans | self._serving.pop(cell.index, set())))
            self._orphans.clear()
        return outcome

    def _run_against(
        self,
        snapshot: Snapshot,
        index: int,
        request: dict[str, plain.Json],
        is_shared: bool,
        capture: Capture,
        deadline: float,
    ) -> Outcome:
        """Run a check that asks the process of a snapshot, or a fork of it if others need it too."""
        fds, pid = [], snapshot.pid
        if request["op"] == "cell":
            channel, pid = self._world.serve(snapshot)
            fds, is_shared = [channel.fileno()], is_shared and channel is snapshot.channel
            self._serving[index] = {pid}
        outcome = self._run(request | {"pid": pid, "is_shared": is_shared}, fds, capture, deadline)
        serving = self._serving.setdefault(index, {pid})  # forgotten if the tester had to be ended
        serving.add(self._served)
        if is_shared:
            serving.discard(snapshot.pid)
            self._orphans.discard(snapshot.pid)
        elif fds and channel is not snapshot.channel:
            channel.close()
        return outcome

    def _run(
        self, request: dict[str, plain.Json], fds: Sequence[int], capture: Capture, deadline: float
    ) -> Outcome:
        assert self._channel is not None
        self._served = 0
        try:
            self._channel.send(request, fds)
            try:
                answer = self._follow(capture, deadline)
            except (TimeoutError, OutputFlood) as error:
                self._world.note(error)
                return self._stop(capture, error, float(str(request["seconds"])))
        except (OSError, plain.NotPlain, OutputFlood) as error:
            self.close()
            message = f"the process of the checks ended: {error}"
            capture.fail("DeadKernelError", message)
            return Outcome("died", message)
        self._served = answer["pid"]
        outcome = _outcome(answer, capture)
        if outcome.status == "ok" and answer["fault"] and not lost_of(capture.outputs):
            capture.fail("AssertionError", answer["fault"])  # the check has caught it, as it catches anything
            outcome = Outcome("failed", f"AssertionError: {answer['fault']}"[:500])
        is_late = answer["is_late"] and outcome.status != "ok"
        return Outcome("timeout", outcome.message, outcome.line) if is_late else outcome

    def _follow(self, capture: Capture, deadline: float) -> dict[str, Any]:
        assert self._channel is not None
        return follow(self._channel, self._world.checked, capture, deadline=deadline, ended_fd=self._pidfd)

    def _stop(self, capture: Capture, why: Exception, seconds: float) -> Outcome:
        syscalls.pidfd_send_signal(self._pidfd, signal.SIGINT)
        answer: dict[str, Any] = {}
        try:
            answer = self._follow(Capture(1 << 16), time.monotonic() + _GRACE_S)
        except (OSError, plain.NotPlain, OutputFlood):
            self.close()
        doing = f" while {answer['doing']} had not answered" if answer.get("doing") else ""
        message = f"the check was stopped: {_why_stopped(why, seconds)}{doing}"
        error = answer.get("done") or {}
        capture.fail("CellTimeoutError", message, error.get("traceback"))
        return Outcome("timeout", message, error.get("line", 0))


def _outcome(answer: Mapping[str, Any], capture: Capture) -> Outcome:
    """Read what a process says of a cell that is done, and put its error into the outputs."""
    error = answer["done"]
    if error is None:
        return Outcome()
    if type(error) is not dict:
        raise plain.NotPlain("an error that is none")
    name, message = (_string(error.get(key)) for key in ("name", "message"))
    capture.fail(name, message, _strings(error.get("traceback")))
    line = error.get("line")
    text = f"{name}: {message}" if message else name
    return Outcome("failed", text.strip().partition("\n")[0][:500], line if type(line) is int else 0)


def _why_stopped(error: Exception, seconds: float) -> str:
    return str(error) if isinstance(error, OutputFlood) else f"it ran for more than {seconds:.3g} s"


def _string(value: object) -> str:
    return value[:10_000] if type(value) is str else "?"


def _strings(value: object) -> list[str] | None:
    lines = [line[:20_000] for line in value[:200] if type(line) is str] if type(value) is list else []
    return lines or None
