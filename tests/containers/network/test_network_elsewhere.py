"""Networks once more where every student has them: in the private kernel, which has no nftables."""

import shutil
import sys
from pathlib import Path

import pytest
from private_kernel import in_private_kernel

TESTS = Path(__file__).parents[2]
FILES = (
    *(
        "conftest.py",
        "leftovers.py",
        "student.py",
        "netlab.py",
        "containers/network/test_network.py",
        "containers/network/test_cni.py",
    ),
    *("linux/conftest.py", "linux/test_rtnetlink.py"),
)
CHOSEN = (
    "(loopback or from_outside_only or world_outside or closed_to_each_other or find_each_other"
    " or killed_process or reaches_the_world or deletion_leaves_nothing) and not dropped or test_rtnetlink"
)


@pytest.mark.slow
@pytest.mark.needs_uml
@pytest.mark.timeout(240)
def test_networks_work_in_the_private_kernel(student):
    """Other rules, other modules, one processor, the same packets."""
    shutil.copy(TESTS.parent / "pyproject.toml", student.home)
    for file in FILES:
        (student.home / "tests" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TESTS / file, student.home / "tests" / file)
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    command += [f"--rootdir={student.home}", "-k", CHOSEN]
    command += [f"{student.home}/tests"]
    code = f"""
import subprocess
env = __import__("os").environ | {{"CNLAB_REQUIRE": "root"}}
done = subprocess.run({command!r}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
print(done.stdout)
assert done.returncode == 0, done.stdout
"""
    said = in_private_kernel(student, code, timeout_s=200)

    assert "41 passed" in said, said
    assert "skipped" not in said, said
