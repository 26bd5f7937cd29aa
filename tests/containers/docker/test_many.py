"""Many containers, one after the other and at once: all work and nothing is left."""

from __future__ import annotations

import collections
from concurrent.futures import ThreadPoolExecutor

import pytest

from cnlab.clock import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]


def test_hundred_containers_in_a_row(docker):
    """The fixture looks for what they leave behind."""
    for number in range(100):
        assert docker("run", "--rm", "--network", "none", "busybox", "echo", str(number)) == str(number)


def test_fifty_containers_at_once(docker):
    """Made side by side, all alive at the same moment, and removed side by side."""

    def start(number):
        script = f"echo {number}; sleep 300"
        docker("run", "-d", "--name", f"many{number}", "--network", "none", "busybox", "sh", "-c", script)

    def ask(number):
        return docker("exec", f"many{number}", "cat", "/proc/1/cmdline").count(f"echo {number};")

    with ThreadPoolExecutor(10) as clients:
        list(clients.map(start, range(50)))
        running = docker("ps", "--quiet").split()
        answers = collections.Counter(clients.map(ask, range(50)))
    wait_until(lambda: docker("logs", "many49") == "49", timeout_s=10)

    assert len(running) == 50
    assert answers == {1: 50}
