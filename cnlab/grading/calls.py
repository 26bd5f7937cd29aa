"""Call a student's function in a process of its own, and look at what it did from outside.

Interface: ``with calling(function, *arguments) as call:`` starts the call; `Call.result` waits for what the
function returns; `Call.pid` is the process it runs in, which stays for inspection; `Call.home` are the
namespaces of the notebook that called; leaving the block ends that process and everything it started.
`find_process` finds a process by its command line.

There a function may change its own process (unshare, sethostname, setuid), loop for ever, or return twice
after a fork. Arguments and results cross as plain data. What goes wrong is an `AssertionError` that says what
was expected, what came, and where to look.

The same check works in two places. Under nbgrader's own commands it runs in the notebook and `function` is
the student's own. Under ``cnlab grade`` it runs in a tester and `function` stands for one in the student's
process, which forks the call (`callee`); what that process says of itself is not believed where the kernel
can be asked. See `notebook` for more words that work in both.
"""

import contextlib
import functools
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, cast, overload

from cnlab.clock import wait_until
from cnlab.grading import callee, notebook
from cnlab.grading.attempt import plain
from cnlab.linux import processes, procfs, syscalls
from cnlab.linux.nsfs import Namespace, namespaces_of

T = TypeVar("T")
Function = Callable[..., object]

_POLL_S = 0.05  # reading all of /proc takes 20 ms on the private kernel's one CPU; the command needs some too
_SHOWN_BYTES = 1 << 16  # of what a call prints
_ANSWER_BYTES = 32 << 20
_END_S = 10.0


class InStudentProcess(Protocol):
    """What stands, in a tester, for a function in the student's process."""

    @property
    def notebook_pid(self) -> int:
        """The process that has the function, as the tester sees it."""

    def start_call(
        self,
        arguments: Sequence[object],
        *,
        by: tuple[str, tuple[object, ...]] | None,
        new: Sequence[str],
        answer_fd: int,
        output_fd: int,
    ) -> int:
        """Let that process do `callee.serve_call`, and return the pid that it says.

        `by` names a function of a locked cell and its first arguments.
        """


class Call:
    """A call under way. `pid` is the process that runs the function, and stays when it has returned."""

    def __init__(
        self,
        function: str,
        text: str,
        pid: int,
        home: dict[str, Namespace],
        answers: socket.socket,
        output: int,
    ) -> None:
        self.pid = pid
        self.home = home
        self._function = function
        self._text = text
        self._pidfd = syscalls.pidfd_open(pid)
        self._answers = answers
        self._output_fd = output
        self._answered: tuple[str, object] | None = None

    @property
    def output(self) -> str:
        """What the function and the commands it started have printed so far, errors included."""
        size = os.fstat(self._output_fd).st_size
        start = max(0, size - _SHOWN_BYTES)
        return os.pread(self._output_fd, size - start, start).decode(errors="replace")

    @property
    def is_over(self) -> bool:
        """Whether the function has returned, or can no longer."""
        return self._answered is not None or bool(self._wait(0))

    @overload
    def result(self, *, timeout_s: float = 20.0) -> object: ...
    @overload
    def result(self, kind: type[T], *, timeout_s: float = 20.0) -> T: ...
    def result(self, kind: type = object, *, timeout_s: float = 20.0) -> object:
        """Wait for the function to return and give its value, which is to be a `kind`.

        Raises:
            AssertionError: it raised, it returned something else, its process ended, or the time is up.
        """
        if self._answered is None:
            self._answered = self._answer(timeout_s)
        fault, value = self._answered
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

    def end(self) -> None:
        """End the process, and everything that came of it."""
        end_descendants(self.pid)
        with contextlib.suppress(ProcessLookupError):
            syscalls.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [], _END_S)
        os.close(self._pidfd)

    def _printed(self) -> str:
        return f"\nIt printed:\n{self.output}" if self.output else ""

    def _answer(self, timeout_s: float) -> tuple[str, object]:
        """Return what went wrong, or nothing and the value."""
        deadline = time.monotonic() + timeout_s
        text = bytearray()
        while len(text) <= _ANSWER_BYTES:
            ready = self._wait(max(0.0, deadline - time.monotonic()))
            if self._answers in ready:
                part = self._answers.recv(1 << 20)
                text += part
                if part:
                    continue
                if text:
                    return _decoded(text)
            if ready:
                return f"return, got {self._end_of_process()}; look at fork(2): only the child may exit", None
            return (
                f"return within {timeout_s:g} s, got nothing; look for a loop or a wait without an end",
                None,
            )
        return f"return, got more than {_ANSWER_BYTES >> 20} MiB of data; look at its docstring", None

    def _end_of_process(self) -> str:
        try:
            status = exit_status(self.pid, timeout_s=_END_S)
        except AssertionError:
            return "a process that ended"
        how = f"signal {status - 128}" if status > 128 else f"exit status {status}"
        return f"a process that ended with {how}"

    def _wait(self, timeout_s: float) -> list[Any]:
        watched: list[Any] = [self._answers, self._pidfd]
        return select.select(watched, [], [], timeout_s)[0]


