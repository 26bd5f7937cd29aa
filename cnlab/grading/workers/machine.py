"""A private kernel for submissions of labs that need root: booted, given jobs, and thrown away when soiled.

Interface: `run_in_machine` runs one job in a machine that this process keeps warm; ``with GradingMachine() as
machine: machine.run(job)`` has one of its own. Job and result cross as JSON over a socket that the machine's
relay carries to the worker inside (`inside`). Of the host the machine sees the system directories and the
Python environment, read-only, and an empty directory: no course, no gradebook, no other submission.

After each job the worker inside says what is left of it. A machine in which anything is left, or that did not
answer in time, is ended, and the next job gets a new one.
"""

import contextlib
import json
import os
import socket
import struct
import tempfile
import time
from collections.abc import Collection
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from cnlab.errors import MachineError
from cnlab.grading.attempt.execution import Job, Result
from cnlab.machine import cage, provisioner
from cnlab.machine.launcher import describe

MEMORY_MIB = 1024
_BOOT_S = 120.0  # on a machine that is busy with other machines
_MARGIN_S = 60.0  # beyond a job's own limit, for what surrounds the notebook
_NOTEBOOK_S = 900.0
_LENGTH = struct.Struct("!Q")
_MAX_MESSAGE = 1 << 30
_ATTEMPTS = 2

LIMITS = {"cell_s": 120.0, "notebook_s": _NOTEBOOK_S, "memory_bytes": 512 << 20, "pids": 250}
"""What a submission may use in a machine, where its job says nothing else."""

PRELOAD = ("cnlab.grading.callee", "cnlab.linux.cgroups", "cnlab.linux.rtnetlink", "http.server", "tarfile")
"""What labs import first. Every module costs each fork time there, so numpy is not among them."""

_machine: "GradingMachine | None" = None


def run_in_machine(job: Job) -> Result:
    """Run a job in the machine that this process keeps, or in a new one; what goes wrong is in the result."""
    global _machine
    reason = ""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            if _machine is None:
                _machine = GradingMachine(accept=job.accept)
            result = _machine.run(job)
        except (MachineError, OSError) as error:
            reason = describe(error)
            close()
            continue
        if _machine.is_soiled:
            close()
        notes = (f"tried again in a new machine: {reason}",) if reason else ()
        return replace(result, attempts=result.attempts + attempt - 1, notes=(*notes, *result.notes))
    return Result(job.key, job.notebook, attempts=_ATTEMPTS, error=reason)


def close() -> None:
    """End the machine that this process keeps."""
    global _machine
    machine, _machine = _machine, None
    if machine is not None:
        machine.close()


class GradingMachine:
    """A private kernel with a worker in it, caged. `is_soiled` says that something of a job is left there.

    Args:
        accept: parts of the cage that the instructor lets go where the host refuses them.
        memory_mib: of the machine.

    Raises:
        MachineError: no machine can be started here, or none that is confined.
    """

    def __init__(self, *, accept: Collection[str] = (), memory_mib: int = MEMORY_MIB) -> None:
        self.is_soiled = False
        self.accepted = require_parts(accept)
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            work = stack.enter_context(tempfile.TemporaryDirectory(prefix="cnlab-grading-"))
            self._machine = provisioner.start_machine(work, memory_mib, self.accepted)
            stack.callback(self._machine.close)
            self._jobs, theirs = (stack.enter_context(end) for end in socket.socketpair())
            provisioner.wait_until_booted(self._machine, _BOOT_S)
            _start_worker(self._machine.control, theirs, work)
            theirs.close()
            self._stack = stack.pop_all()

    def run(self, job: Job) -> Result:
        """Run a job and say how it went.

        Raises:
            MachineError: the machine has ended, or has not answered in time.
        """
        limits = LIMITS | dict(job.limits)
        options = {"preload": PRELOAD} | dict(job.options)
        inside = replace(job, machine="host", flavour="root", limits=limits, options=options)
        begin = time.monotonic()
        self._jobs.settimeout(2 * float(limits["notebook_s"]) + _MARGIN_S)
        try:
            send(self._jobs, inside.to_json().encode())
            answer = json.loads(receive(self._jobs))
        except (OSError, EOFError, ValueError) as error:
            self.is_soiled = True
            raise MachineError(f"the machine of {job.key} has not answered: {error}") from None
        try:
            left = [str(line) for line in answer["left"]]
            result = Result.from_json(answer["result"])
        except (ValueError, KeyError, TypeError) as error:
            self.is_soiled = True
            raise MachineError(
                f"the machine of {job.key} has answered what is no result: {error!r}"
            ) from None
        self.is_soiled = bool(left) or result.key != job.key
        if result.key != job.key:
            raise MachineError(f"the machine of {job.key} has answered for {result.key[:80]!r}")
        notes = (f"the machine was thrown away, for there was left: {'; '.join(left)}",) if left else ()
        return replace(result, notes=(*result.notes, *notes), wall_s=time.monotonic() - begin)

    @property
    def pid(self) -> int:
        """The process beside the machine, which stands for all of it."""
        return self._machine.process.pid

    def close(self) -> None:
        """End the machine and all that runs in it."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def require_parts(accept: Collection[str]) -> tuple[str, ...]:
    """Return the parts of the cage that are accepted as missing and really are.

    Raises:
        MachineError: this host refuses others.
    """
    missing = cage.missing()
    refused = [f"{name} ({reason})" for name, reason in missing.items() if name not in accept]
    if refused:
        error = MachineError(f"this host refuses to confine a machine for grading by {', '.join(refused)}")
        error.add_note(f"Hint: --accept {','.join(missing)}, if you trust all who have handed in")
        raise error
    return tuple(missing)


def _start_worker(control: socket.socket, jobs: socket.socket, work: str) -> None:
    environment = provisioner.guest_environment({"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"})
    request: dict[str, Any] = {
        "argv": ["python", "-m", "cnlab.grading.workers.inside"],
        "env": environment,
        "cwd": work,
    }
    socket.send_fds(control, [json.dumps(request).encode() + b"\n"], [jobs.fileno()])


def send(connection: socket.socket, text: bytes) -> None:
    """Send one message over a stream."""
    connection.sendall(_LENGTH.pack(len(text)) + text)


def receive(connection: socket.socket) -> bytes:
    """Receive one message.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    if length > _MAX_MESSAGE:
        raise EOFError(f"a message of {length:,} bytes")
    return _receive(connection, length)


def _receive(connection: socket.socket, length: int) -> bytes:
    text = bytearray()
    while len(text) < length:
        part = connection.recv(min(1 << 20, length - len(text)))
        if not part:
            raise EOFError("the other side has closed the connection")
        text += part
    return bytes(text)
