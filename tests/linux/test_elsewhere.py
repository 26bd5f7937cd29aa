"""The tests of this directory once more: by a student, and where there is cgroup v2.

What the host lacks is skipped there; here it is not, so that no test stays skipped for ever.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest
from private_kernel import in_private_kernel

ROOT = Path(__file__).parents[2]
PYTEST = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]


@pytest.fixture
def copied(student) -> list[str]:
    """Return a command that runs these tests, but for this file, from a copy in the student's home."""
    shutil.copy(ROOT / "pyproject.toml", student.home)
    shutil.copytree(ROOT / "tests/linux", student.home / "tests/linux")
    for file in (ROOT / "tests").glob("*.py"):
        shutil.copy(file, student.home / "tests")
    os.unlink(student.home / "tests/linux" / Path(__file__).name)
    return [*PYTEST, f"--rootdir={student.home}", f"{student.home}/tests/linux"]


@pytest.mark.timeout(300)
@pytest.mark.needs_userns
def test_namespaces_and_mounts_work_for_a_student(student, copied):
    """No root, no capabilities, no new privileges: all that is left is a user namespace."""
    command = [*copied, "-m", "not needs_uml"]
    done = student.run(command, env={"CNLAB_REQUIRE": "userns"}, check=False, timeout=280)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.needs_uml
def test_groups_work_in_the_private_kernel(student, copied):
    """Whether the host has cgroup v2 or not: there it is, and nothing is skipped."""
    code = f"""
import os, subprocess
command = {[*copied, "-m", "needs_cgroup2"]!r}
env = os.environ | {{"CNLAB_REQUIRE": "cgroup2,root"}}
done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(done.stdout)
"""
    said = in_private_kernel(student, code, timeout_s=280)

    assert " passed" in said, said
    assert "failed" not in said, said
    assert "skipped" not in said, said
