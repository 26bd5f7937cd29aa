"""Run in the private kernel by `test_sandbox_root`: a student who is root, its tester, and what they leave.

Prints facts as one JSON object; the tests judge them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnlab import host
from cnlab.clock import wait_until
from cnlab.grading.limits import MIB, Limits
from cnlab.grading.sandbox import Sandbox, join, require_parts
from cnlab.grading.sandbox.tester import born_inside
from cnlab.linux import syscalls
from cnlab.linux.cgroups import Cgroup
from cnlab.linux.mounts import read_mountinfo
from cnlab.linux.processes import processes

LIMITS = Limits(memory_bytes=96 * MIB, pids=60, notebook_s=60, cpu_s=60)


def attempt(*argv: str) -> str:
    """Run a command; return "" or what it complains about."""
    done = subprocess.run(argv, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr or f"exit status {done.returncode}"


def as_student() -> dict[str, Any]:
    """Do what labs do."""
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"/tmp/{name}")
    layers = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work"
    host.require("root", "cgroup2", "netns")
    with Cgroup("demo", memory_max="16M") as group:
        made = group.run(["cat", "/proc/self/cgroup"]).stdout
        killed = group.run([sys.executable, "-c", "bytearray(32 << 20)"]).returncode
    tried = {
        "tmpfs": attempt("mount", "-t", "tmpfs", "mine", "/mnt"),
        "unmount": attempt("umount", "/mnt"),
        "overlay": attempt("mount", "-t", "overlay", "overlay", "-o", layers, "/tmp/merged"),
        "veth": attempt("ip", "link", "add", "left", "type", "veth", "peer", "name", "right"),
        "bridge": attempt("ip", "link", "add", "switch", "type", "bridge"),
        "hostname": attempt("hostname", "renamed"),
        "forwarding": attempt("sysctl", "-qw", "net.ipv4.ip_forward=1"),
        "whiteout": attempt("mknod", "/tmp/whiteout", "c", "0", "0"),
        "chown": attempt("chown", "33:33", "/tmp/lower"),
        "namespaces": attempt("unshare", "-Urpfm", "--mount-proc", "true"),
    }
    refused = {
        "device": attempt("mknod", "/tmp/disk", "b", "98", "0"),
        "program": attempt("touch", "/usr/bin/mine"),
        "limit": attempt("sh", "-c", "echo max > /sys/fs/cgroup/memory.max"),
        "clock": attempt("date", "-s", "2001-01-01"),
    }
    attempt("mount", "-t", "tmpfs", "fake", "/proc/sys")
    attempt("mount", "-t", "tmpfs", "fake", "/sys/fs/cgroup")
    own = {"cgroup": made, "killed": killed, "pid": os.getpid(), "files": os.listdir()}
    return {"tried": tried, "refused": refused, **own}


def as_tester(pid: int) -> dict[str, Any]:
    """Look at the student's process, from beside it."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        "uid_map": Path("/proc/self/uid_map").read_text().split(),
        "student_is_root": "Uid:\t0\t0\t0\t0" in status,
        "mounts": [mount.source for mount in read_mountinfo() if mount.source == "fake"],
        "seen_of_student": [mount.source for mount in read_mountinfo(pid) if mount.source == "fake"],
        "hostname": os.uname().nodename,
        "links": sorted(os.listdir("/sys/class/net")),
        "groups": sorted(entry.name for entry in Path("/sys/fs/cgroup").iterdir() if entry.is_dir()),
        "owner": os.stat("/tmp/lower").st_uid,
        "files": os.listdir(),
        "own": os.getpid(),
        "machine": attempt("touch", "/etc/hostname"),
    }


def spy(tester: int) -> dict[str, Any]:
    """As the student: try to get at the tester."""
    libc = ctypes.CDLL(None, use_errno=True)
    traced = libc.ptrace(16, tester, 0, 0)  # PTRACE_ATTACH
    found = {}
    for name in ("environ", "maps", "fd", "root", "cwd"):
        try:
            found[name] = str(os.listdir(f"/proc/{tester}/{name}"))
        except NotADirectoryError:
            try:
                found[name] = Path(f"/proc/{tester}/{name}").read_text()
            except OSError as error:
                found[name] = type(error).__name__
        except OSError as error:
            found[name] = type(error).__name__
    return {"traced": traced, **found}


