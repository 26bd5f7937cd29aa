"""One Envoy process: its life, its admin interface, and what is left of it."""

import re
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh import addresses
from cnlab.mesh.addresses import Ports
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.errors import PortTaken, ProgramEnded

ADMIN = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}


@pytest.fixture(scope="module")
def proxy():
    """An Envoy that does nothing, for those who only look."""
    with Proxy("idle", {"admin": ADMIN}) as proxy:
        yield proxy


def test_proxy_is_live_when_the_block_begins(proxy):
    """Nobody has to wait, or to guess how long."""
    assert 1 == proxy.stats()["server.live"]


def test_statistics_are_numbers_picked_by_a_regular_expression(proxy):
    """There are hundreds."""
    assert {"server.live": 1, "server.concurrency": 1} == proxy.stats(r"^server\.(live|concurrency)$")


def test_wrong_regular_expression_is_told_in_envoys_words(proxy):
    """Not as if no statistic matched."""
    with pytest.raises(InvalidValue, match=r"idle: /stats: Invalid re2 regex"):
        proxy.stats("(")


def test_configuration_it_runs_with_can_be_read(proxy):
    """What the control plane sent is one thing, what the proxy has another."""
    kinds = [one["@type"].rpartition(".")[2] for one in proxy.config_dump()["configs"]]

    assert "BootstrapConfigDump" in kinds


def test_memory_counts_shared_pages_in_parts(proxy):
    """The program is 100 MB; a dozen proxies on one machine share it."""
    resident = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{proxy.pid}/status").read_text())[1]) * 1024

    assert 0 < proxy.memory_bytes <= resident


def test_killed_proxy_says_so_and_comes_back():
    """The same name, the same bootstrap, another process."""
    with Proxy("killed", {"admin": ADMIN}) as proxy:
        before = proxy.pid
        proxy.kill()
        assert not proxy.is_running
        (proxy.directory / "killed.log").write_text("an old refusal\n")
        with pytest.raises(ProgramEnded, match=r"killed: Envoy does not run: killed by signal 9$"):
            proxy.stats()
        proxy.restart()

        assert proxy.is_live
        assert before != proxy.pid


def test_bootstrap_with_an_unknown_field_is_told_in_envoys_words():
    """The log has it on one line of many."""
    proxy = Proxy("wrong", {"admin": ADMIN, "static_resource": {}})

    with pytest.raises(ProgramEnded, match=r"wrong: Envoy has ended: .* no such field: 'static_resource'"):
        proxy.__enter__()


def test_bootstrap_without_admin_is_refused():
    """Without it nobody could say whether the proxy is live."""
    with pytest.raises(InvalidValue, match=r"bootstrap of mute: admin.address has neither"):
        Proxy("mute", {})


def test_proxy_that_never_starts_makes_no_directory(monkeypatch, tmp_path):
    """To describe one costs nothing."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    Proxy("described", {"admin": ADMIN})

    assert [] == list(tmp_path.iterdir())


def test_nothing_is_left_of_a_proxy():
    """No process, no file."""
    with Proxy("gone", {"admin": ADMIN}) as proxy:
        pid, directory = proxy.pid, proxy.directory

    assert not Path(f"/proc/{pid}").exists()
    assert not directory.exists()


@pytest.mark.as_student
def test_proxy_needs_no_rights():
    """A student's account, nothing more."""
    with Proxy("plain", {"admin": ADMIN}) as proxy:
        assert proxy.is_live


def test_proxy_dies_with_whoever_started_it():
    """A notebook's kernel may be killed; a hundred proxies must not stay behind."""
    code = f"""
import os, signal
from cnlab.mesh.data_plane.proxy import Proxy
with Proxy("orphan", {{"admin": {ADMIN!r}}}) as proxy:
    print(proxy.pid, proxy.directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    pid, directory = done.stdout.split()

    wait_until(lambda: has_ended(int(pid)), timeout_s=30, what=f"process {pid} to end")
    wait_until(lambda: not Path(directory).exists(), timeout_s=30, what=f"{directory} to be removed")


def test_proxy_outlives_the_thread_that_restarted_it():
    """The kernel's death signal means the thread, and buttons of a widget may run in one that ends."""
    with Proxy("threaded", {"admin": ADMIN}) as proxy:
        thread = threading.Thread(target=proxy.restart)
        thread.start()
        thread.join()

        assert proxy.stats("server.live")


def test_networks_of_two_meshes_differ():
    """Two notebooks run at once, each with its own 127.X.Y.0/24."""

    with addresses.reserve(Ports()) as one, addresses.reserve(Ports()) as two:
        assert one.network != two.network


def test_port_that_somebody_has_on_all_addresses_is_named():
    """One line that says address, port and what for, and how to go on."""
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]

        expected = rf"0\.0\.0\.0:{port} is taken, .* 'gateway'"
        with pytest.raises(PortTaken, match=expected) as caught, addresses.reserve(Ports(gateway=port)):
            pass

    assert f"Ports(gateway={port + 1})" in caught.value.__notes__[0]


def has_ended(pid):
    """Whether the process is gone, or only its exit code is left for somebody to read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
