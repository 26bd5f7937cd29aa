"""How a hub begins and ends: what it makes, what it refuses, what it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import http.cookiejar
import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from hub.running_hub import HUB, free_ports, groups_of, left_of

from cnlab.clock import wait_until
from cnlab.grading.hub.demonstration import demonstration
from cnlab.grading.hub.spawner import GroupSpawner, delegate, group_of


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the hub's command to its end."""
    return subprocess.run([*HUB, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.needs_root
def test_demonstration_takes_no_user_who_is_there():
    """It removes its users when it ends."""
    done = start("--demo", "--users=root,a,b")

    assert (1, "hub: there is a user 'root' on this machine already") == (
        done.returncode,
        done.stderr.splitlines()[0],
    )


@pytest.mark.needs_root
def test_root_is_asked_who_teaches():
    """Root makes no users unless told to, and picks none."""
    done = start()

    assert 1 == done.returncode
    assert "--instructor NAME" in done.stderr
    assert not Path("/srv/cnlab").exists()


@pytest.mark.needs_root
def test_unknown_instructor_is_named(tmp_path):
    """In one line, and nothing is made."""
    done = start("--instructor=nobody-of-that-name", f"--place={tmp_path}/place")

    assert (1, False) == (done.returncode, (tmp_path / "place").exists())
    assert "expected a user of this machine" in done.stderr


@pytest.mark.needs_root
@pytest.mark.slow
def test_hub_that_is_killed_leaves_nothing():
    """SIGKILL to the command: the hub and its proxy end, users, homes and groups go."""
    port = free_ports(3)
    users = [f"cnlab{port}t", f"cnlab{port}a"]
    process = subprocess.Popen(
        [*HUB, "--demo", f"--users={','.join(users)}", f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        lines = iter(process.stdout.readline, "")
        assert any("is now running" in line for line in lines)
        root = Path(pwd.getpwnam(users[0]).pw_dir).parents[1]
        groups = groups_of(users)
        process.kill()
        process.stdout.read()  # until everybody who could write there has gone
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not left_of(users, groups, port) and not root.exists(), timeout_s=60)

    assert not root.exists()
    assert [] == left_of(users, groups, port)


@pytest.mark.needs_root
class TestGroupOfAUser:
    """What a spawner puts a user's server into, on this machine's version of control groups."""

    def test_process_that_leaves_its_session_ends_with_the_group(self):
        """`setsid` hides from JupyterHub, which knows one process; not from the kernel."""
        with group_of(f"cnlab-hub-test-{os.getpid()}", {"pids_max": 50}) as group:
            command = ["setsid", "-f", "sleep", "1000"]
            subprocess.run(command, preexec_fn=lambda: group.add(os.getpid()), check=True)
            [sleeper] = wait_until(lambda: [pid for pid in group.pids() if is_sleep(pid)], timeout_s=10)

        assert not is_alive(sleeper)

    def test_limits_are_the_kernels(self):
        """As many processes as were allowed, and no more."""
        with group_of(f"cnlab-hub-test-{os.getpid()}", {"pids_max": 4}) as group:
            code = (
                "import os\ntry:\n    [os.fork() or os.read(0, 1) for _ in range(9)]\n"
                "except OSError as error:\n    print(error.errno)"
            )
            reading, writing = os.pipe()
            done = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=reading,
                stdout=subprocess.PIPE,
                preexec_fn=lambda: group.add(os.getpid()),
                text=True,
            )
            os.close(reading)
            said = done.stdout.readline()
            os.close(writing)
            done.communicate()

        assert "11\n" == said  # EAGAIN

    def test_who_grades_may_make_groups_below(self, student):
        """And the group goes with those in it."""
        with group_of(f"cnlab-hub-test-{os.getpid()}", {"pids_max": "max"}) as group:
            delegate(group, student.uid)
            paths = paths_of(group)
            student.run(["mkdir", *(f"{path}/sandbox" for path in paths)])
            made = [path / "sandbox" for path in paths if (path / "sandbox").is_dir()]

        assert len(paths) == len(made)
        assert not any(path.exists() for path in paths)


class _SpawnerOfOne(GroupSpawner):
    """A spawner whose group has a name that no user's has."""

    def _group(self):
        return group_of(f"cnlab-hub-test-{os.getpid()}", {"pids_max": 50})


@pytest.mark.needs_root
def test_server_that_ends_by_itself_takes_along_what_it_has_started():
    """The hub stops only what runs: it asks, hears that the server has gone, and leaves it at that."""
    spawner = _SpawnerOfOne()
    group = spawner._group().__enter__()
    server = subprocess.Popen(["setsid", "-f", "sleep", "1000"], preexec_fn=lambda: group.add(os.getpid()))
    spawner.pid = server.pid
    server.wait()
    [sleeper] = wait_until(lambda: [pid for pid in group.pids() if is_sleep(pid)], timeout_s=60)
    status = asyncio.run(spawner.poll())

    assert (0, False) == (status, is_alive(sleeper))
    assert not any(path.exists() for path in paths_of(group))


def paths_of(group) -> list[Path]:
    return [group.path] if hasattr(group, "path") else list(group.paths.values())


def is_sleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/comm").read_text() == "sleep\n"


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):  # it has gone, or goes while we look
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


@pytest.mark.needs_root
@pytest.mark.slow
def test_hub_without_root_serves_its_own_user():
    """It says what differs, and starts this user's server for the password that it prints."""
    port = free_ports(3)
    name = f"cnlab{port}own"
    with demonstration([name]) as (place, _):
        home = Path(pwd.getpwnam(name).pw_dir)
        own = f"{home}/hub"
        become = ["setpriv", f"--reuid={name}", f"--regid={name}", "--init-groups", f"HOME={home}"]
        command = [*HUB[:3], *become[:-1], "env", become[-1], *HUB[3:], f"--place={own}", f"--port={port}"]
        log = place.root / "hub.log"
        with log.open("w") as output:
            hub = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            wait_until(lambda: "hub: ready at" in log.read_text() or hub.poll() is not None, timeout_s=120)
            password = re.search(rf"hub: {name} password (\S+)", log.read_text())
            started = password and start_server(f"http://127.0.0.1:{port}", name, password.group(1))
        finally:
            hub.send_signal(signal.SIGINT)
            hub.wait(120)
        said = log.read_text()
        has_labs = Path(own, "course", "source", "lab01-namespaces").is_dir()

    assert "not root, so this hub serves you alone" in said
    assert (True, True) == (started, has_labs), said


def start_server(address: str, name: str, password: str) -> bool:
    """Sign in by the form, as a browser does, and wait for the user's server."""
    cookies = http.cookiejar.CookieJar()
    opener = build_opener(HTTPCookieProcessor(cookies))
    opener.open(f"{address}/hub/login", timeout=30).close()
    xsrf = next(cookie.value for cookie in cookies if cookie.name == "_xsrf")
    form = urlencode({"username": name, "password": password, "_xsrf": xsrf}).encode()
    opener.open(f"{address}/hub/login", form, timeout=60).close()

    def answers() -> bool:
        with contextlib.suppress(HTTPError), opener.open(f"{address}/user/{name}/api", timeout=30) as answer:
            return "version" in json.loads(answer.read())
        return False

    return wait_until(answers, timeout_s=60, poll_s=0.3, what="the user's server to answer")
