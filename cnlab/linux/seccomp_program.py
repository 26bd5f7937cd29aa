"""The program of a seccomp filter, instruction by instruction.

A program first looks which ABI a call comes by, then finds its number in a list of ranges, highest first,
each with what to do. Where a rule looks at arguments, the range has tests. An argument has 64 bits and a word
32, so that a test compares halves.

See: seccomp(2), ``struct seccomp_data`` and ``struct sock_filter``; bpf(4) of the BSDs for the instructions.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Conditions = tuple[tuple[int, str, int, int], ...]  # argument, operator, value, valueTwo
    Outcome = tuple[tuple[Conditions, int], ...]  # tried in order; the last has no conditions
    Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# BPF_LD | BPF_W | BPF_ABS, and so on; see linux/bpf_common.h
_LOAD, _AND, _JUMP, _JUMP_EQ, _JUMP_GT, _JUMP_GE, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_LOW32 = 0xFFFF_FFFF
_MAX_JUMP = 255
_NEXT, _PASS, _FAIL = range(3)  # where a test jumps: on, to the end of the test, to the end of the rule
_OPPOSITE = {"SCMP_CMP_NE": "SCMP_CMP_EQ", "SCMP_CMP_LT": "SCMP_CMP_GE", "SCMP_CMP_LE": "SCMP_CMP_GT"}


def assemble(edges_of: dict[int, dict[int, Outcome]], otherwise: int) -> bytes:
    """Return an array of ``struct sock_filter``.

    Args:
        edges_of: by ``AUDIT_ARCH_…``, the numbers of calls from which on something else is to be done than
            below, and what; the lowest is 0.
        otherwise: what to do with a call by another ABI.
    """
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for architecture, edges in edges_of.items():
        body = _ranges(edges)
        code += [(_JUMP_EQ, 1, 0, architecture), (_JUMP, 0, 0, len(body)), *body]
    code.append((_RETURN, 0, 0, otherwise))
    return struct.pack("=" + "HBBI" * len(code), *(field for instruction in code for field in instruction))


def _ranges(edges: dict[int, Outcome]) -> list[Instruction]:
    code: list[Instruction] = [(_LOAD, 0, 0, _NUMBER)]
    starts = sorted(edges)
    for below, start in zip(starts[-2::-1], starts[:0:-1], strict=True):
        if edges[below] != edges[start]:
            code += _unless_below(start, _block(edges[start]))
    return [*code, *_block(edges[0])]


def _unless_below(start: int, block: list[Instruction]) -> list[Instruction]:
    if len(block) <= _MAX_JUMP:
        return [(_JUMP_GE, 0, len(block), start), *block]
    return [(_JUMP_GE, 1, 0, start), (_JUMP, 0, 0, len(block)), *block]


def _block(outcome: Outcome) -> list[Instruction]:
    code: list[Instruction] = []
    for conditions, action in outcome:
        if not conditions:
            code.append((_RETURN, 0, 0, action))
            continue
        tests = [_test(*condition) for condition in conditions]
        remaining = sum(map(len, tests)) + 1  # to the end of this rule, its answer included
        for test in tests:
            length = len(test)
            for position, (operation, on_true, on_false, constant) in enumerate(test):
                ahead = {_NEXT: 0, _PASS: length - position - 1, _FAIL: remaining - position - 1}
                code.append((operation, ahead[on_true], ahead[on_false], constant))
            remaining -= length
        code.append((_RETURN, 0, 0, action))
    return code


def _test(index: int, operator: str, value: int, value_two: int) -> list[Instruction]:
    """Return the test of a 64-bit argument, whose halves are 32-bit words; jumps are `_PASS` and `_FAIL`."""
    low, high = _ARGUMENTS + 8 * index, _ARGUMENTS + 8 * index + 4
    masks: tuple[list[Instruction], ...] = ([], [])
    if operator == "SCMP_CMP_MASKED_EQ":
        masks = [(_AND, 0, 0, value >> 32)], [(_AND, 0, 0, value & _LOW32)]
        operator, value = "SCMP_CMP_EQ", value_two & value
    yes, no = _PASS, _FAIL
    if operator in _OPPOSITE:
        operator, yes, no = _OPPOSITE[operator], no, yes
    words: list[Instruction]
    if operator == "SCMP_CMP_EQ":
        words = [(_JUMP_EQ, _NEXT, no, value >> 32), (_JUMP_EQ, yes, no, value & _LOW32)]
        return [(_LOAD, 0, 0, high), *masks[0], words[0], (_LOAD, 0, 0, low), *masks[1], words[1]]
    last = _JUMP_GE if operator == "SCMP_CMP_GE" else _JUMP_GT
    return [
        (_LOAD, 0, 0, high),
        (_JUMP_GT, yes, _NEXT, value >> 32),
        (_JUMP_EQ, _NEXT, no, value >> 32),
        (_LOAD, 0, 0, low),
        (last, yes, no, value & _LOW32),
    ]
