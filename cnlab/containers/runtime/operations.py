"""The operations of the runtime specification after `create`, and those that runc adds: one function each.

See: runtime-spec, runtime.md, "Operations" and "Lifecycle"; runc(8).
"""

from __future__ import annotations

import os
import time

from cnlab.containers.runtime import hooks, signals
from cnlab.containers.runtime.errors import NoSuchContainer, WrongStatus, warn
from cnlab.containers.runtime.store import Record, default_root, process_start_time
from cnlab.containers.runtime.waiting import Process, exit_code, has_ended, reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_KILL_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 5.0


def start(container_id: str, *, root: str | None = None, warn: Callable[[str], None] = warn) -> None:
    """Let the container execute its program, and return when it does.

    A poststart hook that fails is only warned of, as the versions of the specification before 1.3.0 have it.

    Raises:
        WrongStatus: it is not in status ``created``, or has no ``process``.
        OSError: the kernel does not execute the program.
        HookFailed: a startContainer hook did not do its work; the container is stopped.
    """
    record = Record.load(container_id, root)
    status = record.status()
    if status != "created":
        raise WrongStatus(f"cannot start a container in the {status} state: {container_id!r}")
    _start(record, warn)


def _start(record: Record, warn: Callable[[str], None]) -> None:
    if record.config.get("process") is None:
        raise WrongStatus(f"cannot start container {record.id!r}: its config.json has no process")
    _let_go(record)
    hooks.run_each(record.hooks("poststart"), record.state("running"), warn)


