"""How a tester gets to where the student's code is, without coming within its reach.

See: setns(2).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from cnlab.grading.sandbox import confinement
from cnlab.grading.sandbox.filesystem import HOME
from cnlab.linux import syscalls
from cnlab.linux.capability_names import mask_of
from cnlab.linux.nsfs import flags_for, namespaces_of

_SHARED = ("user", "mnt", "net", "ipc", "uts")
_KEPT = ("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")  # it may read what the student has written


@contextlib.contextmanager
def born_inside(reference: Mapping[str, Any]) -> Iterator[None]:
    """Let processes that the caller forks within the block be in the pid namespace of a root sandbox.

    For the plain flavour it does nothing: a tester stays where the student cannot see it.
    """
    yield


def join(reference: Mapping[str, Any]) -> None:
    """Enter, for good, what a tester shares with the student: its files, its network, its host name, its ipc.

    The caller has one thread, and stays outside the student's user namespace: the student has no rights over
    it. Files it opens may be hostile; no directory that the student can write may be on `sys.path`.

    Raises:
        ProcessLookupError: the sandbox has ended.
    """
    first = int(reference["first"])
    pidfd = syscalls.pidfd_open(first)
    try:
        theirs, ours = namespaces_of(first), namespaces_of()
        flags = flags_for(*(kind for kind in _SHARED if theirs.get(kind) != ours.get(kind)))
        syscalls.setns(pidfd, flags)
    finally:
        os.close(pidfd)
    if flags & syscalls.CLONE_NEWUSER:
        syscalls.set_ids(0, 0)
    keep = mask_of(*_KEPT) & syscalls.capget()[1]
    syscalls.capset(keep, keep, 0)
    syscalls.set_no_new_privs()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.chdir(HOME)
    confinement.set_environment(HOME, "student")
