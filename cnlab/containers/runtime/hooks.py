"""Hooks: programs that the bundle asks to be run at points of the container's life.

See: runtime-spec, config.md, "POSIX-platform Hooks".
"""

from __future__ import annotations

import os
import select

from cnlab.containers.runtime import documents
from cnlab.containers.runtime.errors import HookFailed
from cnlab.containers.runtime.signals import IGNORED_BY_PYTHON, SIGKILL, pidfd_open, pidfd_send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_TAIL = 500  # characters of what a hook said that go into the error


def run(hooks: list[dict[str, Any]], state: dict[str, Any]) -> None:
    """Run `hooks` one after the other, each with the container's state on its standard input.

    Raises:
        HookFailed: the first that cannot be run, ends with an error or takes longer than its timeout; those
            after it are not run.
    """
    text = documents.text_of(state).encode()
    for hook in hooks:
        said = bytearray()
        status = _run(hook, text, said)
        if status is None:
            raise HookFailed(f"hook {hook['path']}: still running after its timeout of {hook['timeout']} s")
        if status != 0:
            tail = said.decode(errors="replace").strip()[-_TAIL:]
            raise HookFailed(f"hook {hook['path']}: exit code {os.waitstatus_to_exitcode(status)}: {tail}")


def run_each(hooks: list[dict[str, Any]], state: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Run `hooks` one after the other, whatever comes of them; `warn` is told of those that fail."""
    for hook in hooks:
        try:
            run([hook], state)
        except (HookFailed, OSError) as error:
            warn(str(error))


def _run(hook: dict[str, Any], text: bytes, said: bytearray) -> int | None:
    """Run one hook and return its wait status, or None after killing it for being late."""
    said_read, said_write = os.pipe()
    try:
        state = os.memfd_create("state")
        try:
            os.write(state, text)
            os.lseek(state, 0, os.SEEK_SET)
            pid = _spawn(hook, state, said_write)
        finally:
            os.close(state)
            os.close(said_write)
        return _attend(pid, said_read, said, hook.get("timeout"))
    finally:
        os.close(said_read)


def _attend(pid: int, fd: int, said: bytearray, timeout_s: int | None) -> int | None:
    pidfd = pidfd_open(pid)
    try:
        has_ended = _listen(pidfd, fd, said, timeout_s)
        if not has_ended:
            pidfd_send_signal(pidfd, SIGKILL)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(pidfd)
    return status if has_ended else None


def _spawn(hook: dict[str, Any], stdin: int, stdout: int) -> int:
    environment = dict(variable.split("=", 1) for variable in hook.get("env") or () if "=" in variable)
    streams = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_DUP2, stdout, 2),
    ]
    try:
        return os.posix_spawn(
            hook["path"],
            hook.get("args") or [hook["path"]],
            environment,
            file_actions=streams,
            setsigdef=IGNORED_BY_PYTHON,
            setsigmask=(),
        )
    except OSError as error:
        raise HookFailed(f"hook {hook['path']}: {os.strerror(error.errno or 0)}") from None


def _listen(pidfd: int, fd: int, said: bytearray, timeout_s: int | None) -> bool:
    """Collect what the hook says until it ends, and return whether it ended in time.

    A process that it leaves behind may keep the pipe open: that must not keep us waiting.
    """
    import time

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    ready = select.poll()
    ready.register(pidfd, select.POLLIN)
    ready.register(fd, select.POLLIN)
    while True:
        left_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        events = dict(ready.poll(left_ms))
        if events.get(fd, 0) & select.POLLIN:
            said += os.read(fd, 65536)
        elif fd in events:
            ready.unregister(fd)
        elif pidfd in events:
            return True
        elif not events:
            return False
