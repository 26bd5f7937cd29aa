"""What a child does between its birth and its program; nothing here runs in the parent.

Interface: `live` waits on the socket `report` for the parent's "go", prepares the child and executes the
program. If that fails it sends one JSON object, ``{"errno": 2, "reason": "execve(x): No such file or
directory"}``; if not, execve(2) closes the socket.

See: execve(2), setsid(2), prctl(2) on ``PR_SET_PDEATHSIG``.
"""

import contextlib
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from cnlab.linux import syscalls

Program = Sequence[str] | Callable[[], int | None]
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


def live(
    program: Program,
    report: socket.socket,
    outputs: Sequence[int],
    *,
    in_child: Callable[[], None] | None,
    fork_again: bool,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
) -> NoReturn:
    """Prepare, run the program and end; never return into the parent's code."""
    code = 127
    try:
        _forget_parent(outputs)
        if report.recv(2) != b"go":
            os._exit(code)
        if in_child:
            in_child()
        if fork_again:
            _fork_and_relay(report)
        if cwd is not None:
            os.chdir(cwd)
        _die_with_parent(report)
        if not callable(program):
            _execute(program, os.environ if env is None else env)
        report.close()
        if env is not None:
            os.environ.clear()
            os.environ.update(env)
        code = _call(program)
    except BaseException as error:
        _tell(report, error)
    os._exit(code)


def _forget_parent(outputs: Sequence[int]) -> None:
    """Leave the session, the terminal and the outputs of the parent; `_clone` left its signal handlers."""
    gc.freeze()  # a collection would touch all of the parent's memory, and so copy it
    signal.set_wakeup_fd(-1)
    os.setsid()
    syscalls.set_parent_death_signal(signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    for fd, output in enumerate(outputs, start=1):
        os.dup2(output, fd)


def _die_with_parent(report: socket.socket) -> None:
    """Ask again for the parent's death signal, which a change of user id forgets; end if it is too late."""
    syscalls.set_parent_death_signal(signal.SIGKILL)
    try:
        is_orphan = report.recv(1, _LOOK) == b""
    except BlockingIOError:
        is_orphan = False
    if is_orphan:
        os._exit(127)


def _fork_and_relay(report: socket.socket) -> None:
    """Return in a child; the caller waits for that child and ends as it ended."""
    pid = _fork()
    if pid == 0:
        return
    report.close()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status))


def _execute(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
    ):  # the interpreter ignores them, and execve would keep that
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], list(argv), env)
    except OSError as error:
        raise OSError(error.errno, f"execve({argv[0]}): {os.strerror(error.errno or 0)}") from None


def _call(function: Callable[[], int | None]) -> int:
    # The parent's streams may be a notebook's, which are sockets in disguise.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - they last as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.fork = _fork
    try:
        return function() or 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _fork() -> int:
    """Fork without fork(3), whose hooks wait for threads that only the parent has, such as those of numpy."""
    pid, pidfd = syscalls.clone3()
    if pid:
        os.close(pidfd)
    return pid


def _tell(report: socket.socket, error: BaseException) -> None:
    if isinstance(error, OSError) and error.errno:
        reason = f"{error.strerror}: {error.filename!r}" if error.filename else str(error.strerror)
        failure = {"errno": error.errno, "reason": reason}
    else:
        failure = {"errno": 0, "reason": "".join(traceback.format_exception(error))}
    with contextlib.suppress(OSError):
        report.sendall(json.dumps(failure).encode())
