"""Where the student's notebook is, for checks that look at it from outside or need a neighbour beside it.

Under nbgrader's own commands the checks run in the notebook itself: `pid` is None. Under ``cnlab grade`` they
run in a tester, a process of its own in the same pid namespace but in a user namespace above the student's;
it sets `pid` to the student's process. The words here do the same in both: `process` is the notebook's pid,
`bystander` starts a process that the student's functions may look into, `shared_mount` mounts where
they see it, `top_of_mounts` sees what a break-out would reach, `private_directory` is out of their reach.

What enters the student's namespaces from here imports nothing there and is not dumpable: the student owns all
files that are seen from inside, and may trace whatever has the same rights.

A program that a check starts otherwise, by `subprocess` say, has the rights of the check: ip(8) and
nsenter(1) need them. It cannot read the check's memory, nor write to where its result goes, nor lay files
over those that checks use. But it can end or stop the check, which then fails; read and change what lies in
a `private_directory`; do to the student's processes what it likes; and trace another program that the same
check starts while it runs. So what a student wrote is for `bystander`, or for `calling` to start.

See: setns(2), user_namespaces(7), ptrace(2), "Ptrace access mode checking".
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cnlab.errors import InvalidValue
from cnlab.linux import children, syscalls
from cnlab.linux.nsfs import flags_for, namespaces_of

pid: int | None = None
"""The student's process as the tester sees it, 0 while it has none; None where checks run in the notebook."""

PRIVATE = Path("/usr/src")
"""Where a tester keeps what is its own: a directory of every Linux system that no check needs otherwise."""


def process() -> int:
    """Return the pid of the notebook."""
    return os.getpid() if pid is None else pid


def bystander(
    argv: Sequence[str], *, new: Sequence[str] = ()
) -> contextlib.AbstractContextManager[children.Child]:
    """Start a command beside the notebook, with the notebook's rights; it ends with the block.

    Args:
        argv: the command. It inherits descriptors that are inheritable.
        new: kinds of namespaces that it is in, but for "pid". In a new user namespace the id maps are empty.

    Raises:
        InvalidValue: it cannot be in a new pid namespace: that is for the children of who makes it.
    """
    flags = flags_for(*new)
    if flags & syscalls.CLONE_NEWPID:
        raise InvalidValue("bystander(new=...): a process does not enter a pid namespace that it makes")
    enter = None if pid is None else _entering(pid, is_root=True)

    def be_beside() -> None:
        if enter is not None:
            enter()
        syscalls.unshare(flags)

    return children.start(argv, in_child=be_beside)


@contextlib.contextmanager
def shared_mount(path: str) -> Iterator[str]:
    """Let the directory at `path` be a mount of the notebook that is shared, as systemd makes them."""

    def mount() -> None:
        syscalls.mount(path, path, flags=syscalls.MS_BIND)
        syscalls.mount("", path, flags=syscalls.MS_SHARED)

    _beside(mount)
    try:
        yield path
    finally:
        _beside(lambda: syscalls.umount(path, syscalls.MNT_DETACH))


def top_of_mounts(process: int) -> list[str]:
    """List the directory that is the root of all mounts of `process`, whatever directory its own root is."""
    pidfd = syscalls.pidfd_open(process)
    reading, writing = os.pipe()

    def look() -> None:
        syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
        os.write(writing, "\0".join(os.listdir("/"))[:4096].encode(errors="replace"))

    try:
        with open(reading, errors="replace") as found:
            try:
                _run(look, lambda: None)
            finally:
                os.close(writing)
            return sorted(filter(None, found.read().split("\0")))
    finally:
        os.close(pidfd)


def private_directory(prefix: str = "") -> "tempfile.TemporaryDirectory[str]":
    """Make a directory that a student's function cannot reach, for what a check compares with.

    Under nbgrader there is no such place; it is a temporary directory like any other.
    """
    if pid is None:
        return tempfile.TemporaryDirectory(prefix=prefix)
    if not PRIVATE.is_mount():  # only the tester's view has it; in a sandbox it is there from the start
        syscalls.mount("tmpfs", PRIVATE, "tmpfs", data="mode=700")
    return tempfile.TemporaryDirectory(prefix=prefix, dir=PRIVATE)


def _beside(action: Callable[[], None]) -> None:
    """Do something in the notebook's namespaces, with the rights of the check."""
    _run(action, _entering(pid, is_root=False) if pid is not None else lambda: None)


def _run(action: Callable[[], None], enter: Callable[[], None]) -> None:
    """Enter and act in a process of its own; what goes wrong is raised here."""

    def act() -> None:
        enter()
        action()

    with children.start(signal.pause, in_child=act):
        pass


def _entering(target: int, *, is_root: bool) -> Callable[[], None]:
    """Return what enters the namespaces of `target`: as its root, or with the rights that the caller has."""
    theirs, ours = namespaces_of(target), namespaces_of()
    kinds = [kind for kind in theirs if theirs[kind] != ours.get(kind) and (is_root or kind != "user")]
    pidfd = syscalls.pidfd_open(target)

    def enter() -> None:
        if kinds:
            syscalls.setns(pidfd, flags_for(*kinds))
        if is_root:
            syscalls.set_ids(0, 0)
        os.chdir("/")

    return enter
