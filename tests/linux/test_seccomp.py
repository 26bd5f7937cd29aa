import ctypes
import errno
import glob
import itertools
import json
import os
import random
import signal
import struct
import sys
from pathlib import Path

import pytest

from cnlab.errors import InvalidValue
from cnlab.linux import seccomp, syscalls
from cnlab.linux.namespaces import spawn
from cnlab.linux.syscall_numbers import X32_BIT, numbers

ALLOW, KILL = seccomp.ACTIONS["SCMP_ACT_ALLOW"], seccomp.ACTIONS["SCMP_ACT_KILL"]
REFUSED = seccomp.ACTIONS["SCMP_ACT_ERRNO"]
X86_64, I386, AARCH64 = 0xC000003E, 0x40000003, 0xC00000B7
ALL_X86 = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]


TOKENS = {"x86_64": X86_64, "x32": 0x4000003E, "i386": I386, "aarch64": AARCH64}
OPERATORS = {name: number for number, name in enumerate(seccomp.OPERATORS, start=1)}


class LibSeccomp:
    """The library that runc and crun use, as the judge of what a profile means."""

    class Condition(ctypes.Structure):
        _fields_ = [("argument", ctypes.c_uint), ("op", ctypes.c_int)]
        _fields_ += [("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libseccomp.so.2")
        except OSError:
            self.library = ctypes.CDLL(glob.glob(f"{sys.prefix}/apt/usr/lib/*/libseccomp.so.2")[0])
        self.library.seccomp_init.restype = ctypes.c_void_p

    def number(self, abi, name):
        token = ctypes.c_uint32(TOKENS[abi])
        return self.library.seccomp_syscall_resolve_name_arch(token, name.encode())

    def program(self, default, rules, *, abis=("x86_64", "i386", "x32")):
        context = ctypes.c_void_p(self.library.seccomp_init(ctypes.c_uint32(default)))
        for abi in abis:
            self.library.seccomp_arch_add(context, ctypes.c_uint32(TOKENS[abi]))
        for name, conditions, action in rules:
            number = self.library.seccomp_syscall_resolve_name(name.encode())
            tests = (self.Condition * len(conditions))(
                *(self.Condition(index, OPERATORS[op], a, b) for index, op, a, b in conditions)
            )
            result = self.library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, len(tests), tests
            )
            assert result == 0, (name, conditions, os.strerror(-result))
        fd = os.memfd_create("program")
        self.library.seccomp_export_bpf(context, fd)
        self.library.seccomp_release(context)
        with open(fd, "rb") as file:
            file.seek(0)
            return file.read()


@pytest.fixture(scope="module")
def libseccomp():
    return LibSeccomp()


