"""Call a student's function in a process of its own, and look at what it did from outside.

Interface: ``with calling(function, *arguments) as call:`` starts the call; `Call.result` waits for what the
function returns; `Call.pid` is the process it runs in, which stays for inspection; leaving the block ends
that process and everything it started. `find_process` finds a process by its command line.

There a function may change its own process (unshare, sethostname, setuid), loop for ever, or return twice
after a fork. Arguments and results cross as plain data. What goes wrong is an `AssertionError` that says what
was expected, what came, and where to look.
"""

import ast
import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar, overload

from cnlab.clock import wait_until
from cnlab.linux import processes, syscalls
from cnlab.linux.namespaces import Child, spawn

T = TypeVar("T")

_POLL_S = 0.05  # reading all of /proc takes 20 ms on the private kernel's one CPU; the command needs some too


class Call:
    """A call under way. `pid` is the process that runs the function, and stays when it has returned."""

    def __init__(self, function: str, text: str, child: Child, answer_fd: int, output_fd: int) -> None:
        self.pid = child.pid
        self._function = function
        self._text = text
        self._child = child
        self._answer_fd = answer_fd
        self._output_fd = output_fd

    @property
    def output(self) -> str:
        """What the function and the commands it started have printed so far, errors included."""
        size = os.fstat(self._output_fd).st_size
        return os.pread(self._output_fd, size, 0).decode(errors="replace")

    @property
    def is_over(self) -> bool:
        """Whether the function has returned, or can no longer."""
        return bool(self._wait(0))

    @overload
    def result(self, *, timeout_s: float = 20.0) -> object: ...
    @overload
    def result(self, kind: type[T], *, timeout_s: float = 20.0) -> T: ...
    def result(self, kind: type = object, *, timeout_s: float = 20.0) -> object:
        """Wait for the function to return and give its value, which is to be a `kind`.

        Raises:
            AssertionError: it raised, it returned something else, its process ended, or the time is up.
        """
        fault, value = self._answer(timeout_s)
        if not fault and not isinstance(value, kind):
            fault = f"return {kind.__name__}, got {value!r}; look at the docstring of {self._function}"
        if fault:
            raise AssertionError(f"expected {self._text} to {fault}{self._printed()}")
        return value

    def find_process(self, *argv: str, timeout_s: float = 10.0) -> int:
        """Do what the function `find_process` does; a failure also shows what was printed."""
        try:
            return find_process(*argv, timeout_s=timeout_s)
        except AssertionError as failure:
            raise AssertionError(f"{failure}{self._printed()}") from None

    def _printed(self) -> str:
        return f"\nIt printed:\n{self.output}" if self.output else ""

    def _answer(self, timeout_s: float) -> tuple[str, object]:
        """Return what went wrong, or nothing and the value."""
        deadline = time.monotonic() + timeout_s
        text = b""
        while not text.endswith(b"\n"):
            ready = self._wait(max(0.0, deadline - time.monotonic()))
            if self._answer_fd in ready and (part := os.read(self._answer_fd, 1 << 16)):
                text += part
            elif ready:
                code = self._child.wait()
                how = f"signal {-code}" if code < 0 else f"exit status {code}"
                return (
                    f"return, got a process that ended with {how}; look at fork(2): only the child may exit",
                    None,
                )
            else:
                return (
                    f"return within {timeout_s:g} s, got nothing; look for a loop or a wait without an end",
                    None,
                )
        fault, value = ast.literal_eval(text.decode())
        return fault, value

    def _wait(self, timeout_s: float) -> list[int]:
        return select.select([self._answer_fd, self._child.pidfd], [], [], timeout_s)[0]


@contextlib.contextmanager
def calling(function: Callable[..., object], *arguments: object, new: Sequence[str] = ()) -> Iterator[Call]:
    """Start ``function(*arguments)`` in a process of its own, and end all that came of it with the block.

    Args:
        function: what to call.
        arguments: plain data.
        new: kinds of namespaces to put that process into first. In a new pid namespace it is process 1; what
            it mounts in a new mount namespace is not seen outside.

    Raises:
        AssertionError: the caller can start no process.
    """
    name = getattr(function, "__name__", repr(function))
    with contextlib.ExitStack() as stack:
        answer_fd, answer_writer = os.pipe()
        stack.callback(os.close, answer_fd)
        output_fd = os.memfd_create("output")
        stack.callback(os.close, output_fd)

        def program() -> None:
            for fd in (1, 2):
                os.dup2(output_fd, fd)
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # orphans of the function stay in our tree
            _answer(answer_writer, function, arguments)

        try:
            child = stack.enter_context(spawn(program, new=new))
        except OSError as error:
            raise AssertionError(
                f"expected this notebook to start a process, got {error}; look whether it has moved itself"
                " into new namespaces, and restart its kernel"
            ) from None
        finally:
            os.close(answer_writer)
        stack.callback(_end_descendants, child.pid)
        yield Call(name, f"{name}({', '.join(map(repr, arguments))})", child, answer_fd, output_fd)


