"""Seccomp: a program of ours that the kernel runs at every system call, to allow, refuse or kill.

Interface: `compile_profile` turns a profile (``linux.seccomp`` of a config.json) into a BPF program; `load`
hands it to the kernel, for the caller and all its children, for good.

A rule without conditions goes before those with; of several that match, the first counts. A number above
all that the profile names is a call that its author did not know: a program that is told ENOSYS takes an
older one instead.

See: seccomp(2); the kernel's userspace-api/seccomp_filter.rst; runtime-spec, config-linux.md, "Seccomp".
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from cnlab.errors import InvalidValue
from cnlab.linux import seccomp_program
from cnlab.linux.syscall_numbers import X32_BIT, numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cnlab.linux.seccomp_program import Conditions, Outcome

    Rule = tuple[str, Conditions, int]  # name of a system call, when, action

ACTIONS = {
    "SCMP_ACT_KILL": 0x0000_0000,
    "SCMP_ACT_KILL_THREAD": 0x0000_0000,
    "SCMP_ACT_KILL_PROCESS": 0x8000_0000,
    "SCMP_ACT_TRAP": 0x0003_0000,
    "SCMP_ACT_ERRNO": 0x0005_0000,
    "SCMP_ACT_TRACE": 0x7FF0_0000,
    "SCMP_ACT_NOTIFY": 0x7FC0_0000,
    "SCMP_ACT_LOG": 0x7FFC_0000,
    "SCMP_ACT_ALLOW": 0x7FFF_0000,
}
"""What a filter may answer; the low 16 bits carry the errno."""

OPERATORS = (
    *("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ"),
    *("SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"),
)

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": ("x86_64", 0xC000_003E),
    "SCMP_ARCH_X32": ("x32", 0xC000_003E),
    "SCMP_ARCH_X86": ("i386", 0x4000_0003),
    "SCMP_ARCH_AARCH64": ("aarch64", 0xC000_00B7),
}
"""The ABIs that we have numbers for, and their ``AUDIT_ARCH_…``."""

_OTHER_ARCHITECTURES = (
    *("ARM", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE"),
    *("S390", "S390X", "PARISC", "PARISC64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB"),
)
_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "i686": "SCMP_ARCH_X86"}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
_MAX_ERRNO = 4095  # the kernel would take a greater one for this
NEW_LISTENER = 8
_KILL = ACTIONS["SCMP_ACT_KILL"]
_SKIPPED_BY_TRACER = 0xFFFF_FFFF

_SECCOMP_SET_MODE_FILTER = 1
_SYS_SECCOMP = {"x86_64": 317, "i686": 354}.get(os.uname().machine, 277)

# i386 has one call for all of sockets, and one for System V IPC; the first argument says which is meant
_SOCKETCALL = (
    *(
        "",
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
    ),
    *("recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4"),
    *("recvmmsg", "sendmmsg"),
)
_IPC = {
    **{"semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13},
    **{"msgctl": 14, "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24},
}


def compile_profile(profile: dict[str, Any]) -> bytes:
    """Return the program, an array of ``struct sock_filter``, for a ``linux.seccomp`` object; pure.

    Names of system calls that an ABI does not have are passed over, as are ABIs that this kernel cannot have.

    Raises:
        InvalidValue: an unknown action, operator or architecture, or an errno where none belongs.
    """
    _check(profile)
    default = _action(profile, "defaultAction", "defaultErrnoRet", "linux.seccomp")
    beyond = default if _is_permissive(profile) else ACTIONS["SCMP_ACT_ERRNO"] | errno.ENOSYS
    rules = [rule for given in profile.get("syscalls") or () for rule in _rules(given, default)]
    names = {_NATIVE[os.uname().machine], *(profile.get("architectures") or ())}
    edges_of: dict[int, dict[int, Outcome]] = {}
    for name, (abi, architecture) in ARCHITECTURES.items():
        if name in names:
            edges_of.setdefault(architecture, {}).update(_edges(abi, rules, default, beyond))
    if "SCMP_ARCH_X86_64" in names and "SCMP_ARCH_X32" not in names:
        edges_of[ARCHITECTURES["SCMP_ARCH_X86_64"][1]][X32_BIT] = (((), _KILL),)
    for edges in edges_of.values():
        edges[_SKIPPED_BY_TRACER] = (((), default),)
    program = seccomp_program.assemble(edges_of, otherwise=_KILL)
    if (length := len(program) // 8) > seccomp_program.MAX_INSTRUCTIONS:
        most = seccomp_program.MAX_INSTRUCTIONS
        raise InvalidValue(f"linux.seccomp makes {length} instructions; the kernel takes {most}")
    return program


def filter_flags(profile: dict[str, Any]) -> int:
    """Return the flags for `load`; without ``flags`` in the profile, SPEC_ALLOW.

    Raises:
        InvalidValue: an unknown flag.
    """
    names = profile.get("flags")
    if names is None:
        names = ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    flags = NEW_LISTENER if _notifies(profile) else 0
    for name in names:
        flags |= _one_of(FLAGS, name, "linux.seccomp.flags")
    return flags


def supported_flags() -> list[str]:
    """Return the names of the flags that this kernel takes, for a filter that notifies nobody.

    Without a program it gets to EFAULT, unless there is a flag that it does not know.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    operation, nothing = ctypes.c_long(_SECCOMP_SET_MODE_FILTER), ctypes.c_void_p(None)
    found = []
    for name, flag in FLAGS.items():
        libc.syscall(ctypes.c_long(_SYS_SECCOMP), operation, ctypes.c_long(flag), nothing)
        if ctypes.get_errno() == errno.EFAULT:
            found.append(name)
    return found


