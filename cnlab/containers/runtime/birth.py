"""How a process of a container is born: cloned, sometimes by a stage in between, and led step by step.

Interface: `bear` clones a child that runs `life(channel)`; parent and child then talk over the `Channel`. The
child is a copy of the runtime, so it has all that the runtime has read; what it needs in the container it
must have imported before.

See: clone(2), "CLONE_PARENT".
"""

from __future__ import annotations

import gc
import os

from cnlab.containers.runtime import documents
from cnlab.containers.runtime.waiting import has_ended
from cnlab.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, NoReturn, Protocol, TypeVar

    from cnlab.containers.runtime.cgroups import Cgroups

    T = TypeVar("T")

    class Plan(Protocol):
        """Which namespaces the child is to be in."""

        @property
        def at_birth(self) -> int:
            """Flags for clone3(2)."""

        @property
        def needs_a_stage(self) -> bool:
            """Whether `enter` is to be called first, by a process in between."""

        def enter(self) -> None:
            """Enter namespaces that exist."""


_CLEAR = syscalls.CLONE_CLEAR_SIGHAND
_PATIENCE_S = 10.0
_ATTEMPTS = 3
_MESSAGE_MAX = 4000  # bytes; a pipe takes up to 4096 in one piece


class Channel:
    """Two pipes between the runtime and its child: ``go`` one way, JSON objects the other."""

    def __init__(self) -> None:
        self._wait_end, self._go_end = os.pipe()
        self._read_end, self._tell_end = os.pipe()

    def close(self) -> None:
        """Close all ends that are open here."""
        for name in ("_wait_end", "_go_end", "_read_end", "_tell_end"):
            fd = getattr(self, name)
            setattr(self, name, -1)
            if fd >= 0:
                os.close(fd)

    # The runtime's side

    def leave_to_child(self) -> None:
        """Close the child's ends, so that its death is seen as the end of the pipe."""
        os.close(self._wait_end)
        os.close(self._tell_end)
        self._wait_end = self._tell_end = -1

    def go(self) -> None:
        """Let the child take its next step."""
        try:
            os.write(self._go_end, b"\n")
        except BrokenPipeError:
            return  # it has failed; `hear` will say why

    def hear(self, what: str) -> dict[str, Any]:
        """Return the child's next message.

        Raises:
            OSError, CnlabError: what went wrong in the child.
            ChildProcessError: it ended before it could say `what`.
        """
        text = self._read()
        if not text:
            raise ChildProcessError(f"the container's process ended before it was {what}")
        message: dict[str, Any] = documents.parse(text.decode())
        if "error" in message:
            raise _rebuilt(message)
        return message

    def hear_nothing(self) -> None:
        """Listen until the child has executed its program, which closes its end.

        Raises:
            OSError, CnlabError: what went wrong instead.
        """
        if text := self._read():
            raise error_in(text)

    def _read(self) -> bytes:
        if len(os.listdir("/proc/self/task")) > 1 and not has_ended(self._read_end, _PATIENCE_S):
            raise TimeoutError(f"the container's process has said nothing for {_PATIENCE_S:g} s")
        return os.read(self._read_end, 65536)

    # The child's side

    def ends(self) -> tuple[int, int]:
        """The descriptors that the child needs."""
        return self._wait_end, self._tell_end

    def hang_up(self) -> None:
        """Close the child's ends: from now on the runtime's end or death does not matter."""
        os.close(self._wait_end)
        os.close(self._tell_end)

    def wait_for_go(self) -> None:
        """Wait for the runtime; if it has ended, end too."""
        if not os.read(self._wait_end, 1):
            os._exit(1)

    def tell(self, **message: Any) -> None:
        """Send a message to the runtime."""
        os.write(self._tell_end, documents.text_of(message).encode())

    def tell_error(self, error: BaseException) -> None:
        """Send what went wrong."""
        tell_error(self._tell_end, error)