def answer(program, number, *arguments, architecture=X86_64):
    """Do what the kernel does with a program: run it over a ``struct seccomp_data``."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *(*arguments, *[0] * 6)[:6])
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    word = position = 0
    while True:
        operation, on_true, on_false, constant = code[position]
        position += 1
        match operation:
            case 0x20:
                word = struct.unpack_from("<I", data, constant)[0]
            case 0x54:
                word &= constant
            case 0x05:
                position += constant
            case 0x06:
                return constant
            case _:
                is_true = {0x15: word == constant, 0x25: word > constant, 0x35: word >= constant}
                position += on_true if is_true[operation] else on_false


def profile(default, *rules, **fields):
    return {"defaultAction": default, "syscalls": list(rules), **fields}


def entry(action, *names, args=(), **fields):
    keys = ("index", "op", "value", "valueTwo")
    args = [dict(zip(keys, condition, strict=False)) for condition in args]
    return {"names": list(names), "action": action, "args": args, **fields}


@pytest.mark.parametrize("abi", TOKENS)
def test_numbers_are_those_of_libseccomp(libseccomp, abi):
    """A wrong number would allow one call and refuse another."""
    theirs = {name: libseccomp.number(abi, name) for name in numbers(abi)}
    known = {name: number for name, number in theirs.items() if number >= 0}  # negative: not in its release

    assert {name: numbers(abi)[name] for name in known} == known
    assert len(known) > 300


def test_allowed_calls_are_allowed_and_others_refused(libseccomp):
    """The same answers as from libseccomp for every number of three ABIs, and for those they do not have."""
    names = ["read", "write", "exit_group", "futex", "clone3", "mmap2", "socket", "ipc", "pidfd_open"]
    ours = seccomp.compile_profile(
        profile("SCMP_ACT_ERRNO", entry("SCMP_ACT_ALLOW", *names), defaultErrnoRet=38, architectures=ALL_X86)
    )
    theirs = libseccomp.program(REFUSED | 38, [(name, (), ALLOW) for name in names])

    for number in (*range(520), *range(X32_BIT, X32_BIT + 600), 2**31, 2**32 - 1):
        assert answer(ours, number) == answer(theirs, number), number
    for number, call in itertools.product(range(520), range(22)):
        assert answer(ours, number, call, architecture=I386) == answer(
            theirs, number, call, architecture=I386
        ), (number, call)


@pytest.mark.parametrize("operator", seccomp.OPERATORS)
def test_conditions_compare_64_bits(libseccomp, operator):
    """The words of BPF have 32 bits, so a comparison is made of two."""
    edges = [0, 1, 7, 8, 9, 2**31, 2**32 - 1, 2**32, 2**32 + 8, 2**40, 2**63, 2**64 - 1]
    for value, value_two in itertools.product(edges, (0, 8, 2**40)):
        rule = entry("SCMP_ACT_ALLOW", "read", args=[(1, operator, value, value_two)])
        ours = seccomp.compile_profile(profile("SCMP_ACT_ERRNO", rule, defaultErrnoRet=38))
        condition = (1, operator, value, value_two & value if "MASKED" in operator else value_two)
        theirs = libseccomp.program(REFUSED | 38, [("read", (condition,), ALLOW)], abis=())

        assert [answer(ours, 0, 0, word) for word in edges] == [answer(theirs, 0, 0, word) for word in edges]


def test_several_conditions_must_all_hold(libseccomp):
    """Each condition that fails leads to the next rule, however many stand between."""
    dice = random.Random(3)
    for _ in range(50):
        arguments = dice.sample(range(6), dice.randint(2, 6))
        conditions = tuple(
            (index, dice.choice(seccomp.OPERATORS[:6]), dice.randint(0, 2), 0) for index in arguments
        )
        rule = entry("SCMP_ACT_ALLOW", "read", args=conditions)
        ours = seccomp.compile_profile(profile("SCMP_ACT_ERRNO", rule, defaultErrnoRet=38))
        theirs = libseccomp.program(REFUSED | 38, [("read", conditions, ALLOW)], abis=())
        for words in (dice.choices(range(3), k=6) for _ in range(100)):
            assert answer(ours, 0, *words) == answer(theirs, 0, *words), (conditions, words)


def test_two_conditions_on_one_argument_are_alternatives():
    """So do runc and crun read them, and profiles rely on it."""
    rule = entry("SCMP_ACT_ALLOW", "personality", args=[(0, "SCMP_CMP_EQ", 0), (0, "SCMP_CMP_EQ", 8)])
    program = seccomp.compile_profile(profile("SCMP_ACT_ERRNO", rule))

    assert [answer(program, numbers("x86_64")["personality"], word) == ALLOW for word in (0, 8, 1)] == [
        True,
        True,
        False,
    ]


def test_rule_without_conditions_wins():
    """However the entries are ordered."""
    strict = entry("SCMP_ACT_ERRNO", "read", args=[(0, "SCMP_CMP_EQ", 5)])
    always = entry("SCMP_ACT_ALLOW", "read")
    for rules in itertools.permutations((strict, always)):
        program = seccomp.compile_profile(profile("SCMP_ACT_KILL", *rules))

        assert answer(program, 0, 5) == ALLOW


def test_calls_newer_than_the_profile_are_not_implemented():
    """A C library that is told EPERM gives up; at ENOSYS it takes an older call."""
    program = seccomp.compile_profile(profile("SCMP_ACT_ERRNO", entry("SCMP_ACT_ALLOW", "read", "clone3")))

    assert answer(program, numbers("x86_64")["ptrace"]) == REFUSED | errno.EPERM
    assert answer(program, numbers("x86_64")["openat2"]) == REFUSED | errno.ENOSYS
    permissive = seccomp.compile_profile(profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_ERRNO", "read")))
    assert answer(permissive, numbers("x86_64")["openat2"]) == ALLOW


def test_other_abi_is_killed():
    """A filter that looked at numbers alone could be passed by calling with those of another ABI."""
    program = seccomp.compile_profile(profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_ERRNO", "unlink")))

    assert answer(program, 10, architecture=I386) == KILL
    assert answer(program, X32_BIT | 87) == KILL
    assert answer(program, 87) == REFUSED | errno.EPERM


def test_socket_is_refused_behind_socketcall_too():
    """32-bit programs may reach the same kernel function by either."""
    program = seccomp.compile_profile(
        profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_ERRNO", "socket", "shmget"), architectures=ALL_X86)
    )

    socketcall, ipc = numbers("i386")["socketcall"], numbers("i386")["ipc"]
    assert answer(program, socketcall, 1, architecture=I386) == REFUSED | errno.EPERM
    assert answer(program, socketcall, 2, architecture=I386) == ALLOW
    assert answer(program, ipc, 0x10017, architecture=I386) == REFUSED | errno.EPERM


def test_unknown_names_of_calls_are_passed_over():
    """Profiles name the calls of all processors and of kernels to come."""
    program = seccomp.compile_profile(
        profile("SCMP_ACT_ERRNO", entry("SCMP_ACT_ALLOW", "read", "no_such_call"))
    )

    assert answer(program, 0) == ALLOW


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"defaultAction": "ALLOW"}, "linux.seccomp.defaultAction is 'ALLOW'; expected one of SCMP_ACT_KILL"),
        (
            profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_NO", "read")),
            "linux.seccomp.syscalls.action is 'SCMP_ACT_NO'",
        ),
        (profile("SCMP_ACT_ALLOW", architectures=["x86"]), "architectures has 'x86'; expected e.g."),
        (profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_KILL")), "syscalls has an entry without names"),
        (
            profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_KILL", "read", errnoRet=5)),
            "SCMP_ACT_KILL carries no errno",
        ),
        (
            profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_KILL", "read", args=[(7, "SCMP_CMP_EQ", 1)])),
            "index 0 to 5",
        ),
        (profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_KILL", "read", args=[(0, "SCMP_CMP_EQ", -1)])), "64 bits"),
        (profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_NOTIFY", "read")), "no listenerPath"),
        (profile("SCMP_ACT_NOTIFY"), "may not be SCMP_ACT_NOTIFY"),
    ],
)
def test_wrong_profile_is_told_where(wrong, said):
    """One line says what, where and what would do."""
    with pytest.raises(InvalidValue, match=said):
        seccomp.compile_profile(wrong)


def test_wrong_flag_is_told():
    with pytest.raises(
        InvalidValue, match=r"linux.seccomp.flags is 'FAST'; expected one of SECCOMP_FILTER_FLAG"
    ):
        seccomp.filter_flags({"flags": ["FAST"]})


def test_flags_default_to_no_slower_speculation():
    """As with runc: without ``flags`` SPEC_ALLOW, with an empty list none."""
    assert seccomp.filter_flags({}) == 4
    assert seccomp.filter_flags({"flags": []}) == 0
    assert seccomp.filter_flags({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}) == 2


def under(given, attempt):
    """Call `attempt` under a profile in a child, and return what it printed and how it ended."""
    program, flags = seccomp.compile_profile(given), seccomp.filter_flags(given)

    def confined():
        syscalls.set_no_new_privs()
        seccomp.load(program, flags)
        attempt()

    with spawn(confined, capture=True) as child:
        printed = child.stdout.read()
        child.stderr.read()
        return printed, child.wait(timeout_s=60)


@pytest.mark.as_student
def test_kernel_refuses_with_the_errno_of_the_profile():
    """As a user without privileges, who gives up new ones first."""

    def attempt():
        try:
            os.mkdir("here")
        except OSError as error:
            print(error.errno)

    denied = profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_ERRNO", "mkdir", "mkdirat", errnoRet=errno.EXDEV))

    assert under(denied, attempt) == (f"{errno.EXDEV}\n", 0)


@pytest.mark.as_student
def test_kernel_kills_by_sigsys():
    """Nothing after the call happens."""

    def attempt():
        os.getpriority(os.PRIO_PROCESS, 0)
        print("still here")

    killed = profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_KILL_PROCESS", "getpriority"))

    assert under(killed, attempt) == ("", -signal.SIGSYS)


@pytest.mark.as_student
def test_kernel_looks_at_arguments():
    """Of socket(2) only the families in the profile are left."""

    def attempt():
        import socket

        for family in (socket.AF_UNIX, socket.AF_INET):
            try:
                socket.socket(family).close()
                print("yes")
            except PermissionError:
                print("no")

    condition = (0, "SCMP_CMP_NE", 1)
    no_network = profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_ERRNO", "socket", args=[condition]))

    assert under(no_network, attempt) == ("yes\nno\n", 0)


@pytest.mark.as_student
def test_filter_is_for_children_too_and_for_good():
    """A program that is executed later is under it as well, and may not take it off."""

    def attempt():
        print(Path("/proc/self/status").read_text().partition("Seccomp:")[2].split()[0])
        sys.stdout.flush()
        os.execvp("mkdir", ["mkdir", "here"])

    denied = profile("SCMP_ACT_ALLOW", entry("SCMP_ACT_ERRNO", "mkdir", "mkdirat"))

    assert under(denied, attempt) == ("2\n", 1)


def test_profile_of_podman_means_what_it_means_to_libseccomp(libseccomp):
    """The profile that Docker and Podman share: hundreds of names, and conditions for a handful."""
    path = "/usr/share/containers/seccomp.json"
    if not os.path.exists(path):
        pytest.skip("this machine lacks podman's profile (Debian package golang-github-containers-common)")
    with open(path) as file:
        given = json.load(file)
    rules = [
        rule for rule in given["syscalls"] if not rule.get("includes") and rule["action"] == "SCMP_ACT_ALLOW"
    ]
    rules = [{key: rule[key] for key in ("names", "action", "args") if key in rule} for rule in rules]
    program = seccomp.compile_profile(profile("SCMP_ACT_ERRNO", *rules, defaultErrnoRet=38))
    theirs = libseccomp.program(
        REFUSED | 38,
        [
            (name, tuple((a["index"], a["op"], a["value"], a["valueTwo"]) for a in rule["args"] or ()), ALLOW)
            for rule in rules
            for name in rule["names"]
            if libseccomp.number("x86_64", name) != -1
        ],
        abis=(),
    )

    for number, word in itertools.product(range(520), (0, 8, 0x20000, 0x7E020000, 2**32 - 1)):
        assert answer(program, number, *[word] * 6) == answer(theirs, number, *[word] * 6), (number, word)
