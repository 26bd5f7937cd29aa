"""A student opens notebook 02 in JupyterLab, moves a slider with the mouse, and the kernel's file changes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from jupyter_client.blocking import BlockingKernelClient
from student import Student

from cnlab.clock import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.needs_uml, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "02-cgroups.ipynb"
MOVE_SLIDER = Path(__file__).with_name("move_slider.mjs")
CPU_MAX = "/sys/fs/cgroup/panel/cpu.max"
PICTURES = ROOT / "build" / "pictures"
TOKEN = "student"


@pytest.fixture
def desk() -> Iterator[Path]:
    """A directory for the browser; its name is short because the path of a socket must be."""
    with tempfile.TemporaryDirectory(prefix="cnlab-") as name:
        yield Path(name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def jupyterlab(student: Student) -> Iterator[str]:
    """Serve the student's home; give the address; end the server as Ctrl-C does."""
    port = free_port()
    settings = [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.news_url=",
        "--LabApp.expose_app_in_browser=True",
        "--no-browser",
    ]
    log = student.home / "jupyterlab.log"
    with log.open("w") as output:
        server = student.popen([sys.executable, "-m", "jupyterlab", *settings], stdout=output, stderr=output)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/api"), timeout_s=30, what="JupyterLab to answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def hand_and_eye(desk: Path, address: str) -> Iterator[subprocess.Popen[str]]:
    """Run the script that sees and clicks; it and its Chromium end with the block."""
    (desk / "tmp").mkdir()
    with (desk / "script.log").open("w") as log:
        script = subprocess.Popen(
            ["node", MOVE_SLIDER, f"{address}/lab/tree/{NOTEBOOK.name}?token={TOKEN}", PICTURES],
            env={"PATH": os.environ["PATH"], "HOME": str(desk), "TMPDIR": str(desk / "tmp")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield script
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGTERM)
        script.communicate(timeout=30)


def see(script: subprocess.Popen[str], desk: Path) -> dict[str, Any]:
    """Wait for the script's next step and return what it sees."""
    line = script.stdout.readline()
    assert line, (desk / "script.log").read_text()
    return json.loads(line)


def go_on(script: subprocess.Popen[str]) -> None:
    """Let the script take its next step."""
    script.stdin.write("\n")
    script.stdin.flush()


@contextmanager
def second_client(student: Student) -> Iterator[BlockingKernelClient]:
    """Talk to the notebook's kernel beside the browser, as any Jupyter client may."""
    [connection] = (student.home / ".local/share/jupyter/runtime").glob("kernel-*.json")
    client = BlockingKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=30)
        yield client
    finally:
        client.stop_channels()


def read_in_kernel(client: BlockingKernelClient, path: str) -> str:
    """Return the text of a file as the notebook's kernel sees it, empty while there is none."""
    said: list[str] = []
    client.execute_interactive(
        f"from pathlib import Path\nif Path({path!r}).exists(): print(Path({path!r}).read_text())",
        store_history=False,
        timeout=30,
        output_hook=lambda message: said.append(message["content"].get("text", "")),
    )
    return "".join(said).strip()


def test_moving_the_slider_writes_the_file_of_the_cgroup(desk):
    """What a student moves is the kernel's own limit, through browser, server, private kernel and widget."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Student() as student:
        student.run(["cp", str(NOTEBOOK), str(student.home)])
        with jupyterlab(student) as address, hand_and_eye(desk, address) as script:
            opened = see(script, desk)
            go_on(script)
            started = see(script, desk)
            with second_client(student) as client:
                wait_until(lambda: read_in_kernel(client, CPU_MAX) == "max 100000", timeout_s=20)
                go_on(script)
                moved = see(script, desk)
                wait_until(lambda: read_in_kernel(client, CPU_MAX) != "max 100000", timeout_s=10)
                written = read_in_kernel(client, CPU_MAX)
            go_on(script)
            assert script.wait(30) == 0
        wait_until(lambda: not student.processes(), timeout_s=10, what="the server and its kernel to end")

    assert (started["readout"], moved["readout"], written) == ("max", "20 %", "20000 100000")
    assert opened["foreign"] == started["foreign"] == moved["foreign"] == []
    assert list((desk / "tmp").iterdir()) == []
