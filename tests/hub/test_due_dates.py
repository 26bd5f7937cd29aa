"""What a student reads beside an assignment; the file that JupyterLab loads, run by Node."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_programs("node")

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SCRIPT = Path(__file__).with_name("due_dates.mjs")


def shown(*left: timedelta) -> list[str]:
    """What stands there when that much time is left."""
    command = ["node", SCRIPT, NOW.isoformat(), *((NOW + one).isoformat() for one in left)]
    env = {"PATH": os.environ["PATH"], "TZ": "UTC", "LC_ALL": "en_US.UTF-8"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return done.stdout.replace("\u202f", " ").splitlines()


def test_time_that_is_left_is_told_in_a_unit_that_helps():
    """In the last hour it is minutes that count."""
    left = [timedelta(days=6), timedelta(hours=30), timedelta(minutes=90), timedelta(minutes=5)]

    assert shown(*left) == [
        "due Sun, Nov 29, 12:00 PM (in 6 days)",
        "due Tue, Nov 24, 6:00 PM (in 30 hours)",
        "due Mon, Nov 23, 1:30 PM (in 90 minutes)",
        "due Mon, Nov 23, 12:05 PM (in 5 minutes)",
    ]


def test_time_that_is_over_is_told_too():
    """Also when it is over since a moment."""
    over = [timedelta(seconds=-10), timedelta(hours=-3)]

    assert shown(*over) == [
        "was due Mon, Nov 23, 11:59 AM (0 minutes ago)",
        "was due Mon, Nov 23, 9:00 AM (3 hours ago)",
    ]
