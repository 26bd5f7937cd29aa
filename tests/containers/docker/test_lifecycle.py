"""The verbs of ``docker`` on a running container, with our runtime under the engine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import termios
from pathlib import Path

import pytest

from cnlab.clock import wait_until

pytestmark = pytest.mark.needs_root

PATIENT = "trap 'echo got TERM; exit 3' TERM; echo started; while :; do sleep 0.1; done"


@pytest.fixture
def box(docker):
    """A container that says when it has started, and ends with 3 at SIGTERM."""
    docker("run", "-d", "--name", "box", "busybox", "sh", "-c", PATIENT)
    wait_until(lambda: docker("logs", "box") == "started", timeout_s=60)
    return "box"


def status_of(docker, name):
    return docker("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name)


def interact(dockerd, *arguments, typed=b"", rows=24, columns=80):
    """Run ``docker ARGUMENTS`` at a terminal, type, and return the exit code and what the terminal showed."""
    master, slave = os.openpty()
    termios.tcsetwinsize(master, (rows, columns))
    environment = {
        **os.environ,
        "DOCKER_CONFIG": str(dockerd.directory / "config"),
        "DOCKER_HOST": dockerd.address,
    }
    client = subprocess.Popen(
        ["docker", *arguments],
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    os.write(master, typed)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end has been closed
        while part := os.read(master, 4096):
            shown += part
    os.close(master)
    return client.wait(timeout=60), shown.decode()


def test_run_at_a_terminal(dockerd, docker):
    """``docker run -it``: what is typed arrives, what is printed comes back, the size is the client's."""
    script = "until stty size | grep '33 99'; do true; done 2>&-; read word; echo word is $word; exit 4"
    code, shown = interact(
        dockerd, "run", "--rm", "-it", "busybox", "sh", "-c", script, typed=b"hello\n", rows=33, columns=99
    )

    assert code == 4
    assert "word is hello" in shown
    assert "33 99\r\n" in shown


def test_exec_at_a_terminal(dockerd, box):
    """``docker exec -it``: a second process of the container gets a terminal of its own."""
    code, shown = interact(
        dockerd, "exec", "-it", box, "sh", "-c", "tty; read word; exit $word", typed=b"5\n"
    )

    assert code == 5
    assert "/dev/pts/0" in shown


def test_exec_runs_in_the_container(docker, box):
    printed = docker("exec", box, "ps").splitlines()

    assert printed[1].split()[2:4] == ["sh", "-c"]
    assert "ps" in [line.split()[-1] for line in printed[1:]]


def test_exec_has_its_own_process(dockerd, docker, box):
    """User, directory and environment of the process, not of the container."""
    options = ["-e", "FOO=bar", "-w", "/tmp", "-u", "user"]

    assert docker("exec", *options, box, "sh", "-c", "id -u; pwd; echo $FOO").split() == [
        "1000",
        "/tmp",
        "bar",
    ]
    assert dockerd.docker("exec", box, "sh", "-c", "exit 5", check=False).returncode == 5


def test_exec_takes_input(dockerd, box):
    assert dockerd.docker("exec", "-i", box, "cat", input="there and back").stdout == "there and back"


def test_exec_of_a_missing_program_is_told(dockerd, box):
    done = dockerd.docker("exec", box, "nosuch", check=False)

    assert done.returncode == 126
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stdout + done.stderr


def test_exec_detached_goes_on(docker, box):
    docker("exec", "-d", box, "touch", "/tmp/done")

    wait_until(lambda: docker("exec", box, "ls", "/tmp") == "done", timeout_s=60)


def test_exec_is_as_confined_as_the_container(docker, box):
    """The same namespaces, groups, capabilities and seccomp filter: no way around by exec."""
    of_init, own = (
        docker(
            *("exec", box, "sh", "-c"),
            f"readlink /proc/{process}/ns/mnt; readlink /proc/{process}/ns/pid; cat /proc/{process}/cgroup;"
            f" grep -E 'Cap|Seccomp|NoNew' /proc/{process}/status",
        )
        for process in ("1", "$$")
    )

    assert own == of_init


def test_logs_and_wait(docker, box):
    docker("kill", "--signal", "TERM", box)

    assert docker("wait", box) == "3"
    assert docker("logs", box).splitlines() == ["started", "got TERM"]


def test_logs_follow_until_the_end(dockerd, docker, box):
    """``logs -f`` shows what is printed when it is printed, and ends with the container."""
    command = ["docker", "--host", dockerd.address, "logs", "--follow", box]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "started\n"
        docker("kill", "--signal", "TERM", box)

        assert client.stdout.readline() == "got TERM\n"
        assert client.stdout.read() == ""
    assert client.returncode == 0


def test_kill_kills(docker, box):
    docker("kill", box)

    wait_until(lambda: status_of(docker, box) == "exited 137", timeout_s=60)


def test_stop_asks_first(docker, box):
    docker("stop", "--time", "10", box)

    assert status_of(docker, box) == "exited 3"


def test_stop_does_not_ask_for_ever(docker):
    """Process 1 has no default for SIGTERM, so it takes SIGKILL."""
    docker("run", "-d", "--name", "deaf", "busybox", "sleep", "60")
    docker("stop", "--time", "0", "deaf")

    assert status_of(docker, "deaf") == "exited 137"


