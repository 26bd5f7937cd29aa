"""Which devices a version 2 group may use: an eBPF program, since that version has no device files.

The kernel runs the program whenever a process of the group opens or makes a device node; 0 means EPERM.

See: bpf(2); the kernel's cgroup-v2 guide, "Device controller"; ``struct bpf_cgroup_dev_ctx``, linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from cnlab.errors import MissingFeature

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rules = list[dict[str, Any]]
    Devices = dict[tuple[str, int, int], int]

ANY = -1
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_…
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_…
_ALL = 7

_LOAD_U32 = 0x61  # BPF_LDX | BPF_W | BPF_MEM
_MOVE = 0xBF  # BPF_ALU64 | BPF_MOV | BPF_X
_MOVE_K = 0xB7
_AND_K = 0x57
_SHIFT_RIGHT_K = 0x77
_JUMP_NE_K = 0x55
_JUMP_EQ_K = 0x15
_EXIT = 0x95

_SYS_BPF = {"x86_64": 321, "i686": 357}.get(os.uname().machine, 280)
_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH = 5, 8, 9
_BPF_PROG_GET_FD_BY_ID, _BPF_PROG_QUERY = 13, 16
_BPF_PROG_TYPE_CGROUP_DEVICE, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI = 15, 6, 2
_MAX_PROGRAMS = 64


def settle(rules: Rules) -> tuple[bool, Devices]:
    """Apply rules in their order, as version 1 does with lines for ``devices.allow`` and ``devices.deny``.

    Returns:
        What holds for all devices, and for which accesses of which devices (kind, major, minor) it does not.
    """
    is_allowed = True
    exceptions: Devices = {}
    for rule in rules:
        kind = rule.get("type") or "a"
        if kind == "a":
            is_allowed, exceptions = bool(rule.get("allow")), {}
            continue
        major, minor = (ANY if rule.get(part) is None else int(rule[part]) for part in ("major", "minor"))
        device = ("c" if kind == "u" else kind, major, minor)
        access = sum(_ACCESS[letter] for letter in set(rule.get("access") or "rwm"))
        known = exceptions.get(device, 0)
        exceptions[device] = known & ~access if bool(rule.get("allow")) == is_allowed else known | access
    return is_allowed, {device: access for device, access in exceptions.items() if access}


def program(rules: Rules) -> bytes:
    """Translate rules to instructions; pure.

    The context is ``struct {u32 access << 16 | type; u32 major; u32 minor;}``, at r1.
    """
    is_allowed, exceptions = settle(rules)
    code = [
        _instruction(_LOAD_U32, 2, 1, 0),
        _instruction(_MOVE, 3, 2),
        _instruction(_AND_K, 2, imm=0xFFFF),  # r2: type
        _instruction(_SHIFT_RIGHT_K, 3, imm=16),  # r3: access
        _instruction(_LOAD_U32, 4, 1, 4),  # r4: major
        _instruction(_LOAD_U32, 5, 1, 8),  # r5: minor
    ]
    for device, access in exceptions.items():
        code += _exception(device, access, is_allowed)
    return b"".join((*code, *_answer(is_allowed)))


def _exception(device: tuple[str, int, int], access: int, is_allowed: bool) -> list[bytes]:
    kind, *numbers = device
    tests = [(2, _TYPES[kind])] + [(4 + i, number) for i, number in enumerate(numbers) if number != ANY]
    # a denied access denies the request; an allowed one must be all that is requested
    mask, skip = (access, _JUMP_EQ_K) if is_allowed else (_ALL & ~access, _JUMP_NE_K)
    rest = [_instruction(_MOVE, 1, 3), _instruction(_AND_K, 1, imm=mask), _instruction(skip, 1, offset=2)]
    rest += _answer(not is_allowed)
    jumps = [
        _instruction(_JUMP_NE_K, register, offset=len(tests) - i - 1 + len(rest), imm=number)
        for i, (register, number) in enumerate(tests)
    ]
    return [*jumps, *rest]


def _answer(is_allowed: bool) -> list[bytes]:
    return [_instruction(_MOVE_K, 0, imm=int(is_allowed)), _instruction(_EXIT)]


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhI", code, source << 4 | target, offset, imm)


def attach(directory: str, rules: Rules) -> None:
    """Let `rules` hold for the group at `directory` in place of those that held before.

    Raises:
        MissingFeature: this kernel has no eBPF programs for groups.
    """
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        before = _attached(group)
        loaded = _load(program(rules))
        try:
            _bpf(_BPF_PROG_ATTACH, struct.pack("=4I", group, loaded, _BPF_CGROUP_DEVICE, _BPF_F_ALLOW_MULTI))
        finally:
            os.close(loaded)
        for number in before:
            _detach(group, number)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL):
            raise MissingFeature("cgroup", f"{error}; this kernel cannot restrict devices by eBPF") from None
        raise
    finally:
        os.close(group)


def _attached(group: int) -> list[int]:
    """Return the numbers of the device programs of a group."""
    numbers = (ctypes.c_uint32 * _MAX_PROGRAMS)()
    address = ctypes.addressof(numbers)
    attributes = struct.pack("=4IQI4x", group, _BPF_CGROUP_DEVICE, 0, 0, address, _MAX_PROGRAMS)
    answer = ctypes.create_string_buffer(attributes, len(attributes))
    _call_bpf(_BPF_PROG_QUERY, answer, len(attributes))
    return list(numbers)[: struct.unpack("=4IQI4x", answer.raw)[5]]


def _detach(group: int, number: int) -> None:
    loaded = _bpf(_BPF_PROG_GET_FD_BY_ID, struct.pack("=I", number))
    try:
        _bpf(_BPF_PROG_DETACH, struct.pack("=3I", group, loaded, _BPF_CGROUP_DEVICE))
    finally:
        os.close(loaded)


def _load(instructions: bytes) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    terms = ctypes.create_string_buffer(b"BSD")
    fields = (
        _BPF_PROG_TYPE_CGROUP_DEVICE,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(terms),
    )
    return _bpf(_BPF_PROG_LOAD, struct.pack("=2I2Q", *fields))


def _bpf(command: int, attributes: bytes) -> int:
    return _call_bpf(command, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes))


def _call_bpf(command: int, attributes: ctypes.Array[ctypes.c_char], size: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(_SYS_BPF), command, attributes, size)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"bpf({command}): {os.strerror(number)}")
    return result
