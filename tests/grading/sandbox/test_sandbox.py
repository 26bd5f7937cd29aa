"""What a student's code finds in the sandbox: little of the machine, and nothing of the course."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from grading.sandboxed import BOTH, SMALL, errno_of, outcome_of, student_runs
from leftovers import control_groups

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.grading.sandbox import HOME, Sandbox, fork_tester, join
from cnlab.grading.sandbox.group_removal import PREFIX
from cnlab.linux import syscalls
from cnlab.linux.capability_names import mask_of
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.nsfs import KINDS, namespaces_of
from cnlab.linux.processes import parse_status, read_process
from cnlab.linux.syscall_numbers import numbers

ELSEWHERE = ("/run/", "/tmp/", "/var/")  # where others mount meanwhile; a sandbox begins at /mnt

pytestmark = [pytest.mark.needs_userns, pytest.mark.needs_landlock]


@pytest.fixture(autouse=True)
def _nothing_is_left(request):
    """No process, mount, control group or descriptor outlives a sandbox."""
    before = _census()
    yield
    assert _census() == before


def _is_alive(pid):
    """A zombie is not: whoever inherits it reaps it when it likes."""
    try:
        return read_process(pid).state != "Z"
    except ProcessLookupError:
        return False


@contextlib.contextmanager
def in_tester(function, *, beside=lambda: True, limits=SMALL):
    """Let a tester call `function` when a student's process has called `beside`; yields what it returns."""
    with student_runs(beside, limits=limits) as (box, read):
        read()
        reading, writing = os.pipe()
        pid, pidfd = fork_tester(box.reference)
        if pid == 0:
            try:
                join(box.reference)
                answer = json.dumps(function())
            except BaseException:
                answer = json.dumps(traceback.format_exc())
            os.write(writing, answer.encode())
            os._exit(0)
        os.close(writing)
        with open(reading) as said:
            answer = json.loads(said.read() or "null")
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        yield box, answer


def _census():
    return {
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(errors="replace").split()
        if Path(f"/proc/self/task/{os.getpid()}/children").exists()
        else None,
        "mounts": [mount for mount in read_mountinfo() if not mount.mount_point.startswith(ELSEWHERE)],
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "groups": control_groups(f"{PREFIX}*{os.getpid()}-*"),
    }


@BOTH
def test_student_has_no_privilege_and_can_get_none(grader):
    """Neither now nor by a program with a set-user-ID bit."""
    status = parse_status(outcome_of(lambda: Path("/proc/self/status").read_text()).answer)
    capabilities = {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}

    assert capabilities == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == ["1000"] * 4


@BOTH
def test_student_shares_no_namespace_with_the_grader(grader):
    """All but the time namespace, which hides nothing."""
    theirs = outcome_of(lambda: {kind: ns.inode for kind, ns in namespaces_of().items()}).answer
    shared = [kind for kind, ns in namespaces_of().items() if theirs[kind] == ns.inode]

    assert set(KINDS) - {"time"} >= set(theirs) - {"time"} - set(shared)
    assert set(shared) <= {"time"}


@BOTH
def test_student_sees_only_its_own_processes(grader):
    """Process 1 is the grader's, and hidden: its command line, its memory and its files are not to be had."""

    def look():
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
        hidden = [errno_of(lambda name=name: os.stat(f"/proc/1/{name}")) for name in ("mem", "cmdline", "ns")]
        return pids, os.getpid(), hidden

    pids, own, hidden = outcome_of(look).answer

    assert pids == [str(own)]
    assert set(hidden) == {errno.ENOENT}


@BOTH
def test_student_can_signal_nobody_outside(grader):
    """Process 1 hears no signal from inside; numbers of other processes mean nobody."""

    def kill():
        return [errno_of(lambda pid=pid: os.kill(pid, signal.SIGKILL)) for pid in (1, -1, os.getppid())]

    assert set(outcome_of(kill).answer) <= {errno.EPERM, errno.ESRCH}


@BOTH
def test_student_finds_the_submission_and_may_write_there(grader):
    """The working directory holds the files that were handed in."""

    def read_and_write():
        Path("own.txt").write_text("x")
        return os.getcwd(), Path("data/a.csv").read_text(), sorted(os.listdir())

    answer = outcome_of(read_and_write, files={"data/a.csv": b"1,2"}).answer

    assert answer == [HOME, "1,2", ["data", "own.txt"]]


@BOTH
def test_student_finds_nothing_else_of_the_machine(grader, tmp_path):
    """No home, no course, no gradebook, no sockets of services, no /sys."""
    course = Path(__file__).parents[3] / "labs"
    paths = ["/root", "/run", "/sys", "/boot", "/etc/shadow", "/etc/ssh", course, tmp_path, Path.home()]
    package = Path(wait_until.__code__.co_filename).parent
    environments = [Path(sys.prefix), Path(sys.base_prefix), package]  # they may lie in a home, alone there

    def seen():
        return [found for path in paths for found in _below(Path(path), environments)]

    assert outcome_of(seen).answer == []


