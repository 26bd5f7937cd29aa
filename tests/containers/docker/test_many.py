"""Many containers, one after the other and at once: all work and nothing is left."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from cnlab.clock import wait_until

pytestmark = [pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(600)]


def test_hundred_containers_in_a_row(docker):
    """Three rows side by side, every fifth container on the bridge; the fixture looks for what they leave."""

    def run(number):
        network = "bridge" if number % 5 == 0 else "none"
        return docker("run", "--rm", "--network", network, "busybox", "echo", str(number))

    with ThreadPoolExecutor(3) as rows:
        assert list(rows.map(run, range(100))) == [str(number) for number in range(100)]


def test_fifty_containers_at_once(docker):
    """All asked for at the same moment, all alive at the same moment, and removed side by side."""

    def start(number):
        name = f"many{number}"
        options = ["--name", name, "--hostname", name, "--network", "none"]
        docker("run", "-d", *options, "busybox", "sh", "-c", "hostname; sleep 300")

    def ask(number):
        return docker("exec", f"many{number}", "hostname")

    with ThreadPoolExecutor(50) as clients:
        list(clients.map(start, range(50)))
        running = docker("ps", "--quiet").split()
        answers = list(clients.map(ask, range(50)))
    wait_until(lambda: docker("logs", "many49") == "many49", timeout_s=60)

    assert len(running) == 50
    assert answers == [f"many{number}" for number in range(50)]
