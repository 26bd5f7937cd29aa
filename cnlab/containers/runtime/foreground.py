"""``run`` and ``exec`` in the foreground: the runtime stays, and stands in for the container's process.

Signals that come to us are handed on to it; its terminal, if it has one, is joined to ours; we end as it
ends.

See: runc-run(8), runc-exec(8); termios(3).
"""

from __future__ import annotations

import fcntl
import os
import select

from cnlab.containers.runtime import additional, creation, operations, signals, terminal
from cnlab.containers.runtime.config import load
from cnlab.containers.runtime.errors import InvalidConfig
from cnlab.containers.runtime.waiting import Process
from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_WINDOW_SIZE_BYTES = 8


def run(
    container_id: str,
    bundle: str,
    *,
    console_socket: str | None,
    pid_file: str | None,
    preserve_fds: int,
    new_keyring: bool,
    detach: bool,
    keep: bool,
    adopts_orphans: bool,
    root: str | None,
    warn: Callable[[str], None],
) -> int:
    """Create and start a container; unless `detach`, wait for its end, delete it and return its exit code."""
    has_terminal = bool((load(bundle).get("process") or {}).get("terminal"))
    stand_in = StandIn(has_terminal=has_terminal and console_socket is None and not detach)
    if adopts_orphans and not detach:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    try:
        state = creation.create(
            container_id,
            bundle,
            console_socket=console_socket if stand_in.console is None else stand_in.console,
            pid_file=pid_file,
            preserve_fds=preserve_fds,
            new_keyring=new_keyring,
            root=root,
            warn=warn,
        )
        try:
            process = Process(state["pid"], syscalls.pidfd_open(state["pid"]))
            stand_in.join_terminals()
            operations.start(container_id, root=root, warn=warn)
            if detach:
                return 0
            return stand_in.wait(process)
        except BaseException:
            keep = detach = False
            raise
        finally:
            if not keep and not detach:
                operations.delete(container_id, force=True, root=root, warn=warn)
    finally:
        stand_in.close()


def exec_(
    container_id: str,
    process: dict[str, Any],
    *,
    console_socket: str | None,
    pid_file: str | None,
    preserve_fds: int,
    detach: bool,
    root: str | None,
    warn: Callable[[str], None],
) -> int:
    """Start one more process in a container; unless `detach`, wait for its end and return its exit code."""
    needs_terminal = bool(process.get("terminal")) and console_socket is None
    if needs_terminal and detach:
        raise InvalidConfig("process.terminal: needs --console-socket with --detach")
    stand_in = StandIn(has_terminal=needs_terminal)
    if needs_terminal and (size := stand_in.window_size()):
        process = process | {"consoleSize": size}
    try:
        started = additional.exec_(
            container_id,
            process,
            console_socket=console_socket if stand_in.console is None else stand_in.console,
            pid_file=pid_file,
            preserve_fds=preserve_fds,
            root=root,
            warn=warn,
        )
        stand_in.join_terminals()
        return 0 if detach else stand_in.wait(started)
    finally:
        stand_in.close()


class StandIn:
    """What the runtime does while a container's process runs in its foreground.

    Args:
        has_terminal: whether the process has a terminal that is to be joined to ours.

    Attributes:
        console: the socket over which the process sends the other end of its terminal; None without one.
    """

    def __init__(self, *, has_terminal: bool) -> None:
        self.console: int | None = None
        self._ours = -1
        self._master = -1
        self._before: list[Any] | None = None
        if has_terminal:
            self._ours, self.console = terminal.pair()
        self._signals, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signals.take_all(self._wakeup)

    def close(self) -> None:
        """Give our terminal its settings back."""
        if self._before is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        signals.take_no_more()
        for fd in (self._signals, self._wakeup, self._ours, self._master):
            if fd >= 0:
                os.close(fd)

    def wait(self, process: Process) -> int:
        """Hand on signals and what is typed and shown, until `process` ends; return what a shell would."""
        ready = select.poll()
        for fd in (process.pidfd, self._signals, *((0, self._master) if self._master >= 0 else ())):
            ready.register(fd, select.POLLIN)
        while True:
            events = dict(ready.poll())
            if self._signals in events:
                self._hand_on(process)
            if self._master in events:
                self._show(ready)
            if 0 in events:
                self._type(ready)
            if process.pidfd in events and self._master not in events:
                code = process.wait()
                return code if code >= 0 else 128 - code

    def _hand_on(self, process: Process) -> None:
        for number in os.read(self._signals, 4096):
            if number == signals.SIGCHLD:
                _reap_adopted(process.pid)
            elif number == signals.SIGWINCH and self._master >= 0:
                self._copy_window_size()
            else:
                process.signal(number)

    def join_terminals(self) -> None:
        """Take the other end of the process's terminal, if it has one, and let ours do nothing of its own."""
        if self._ours < 0:
            return
        import termios
        import tty

        self._master = terminal.receive(self._ours)
        if os.isatty(0):
            self._before = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)  # and not TCSAFLUSH, which forgets what was typed ahead
            self._copy_window_size()

    def window_size(self) -> dict[str, int] | None:
        """Return the size of our terminal as ``consoleSize``, if we have one."""
        if not os.isatty(0):
            return None
        size = os.get_terminal_size(0)
        return {"height": size.lines, "width": size.columns}

    def _copy_window_size(self) -> None:
        import termios

        if os.isatty(0):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(_WINDOW_SIZE_BYTES))
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def _show(self, ready: select.poll) -> None:
        try:
            text = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end any more
            text = b""
        if not text:
            ready.unregister(self._master)
            os.close(self._master)
            self._master = -1
        while text:
            text = text[os.write(1, text) :]

    def _type(self, ready: select.poll) -> None:
        text = os.read(0, 65536)
        if not text:
            ready.unregister(0)
            text = b"\x04"  # the end of file, as a terminal spells it
        while text and self._master >= 0:
            text = text[os.write(self._master, text) :]


def _reap_adopted(pid: int) -> None:
    """Reap what became our child because its parent ended, but not `pid`."""
    try:
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == pid:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)
    except ChildProcessError:
        return
