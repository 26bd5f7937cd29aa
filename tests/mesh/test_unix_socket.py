"""Who shares the machine with a mesh: another user gets its metrics, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

from cnlab.apps import bookinfo
from cnlab.mesh import Mesh
from cnlab.mesh.errors import MeshError
from cnlab.mesh.unix_socket import check_path

STRANGER = Path(__file__).with_name("stranger.py")
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def mesh():
    """A mesh of ours."""
    with Mesh(bookinfo()) as mesh:
        mesh.get("/productpage")
        yield mesh


def doors(mesh):
    """The arguments of a stranger: what an app or a sidecar serves is for everybody, and not looked at."""
    ports = mesh.ports
    network = mesh.instances[0].address
    served = (ports.app, ports.gateway, ports.inbound, ports.outbound)
    return [network.rpartition(".")[0] + ".", str(mesh.gateway.directory), *map(str, served)]


@pytest.mark.needs_root
def test_another_user_finds_metrics_only(mesh, student):
    """No key, no trace, no log of requests, no way to change or to stop anything."""
    done = student.run([sys.executable, str(STRANGER), *doors(mesh)], env={"PYTHONPATH": ROOT})
    opened = {line.partition(":")[2].partition(" ")[2] for line in done.stdout.splitlines()}

    assert {"GET /metrics", "GET /stats/prometheus"} == opened, done.stdout


def test_the_same_doors_open_for_whoever_runs_the_mesh(mesh):
    """So a stranger's questions are the right ones."""
    command = [sys.executable, str(STRANGER), *doors(mesh)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ROOT})
    directory = mesh.gateway.directory

    assert {
        f"unix:{directory}/xds.sock SDS",
        f"unix:{directory}/api.sock GET /traces",
        f"unix:{directory}/api.sock PUT /config",
        f"unix:{directory}/ratings-v1-0.sock GET /config_dump",
    } <= set(done.stdout.splitlines())


def test_path_that_no_socket_can_have_is_refused_at_once(monkeypatch, tmp_path):
    """The kernel has 108 bytes for it; one line says so, and what to do, before anything runs."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))

    with pytest.raises(MeshError, match=r"xds\.sock: the path of a UNIX socket may have 107 bytes") as caught:
        Mesh(bookinfo()).__enter__()
    assert "TMPDIR" in caught.value.__notes__[0]
    assert [] == list(deep.iterdir())


def test_longest_path_is_107_bytes():
    """And not characters."""
    check_path(Path("/" + "x" * 106))

    with pytest.raises(MeshError, match="this has 108"):
        check_path(Path("/" + "ü" + "x" * 105))
