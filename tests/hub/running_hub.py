"""A hub that runs for a test, with users of its own, and people who click in it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import nbformat
from leftovers import control_groups
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from student import ROOT

from cnlab.clock import wait_until
from cnlab.grading.hub.place import Place

PICTURES = ROOT / "build" / "pictures"
ASSIGNMENT = "doubling"
REACHABLE = [sys.executable, "-P", str(Path(__file__).with_name("reachable.py"))]
HUB = [*REACHABLE, sys.executable, "-m", "cnlab.grading.hub"]


class Hub:
    """A running hub and its demonstration users, the first of whom teaches."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, port: int, users: list[str]) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"
        self.teacher, *self.students = users
        self._log = log

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    @property
    def passwords(self) -> dict[str, str]:
        """By user, as the hub has printed them."""
        words = (line.split() for line in self.log.splitlines() if line.startswith("hub: "))
        return {said[1]: said[3] for said in words if said[2:3] == ["password"]}

    @property
    def is_up(self) -> bool:
        """Whether it answers, and has said who may come in."""
        return "is now running" in self.log and self.passwords.keys() == {self.teacher, *self.students}

    @property
    def place(self) -> Place:
        """Where it keeps what it keeps."""
        return Place(Path(pwd.getpwnam(self.teacher).pw_dir).parents[1])

    def processes(self, user: str) -> list[int]:
        """The pids of what runs as `user`."""
        uid = pwd.getpwnam(user).pw_uid
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if Path("/proc", pid).stat().st_uid == uid:
                    found.append(int(pid))
        return found

    def run_as(self, user: str, code: str) -> subprocess.CompletedProcess[str]:
        """Run Python code as one of the users."""
        entry = pwd.getpwnam(user)
        become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        return subprocess.run(
            [*REACHABLE, *become, sys.executable, "-c", code],
            cwd="/",
            env={"HOME": entry.pw_dir, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )


@contextmanager
def running_hub(*arguments: str, students: int = 2, env: dict[str, str] | None = None) -> Iterator[Hub]:
    """Start `make hub`'s command with --demo; end it as Ctrl-C does; nothing of it may be left."""
    port = free_ports(3)
    users = [f"cnlab{port}{role}" for role in ("teach", *("abcdefgh"[:students]))]
    command = [
        *HUB,
        "--demo",
        f"--users={','.join(users)}",
        f"--port={port}",
    ]
    with tempfile.TemporaryDirectory(prefix="cnlab-") as desk:
        log = Path(desk, "hub.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                [*command, *arguments], stdout=output, stderr=output, env=os.environ | (env or {})
            )
        hub = Hub(process, log, port, users)
        groups = []
        try:
            wait_until(lambda: hub.is_up or process.poll() is not None, timeout_s=120)
            assert process.poll() is None, hub.log
            groups = groups_of(users)
            yield hub
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            process.wait(120)
        assert process.returncode == 0, hub.log
        with contextlib.suppress(TimeoutError):  # the hub tells its proxy to end, and does not wait for it
            wait_until(lambda: not left_of(users, groups, port), timeout_s=60)
        assert [] == left_of(users, groups, port)


def groups_of(users: list[str]) -> list[str]:
    """The names of the control groups that their servers get; to be asked while there are these users."""
    return [f"cnlab-hub-{pwd.getpwnam(user).pw_uid}" for user in users]


def left_of(users: list[str], groups: list[str], port: int) -> list[str]:
    """What a hub has left behind: users, homes, groups, servers."""
    left = [user for user in users if _exists(user)]
    left += [path for group in groups for path in control_groups(group)]
    for number in range(port, port + 3):
        with socket.socket() as probe:
            left += [f"port {number}"] if probe.connect_ex(("127.0.0.1", number)) == 0 else []
    return left


def _exists(user: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody uses."""
    for first in range(21_000 + os.getpid() % 5_000, 32_000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def write_assignment(hub: Hub) -> None:
    """Put a small assignment with a hidden test into the course."""
    check = "assert double(2) == 4, 'expected double(2) to be 4'\n"
    hidden = "### BEGIN HIDDEN TESTS\nassert double(21) == 42\n### END HIDDEN TESTS"
    stub = "def double(number):\n    ### BEGIN SOLUTION\n    return 2 * number\n    ### END SOLUTION"
    notebook = new_notebook(
        cells=[
            new_markdown_cell("# Doubling"),
            _graded(stub, "double", solution=True),
            _graded(check + hidden, "double-check", grade=True, locked=True, points=3),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    folder = hub.place.source / ASSIGNMENT
    folder.mkdir()
    nbformat.write(notebook, folder / f"{ASSIGNMENT}.ipynb")
    owner = pwd.getpwnam(hub.teacher)
    for path in (folder, folder / f"{ASSIGNMENT}.ipynb"):
        os.chown(path, owner.pw_uid, owner.pw_gid)


def _graded(source: str, grade_id: str, **settings: Any) -> nbformat.NotebookNode:
    cell = new_code_cell(source)
    defaults = {"schema_version": 3, "solution": False, "grade": False, "locked": False, "task": False}
    cell.metadata["nbgrader"] = {**defaults, "grade_id": grade_id, **settings}
    return cell


class Play:
    """The people at the hub, act by act."""

    def __init__(self, script: subprocess.Popen[str], log: Path) -> None:
        self._script = script
        self._log = log

    def next(self, act: str) -> dict[str, Any]:
        """Wait for the next act, which is to be `act`, and return what could be seen."""
        line = self._script.stdout.readline()
        assert line, self._log.read_text()
        seen = json.loads(line)
        assert (act, []) == (seen["act"], seen["complaints"]), seen["complaints"]
        return seen

    def go_on(self) -> None:
        """Let the next act begin."""
        self._script.stdin.write("\n")
        self._script.stdin.flush()


@contextmanager
def played(script: Path, address: str, told: dict[str, object]) -> Iterator[Play]:
    """Run a script of the browser that is told something first; Chromium ends with the block."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cnlab-") as desk:
        log = Path(desk, "script.log")
        with log.open("w") as errors:
            process = subprocess.Popen(
                ["node", str(script), address, str(PICTURES)],
                env={"PATH": os.environ["PATH"], "HOME": desk, "TMPDIR": desk},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        try:
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
            yield Play(process, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=30)


def ask_hub(address: str, token: str, method: str, path: str) -> Any:
    """Ask the hub's REST API."""
    request = Request(f"{address}/hub/api/{path}", method=method, headers={"Authorization": f"token {token}"})
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")
