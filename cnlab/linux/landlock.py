"""Landlock: a process without privileges gives up most of the file system, for itself and its children.

    Ruleset(read_only=["/usr"], read_write=[work]).restrict_self()

What is not named can no longer be opened, by whatever path or mount it is reached. There is no way back, and
no privilege is needed: only ``no_new_privs``, so that no set-user-ID program runs with less than it was
written for. Where the kernel can, TCP and signals to processes outside are given up too.

See: landlock(7); landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).
"""

import ctypes
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnlab.errors import MissingFeature
from cnlab.linux import syscalls

_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

ACCESS_FS_EXECUTE = 1 << 0
ACCESS_FS_WRITE_FILE = 1 << 1
ACCESS_FS_READ_FILE = 1 << 2
ACCESS_FS_READ_DIR = 1 << 3
ACCESS_FS_REFER = 1 << 13  # from ABI 2
ACCESS_FS_TRUNCATE = 1 << 14  # from ABI 3
ACCESS_NET_TCP = 0b11  # bind and connect, from ABI 4
ACCESS_FS_IOCTL_DEV = 1 << 15  # from ABI 5
SCOPES = 0b11  # abstract UNIX sockets and signals, from ABI 6

_FIRST_ABI = (1 << 13) - 1
_READ = ACCESS_FS_EXECUTE | ACCESS_FS_READ_FILE | ACCESS_FS_READ_DIR
_OF_FILES = (
    ACCESS_FS_EXECUTE | ACCESS_FS_WRITE_FILE | ACCESS_FS_READ_FILE | ACCESS_FS_TRUNCATE | ACCESS_FS_IOCTL_DEV
)

_libc = ctypes.CDLL(None, use_errno=True)


def abi_version() -> int:
    """Return the Landlock ABI of this kernel, 0 where it has none."""
    version: int = _libc.syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    return max(version, 0)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """The part of the file system that stays open to a process; paths that do not exist are passed over."""

    read_only: Sequence[str | Path] = ()  # read and execute, with everything beneath
    read_write: Sequence[str | Path] = ()  # all rights, with everything beneath
    tcp: bool = False  # whether TCP stays open, for those whose network namespace is their own

    def restrict_self(self) -> None:
        """Confine the calling thread, and all it starts, to this ruleset, for ever.

        Raises:
            MissingFeature: the kernel has no Landlock, or it is switched off.
            OSError: a path could not be opened, or the kernel refused a rule.
        """
        abi = abi_version()
        if abi == 0:
            raise MissingFeature("landlock", "the kernel offers no Landlock")
        attributes = _ruleset_attributes(abi, tcp=self.tcp)
        handled = int.from_bytes(attributes[:8], "little")
        ruleset = _call(
            _SYS_CREATE_RULESET, "landlock_create_ruleset", attributes, ctypes.c_size_t(len(attributes)), 0
        )
        try:
            for path in self.read_only:
                _allow(ruleset, path, _READ & handled)
            for path in self.read_write:
                _allow(ruleset, path, handled)
            syscalls.set_no_new_privs()
            _call(_SYS_RESTRICT_SELF, "landlock_restrict_self", ruleset, 0)
        finally:
            os.close(ruleset)


def _ruleset_attributes(abi: int, *, tcp: bool) -> bytes:
    """Build struct landlock_ruleset_attr with all rights this ABI knows: it refuses one it does not know."""
    file_system = _FIRST_ABI
    for since, right in ((2, ACCESS_FS_REFER), (3, ACCESS_FS_TRUNCATE), (5, ACCESS_FS_IOCTL_DEV)):
        file_system |= right if abi >= since else 0
    fields = [file_system]
    if abi >= 4:
        fields.append(0 if tcp else ACCESS_NET_TCP)
    if abi >= 6:
        fields.append(SCOPES)
    return struct.pack(f"<{len(fields)}Q", *fields)


def _allow(ruleset: int, path: str | Path, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, beneath)  # struct landlock_path_beneath_attr, packed
        _call(_SYS_ADD_RULE, f"landlock_add_rule({os.fspath(path)})", ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(beneath)


def _call(number: int, name: str, *arguments: object) -> int:
    result: int = _libc.syscall(number, *arguments)
    if result == -1:
        reason = ctypes.get_errno()
        raise OSError(reason, f"{name}: {os.strerror(reason)}")
    return result