def load(program: bytes, flags: int = 0) -> int | None:
    """Put the caller, and its children to come, under `program`.

    Needs no_new_privs or CAP_SYS_ADMIN. Afterwards only what the program allows works.

    Returns:
        The descriptor to listen at, for a program with ``SCMP_ACT_NOTIFY``.

    See: ``struct sock_fprog { unsigned short len; struct sock_filter *filter; }``.
    """
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    operation, how = ctypes.c_long(_SECCOMP_SET_MODE_FILTER), ctypes.c_long(flags)
    result: int = libc.syscall(ctypes.c_long(_SYS_SECCOMP), operation, how, described)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}): {os.strerror(number)}")
    return result if flags & NEW_LISTENER else None


def _check(profile: dict[str, Any]) -> None:
    for name in profile.get("architectures") or ():
        if name not in ARCHITECTURES and str(name).removeprefix("SCMP_ARCH_") not in _OTHER_ARCHITECTURES:
            raise InvalidValue(f"linux.seccomp.architectures has {name!r}; expected e.g. SCMP_ARCH_X86_64")
    if not all(rule.get("names") for rule in profile.get("syscalls") or ()):
        raise InvalidValue("linux.seccomp.syscalls has an entry without names; expected one or more")
    if profile.get("defaultAction") == "SCMP_ACT_NOTIFY":
        raise InvalidValue(
            "linux.seccomp.defaultAction may not be SCMP_ACT_NOTIFY: nobody could send the listener"
        )
    if _notifies(profile) and not profile.get("listenerPath"):
        raise InvalidValue(
            "linux.seccomp notifies, but has no listenerPath; see runtime-spec, config-linux.md"
        )


def _notifies(profile: dict[str, Any]) -> bool:
    return any(rule.get("action") == "SCMP_ACT_NOTIFY" for rule in profile.get("syscalls") or ())


def _is_permissive(profile: dict[str, Any]) -> bool:
    return profile["defaultAction"] in _PERMISSIVE or profile.get("defaultErrnoRet") == errno.ENOSYS