def test_restart_starts_again(docker, box):
    before = docker("inspect", "--format", "{{.State.Pid}}", box)
    docker("restart", "--time", "5", box)

    assert status_of(docker, box) == "running 0"
    assert docker("inspect", "--format", "{{.State.Pid}}", box) != before


@pytest.fixture
def ticks(docker, box):
    """A file that a process in the box makes longer as fast as it can."""
    docker("exec", "-d", box, "sh", "-c", "while :; do echo >> /tmp/ticks; done")
    pid = docker("inspect", "--format", "{{.State.Pid}}", box)
    ticks = Path(f"/proc/{pid}/root/tmp/ticks")
    wait_until(lambda: ticks.exists() and ticks.stat().st_size, timeout_s=60)
    return ticks


def test_pause_stops_and_unpause_goes_on(docker, box, ticks):
    """Frozen in its control group, as the kernel says, and what it counts stands still."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", box)
    freezer = group_of("freezer", pid) / "freezer.state"
    docker("pause", box)
    frozen, counted = freezer.read_text(), ticks.stat().st_size
    assert status_of(docker, box).split()[0] == "paused"
    assert (frozen, ticks.stat().st_size) == ("FROZEN\n", counted)
    docker("unpause", box)

    assert (freezer.read_text(), status_of(docker, box)) == ("THAWED\n", "running 0")
    wait_until(lambda: ticks.stat().st_size > counted, timeout_s=60)


def group_of(controller, pid):
    """The control group of a process, as one of version 1."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    (group,) = (line.split(":")[2] for line in lines if line.split(":")[1] == controller)
    return Path(f"/sys/fs/cgroup/{controller}{group}")


def test_paused_container_can_be_removed(docker, box):
    docker("pause", box)
    docker("rm", "--force", box)

    assert docker("ps", "--all", "--quiet") == ""


def test_running_container_is_not_removed_unless_forced(dockerd, docker, box):
    refused = dockerd.docker("rm", box, check=False)
    assert (refused.returncode, status_of(docker, box)) == (1, "running 0")
    docker("rm", "--force", box)

    assert docker("ps", "--all", "--quiet") == ""


def test_created_and_stopped_containers_are_removed(docker, box):
    """One that never ran, so that the runtime has never heard of it, and one that has ended."""
    docker("create", "--name", "created", "busybox", "true")
    docker("stop", box)
    docker("rm", "created", box)

    assert docker("ps", "--all", "--quiet") == ""


def test_update_changes_limits(docker, box):
    docker("update", "-m", "64m", "--memory-swap", "128m", "--cpus", "0.5", "--pids-limit", "50", box)
    files = ["memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes", "pids/pids.max"]
    files += ["cpu/cpu.cfs_quota_us"]
    read = docker("exec", box, "sh", "-c", f"cd /sys/fs/cgroup; cat {' '.join(files)}").split()

    assert read == [str(64 << 20), str(128 << 20), "50", "50000"]


def test_stats_are_the_container_s(docker, box, ticks):
    """Used is above nothing where a process works, and below what is allowed."""
    docker("update", "-m", "64m", "--memory-swap", "64m", box)
    stats = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", box))

    assert stats["MemUsage"].endswith("/ 64MiB")
    assert 0 < float(stats["MemPerc"].rstrip("%")) <= 100
    assert 0 < float(stats["CPUPerc"].rstrip("%"))
    assert int(stats["PIDs"]) >= 2


def test_top_lists_what_runs(docker, box):
    """As the host numbers it."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", box)
    first = docker("top", box).splitlines()[1].split()

    assert (first[1], first[7]) == (pid, "sh")


def test_health_is_checked_by_exec(docker):
    """Well as long as the probe's exit code says so, and ill when it says so no more."""
    probe = ["--health-cmd", "test ! -e /tmp/ill", "--health-interval", "200ms", "--health-retries", "1"]
    docker("run", "-d", "--name", "patient", *probe, "busybox", "sleep", "60")

    def health():
        return docker("inspect", "--format", "{{.State.Health.Status}}", "patient")

    wait_until(lambda: health() == "healthy", timeout_s=60)
    docker("exec", "patient", "touch", "/tmp/ill")
    wait_until(lambda: health() == "unhealthy", timeout_s=60)


def test_engine_restarts_what_failed(docker):
    docker(
        "run",
        "-d",
        "--name",
        "fails",
        "--restart",
        "on-failure:1",
        "busybox",
        "sh",
        "-c",
        "echo once; exit 1",
    )

    wait_until(lambda: docker("logs", "fails").split() == ["once", "once"], timeout_s=60)
    wait_until(lambda: status_of(docker, "fails") == "exited 1", timeout_s=60)


def test_created_container_is_started_later(docker):
    docker("create", "--name", "later", "busybox", "echo", "now")

    assert [docker("start", "--attach", "later") for _ in range(2)] == ["now", "now"]


def test_error_of_the_runtime_reaches_the_user(dockerd, docker, tmp_path):
    """The last line of its log; and the engine can go on with the container's name."""
    (tmp_path / "profile.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_OTHER"}))
    option = ["--security-opt", f"seccomp={tmp_path}/profile.json"]
    done = dockerd.docker("run", "--name", "wrong", *option, "busybox", "true", check=False)
    docker("rm", "wrong")

    assert done.returncode == 125
    assert "linux.seccomp.defaultAction is 'SCMP_ACT_OTHER'; expected one of SCMP_ACT_KILL" in done.stderr
