"""A process of its own that runs jobs, one after the other.

Interface: `Worker` starts the process; `give` hands it a job, which waits there until it is its turn;
`take` gives the next result; `close` ends it. It is a fresh interpreter in a session of its own: it holds
nothing of the parent's memory, no Ctrl-C of the parent's terminal reaches it, and it ends with the parent.

Jobs and results cross as JSON text in memory files, whose descriptors are sent over a socket: so nobody ever
waits for the other to read, however large they are, and nothing that comes back is unpickled.

See: memfd_create(2), SCM_RIGHTS in unix(7), pidfd_open(2).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable

from cnlab.grading.attempt.execution import Job, Result
from cnlab.linux import syscalls

RUN_JOB = "cnlab.grading.attempt.execution:run_job"
"""What a worker does with a job: a function by its module and name."""

ATTEMPTS = 2
"""How many workers a job may cost."""

_END_S = 10.0  # a worker that was asked to end first ends the sandbox it is running


class Worker:
    """The process, as its parent sees it. `given` are the jobs that it has not answered, oldest first."""

    def __init__(self, runner: str = RUN_JOB) -> None:
        self.given: deque[Job] = deque()
        # sequenced packets keep the messages apart, and a closed end is seen
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "cnlab.grading.workers.worker",
                    str(its.fileno()),
                    runner,
                    str(os.getpid()),
                ],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.setblocking(False)
        self.socket = ours
        self.pidfd = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def give(self, job: Job) -> None:
        """Hand it a job; returns at once. A worker that has died shows at the next `take`."""
        self.given.append(job)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            _send(self.socket, job.to_json())

    def take(self) -> Result | None:
        """Return its next result, or None if it has died; call it when `socket` or `pidfd` is readable."""
        text = _receive(self.socket)
        if text is None:
            return None
        return result_for(self.given.popleft(), text)

    def terminate(self) -> None:
        """Ask it to end itself and what it has started."""
        self._process.terminate()

    def close(self) -> int:
        """End it and all that it has started, and return its exit code, negative for a signal."""
        self.socket.close()
        self.terminate()
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        os.close(self.pidfd)
        return code


def result_for(job: Job, text: str) -> Result:
    """Read what came back for a job; another's key would give somebody else's marks."""
    try:
        result = Result.from_json(text)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Result(job.key, job.notebook, error=f"its worker has sent what is no result: {error}")
    if result.key != job.key:
        return Result(job.key, job.notebook, error=f"its worker has sent the result of {result.key!a}")
    return result


def after_deaths(result: Result, deaths: int) -> Result:
    """Say in a result what it has cost before."""
    if not deaths or result.error:
        return result
    note = "the process that ran it died; it was run again in a new one"
    return dataclasses.replace(result, attempts=result.attempts + deaths, notes=(*result.notes, note))


def failed(job: Job, code: int) -> Result:
    """The result of a job of which every worker died."""
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    error = f"each of the {ATTEMPTS} processes that ran it died, the last by {how}"
    return Result(job.key, job.notebook, attempts=ATTEMPTS, error=error)


def serve(connection: socket.socket, run: Callable[[Job], Result]) -> None:
    """In the worker: answer each job with its result until the parent closes its end."""
    while (text := _receive(connection)) is not None:
        job = Job.from_json(text)
        try:
            result = run(job)
        except Exception as error:  # no student's fault: `run_job` does not raise for that
            result = Result(job.key, job.notebook, error=f"{type(error).__name__}: {error}")
        _send(connection, result.to_json())


def _send(connection: socket.socket, text: str) -> None:
    memory = os.memfd_create("job")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        socket.send_fds(connection, [b"+"], [memory])
    finally:
        os.close(memory)


def _receive(connection: socket.socket) -> str | None:
    """Return the next message, or None if the other end is closed."""
    try:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
    except (BlockingIOError, ConnectionResetError):
        return None
    if not descriptors:
        return None
    with open(descriptors[0], "rb") as file:
        file.seek(0)
        return file.read().decode("utf-8", "surrogatepass")


def main(fd: int, runner: str, parent: int) -> None:
    """Serve jobs at the inherited socket `fd`."""
    signal.signal(signal.SIGTERM, _leave)
    syscalls.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:  # it died before the line above
        return
    module, _, function = runner.partition(":")
    with socket.socket(fileno=fd) as connection:
        os.set_inheritable(fd, False)
        try:
            serve(connection, getattr(importlib.import_module(module), function))
        finally:
            _close_execution()


def _leave(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is being ended is ended once
    sys.exit(128 + signal.SIGTERM)


def _close_execution() -> None:
    """End the servers that `run_job` has started, if it was called."""
    execution = sys.modules.get("cnlab.grading.attempt.execution")
    close = getattr(execution, "close", None)
    if close:
        close()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