def _below(path, environments):
    """What there is at a path and below it, but for ways to a Python environment."""
    if any(path == environment or environment in path.parents for environment in environments):
        return []
    if not any(path in environment.parents for environment in environments):
        return [str(path)] if os.path.exists(path) else []
    return [found for name in os.listdir(path) for found in _below(path / name, environments)]


@BOTH
def test_student_cannot_change_what_programs_are_made_of(grader):
    """The next submission runs the same programs."""
    places = ["/", "/usr", "/etc", sys.prefix, "/var", "/dev", "/proc/sys/kernel"]

    def write():
        return [errno_of(lambda place=place: open(f"{place}/hostname", "w")) for place in places]

    assert 0 not in outcome_of(write).answer


@BOTH
def test_student_has_the_course_and_its_libraries(grader):
    """What the notebook could do at home it can do here: also start programs, and Python itself."""

    def use():
        import numpy

        import cnlab.linux.syscalls

        lines = subprocess.run(
            [sys.executable, "-c", "import numpy; print(6)"], capture_output=True, text=True
        )
        listed = subprocess.run("echo a | tr a b", shell=True, capture_output=True, text=True)
        return int(numpy.ones(3).sum()), cnlab.linux.syscalls.MS_BIND, lines.stdout, listed.stdout

    assert outcome_of(use).answer == [3, 4096, "6\n", "b\n"]


@BOTH
def test_student_has_a_loopback_and_no_other_network(grader):
    """A lab may start a server of its own; it reaches none of the host's, whose loopback is another one."""
    outside = socket.create_server(("127.0.0.1", 0))

    def connect():
        with socket.create_server(("127.0.0.1", 0)) as own:
            socket.create_connection(own.getsockname()).close()
        elsewhere = [outside_address, ("192.0.2.1", 80)]
        refused = [errno_of(lambda to=to: socket.create_connection(to, 5)) for to in elsewhere]
        return [name for _, name in socket.if_nameindex()], refused

    outside_address = outside.getsockname()
    with outside:
        answer = outcome_of(connect).answer

    assert answer == [["lo"], [errno.ECONNREFUSED, errno.ENETUNREACH]]


@BOTH
def test_student_inherits_no_descriptor_and_no_environment(grader, monkeypatch):
    """A descriptor of the gradebook would be as good as the file; a token in the environment likewise."""
    monkeypatch.setenv("TOKEN", "secret")

    def look():
        links = {os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()}
        return sorted(links), dict(os.environ)

    with open(__file__):
        links, environment = outcome_of(look).answer

    assert {link.partition(":")[0] for link in links} == {"/dev/null", "pipe"}
    assert environment.keys() == {*("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER")}


@BOTH
def test_system_calls_without_a_place_in_a_notebook_are_refused_and_told(grader):
    """What a container engine refuses by default, and namespaces, which would bring privileges back."""
    known = numbers("aarch64" if os.uname().machine == "aarch64" else "x86_64")
    names = (
        *("ptrace", "process_vm_readv", "keyctl", "add_key", "bpf", "perf_event_open", "userfaultfd"),
        *(
            "unshare",
            "setns",
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "fsopen",
            "open_tree",
            "move_mount",
        ),
        *("open_by_handle_at", "kexec_load", "init_module", "reboot", "swapon", "syslog", "settimeofday"),
        *("mknodat", "sethostname", "kcmp", "pidfd_getfd", "acct", "fanotify_init", "quotactl"),
    )
    names = tuple(name for name in names if name in known)

    def call_all():
        libc = ctypes.CDLL(None, use_errno=True)
        return {name: (libc.syscall(known[name], 0, 0, 0, 0, 0), ctypes.get_errno()) for name in names}

    outcome = outcome_of(call_all)

    assert outcome.answer == {name: [-1, errno.EPERM] for name in names}
    assert {event.text for event in outcome.events} == {f"{name}: refused" for name in names}


@BOTH
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_arguments_are_looked_at_too(grader):
    """The kernel ignores the upper half of an int: a filter that compared it could be passed by."""
    high = 1 << 32
    calls = {
        "a new user namespace": (56, 0x1000_0011, 0, 0, 0, 0),
        "a socket to the hypervisor": (41, high | 40, 1, 0),
        "a socket to the kernel's ciphers": (41, 38, 5, 0),
        "a socket to the kernel's firewall": (41, 16, 3, 12),
        "typing into a terminal": (16, 0, high | 0x5412, 0),
        "a core dump": (160, high | 4, 0),
    }

    def call_all():
        libc = ctypes.CDLL(None, use_errno=True)
        found = {}
        for what, (number, *arguments) in calls.items():
            wide = [ctypes.c_long(argument) for argument in arguments]
            found[what] = (libc.syscall(number, *wide), ctypes.get_errno())
        return found

    assert outcome_of(call_all).answer == {what: [-1, errno.EPERM] for what in calls}


