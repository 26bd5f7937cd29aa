"""What a sandbox is to be, and the last step into it."""

import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from cnlab.grading.limits import Limits
from cnlab.grading.sandbox import filesystem, ownership
from cnlab.grading.sandbox.groups import Group
from cnlab.grading.sandbox.parts import Flavour
from cnlab.linux import syscalls


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sandbox is to be."""

    limits: Limits
    program: Callable[[], object]
    files: Mapping[str, bytes] = field(default_factory=dict)
    keep_fds: Sequence[int] = ()
    missing: frozenset[str] = frozenset()
    group: Group = field(default_factory=Group)
    flavour: Flavour = "plain"
    is_root: bool = field(default_factory=ownership.can_lend_ids)

    @property
    def student_id(self) -> int:
        """Who the student is outside: for root a user of nobody, else ourselves."""
        if not self.is_root:
            return 0  # that is ourselves, in the user namespace of T
        return ownership.first_id() + filesystem.USER

    @property
    def namespaces(self) -> int:
        """The namespaces that T is born in."""
        flags = syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS
        if self.flavour == "root":
            return flags | syscalls.CLONE_NEWUSER
        for part, flag in (
            ("network-namespace", syscalls.CLONE_NEWNET),
            ("ipc-namespace", syscalls.CLONE_NEWIPC),
            ("uts-namespace", syscalls.CLONE_NEWUTS),
        ):
            flags |= 0 if part in self.missing else flag
        return flags if self.is_root else flags | syscalls.CLONE_NEWUSER


def run(program: Callable[[], object]) -> NoReturn:
    """Call `program` and end the process, whatever comes of it."""
    code = 1
    try:
        program()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