def _answer(fd: int, function: Callable[..., object], arguments: Sequence[object]) -> None:
    """Call the function, say once how that went, and stay; a second process that comes back is ended."""
    is_second: list[bool] = []
    os.register_at_fork(after_in_child=lambda: is_second.append(True))
    try:
        answer = _plain(function(*arguments))
    except BaseException as error:
        answer = (f"return, got {_name(error)}; look at the line it came from:\n{_traceback(error)}", None)
    if is_second:
        print(answer[0], file=sys.stderr, flush=True)
        os._exit(70)
    with contextlib.suppress(BrokenPipeError), open(fd, "w") as answers:
        answers.write(f"{answer!r}\n")
    while True:
        signal.pause()


def _plain(value: object) -> tuple[str, object]:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    with contextlib.suppress(ValueError, SyntaxError):
        if ast.literal_eval(repr(value)) == value:
            return "", value
    return f"return plain data (numbers, text, lists, dicts), got {value!r}; look at its docstring", None


def _name(error: BaseException) -> str:
    message = str(error)
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _traceback(error: BaseException) -> str:
    """Format the traceback from the student's function on."""
    trace: TracebackType | None = error.__traceback__
    while trace and trace.tb_next and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def running(*argv: str) -> list[int]:
    """Return the pids of the processes that run exactly this command line."""
    wanted = "".join(f"{argument}\0" for argument in argv).encode()
    found = []
    for pid in _pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/cmdline").read_bytes() == wanted:
                found.append(pid)
    return found


def find_process(*argv: str, timeout_s: float = 10.0) -> int:
    """Wait for a process that runs exactly this command line and return its pid.

    Raises:
        AssertionError: there is none.
    """
    with contextlib.suppress(TimeoutError):
        return wait_until(lambda: running(*argv), timeout_s=timeout_s, poll_s=_POLL_S)[0]
    raise AssertionError(
        f"expected a process that runs `{' '.join(argv)}`, got none within {timeout_s:g} s; look at"
        " execve(2), and at /proc/PID/cmdline of your child"
    )


def exit_status(pid: int, timeout_s: float = 10.0) -> int:
    """Wait for process `pid` to end and return its exit status as a shell reports it: 128 + N for signal N.

    Nobody may have waited for it: the last field of a zombie's ``/proc/PID/stat`` keeps the status.

    Raises:
        AssertionError: it has not ended, or is gone.

    See: proc_pid_stat(5), exit_code.
    """
    with contextlib.suppress(TimeoutError, FileNotFoundError, ProcessLookupError):
        code = wait_until(lambda: _exit_code_of_zombie(pid), timeout_s=timeout_s)[0]
        return code if code >= 0 else 128 - code
    raise AssertionError(
        f"expected process {pid} to have ended, got one that runs or does not exist; look at fork(2)"
    )


def _exit_code_of_zombie(pid: int) -> list[int]:
    fields = _stat(pid)
    return [os.waitstatus_to_exitcode(int(fields[-1]))] if fields[0] == "Z" else []


def _end_descendants(pid: int) -> None:
    """Kill what descends from `pid`, which is stopped so that it makes no more."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: not _kill_descendants(pid), timeout_s=20, what=f"descendants of process {pid} to end")


def _kill_descendants(pid: int) -> int:
    """Kill those that are alive now, and return how many there were."""
    alive = set()
    children: dict[int, list[int]] = {}
    for other in _pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, parent = _stat(other)[:2]
            children.setdefault(int(parent), []).append(other)
            if state != "Z":
                alive.add(other)
    family = list(children.get(pid, ()))
    for descendant in family:
        family.extend(children.get(descendant, ()))
    for descendant in alive.intersection(family):
        with contextlib.suppress(ProcessLookupError):
            os.kill(descendant, signal.SIGKILL)
    return len(alive.intersection(family))


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the state on."""
    return processes.parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))[1]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