@BOTH
def test_system_call_that_nobody_knew_does_not_exist(grader):
    """A kernel newer than the list has calls that nobody has judged; clone3 hides its flags in memory."""

    def call():
        libc = ctypes.CDLL(None, use_errno=True)
        return [(libc.syscall(number, 0, 0), ctypes.get_errno()) for number in (900, 435)]

    assert outcome_of(call).answer == [[-1, errno.ENOSYS]] * 2


@BOTH
def test_crash_leaves_no_core_dump(grader):
    """Nor does it run the program that the host's core_pattern names: that takes a limit of 1, not 0."""

    def crash():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        _, status = os.waitpid(pid, 0)
        return os.WCOREDUMP(status), resource.getrlimit(resource.RLIMIT_CORE)

    assert outcome_of(crash).answer == [False, [1, 1]]


@BOTH
def test_closing_ends_what_has_detached_itself(grader):
    """Neither a session of its own, nor a stopped process, nor one that ignores all signals outlives it."""

    def detach():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for stop in (False, True):
            if os.fork() == 0:
                os.setsid()
                if stop:
                    os.kill(os.getpid(), signal.SIGSTOP)
                while True:
                    signal.pause()
        return True

    with student_runs(detach) as (box, read):
        read()
        first, student = box.reference["first"], box.reference["student"]
        assert len(box.processes()) == 3
        box.close()

        assert not os.path.exists(f"/proc/{first}")
        assert not os.path.exists(f"/proc/{student}")


@BOTH
def test_processes_can_be_ended_one_by_one(grader):
    """What a check has started ends with the check; the notebook's own server stays."""

    def start_two():
        for _ in range(2):
            if os.fork() == 0:
                signal.pause()
        return os.getpid()

    with student_runs(start_two) as (box, read):
        own = read()
        children = [pid for pid, parent in box.processes().items() if parent == own]
        box.end(children)

        assert len(children) == 2
        wait_until(lambda: box.processes() == {own: 1}, timeout_s=20)


@BOTH
def test_killed_grader_leaves_nothing(grader):
    """kill -9 at any moment: the sandbox notices, ends what runs in it and removes its groups."""
    reading, writing = os.pipe()
    grading = os.fork()
    if grading == 0:
        with student_runs(lambda: True) as (box, read):
            read()
            os.write(writing, f"{box.reference['first']} {box.reference['student']}".encode())
            signal.pause()
    pids = os.read(reading, 99).decode().split()
    os.close(reading)
    os.close(writing)
    os.kill(grading, signal.SIGKILL)
    os.waitpid(grading, 0)

    wait_until(lambda: not any(map(_is_alive, pids)), timeout_s=60)
    assert not control_groups(f"{PREFIX}{grading}-*")


@BOTH
def test_tester_sees_what_the_student_made_and_is_not_seen(grader):
    """It reads a private file and talks to a server, from outside the student's user and pid namespace."""
    port = 7000

    def work():
        Path("private.txt").write_text("made")
        Path("private.txt").chmod(0)
        server = socket.create_server(("127.0.0.1", port))
        globals()["kept"] = server
        return os.getpid()

    def look():
        socket.create_connection(("127.0.0.1", port)).close()
        return Path("private.txt").read_text()

    with in_tester(look, beside=work) as (box, said):
        assert said == "made"
        assert len(box.processes()) == 1


@BOTH
def test_tester_has_no_more_rights_than_the_student(grader):
    """But to read what the student wrote; a check may start a program that the student wrote."""

    def look():
        effective, permitted, inheritable = syscalls.capget()
        return os.getresuid(), os.getgroups(), [effective, permitted, inheritable], os.getpid()

    with in_tester(look) as (_, (users, groups, capabilities, pid)):
        kept = mask_of("CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH")

        assert (users, groups if os.geteuid() == 0 else []) == ([1000] * 3, [])
        assert capabilities == [kept, kept, 0]
        assert pid == 1


def program_of_a_check(code):
    """Let a tester start a program; it prints JSON. The prelude helps it try."""
    prelude = """
import ctypes, errno, json, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(call, *arguments):
    try: call(*arguments)
    except OSError as error: return error.errno
    return 0
def refusal(name, *arguments):
    return ctypes.get_errno() if getattr(libc, name)(*arguments) == -1 else 0
"""

    def start():
        done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True)
        return done.stdout or done.stderr

    return start


