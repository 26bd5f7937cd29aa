"""The student of these tests, where an ordinary user runs them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import student as module

BYSTANDER = "until test -e begin; do sleep 0.01; done; sleep 600 & echo $! > begun; wait"
ORDINARY_USER = """
import os
from pathlib import Path
from cnlab.clock import wait_until
from student import Student

with Student() as student:
    orphan = int(student.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"]).stdout)
    Path("begin").touch()
    bystander = int(wait_until(lambda: Path("begun").exists() and Path("begun").read_text(), timeout_s=60))
    seen = student.processes()
print(*((pid in seen, os.path.exists(f"/proc/{pid}")) for pid in (orphan, bystander)))
"""


def test_processes_of_an_ordinary_user_are_left_alone(student):
    """A browser's new tab, or the other half of these tests; what a test has started goes, orphans too."""
    with student.popen(["sh", "-c", BYSTANDER]):
        environment = {"PYTHONPATH": os.path.dirname(module.__file__)}
        said = student.run([sys.executable, "-c", ORDINARY_USER], env=environment).stdout
        bystander = int(Path(student.home, "begun").read_text())
        os.kill(bystander, 9)

    assert said == "(True, False) (False, True)\n"
