"""One function for each system call that containers are made of.

A call that fails raises `OSError` with the kernel's errno and the text ``call(object): reason``, so that
``EPERM`` arrives as `PermissionError`. Constants keep the kernel's spelling.

See: the man page of section 2 with the name of the function.
"""

from __future__ import annotations

import _operator  # `operator` adds Python to it
import ctypes
import os
import sys

TYPE_CHECKING = (
    False  # the container runtime imports this file at each start: `typing` alone costs a third of that
)
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x1_0000_0000
CLONE_INTO_CGROUP = 0x2_0000_0000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000
MNT_DETACH = 0x2

AT_FDCWD = -100
AT_RECURSIVE = 0x8000

SAME_ID = 0xFFFF_FFFF  # of setresuid(2) and setresgid(2)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SYS_PIDFD_SEND_SIGNAL = 424  # numbers from 424 on are the same on every processor
_SYS_CLONE3 = 435
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_RENAME_EXCHANGE = 0x2
_SYS_MOUNT_SETATTR = 442
_SIGCHLD = 17
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC

_SYS_DELETE_MODULE = {"x86_64": 176, "i686": 129}.get(os.uname().machine, 106)
_SYS_FINIT_MODULE = {"x86_64": 313, "i686": 350}.get(os.uname().machine, 273)
_SYS_IOPRIO_SET = {"x86_64": 251, "i686": 289}.get(os.uname().machine, 30)
_SYS_KEYCTL = {"x86_64": 250, "i686": 288}.get(os.uname().machine, 219)
_SYS_SETGROUPS = {"x86_64": 116, "i686": 206}.get(os.uname().machine, 159)
_SYS_SETRESGID = {"x86_64": 119, "i686": 210}.get(os.uname().machine, 149)
_SYS_SETRESUID = {"x86_64": 117, "i686": 208}.get(os.uname().machine, 147)
_SYS_PIVOT_ROOT = {"x86_64": 155, "i686": 217}.get(os.uname().machine, 41)

_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter lock during the call: a child of clone3 must own it.
_libc_with_lock = ctypes.PyDLL(None, use_errno=True)
_libc_with_lock.malloc.restype = ctypes.c_void_p
_libc.mount.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_NAMES = {value: name for name, value in list(globals().items()) if name.startswith("CLONE_")}


def unshare(flags: int) -> None:
    """Move the caller into new namespaces of the kinds in `flags`; ``CLONE_NEWPID`` its future children."""
    _check(_libc.unshare(flags), f"unshare({flag_names(flags)})")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace that `fd` refers to; with a pidfd, all of that process's namespaces in `flags`."""
    _check(_libc.setns(fd, flags), f"setns({fd}, {flag_names(flags)})")


def mount(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    fs_type: str = "",
    flags: int = 0,
    data: str = "",
) -> None:
    """Attach a file system at `target`, or change what is attached there, as `flags` say."""
    result = _libc.mount(
        os.fsencode(source) or None,
        os.fsencode(target),
        fs_type.encode() or None,
        flags,
        data.encode() or None,
    )
    parts = (fs_type, f"`{os.fspath(source)}` to" if source else "", f"`{os.fspath(target)}`", data)
    _check(result, f"mount({' '.join(filter(None, parts))})")


def umount(target: str | os.PathLike[str], flags: int = 0) -> None:
    """Detach what is mounted at `target`; with ``MNT_DETACH`` at once, the rest when it is no longer busy."""
    _check(_libc.umount2(os.fsencode(target), flags), f"umount(`{os.fspath(target)}`)")


def pivot_root(new_root: str | os.PathLike[str], put_old: str | os.PathLike[str]) -> None:
    """Make `new_root` the root mount and move the old one to `put_old`.

    Both may be ``"."``: the old root is then stacked on top of the new one. `mounts.pivot_root` does all that
    belongs to it.
    """
    result = _libc.syscall(_SYS_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old))
    _check(result, f"pivot_root(`{os.fspath(new_root)}`, `{os.fspath(put_old)}`)")


def sethostname(name: str) -> None:
    """Set the host name of the caller's UTS namespace."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), f"sethostname({name!r})")


def setdomainname(name: str) -> None:
    """Set the NIS domain name of the caller's UTS namespace."""
    encoded = name.encode()
    _check(_libc.setdomainname(encoded, len(encoded)), f"setdomainname({name!r})")


