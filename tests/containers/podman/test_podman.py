"""Podman with ``--runtime``: its verbs on a container that our runtime has started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rootfs_archive import busybox_archive

from cnlab.clock import wait_until
from cnlab.containers import runtime
from cnlab.host import find_program

pytestmark = pytest.mark.needs_root

# podman's own default asks for more open files than a machine without CAP_SYS_RESOURCE can give
RUN = ["run", "-d", "--network", "none", "--ulimit", "nofile=1000:1000", "--ulimit", "nproc=1000:1000"]
PATIENT = "trap 'exit 3' TERM; echo started; while :; do sleep 0.1; done"


class Podman:
    """Podman with its files, state and groups in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.cgroup_parent = f"/cnlab-podman-{os.getpid()}"
        places = {"--root": "root", "--runroot": "run", "--tmpdir": "tmp"}
        self.command = [
            str(find_program("podman")),
            "--runtime",
            runtime.command(),
            "--cgroup-manager",
            "cgroupfs",
        ]
        self.command += ["--events-backend", "file", "--storage-driver", "vfs"]
        for option, name in places.items():
            self.command += [option, str(directory / name)]

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110
        )
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Start a container and come back."""
        return self(*RUN, "--cgroup-parent", self.cgroup_parent, *arguments, check=check)

    def state(self, name: str) -> dict[str, object]:
        """What ``podman inspect`` says of it."""
        return json.loads(self("inspect", name).stdout)[0]["State"]

    def groups(self) -> list[str]:
        """The control groups of its containers."""
        return [str(path) for path in Path("/sys/fs/cgroup").glob(f"*{self.cgroup_parent}/libpod-*")]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    directory = tmp_path_factory.mktemp("podman")
    podman = Podman(directory)
    (directory / "busybox.tar").write_bytes(busybox_archive())
    podman("import", str(directory / "busybox.tar"), "busybox")
    yield podman
    podman("rm", "--all", "--force", "--time", "0")
    podman("rmi", "--all", "--force")
    for parent in Path("/sys/fs/cgroup").glob(f"*{podman.cgroup_parent}"):
        wait_until(lambda parent=parent: _is_removed(parent), timeout_s=60)


def _is_removed(parent: Path) -> bool:
    """Podman's monitor leaves its own group behind."""
    with contextlib.suppress(OSError):
        for folder, _, _ in os.walk(parent, topdown=False):
            os.rmdir(folder)
    return not parent.exists()


@pytest.fixture
def box(podman: Podman) -> Iterator[str]:
    podman.run("--name", "box", "busybox", "sh", "-c", PATIENT)
    wait_until(lambda: podman("logs", "box").stdout == "started\n", timeout_s=60)
    yield "box"
    podman("rm", "--force", "--time", "0", "box")
    assert podman.groups() == []


def test_container_runs_by_our_runtime(podman, box):
    """And not by the one that podman would take."""
    inspected = json.loads(podman("inspect", box).stdout)[0]

    assert inspected["OCIRuntime"] == runtime.command()
    assert inspected["State"]["Status"] == "running"


def test_exec_runs_in_the_container(podman, box):
    done = podman(
        "exec",
        "-e",
        "FOO=bar",
        "-w",
        "/tmp",
        "-u",
        "1000",
        box,
        "sh",
        "-c",
        "pwd; echo $FOO; exit 5",
        check=False,
    )

    assert (done.returncode, done.stdout.split()) == (5, ["/tmp", "bar"])


def test_exec_of_a_missing_program_is_told(podman, box):
    """Podman knows it by the runtime's words."""
    done = podman("exec", box, "nosuch", check=False)

    assert done.returncode == 127
    assert "OCI runtime attempted to invoke a command that was not found" in done.stderr


def test_missing_program_is_told(podman):
    done = podman.run("--rm", "busybox", "nosuch", check=False)

    assert done.returncode == 127
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stderr


def test_pause_stops_and_unpause_goes_on(podman, box):
    """The kernel says that the group is frozen, and what a process in it counts stands still."""
    podman("exec", "-d", box, "sh", "-c", "while :; do echo >> /tmp/ticks; done")
    ticks = Path(f"/proc/{podman.state(box)['Pid']}/root/tmp/ticks")
    wait_until(lambda: ticks.exists() and ticks.stat().st_size, timeout_s=60)
    (group,) = (path for path in podman.groups() if "/freezer/" in path)
    podman("pause", box)
    frozen, counted = Path(group, "freezer.state").read_text(), ticks.stat().st_size
    assert podman.state(box)["Status"] == "paused"
    assert (frozen, ticks.stat().st_size) == ("FROZEN\n", counted)
    podman("unpause", box)

    assert podman.state(box)["Status"] == "running"
    wait_until(lambda: ticks.stat().st_size > counted, timeout_s=60)


def test_stop_asks_first(podman, box):
    podman("stop", "--time", "10", box)

    assert podman("wait", box).stdout == "3\n"


def test_kill_kills(podman, box):
    podman("kill", box)

    wait_until(lambda: podman.state(box)["ExitCode"] == 137, timeout_s=60)


def test_restart_starts_again(podman, box):
    before = podman.state(box)["Pid"]
    podman("restart", "--time", "5", box)

    assert podman.state(box)["Pid"] not in (0, before)


def test_top_and_stats_see_the_container(podman, box):
    top = podman("top", box, "args").stdout.splitlines()
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", box).stdout)

    assert top[1].startswith("sh -c trap")
    assert int(stats[0]["pids"]) >= 1


def test_update_changes_limits(podman, box):
    podman("update", "--memory", "64m", box)
    (group,) = (path for path in podman.groups() if "/memory/" in path)

    assert Path(group, "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"


def test_terminal_is_one(podman):
    podman.run("-t", "--name", "terminal", "busybox", "sh", "-c", "tty; test -t 0 && echo yes")
    podman("wait", "terminal")
    printed = podman("logs", "terminal").stdout.split()
    podman("rm", "terminal")

    assert printed == ["/dev/pts/0", "yes"]


def test_confinement_is_what_was_asked_for(podman):
    options = [
        "--read-only",
        "--cap-drop",
        "all",
        "--security-opt",
        "no-new-privileges",
        "--pids-limit",
        "20",
    ]
    script = "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; touch /x 2>&1"
    script += "; cat /sys/fs/cgroup/pids/pids.max"
    podman.run("--name", "confined", *options, "busybox", "sh", "-c", script)
    podman("wait", "confined")
    printed = podman("logs", "confined").stdout.splitlines()
    podman("rm", "confined")

    assert printed == [
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "touch: /x: Read-only file system",
        "20",
    ]


def test_ten_containers_in_a_row_leave_nothing(podman):
    for _ in range(10):
        podman.run("--rm", "--name", "one", "busybox", "true")
        wait_until(lambda: not podman("ps", "--all", "--quiet").stdout, timeout_s=60)

    assert podman.groups() == []