def _action(part: dict[str, Any], key: str, errno_key: str, where: str) -> int:
    name = part.get(key)
    action = _one_of(ACTIONS, name, f"{where}.{key}")
    if name in _WITH_ERRNO:
        number = part[errno_key] if part.get(errno_key) is not None else errno.EPERM
        if not isinstance(number, int) or not 0 <= number <= _MAX_ERRNO:
            raise InvalidValue(f"{where}.{errno_key} is {number!r}; expected 0 to {_MAX_ERRNO}")
        return action | number
    if part.get(errno_key) is not None:
        raise InvalidValue(f"{where}.{errno_key} is {part[errno_key]}, but {name} carries no errno")
    return action


def _one_of(known: dict[str, int], name: object, where: str) -> int:
    if name not in known:
        raise InvalidValue(f"{where} is {name!r}; expected one of {', '.join(known)}")
    return known[str(name)]


def _rules(given: dict[str, Any], default: int) -> list[Rule]:
    """Return (name, conditions, action) for each name of an entry of ``linux.seccomp.syscalls``."""
    action = _action(given, "action", "errnoRet", "linux.seccomp.syscalls")
    if action == default:
        return []
    conditions = [_condition(argument) for argument in given.get("args") or ()]
    alternatives: list[Conditions] = [tuple(conditions)]
    if len({condition[0] for condition in conditions}) < len(conditions):
        alternatives = [
            (condition,) for condition in conditions
        ]  # two tests of one argument are alternatives
    return [(name, each, action) for name in given.get("names") or () for each in alternatives]


def _condition(argument: dict[str, Any]) -> tuple[int, str, int, int]:
    index, operator = argument.get("index"), argument.get("op")
    if not isinstance(index, int) or not 0 <= index < 6 or operator not in OPERATORS:
        raise InvalidValue(
            f"linux.seccomp.syscalls.args has {argument}; expected index 0 to 5, op of {', '.join(OPERATORS)}"
        )
    value, value_two = (int(argument.get(key) or 0) for key in ("value", "valueTwo"))
    if not (0 <= value < 1 << 64 and 0 <= value_two < 1 << 64):
        raise InvalidValue(f"linux.seccomp.syscalls.args has {argument}; a value has 64 bits and no sign")
    return index, str(operator), value, value_two


def _edges(abi: str, rules: list[Rule], default: int, beyond: int) -> dict[int, Outcome]:
    """Return the numbers from which on something else is to be done than below."""
    known = numbers(abi)
    found: dict[int, list[tuple[Conditions, int]]] = {}
    for name, conditions, action in (*rules, *(_multiplexed(rules) if abi == "i386" else ())):
        if (number := known.get(name)) is not None:
            found.setdefault(number, []).append((conditions, action))
    always: Outcome = (((), default),)
    edges: dict[int, Outcome] = {X32_BIT if abi == "x32" else 0: always}
    for number in sorted(found):
        edges[number] = _outcome(found[number], default)
        edges[number + 1] = always
    if found:
        edges[max(found) + 1] = (((), beyond),)
    return edges


def _outcome(rules: list[tuple[Conditions, int]], default: int) -> Outcome:
    for conditions, action in rules:
        if not conditions:
            return (((), action),)
    return (*rules, ((), default))


def _multiplexed(rules: list[Rule]) -> list[Rule]:
    """Return the rules for ``socket`` and so on, as rules for ``socketcall`` and ``ipc``."""
    found: list[Rule] = []
    for name, conditions, action in rules:
        if conditions:
            continue  # they are in memory, where no filter may look
        if name in _SOCKETCALL:
            found.append(("socketcall", ((0, "SCMP_CMP_EQ", _SOCKETCALL.index(name), 0),), action))
        elif name in _IPC:  # a version stands above the low 16 bits
            found.append(("ipc", ((0, "SCMP_CMP_MASKED_EQ", 0xFFFF, _IPC[name]),), action))
    return found