def prlimit(pid: int, resource: int, soft: int, hard: int) -> None:
    """Set a resource limit of process `pid` (0: the caller); `resource` is the kernel's number of it."""
    limits = (ctypes.c_uint64 * 2)(soft, hard)
    _check(_libc.prlimit64(pid, resource, limits, None), f"prlimit({pid}, {resource}, {soft}, {hard})")


def personality(persona: int) -> None:
    """Set the execution domain of the caller."""
    _check(_libc.personality(ctypes.c_ulong(persona)), f"personality({persona:#x})")


def ioprio_set(io_class: int, level: int) -> None:
    """Set the caller's I/O scheduling class and its level in there."""
    result = _libc.syscall(_SYS_IOPRIO_SET, 1, 0, io_class << 13 | level)
    _check(result, f"ioprio_set({io_class}, {level})")


def join_session_keyring(name: str) -> None:
    """Give the caller a session keyring of its own (``KEYCTL_JOIN_SESSION_KEYRING``)."""
    _check(_libc.syscall(_SYS_KEYCTL, 1, name.encode()), f"keyctl(JOIN_SESSION_KEYRING, {name!r})")


def close_range(first: int, last: int) -> None:
    """Close all file descriptors from `first` to `last`."""
    arguments = (ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0))
    _check(_libc.syscall(_SYS_CLOSE_RANGE, *arguments), f"close_range({first}, {last})")


def set_ids(uid: int, gid: int, groups: list[int] | None = None) -> None:
    """Take the real, effective and saved ids `uid` and `gid`, and the supplementary `groups` unless None.

    `SAME_ID` leaves an id as it is.

    The system calls themselves act on the calling thread. The C library's functions act on all threads of the
    process, and in a child of `clone3` they wait for those that only its parent has.
    """
    if groups is not None:
        array = (ctypes.c_uint32 * len(groups))(*groups)
        _check(_libc.syscall(_SYS_SETGROUPS, len(groups), array), f"setgroups({groups})")
    ids = (ctypes.c_uint32(gid),) * 3
    _check(_libc.syscall(_SYS_SETRESGID, *ids), f"setresgid({gid})")
    ids = (ctypes.c_uint32(uid),) * 3
    _check(_libc.syscall(_SYS_SETRESUID, *ids), f"setresuid({uid})")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """Read or change one attribute of the calling thread."""
    return _check(_libc.prctl(option, arg2, arg3, arg4, arg5), f"prctl({option}, {arg2})")


def set_parent_death_signal(number: int) -> None:
    """Ask for signal `number` when the thread that made this process ends (``PR_SET_PDEATHSIG``)."""
    prctl(PR_SET_PDEATHSIG, number)


