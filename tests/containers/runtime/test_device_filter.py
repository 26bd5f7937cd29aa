import itertools
import os
import struct
from pathlib import Path

import pytest

from cnlab.containers.runtime import device_filter
from cnlab.containers.runtime.device_filter import program, settle
from cnlab.linux.cgroup_tree import root_of_cgroup2
from cnlab.linux.namespaces import spawn

DENY_ALL = {"allow": False, "access": "rwm"}
NULL = {"type": "c", "major": 1, "minor": 3}
ACCESSES = ("r", "w", "m", "rw", "rwm")


def answer(code, kind, major, minor, access):
    """Do what the kernel does with the program, as far as ours goes."""
    bits = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    memory = struct.pack("=3I", bits << 16 | {"b": 1, "c": 2}[kind], major, minor)
    registers, position = [0] * 11, 0
    while True:
        operation, target, offset, immediate = struct.unpack_from("<BBhI", code, 8 * position)
        target, source = target & 15, target >> 4
        position += 1
        match operation:
            case 0x61:
                registers[target] = struct.unpack_from("=I", memory, offset)[0]
            case 0xBF:
                registers[target] = registers[source]
            case 0xB7:
                registers[target] = immediate
            case 0x57:
                registers[target] &= immediate
            case 0x77:
                registers[target] >>= immediate
            case 0x55:
                position += offset if registers[target] != immediate else 0
            case 0x15:
                position += offset if registers[target] == immediate else 0
            case 0x95:
                return bool(registers[0])


def test_what_is_not_allowed_is_denied():
    code = program([DENY_ALL, {"allow": True, **NULL, "access": "rw"}])

    assert [answer(code, "c", 1, 3, access) for access in ACCESSES] == [True, True, False, True, False]
    assert not any(answer(code, "c", 1, 5, access) for access in ACCESSES)
    assert not any(answer(code, "b", 1, 3, access) for access in ACCESSES)


def test_what_is_not_denied_is_allowed():
    """Asking for two things of which one is denied is denied."""
    code = program([{"allow": False, **NULL, "access": "w"}])

    assert [answer(code, "c", 1, 3, access) for access in ACCESSES] == [True, False, True, False, False]
    assert answer(code, "c", 1, 5, "rwm")


def test_rules_count_in_their_order():
    """As lines written to devices.allow and devices.deny one after the other."""
    grant, revoke = {"allow": True, **NULL, "access": "rwm"}, {"allow": False, **NULL, "access": "w"}

    assert settle([DENY_ALL, grant, revoke]) == (False, {("c", 1, 3): 3})
    assert settle([DENY_ALL, revoke, grant]) == (False, {("c", 1, 3): 7})
    assert settle([grant, DENY_ALL]) == (False, {})


def test_star_stands_for_every_number():
    code = program([DENY_ALL, {"allow": True, "type": "c", "major": 136, "minor": -1, "access": "rw"}])

    assert all(answer(code, "c", 136, minor, "rw") for minor in (0, 7, 2**20 - 1))
    assert not answer(code, "c", 137, 0, "r")


def test_any_order_of_rules_gives_a_program_without_a_wrong_jump():
    """Jumps are counted by hand; every path must reach an answer that the rules give."""
    rules = [{"allow": True, "type": kind, "major": 1, "minor": minor} for kind in "bc" for minor in (3, -1)]
    for some in itertools.permutations(rules, 3):
        code = program([DENY_ALL, *some])
        for kind, minor in itertools.product("bc", (3, 4)):
            expected = any(r["type"] == kind and r["minor"] in (minor, -1) for r in some)
            assert answer(code, kind, 1, minor, "r") == expected


@pytest.mark.needs_root
def test_kernel_denies_what_the_program_denies():
    """And a second attach replaces the first: nothing of it stays in force."""
    group = root_of_cgroup2() / f"cnlab-devices-{os.getpid()}"
    group.mkdir()

    def opened(path, mode):
        try:
            os.close(os.open(path, mode))
        except PermissionError:
            return "no"
        return "yes"

    def attempt():
        Path(group, "cgroup.procs").write_text("0")
        print(
            opened("/dev/null", os.O_RDWR), opened("/dev/zero", os.O_RDONLY), opened("/dev/zero", os.O_RDWR)
        )

    def answers():
        with spawn(attempt, capture=True) as child:
            return child.stdout.read().split()

    try:
        zero = {"type": "c", "major": 1, "minor": 5}
        allowed = [{"allow": True, **NULL}, {"allow": True, **zero, "access": "r"}]
        device_filter.attach(str(group), [DENY_ALL, *allowed])
        first = answers()
        device_filter.attach(str(group), [{"allow": False, **NULL}])
        second = answers()
    finally:
        group.rmdir()

    assert first == ["yes", "yes", "no"]
    assert second == ["no", "yes", "yes"]
