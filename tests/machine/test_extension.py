"""The Jupyter server keeps a machine ready."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from student import Student

from cnlab.clock import wait_until


@pytest.mark.needs_uml
def test_a_server_boots_a_machine_ahead_and_takes_it_along_when_it_ends(student: Student) -> None:
    """The student who opens the first notebook does not wait for a boot."""
    options = [
        "--no-browser",
        "--port",
        "0",
        "--ServerApp.port_retries=50",
        f"--ServerApp.root_dir={student.home}",
    ]
    server = student.popen(
        [student.python, "-m", "jupyter_server", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def machines() -> list[int]:
        found = []
        for pid in student.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end while we look
                if Path(f"/proc/{pid}/comm").read_text() == "linux.uml\n":
                    found.append(pid)
        return found

    try:
        wait_until(machines, timeout_s=60, what="a machine to boot")
    finally:
        server.terminate()
        server.wait()

    wait_until(lambda: not student.processes(), timeout_s=60, what="the machine to end")