def set_no_new_privs() -> None:
    """Give up, for good, what a set-user-ID program would add (``PR_SET_NO_NEW_PRIVS``)."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def finit_module(fd: int, parameters: str = "") -> None:
    """Load the kernel module in the file `fd`; one that is loaded already is left as it is."""
    try:
        _check(_libc.syscall(_SYS_FINIT_MODULE, fd, parameters.encode(), 0), f"finit_module({fd})")
    except FileExistsError:
        return


def delete_module(name: str) -> None:
    """Unload the kernel module `name`; EBUSY if somebody uses it."""
    _check(_libc.syscall(_SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK), f"delete_module({name!r})")


def reboot(command: int) -> None:
    """Stop or restart the machine at once (``LINUX_REBOOT_CMD_...``), without syncing."""
    _check(_libc.reboot(ctypes.c_int(command)), f"reboot({command:#x})")


class _OpenHow(ctypes.Structure):
    """``struct open_how`` of openat2(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10


def openat2(
    directory: int, path: str | os.PathLike[str], flags: int, *, mode: int = 0, resolve: int = 0
) -> int:
    """Open `path` below the directory descriptor `directory`; `resolve` says where links may lead."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    result = _libc.syscall(
        _SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
    )
    return _check(result, f"openat2({directory}, `{os.fspath(path)}`)")


def exchange(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> None:
    """Swap two paths of a file system in one step; EINVAL where the file system cannot.

    See: renameat2(2), RENAME_EXCHANGE.
    """
    result = _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    _check(result, f"renameat2(`{os.fspath(one)}`, `{os.fspath(other)}`, RENAME_EXCHANGE)")


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(path: str, *, attr_set: int = 0, attr_clr: int = 0, recursive: bool = False) -> None:
    """Change the ``MOUNT_ATTR_…`` attributes of the mount at `path`; with `recursive` of those below too."""
    attr = _MountAttr(attr_set, attr_clr)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        AT_FDCWD,
        os.fsencode(path),
        AT_RECURSIVE if recursive else 0,
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    _check(result, f"mount_setattr(`{path}`, set {attr_set:#x}, clear {attr_clr:#x})")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


def capget(pid: int = 0) -> tuple[int, int, int]:
    """Return the effective, permitted and inheritable capabilities of `pid` (0: the caller) as bit masks."""
    header, data = _CapHeader(_LINUX_CAPABILITY_VERSION_3, pid), (_CapData * 2)()
    _check(_libc.capget(ctypes.byref(header), data), f"capget({pid})")
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capabilities from bit masks."""
    masks = (effective, permitted, inheritable)
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(
        _CapData(*(mask & 0xFFFF_FFFF for mask in masks)), _CapData(*(mask >> 32 for mask in masks))
    )
    _check(_libc.capset(ctypes.byref(header), data), "capset({:#x}, {:#x}, {:#x})".format(*masks))


def pidfd_open(pid: int) -> int:
    """Return a file descriptor for process `pid`; unlike the number, it never comes to mean another one."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise OSError(error.errno, f"pidfd_open({pid}): {error.strerror}") from None


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send signal `number` to the process behind `pidfd`."""
    result = _libc.syscall(_SYS_PIDFD_SEND_SIGNAL, pidfd, ctypes.c_int(number), None, 0)
    _check(result, f"pidfd_send_signal({pidfd}, {number})")


class _CloneArgs(ctypes.Structure):
    """``struct clone_args`` of clone3(2)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal"),
            *("stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


def clone3(flags: int = 0, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork a child that is born in the new namespaces of `flags`, and in the cgroup v2 directory `cgroup_fd`.

    Returns:
        (pid, pidfd) in the parent, (0, -1) in the child. As after `os.fork`, the child has only the calling
        thread; it should soon call execve or `os._exit`.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=_SIGCHLD)
    if flags & CLONE_PARENT:  # then the kernel takes the signal that our own parent asked for
        args.exit_signal = 0
    if cgroup_fd is not None:
        args.flags |= CLONE_INTO_CGROUP
        args.cgroup = cgroup_fd
    size = ctypes.c_size_t(ctypes.sizeof(args))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = _fork_by(map(_libc_with_lock.syscall, [_SYS_CLONE3], [ctypes.byref(args)], [size]))
    _check(pid, f"clone3({flag_names(args.flags & ~(CLONE_PIDFD | CLONE_CLEAR_SIGHAND))})")
    return pid, pidfd.value


def _settle_allocator() -> None:
    """Take and release the lock of malloc(3), as fork(3) does: a child that finds it taken waits for ever.

    The thread that holds it, a library's own, would not be there to release it. Blocks of this size come from
    the arena itself, not from the thread's cache.
    """
    block = _libc_with_lock.malloc(ctypes.c_size_t(1 << 16))
    _libc_with_lock.free(ctypes.c_void_p(block))


def _fork_by(clone: Iterator[int]) -> int:
    """Take the one item of `clone` between the interpreter's fork hooks, as `os.fork` calls fork(2).

    The hook in the child must run before any bytecode does: bytecode may hand the interpreter lock to a
    thread that had asked for it, and the child would wait for ever for a thread it does not have. So the
    steps are chained by `map`, which calls one C function after the other.
    """
    python = ctypes.pythonapi
    after_fork = (python.PyOS_AfterFork_Child, python.PyOS_AfterFork_Parent)
    result: dict[str, int] = {}
    pid = map(result.setdefault, ["pid"], clone)
    hook: Iterator[Callable[[], Any]] = map(after_fork.__getitem__, map(bool, pid))
    steps = map(_operator.call, hook)
    python.PyOS_BeforeFork()
    _settle_allocator()
    next(steps)
    return result["pid"]


def flag_names(flags: int) -> str:
    """Spell `flags` as the kernel's headers do: ``CLONE_NEWUTS|CLONE_NEWPID``."""
    names = [name for value, name in _NAMES.items() if flags & value]
    return "|".join(names) or f"{flags:#x}"


def _check(result: int, call: str) -> int:
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{call}: {os.strerror(errno)}")
    return result
