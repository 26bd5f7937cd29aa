"""The process in which a check calls a student's function: it answers once, and stays to be looked at.

Interface: ``with started(function, arguments, …) as child:`` forks it from the caller, which is the process
that has the student's functions: the notebook itself under nbgrader, the student's sandboxed process under
`cnlab grade`. There a server has no block to wait in: `serve_call` leaves the process to whoever looks at it.

The answer is one JSON object: ``{"fault": "", "value": …}``, or what went wrong in the words of a check's
message. It comes from a student's process, so whoever reads it believes nothing of it.
"""

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from cnlab.grading.attempt import plain
from cnlab.linux import syscalls
from cnlab.linux.namespaces import Child, spawn

_served = contextlib.ExitStack()  # never closed: those processes end with the one that has forked them


@contextlib.contextmanager
def started(
    function: Callable[..., object],
    arguments: Sequence[object],
    *,
    new: Sequence[str] = (),
    answer_fd: int,
    output_fd: int,
) -> Iterator[Child]:
    """Fork a process that calls the function; it ends with the block.

    Args:
        function: what to call.
        arguments: plain data.
        new: kinds of namespaces that the process is born in.
        answer_fd: a stream socket for its answer.
        output_fd: where it and the commands that it starts print to.
    """
    with spawn(lambda: _be_called(function, arguments, answer_fd, output_fd), new=new) as child:
        yield child


def serve_call(
    function: Callable[..., object],
    arguments: Sequence[object],
    *,
    new: Sequence[str] = (),
    answer_fd: int,
    output_fd: int,
) -> int:
    """Fork such a process, close both descriptors here, and return its pid."""
    try:
        if not new:
            return _forked(function, arguments, answer_fd, output_fd)
        call = started(function, arguments, new=new, answer_fd=answer_fd, output_fd=output_fd)
        return _served.enter_context(call).pid
    finally:
        os.close(answer_fd)
        os.close(output_fd)


def _forked(
    function: Callable[..., object], arguments: Sequence[object], answer_fd: int, output_fd: int
) -> int:
    """Do what `started` does where there is one thread and no new namespace, with a third fewer page faults.

    On a private kernel they are what a call costs.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        syscalls.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == parent:  # it has not ended before we had asked
            _be_called(function, arguments, answer_fd, output_fd)
    finally:
        os._exit(70)


def _be_called(
    function: Callable[..., object], arguments: Sequence[object], answer_fd: int, output_fd: int
) -> None:
    for fd in (1, 2):
        os.dup2(output_fd, fd)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # orphans of the function stay in our tree
    _answer(answer_fd, function, arguments)


def _answer(fd: int, function: Callable[..., object], arguments: Sequence[object]) -> None:
    """Call the function, say once how that went, and stay; a second process that comes back is ended."""
    is_second: list[bool] = []
    os.register_at_fork(after_in_child=lambda: is_second.append(True))
    try:
        fault, message = _spelled(function(*arguments))
    except BaseException as error:
        fault, message = _fault(
            f"return, got {_name(error)}; look at the line it came from:\n{_trace(error)}"
        )
    if is_second:
        print(fault, file=sys.stderr, flush=True)
        os._exit(70)
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as answers:
        answers.sendall(message)
        answers.shutdown(socket.SHUT_WR)  # the end, whoever else holds a copy of the descriptor
    while True:
        signal.pause()


def _spelled(value: object) -> tuple[str, bytes]:
    """Return no fault and the answer, or what is wrong with it."""
    try:
        return "", plain.encode({"fault": "", "value": value})
    except plain.NotPlain:
        reason = f"return plain data (numbers, text, lists, dicts), got {value!r}; look at its docstring"
        return _fault(reason)


def _fault(reason: str) -> tuple[str, bytes]:
    return reason, plain.encode({"fault": reason, "value": None})


def _name(error: BaseException) -> str:
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _trace(error: BaseException) -> str:
    """Format the traceback from the student's function on."""
    trace: TracebackType | None = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))
