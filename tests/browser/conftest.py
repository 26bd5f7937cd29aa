"""A student's JupyterLab, which all tests here share, and the script that sees and clicks there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from jupyter_client.blocking import BlockingKernelClient
from student import ROOT, Student

from cnlab.clock import wait_until

PICTURES = ROOT / "build" / "pictures"
TOKEN = "student"


class Visit:
    """A notebook that is open in Chromium, and its kernel."""

    def __init__(self, script: subprocess.Popen[str], desk: Path, kernel: BlockingKernelClient) -> None:
        self.desk = desk
        self._script = script
        self._kernel = kernel

    def see(self) -> dict[str, Any]:
        """Wait for the script's next step and return what it sees."""
        line = self._script.stdout.readline()
        assert line, (self.desk / "script.log").read_text()
        return json.loads(line)

    def go_on(self) -> None:
        """Let the script take its next step."""
        self._script.stdin.write("\n")
        self._script.stdin.flush()

    def end(self) -> None:
        """Let the script end, and Chromium with it."""
        self.go_on()
        assert self._script.wait(60) == 0, (self.desk / "script.log").read_text()

    def tell(self, code: str) -> str:
        """Return what `code` prints in the notebook's kernel, once the script has seen that it runs."""
        if not self._kernel.channels_running:
            self._kernel.start_channels()
            self._kernel.wait_for_ready(timeout=60)
        said: list[str] = []
        self._kernel.execute_interactive(
            code,
            store_history=False,
            timeout=60,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
        return "".join(said).strip()


class Lab:
    """A JupyterLab that serves a student's home."""

    def __init__(self, student: Student, address: str) -> None:
        self.student = student
        self.address = address

    @contextmanager
    def visit(self, notebook: str, script: Path) -> Iterator[Visit]:
        """Open a notebook at home and run `script` there; kernel and Chromium end with the block."""
        # the name of the browser's directory is short because the path of a socket must be
        with tempfile.TemporaryDirectory(prefix="cnlab-") as name, self._kernel(notebook) as kernel:
            desk = Path(name)
            workspace = f"{self.address}/lab/workspaces/{Path(notebook).stem}"  # shows no other test's tabs
            with _hand_and_eye(desk, script, f"{workspace}/tree/{notebook}?token={TOKEN}") as process:
                yield Visit(process, desk, kernel)

    @contextmanager
    def _kernel(self, notebook: str) -> Iterator[BlockingKernelClient]:
        """Start the notebook's kernel; yield what talks to it beside the browser, as any client may."""
        kernel = {"name": "cnlab"}
        session = {"path": notebook, "name": notebook, "type": "notebook", "kernel": kernel}
        started = self._ask("POST", "sessions", session)
        runtime = self.student.home / ".local/share/jupyter/runtime"
        connection = runtime / f"kernel-{started['kernel']['id']}.json"
        client = BlockingKernelClient(connection_file=str(connection))
        client.load_connection_file()
        try:
            yield client
        finally:
            client.stop_channels()
            self._ask("DELETE", f"sessions/{started['id']}")

    def _ask(self, method: str, path: str, content: object = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        request = Request(f"{self.address}/api/{path}", data, headers, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One server for the tests of a file; when it is asked to end, nothing of the student's is left."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with Student() as student:
        with _jupyterlab(student) as address:
            yield Lab(student, address)
        wait_until(lambda: not student.processes(), timeout_s=60, what="the server and its kernels to end")


@contextmanager
def _jupyterlab(student: Student) -> Iterator[str]:
    """Serve the student's home; give the address; end the server as Ctrl-C does."""
    settings = [
        "--ServerApp.port=0",  # any that is free
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.news_url=",
        "--LabApp.expose_app_in_browser=True",
        "--no-browser",
    ]
    log = student.home / "jupyterlab.log"
    with log.open("w") as output:
        server = student.popen([sys.executable, "-m", "jupyterlab", *settings], stdout=output, stderr=output)
    try:
        address = wait_until(lambda: _address(student), timeout_s=100, what="JupyterLab to say where it is")
        wait_until(lambda: _answers(f"{address}/api"), timeout_s=60, what="JupyterLab to answer")
        yield address
    finally:
        server.terminate()
        server.wait(60)


def _address(student: Student) -> str:
    """Read from the server's own note where it listens; empty while there is none."""
    for note in student.home.glob(".local/share/jupyter/runtime/jpserver-*.json"):
        with contextlib.suppress(ValueError):  # half written
            return f"http://127.0.0.1:{json.loads(note.read_text())['port']}"
    return ""


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def _hand_and_eye(desk: Path, script: Path, url: str) -> Iterator[subprocess.Popen[str]]:
    """Run the script that sees and clicks; it and its Chromium end with the block."""
    (desk / "tmp").mkdir()
    with (desk / "script.log").open("w") as log:
        process = subprocess.Popen(
            ["node", script, url, PICTURES],
            env={"PATH": os.environ["PATH"], "HOME": str(desk), "TMPDIR": str(desk / "tmp")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=60)
