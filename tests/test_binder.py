"""What repo2docker reads, held equal to what everybody else reads."""

import os
import runpy
import subprocess

import yaml

import bootstrap
from bootstrap import ROOT


def test_binder_has_the_same_environment_as_conda_users():
    """repo2docker reads binder/ alone when that folder exists, so the root's list is repeated there."""
    assert (ROOT / "binder/environment.yml").read_text() == (ROOT / "environment.yml").read_text()


def test_environment_installs_exactly_the_locked_versions():
    """One resolution for pip, conda and Binder."""
    *_, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]

    assert {"pip": bootstrap.locked()} == pip


def test_environment_names_a_python_that_we_support():
    """repo2docker's own default is older than ours."""
    python, *_ = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    version = tuple(int(part) for part in python.removeprefix("python=").split("."))

    assert version >= bootstrap.OLDEST_PYTHON


def test_packages_are_listed_once_and_in_order():
    """A list that is kept sorted is one that a reader can check."""
    names = bootstrap.package_names((ROOT / "binder/apt.txt").read_text())

    assert names == sorted(set(names))


def test_post_build_can_be_run():
    """repo2docker executes the file itself; without the bit the build fails."""
    assert os.access(ROOT / "binder/postBuild", os.X_OK)
    subprocess.run(["bash", "-n", ROOT / "binder/postBuild"], check=True)


def test_summary_of_the_check_counts_and_names_what_failed():
    """Its last line is what a log is searched for."""
    check = runpy.run_path(str(ROOT / "tests/binder/check.py"))
    runs = [
        check["Run"]("00-welcome", 12.3, 250_000_000, ""),
        check["Run"]("lab01", 0, 0, "MachineError: no room\nin the cell\nrun()"),
    ]
    lines = check["table"](runs, "bookworm").splitlines()

    assert ["00-welcome", "12.3", "250"] == lines[1].split()
    assert lines[2].startswith("lab01")
    assert lines[2].endswith("MachineError: no room")
    assert "1 passed, 1 failed" == lines[-1]