def _let_go(record: Record) -> None:
    """Write to the fifo where the process waits, then listen until it has executed its program."""
    told = os.open(record.path("started.fifo"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        waiting = os.open(record.path("exec.fifo"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.unlink(record.path("exec.fifo"))  # only one can do this, and so start it
            os.write(waiting, b"\n")
        finally:
            os.close(waiting)
        os.set_blocking(told, True)
        text = os.read(told, 65536)
    except FileNotFoundError:
        raise WrongStatus(f"cannot start container {record.id!r}: somebody else is starting it") from None
    finally:
        os.close(told)
    if text:
        from cnlab.containers.runtime import birth

        raise birth.error_in(text)
    _wait_for_its_name(record)


def _wait_for_its_name(record: Record) -> None:
    """Wait the moment that execve(2) takes from closing the fifo to showing the new program in `/proc`."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process_start_time(record.pid) == record.start_time and time.monotonic() < deadline:
        try:
            with open(f"/proc/{record.pid}/cmdline", "rb") as file:
                if file.read(1):
                    return
        except (FileNotFoundError, ProcessLookupError):
            return  # it has ended and somebody has reaped it
        time.sleep(0.0002)


def state(container_id: str, *, root: str | None = None) -> dict[str, Any]:
    """Return the state of a container, as the specification wants it."""
    return Record.load(container_id, root).state()


def kill(
    container_id: str, signal: int | str = "TERM", *, all: bool = False, root: str | None = None
) -> None:
    """Send a signal, by number or name, to the container's process, or with `all` to all its processes.

    Raises:
        WrongStatus: its process has ended.
    """
    number = signals.number_of(signal)
    record = Record.load(container_id, root)
    assert record.cgroups is not None
    if all:
        record.cgroups.signal_all(number)
        return
    if record.status() in ("stopped", "creating"):
        raise WrongStatus(f"container not running: {container_id!r}")
    pidfd = signals.pidfd_open(record.pid)
    try:
        if process_start_time(record.pid) == record.start_time:  # so the pidfd means the right process
            signals.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def wait(container_id: str, *, timeout_s: float | None = None, root: str | None = None) -> int:
    """Wait for the end of the container's process; return its exit code, or minus the number of a signal.

    Only the process that has created the container can learn it; it is remembered until `delete`.

    Raises:
        TimeoutError: it still runs after `timeout_s`.
        ChildProcessError: it is no child of ours.
    """
    record = Record.load(container_id, root)
    code = record.exit_code()
    if code is not None:
        return code
    pidfd = signals.pidfd_open(record.pid)
    try:
        if not has_ended(pidfd, timeout_s):
            raise TimeoutError(f"container {container_id!r} still runs after {timeout_s:g} s")
        code = exit_code(pidfd)
    finally:
        os.close(pidfd)
    record.remember_exit_code(code)
    return code


def run(
    container_id: str,
    bundle: str,
    *,
    stdio: Sequence[int] = (0, 1, 2),
    root: str | None = None,
    warn: Callable[[str], None] = warn,
) -> int:
    """Create a container, start it, wait for its end, delete it, and return its exit code."""
    from cnlab.containers.runtime.creation import create

    create(container_id, bundle, stdio=stdio, root=root, warn=warn)
    record = Record.load(container_id, root)
    try:
        with Process(record.pid, signals.pidfd_open(record.pid)) as process:
            _start(record, warn)
            return process.wait()
    finally:
        _delete(record, warn)


def delete(
    container_id: str,
    *,
    force: bool = False,
    root: str | None = None,
    warn: Callable[[str], None] = warn,
) -> None:
    """Take away what `create` made of a container that is stopped; with `force`, stop it first.

    Raises:
        NoSuchContainer: it does not exist, without `force`.
        WrongStatus: it is not stopped, without `force`.
    """
    try:
        record = Record.load(container_id, root)
    except NoSuchContainer:
        if not force:
            raise
        _remove_half_made(Record(container_id, root))
        return
    status = record.status()
    if status != "stopped" and not force:
        raise WrongStatus(f"cannot delete container {container_id!r} that is not stopped: {status}")
    _delete(record, warn)


def _delete(record: Record, warn: Callable[[str], None]) -> None:
    poststop = record.hooks("poststop")
    assert record.cgroups is not None
    _kill(record)
    record.cgroups.signal_all(signals.SIGKILL)
    reap(record.pid)
    record.cgroups.remove()
    record.remove()
    hooks.run_each(poststop, record.state("stopped"), warn)


def _kill(record: Record) -> None:
    if process_start_time(record.pid) != record.start_time:  # it has ended; the pid may mean another one
        return
    try:
        pidfd = signals.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        assert record.cgroups is not None
        signals.pidfd_send_signal(pidfd, signals.SIGKILL)
        if record.cgroups.is_frozen:  # a frozen process does not die
            record.cgroups.thaw()
        has_ended(pidfd, _KILL_TIMEOUT_S)
    finally:
        os.close(pidfd)


def _remove_half_made(record: Record) -> None:
    """Remove the directory of a container whose runtime was killed before it had a process."""
    if os.path.isdir(record.directory):
        record.remove()


def pause(container_id: str, *, root: str | None = None) -> None:
    """Stop all processes of the container, until `resume`."""
    record = Record.load(container_id, root)
    status = record.status()
    if status not in ("created", "running"):
        raise WrongStatus(f"cannot pause a container in the {status} state: {container_id!r}")
    assert record.cgroups is not None
    record.cgroups.freeze()


def resume(container_id: str, *, root: str | None = None) -> None:
    """Let the processes of a paused container go on."""
    record = Record.load(container_id, root)
    status = record.status()
    if status != "paused":
        raise WrongStatus(f"cannot resume a container in the {status} state: {container_id!r}")
    assert record.cgroups is not None
    record.cgroups.thaw()


def update(container_id: str, resources: dict[str, Any], *, root: str | None = None) -> None:
    """Change the limits in `resources`, as in ``linux.resources``; the others stay."""
    record = Record.load(container_id, root)
    if record.status() == "stopped":
        raise WrongStatus(f"container not running: {container_id!r}")
    assert record.cgroups is not None
    record.cgroups.apply(resources)


def ps(container_id: str, *, root: str | None = None) -> list[int]:
    """Return the pids of the container's processes, as this process's pid namespace numbers them."""
    record = Record.load(container_id, root)
    assert record.cgroups is not None
    return record.cgroups.pids()


def stats(container_id: str, *, root: str | None = None) -> dict[str, Any]:
    """Return what the container uses, as ``runc events --stats`` tells it."""
    record = Record.load(container_id, root)
    if record.status() == "stopped":
        raise WrongStatus(f"container not running: {container_id!r}")
    assert record.cgroups is not None
    return record.cgroups.stats()


def containers(*, root: str | None = None) -> list[dict[str, Any]]:
    """Return the states of all containers below `root`, by id."""
    states = []
    try:
        names = sorted(os.listdir(root or default_root()))
    except FileNotFoundError:
        return []
    for name in names:
        try:
            states.append(state(name, root=root))
        except NoSuchContainer:  # it is just being made, or just gone
            continue
    return states