@BOTH
def test_program_that_a_tester_starts_has_no_rights(grader):
    """It may be the student's own: not even those that its tester keeps."""
    code = """
status = bytearray(24)
libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_char * 24).from_buffer(status))
refused = refusal("unshare", 0x10000000), refusal("mount", b"x", b"/mnt", b"tmpfs", 0, 0)
print(json.dumps([status.hex(), *refused]))
"""
    with in_tester(program_of_a_check(code)) as (_, said):
        assert json.loads(said) == ["00" * 24, errno.EPERM, errno.EPERM]


@BOTH
def test_program_that_a_tester_starts_cannot_touch_the_tester(grader):
    """They have the same ids: no signal ends it, and nothing of it can be read, traced or written."""
    code = """
assert os.getppid() == 1, "or the signal would be for the machine"
os.kill(1, signal.SIGKILL)
trace = [refusal("ptrace", request, 1, 0, 0) for request in (16, 0x4206)]
files = [errno_of(os.stat, f"/proc/1/{name}") for name in ("mem", "fd", "environ")]
vector = (ctypes.c_uint64 * 2)(0, 8)
memory = [refusal(f"process_vm_{how}v", 1, vector, 1, vector, 1, 0) for how in ("read", "write")]
ends = [fd for fd in range(3, 512) if errno_of(os.fstat, fd) != errno.EBADF]
print(json.dumps([trace, files, memory, ends, refusal("syscall", 438, 0, 0, 0)]))
"""
    with in_tester(program_of_a_check(code)) as (_, said):
        no, nothing = errno.EPERM, errno.ENOENT

        assert json.loads(said) == [[no] * 2, [nothing] * 3, [no] * 2, [], no]


@BOTH
def test_program_that_a_tester_starts_can_signal_nobody_else(grader):
    """Numbers of processes outside mean nobody."""
    code = """
others = {*range(1, 1 << 16)} - {1, os.getpid()}
print(json.dumps([pid for pid in (-1, *others) if errno_of(os.kill, pid, 0) != errno.ESRCH]))
"""
    with in_tester(program_of_a_check(code)) as (_, said):
        assert json.loads(said) == []


@BOTH
def test_program_that_a_tester_starts_can_write_where_the_student_can(grader):
    """Nowhere else: not what programs are made of, not the kernel's settings, nor another's memory."""
    code = """
places = ["/", "/usr", "/etc", "/dev", PACKAGE, sys.prefix, "/home/student", "/tmp", "/var/tmp", "/dev/shm"]
free = [place for place in places if not errno_of(lambda: open(place + "/made", "w").close())]
setting = errno_of(open, "/proc/sys/kernel/core_pattern", "r+")
print(json.dumps([free, setting in (errno.EACCES, errno.EROFS)]))
""".replace("PACKAGE", repr(str(Path(wait_until.__code__.co_filename).parent)))
    with in_tester(program_of_a_check(code)) as (_, said):
        assert json.loads(said) == [["/home/student", "/tmp", "/var/tmp", "/dev/shm"], True]


@BOTH
def test_nothing_that_a_tester_starts_outlives_it(grader):
    """Not even what left its session, and whose parents have ended."""

    def start():
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.close(reading)
                os.write(writing, b"1")
                signal.pause()
            os._exit(0)
        os.read(reading, 1)

    lasting, held = os.pipe()
    with in_tester(start):
        os.close(held)
        os.read(lasting, 1)  # the end: nobody has the other one any more
    os.close(lasting)


@BOTH
def test_killed_tester_takes_what_it_has_started_with_it(grader):
    """The worker kills it when a check does not end in time."""
    lasting, held = os.pipe()

    def start():
        if os.fork() == 0:
            os.setsid()
            signal.pause()

    with student_runs(lambda: True) as (box, read):
        read()
        reading, writing = os.pipe()
        pid, pidfd = fork_tester(box.reference)
        if pid == 0:
            join(box.reference)
            start()
            os.write(writing, b"1")
            signal.pause()
        os.read(reading, 1)
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(held)
        os.read(lasting, 1)
    for fd in (reading, writing, pidfd, lasting):
        os.close(fd)


def test_tester_that_cannot_be_forked_says_why():
    """The sandbox may have ended meanwhile."""
    with student_runs(lambda: True) as (box, read):
        read()
        reference = dict(box.reference)
    with pytest.raises(FileNotFoundError):
        fork_tester(reference)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../b", "", ".", "a\0b"])
def test_name_that_leads_elsewhere_is_refused(name):
    """Before anything is made."""
    with pytest.raises(InvalidValue, match="no name for a file of a submission"):
        Sandbox(files={name: b""})


def test_sandbox_that_cannot_be_made_says_why_and_leaves_nothing():
    """Here the file does not fit."""
    box = Sandbox(SMALL, files={"a": bytes(SMALL.tmp_bytes + 1)}, accept=("cgroup-memory",))

    with pytest.raises(OSError, match="No space left on device"):
        box.start(lambda: None)