@contextlib.contextmanager
def calling(
    function: Function,
    *arguments: object,
    by: Function | tuple[Function, *tuple[object, ...]] | None = None,
    new: Sequence[str] = (),
) -> Iterator[Call]:
    """Start ``function(*arguments)`` in a process of its own, and end all that came of it with the block.

    Args:
        function: what to call.
        arguments: plain data.
        by: a function of a locked cell that calls it instead: ``by(function, *arguments)``, or with first
            arguments of its own ``(by, first)``: ``by(function, first, *arguments)``.
        new: kinds of namespaces to put that process into first. In a new pid namespace it is process 1; what
            it mounts in a new mount namespace is not seen outside.

    Raises:
        AssertionError: the caller can start no process.
    """
    name = getattr(function, "__name__", repr(function))
    helper, *first = by if isinstance(by, tuple) else (by,)
    home = namespaces_of(notebook.process())
    with contextlib.ExitStack() as stack:
        answers, theirs = (stack.enter_context(end) for end in socket.socketpair())
        output_fd = os.memfd_create("output")
        stack.callback(os.close, output_fd)
        fds = {"answer_fd": theirs.fileno(), "output_fd": output_fd}
        try:
            if hasattr(type(function), "start_call"):  # never asked of the object: it may ask the student
                there = cast(InStudentProcess, function)
                home = namespaces_of(there.notebook_pid)
                by_name = (helper.__name__, tuple(first)) if helper else None
                pid = there.start_call(arguments, by=by_name, new=new, **fds)
                _check_birth(pid, there.notebook_pid, home, new)
            else:
                target = functools.partial(helper, function, *first) if helper else function
                pid = stack.enter_context(callee.started(target, arguments, new=new, **fds)).pid
        except OSError as error:
            raise AssertionError(
                f"expected this notebook to start a process, got {error}; look whether it has moved itself"
                " into new namespaces, and restart its kernel"
            ) from None
        theirs.close()
        call = Call(name, f"{name}({', '.join(map(repr, arguments))})", pid, home, answers, output_fd)
        stack.callback(call.end)
        yield call


def _check_birth(pid: int, parent: int, home: dict[str, Namespace], new: Sequence[str]) -> None:
    """Ask the kernel whether the process is what the student's process says of it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended, which `result` reports
        is_child = int(_stat(pid)[1]) == parent
        namespaces = namespaces_of(pid)
        shared = [kind for kind in new if kind in home and namespaces[kind] == home[kind]]
        if not is_child or shared:
            raise AssertionError(
                f"expected a call in a child of process {parent} with new {list(new)}, got process {pid}"
                f" with the {shared or 'parent'} of others; look whether the notebook changes os.fork"
            )


def _decoded(text: bytearray) -> tuple[str, object]:
    """Read an answer of which nothing is known."""
    with contextlib.suppress(plain.NotPlain):
        answer = plain.decode(bytes(text))
        if type(answer) is dict and type(fault := answer.get("fault")) is str:
            return fault[:_SHOWN_BYTES], answer.get("value")
    return "return plain data, got an answer that is none; look whether the notebook changes os.write", None


def running(*argv: str) -> list[int]:
    """Return the pids of the processes that run exactly this command line."""
    wanted = "".join(f"{argument}\0" for argument in argv)
    found = []
    for pid in _pids():
        with contextlib.suppress(ProcessLookupError):
            if procfs.read(pid, "cmdline", errors="surrogateescape") == wanted:
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


def end_descendants(pid: int) -> None:
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
    return processes.parse_stat(procfs.read(pid, "stat"))[1]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