def in_child(function: Callable[[], Any]) -> tuple[int, int]:
    """Fork a child that calls `function`; return its pid and where it says what came out."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        say(writing, function)
        os._exit(0)
    os.close(writing)
    return pid, reading


def say(fd: int, function: Callable[[], Any]) -> None:
    """Write what `function` returns, or its traceback, as a line."""
    try:
        answer = json.dumps(function())
    except BaseException:
        answer = json.dumps(traceback.format_exc())
    os.write(fd, f"{answer}\n".encode())


def hear(fd: int) -> Any:
    """Read such a line."""
    with open(fd, closefd=False) as file:
        return json.loads(file.readline() or "null")


def main() -> None:
    """Run it all."""
    before = census()
    (to_student, from_us), (to_us, from_student) = os.pipe(), os.pipe()

    def program() -> None:
        say(from_student, as_student)
        say(from_student, lambda: spy(hear(to_student)))
        signal.pause()

    facts: dict[str, Any] = {"missing": require_parts(flavour="root")}
    with Sandbox(LIMITS, flavour="root", files={"a/b.txt": b"x"}) as box:
        box.start(program, keep_fds=[from_student, to_student])
        facts["student"] = hear(to_us)

        def test() -> dict[str, Any]:
            join(box.reference)
            return as_tester(facts["student"]["pid"])

        with born_inside(box.reference):
            tester, said = in_child(test)
        facts["tester"] = hear(said)
        facts["processes"] = sorted(box.processes())
        idle_reading, idle_writing = os.pipe()
        with born_inside(box.reference):
            idle, _ = in_child(
                lambda: (
                    join(box.reference),
                    os.write(idle_writing, f"{os.getpid()}\n".encode()),
                    signal.pause(),
                )
            )
        os.write(from_us, f"{hear(idle_reading)}\n".encode())
        facts["spied"] = hear(to_us)
        os.kill(idle, signal.SIGKILL)
        os.waitpid(idle, 0)
        os.waitpid(tester, 0)
        facts["events"] = [event.text for event in box.events()]
    facts["usage"] = box.usage().to_dict()
    facts["delegated"] = in_delegated_group()
    facts["left"] = [key for key, value in census().items() if value != before[key]]
    print(json.dumps(facts))


def in_delegated_group() -> dict[str, Any]:
    """Grade as an ordinary user to whom a group was delegated, as service managers do."""
    group = Path("/sys/fs/cgroup/delegated")
    group.mkdir()
    for path in (group, *(group / f"cgroup.{name}" for name in ("procs", "threads", "subtree_control"))):
        os.chown(path, 1000, 1000)

    def bomb() -> None:
        with contextlib.suppress(BlockingIOError):
            while os.fork():
                pass
        signal.pause()

    def grade() -> dict[str, Any]:
        (group / "cgroup.procs").write_text("0")
        syscalls.set_ids(1000, 1000, [])
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        with Sandbox(Limits(pids=20), accept=["landlock"]) as box:
            box.start(bomb)
            events = wait_until(box.events, timeout_s=20)
            return {"processes": len(box.processes()), "events": [event.text for event in events]}

    grader, said = in_child(grade)
    facts: dict[str, Any] = hear(said)
    os.waitpid(grader, 0)
    (group / "cnlab-grader").rmdir()
    group.rmdir()  # fails if anything is left in it
    return facts


def census() -> dict[str, Any]:
    """Count what could be left."""
    return {
        "processes": sorted(process.pid for process in processes() if process.cmdline),  # no kernel threads
        "mounts": len(read_mountinfo()),
        "groups": sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("cnlab-*")),
        "links": sorted(os.listdir("/sys/class/net")),
    }


main()
