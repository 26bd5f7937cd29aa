"""The system calls that a student's code may not make, and who gets to know that it tried.

A call that has no place in a notebook is refused with EPERM, and the sandbox's first process is told: that
is what ``SCMP_ACT_NOTIFY`` is for. Calls that programs try before they take an older one get ENOSYS and no
notice, as do calls that came after this list.

See: seccomp(2), seccomp_unotify(2); the default profile of container engines, which this follows.
"""

import errno
import fcntl
import functools
import platform
import struct
from typing import Any

from cnlab.linux import seccomp, syscalls
from cnlab.linux.syscall_numbers import numbers

_MACHINE = (
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon"),
    *("swapoff", "acct", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "iopl", "ioperm"),
    *("bpf", "perf_event_open", "userfaultfd", "open_by_handle_at", "syslog", "fanotify_init"),
)
_RARE = (
    *("create_module", "query_module", "get_kernel_syms", "quotactl", "quotactl_fd", "nfsservctl"),
    *("uselib", "sysfs", "_sysctl", "lookup_dcookie", "modify_ldt", "vhangup", "lsm_set_self_attr"),
    *("uretprobe", "uprobe"),
)
_KEYS = (*("add_key", "request_key", "keyctl"),)
_OTHERS = (*("ptrace", "process_vm_readv", "process_vm_writev", "process_mrelease", "kcmp", "pidfd_getfd"),)
_MOUNTS = (
    *("mount", "umount", "umount2", "pivot_root", "chroot", "mknod", "mknodat", "fsopen", "fsconfig"),
    *("fsmount", "fspick", "move_mount", "open_tree", "open_tree_attr", "mount_setattr"),
)
_NAMESPACES = (*("setns", "unshare", "sethostname", "setdomainname"),)
_UNKNOWN = (
    *("clone3", "memfd_secret", "io_uring_setup", "io_uring_enter", "io_uring_register", "mbind"),
    *("set_mempolicy", "set_mempolicy_home_node", "migrate_pages", "move_pages", "statmount", "listmount"),
)

_NEW = (
    *(syscalls.CLONE_NEWNS, syscalls.CLONE_NEWCGROUP, syscalls.CLONE_NEWUTS, syscalls.CLONE_NEWIPC),
    *(syscalls.CLONE_NEWUSER, syscalls.CLONE_NEWPID, syscalls.CLONE_NEWNET),
)
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6; AF_VSOCK, say, knows no namespaces
_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_PERSONAS = (0, 0x0008, 0x20000, 0x20008, 0xFFFF_FFFF)
_RLIMIT_CORE = 4
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_INT = 0xFFFF_FFFF  # of an argument of type int the kernel ignores the upper half
_NOTIFY, _ALLOW, _ERRNO = "SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
_SILENT = {"action": _ERRNO, "errnoRet": errno.EPERM}

_NOTIF_RECV, _NOTIF_SEND = 0xC050_2100, 0xC018_2101  # SECCOMP_IOCTL_NOTIF_RECV, ..._SEND
_NOTIF = struct.Struct("=QIIiIQ6Q")  # struct seccomp_notif
_RESPONSE = struct.Struct("=QqiI")  # struct seccomp_notif_resp


@functools.cache
def program(flavour: str) -> bytes:
    """Return the filter for a student; that of the plain flavour has a listener.

    That for a "tester" beside it refuses the same, and tells nobody.
    """
    if flavour == "root":
        return seccomp.compile_profile(
            {"defaultAction": _ALLOW, "syscalls": [{"names": [*_MACHINE, *_RARE], "action": _ERRNO}]}
        )
    refused = {*_MACHINE, *_RARE, *_KEYS, *_OTHERS, *_MOUNTS, *_NAMESPACES}
    conditional = _conditional()
    if flavour == "tester":
        conditional = [rule | _SILENT if rule["action"] == _NOTIFY else rule for rule in conditional]
    special = {name for rule in conditional for name in rule["names"]}
    allowed = {*numbers(_abi())} - refused - special - {*_UNKNOWN}
    return seccomp.compile_profile(
        {
            "defaultAction": _ERRNO,
            "defaultErrnoRet": errno.ENOSYS,
            "listenerPath": "/",  # a profile that notifies must have one; ours is handed over by `confine`
            "syscalls": [
                {"names": sorted(refused)} | (_SILENT if flavour == "tester" else {"action": _NOTIFY}),
                *conditional,
                {"names": sorted(allowed), "action": _ALLOW},
            ],
        }
    )


def _conditional() -> list[dict[str, Any]]:
    """Return the rules for calls where an argument decides; the first that matches counts."""
    return [
        *(_rule("clone", _NOTIFY, _has_bit(0, flag)) for flag in _NEW),
        _rule("clone", _ALLOW, _any()),
        *(_rule("ioctl", _NOTIFY, _is(1, request)) for request in (_TIOCSTI, _TIOCLINUX)),
        _rule("ioctl", _ALLOW, _any()),
        *(_rule("socket", _ALLOW, _is(0, family)) for family in _FAMILIES),
        _rule("socket", _ALLOW, _is(0, _AF_NETLINK), _is(2, _NETLINK_ROUTE)),
        _rule("socket", _NOTIFY, _any()),
        *(_rule("personality", _ALLOW, _is(0, persona)) for persona in _PERSONAS),
        _rule("personality", _NOTIFY, _any()),
        # a limit of 1 keeps a core dump also from a program that waits for one; see core(5)
        _rule("setrlimit", _NOTIFY, _is(0, _RLIMIT_CORE)),
        _rule("setrlimit", _ALLOW, _any()),
        _rule("prlimit64", _NOTIFY, _is(1, _RLIMIT_CORE), {"index": 2, "op": "SCMP_CMP_NE", "value": 0}),
        _rule("prlimit64", _ALLOW, _any()),
    ]


def _rule(name: str, action: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": action, "args": list(conditions)}


def _is(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": _INT, "valueTwo": value}


def _has_bit(index: int, bit: int) -> dict[str, Any]:
    return {"index": index, "op": "SCMP_CMP_MASKED_EQ", "value": bit, "valueTwo": bit}


def _any() -> dict[str, Any]:
    return {"index": 0, "op": "SCMP_CMP_GE", "value": 0}


def _abi() -> str:
    return "aarch64" if platform.machine() == "aarch64" else "x86_64"


@functools.cache
def _names() -> dict[int, str]:
    return {number: name for name, number in numbers(_abi()).items()}


def load(flavour: str) -> int | None:
    """Put the caller under the filter, for good; return the descriptor to listen at, if it has one."""
    flags = seccomp.FLAGS["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    return seccomp.load(program(flavour), flags | seccomp.NEW_LISTENER if flavour == "plain" else flags)


def refuse(listener: int) -> str:
    """Take a notice from `listener`, have the call fail with EPERM, and return the call's name.

    It is empty if whoever made the call has ended meanwhile.
    """
    notice = bytearray(_NOTIF.size)
    try:
        fcntl.ioctl(listener, _NOTIF_RECV, notice)
        identity, _, _, number, *_ = _NOTIF.unpack(notice)
        fcntl.ioctl(listener, _NOTIF_SEND, _RESPONSE.pack(identity, 0, -errno.EPERM, 0))
    except OSError:
        return ""
    return _names().get(number, f"number {number}")