def tell_error(fd: int, error: BaseException) -> None:
    """Write `error` to a pipe, so that `_rebuilt` can raise it at the other end."""
    kind, number, reason = type(error).__name__, 0, str(error)
    if isinstance(error, OSError) and error.errno:
        number, reason = error.errno, str(error.strerror)
        if error.filename:
            reason = f"{os.fsdecode(error.filename)}: {reason}"
    message = documents.text_of({"error": reason[: _MESSAGE_MAX // 8], "errno": number, "kind": kind})
    try:
        os.write(fd, message.encode())
    except OSError:
        return  # nobody listens any more


def error_in(text: bytes) -> Exception:
    """Return the error that the child wrote."""
    return _rebuilt(documents.parse(text.decode()))


def _rebuilt(message: dict[str, Any]) -> Exception:
    from cnlab.containers.runtime import errors

    if message["errno"]:
        return OSError(message["errno"], message["error"])
    kind = getattr(errors, message["kind"], None)
    if kind is None:
        return ChildProcessError(f"{message['kind']}: {message['error']}")
    rebuilt: Exception = kind(message["error"])
    return rebuilt


def again_if_hung(attempt: Callable[[], T]) -> T:
    """Call `attempt`, and again where its child has said nothing for long.

    A clone beside busy threads, such as a notebook's, may have copied a lock that one of them held. Its
    program has not begun, so nothing is done twice.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            return attempt()
        except TimeoutError:
            if not attempts_left:
                raise
    raise AssertionError("the last attempt returns or raises")


def bear(
    life: Callable[[Channel], NoReturn], channel: Channel, namespaces: Plan, cgroups: Cgroups
) -> tuple[int, int]:
    """Clone the child that runs `life` and return its pid and pidfd; it is a child of the caller.

    Where namespaces are to be entered, a stage enters them and clones the child as its own sibling
    (``CLONE_PARENT``): a process that enters a pid namespace is not in it, only its children are.
    """
    birth_fd = cgroups.birth_fd()
    try:
        if not namespaces.needs_a_stage:
            pid, pidfd = syscalls.clone3(_CLEAR | namespaces.at_birth, cgroup_fd=birth_fd)
            if pid == 0:
                _run(lambda: _enter_and_live(life, channel, cgroups, birth_fd), channel)
            channel.leave_to_child()
            return pid, pidfd
        stage, stage_fd = syscalls.clone3(_CLEAR, cgroup_fd=birth_fd)
        if stage == 0:
            _run(lambda: _stage(life, channel, namespaces, cgroups, birth_fd), channel)
    finally:
        if birth_fd is not None:
            os.close(birth_fd)
    channel.leave_to_child()
    try:
        pid = channel.hear("born")["pid"]
        return pid, syscalls.pidfd_open(pid)
    finally:
        _reap(stage)
        os.close(stage_fd)


def _enter_and_live(
    life: Callable[[Channel], NoReturn], channel: Channel, cgroups: Cgroups, birth_fd: int | None
) -> NoReturn:
    if birth_fd is None:
        cgroups.enter_self()
    life(channel)


def _stage(
    life: Callable[[Channel], NoReturn],
    channel: Channel,
    namespaces: Plan,
    cgroups: Cgroups,
    birth_fd: int | None,
) -> NoReturn:
    if birth_fd is None:
        cgroups.enter_self()
    namespaces.enter()
    pid, _ = syscalls.clone3(_CLEAR | syscalls.CLONE_PARENT | namespaces.at_birth)
    if pid == 0:
        _run(lambda: life(channel), channel)
    channel.tell(pid=pid)
    os._exit(0)


def _run(life: Callable[[], NoReturn], channel: Channel) -> NoReturn:
    try:
        gc.disable()  # a collection would touch all of the parent's memory, and so copy it
        life()
    except BaseException as error:
        channel.tell_error(error)
    os._exit(1)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return  # somebody else in this process has


def forget_caller(stdio: Sequence[int], keep: Iterable[int]) -> None:
    """Take the standard streams `stdio`, close all descriptors but `keep`, lead a session of one's own."""
    held = [os.dup(fd) for fd in stdio]
    for number, fd in enumerate(held):
        os.dup2(fd, number)
    first = 3
    for fd in (*sorted(keep), 1 << 31):
        if first < fd:
            syscalls.close_range(first, fd - 1)
        first = max(first, fd + 1)
    os.setsid()
