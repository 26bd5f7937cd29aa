"""What a test needs of its machine, and what becomes of it where that is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS_PS = f"{Path(__file__).parent}/linux/test_processes.py::test_ps_sees_the_same_process"


@pytest.mark.parametrize(("required", "becomes"), [("", "1 skipped"), ("root", "1 error")])
def test_missing_program_skips_unless_all_is_required(required, becomes):
    """Without root nobody can install it; where root runs the tests it should be there."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            NEEDS_PS,
        ],
        env={**os.environ, "PATH": "/nowhere", "CNLAB_REQUIRE": required},
        capture_output=True,
        text=True,
    )

    assert "this machine lacks ps: not installed; run by root, `make test` installs it" in done.stdout
    assert becomes in done.stdout.splitlines()[-1]
