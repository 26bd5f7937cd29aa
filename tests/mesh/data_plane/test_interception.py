"""Packets of a pod are led to its sidecar, and neither app nor caller knows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from private_kernel import in_private_kernel

from cnlab.mesh.addresses import Ports
from cnlab.mesh.data_plane import interception

ROOT = Path(__file__).parents[3]


def test_sidecars_own_packets_are_left_alone_before_all_others_are_redirected():
    """In the other order the sidecar would talk to itself for ever."""
    lines = interception.rules(Ports()).splitlines()
    spared = lines.index("-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN")

    assert spared < lines.index("-A ISTIO_OUTPUT -p tcp -j ISTIO_REDIRECT")


def test_ports_of_the_sidecar_itself_can_be_reached():
    """Prometheus asks at 15090 for the sidecar's metrics, not for the app's."""
    assert "-A ISTIO_INBOUND -p tcp -m multiport --dports 15001,15006,15090 -j RETURN" in interception.rules(
        Ports()
    )


def test_every_service_has_an_address_of_its_own():
    """As in a cluster; an app looks a name up and connects."""
    text = interception.hosts(["front", "reviews"])

    assert "127.0.0.1\tlocalhost\n10.96.0.1\tfront\n10.96.0.2\treviews\n" == text


IN_PODS = """
import json
from cnlab.apps import bookinfo
from cnlab.mesh import Mesh

with Mesh(bookinfo(), transparent=True) as mesh:
    said = {"told": mesh.instances[0].environment["REVIEWS_ADDR"]}
    said["errors"] = mesh.get("/api/page").json()["errors"]
    mesh.route("reviews", to="v3")
    said["served by"] = mesh.get("/reviews/0", to="reviews", from_="productpage").served_by
    mesh.fault("ratings", abort={"http_status": 418})
    said["fault"] = mesh.get("/ratings/0", to="ratings", from_="reviews").status
    mesh.unfault("ratings")
    said["at the app's own port"] = mesh.get("/ratings/0", to="ratings", from_="outside").status
    mesh.mtls("strict")
    said["inside, strict"] = mesh.get("/ratings/0", to="ratings", from_="reviews").status
    try:
        mesh.get("/ratings/0", to="ratings", from_="outside")
    except ConnectionError:
        said["at the app's own port, strict"] = "refused"
    print(json.dumps(said))
"""


@pytest.mark.needs_root
def test_application_in_pods_uses_plain_names_and_is_in_the_mesh_all_the_same():
    """And nobody gets past the sidecar: what comes for the app's own port is led to it too.

    It runs in a network namespace that stands for the host, so that nothing of it is seen outside.
    """
    script = f"ip link set lo up && exec {sys.executable} -c '{IN_PODS}'"
    command = ["unshare", "--net", "sh", "-c", script.replace("app's", "app'\"'\"'s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr

    assert {
        "told": "reviews:9080",
        "errors": {},
        "served by": "reviews-v3",
        "fault": 418,
        "at the app's own port": 200,
        "inside, strict": 200,
        "at the app's own port, strict": "refused",
    } == json.loads(done.stdout)


REDIRECTED = f"""
import subprocess, sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from cnlab.errors import MissingFeature
from cnlab.mesh.addresses import Ports
from cnlab.mesh.data_plane.interception import PodNetwork, require_wide_addresses

SIDECAR = '''
import socket, sys
sys.path.insert(0, {str(ROOT)!r})
from cnlab.mesh.data_plane.interception import original_destination
with socket.create_server(("0.0.0.0", 15001)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    print(*original_destination(connection))
    connection.sendall(b"hello from the sidecar")
    connection.close()
'''
APP = 'import socket; print(socket.create_connection(("reviews", 9080)).recv(100).decode())'

try:
    require_wide_addresses()
except MissingFeature as error:
    print(error)

with tempfile.TemporaryDirectory() as directory:
    with PodNetwork(["front", "reviews"], Ports(), Path(directory)) as pods:
        place = pods.take("front-v1-0")
        as_sidecar = [*place.enter, sys.executable, "-c", SIDECAR]
        with subprocess.Popen(as_sidecar, stdout=subprocess.PIPE, text=True) as sidecar:
            sidecar.stdout.readline()
            as_app = [*place.enter[:3], "--mount", sys.executable, "-c", APP]
            print(subprocess.run(as_app, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
            print(sidecar.stdout.read().strip())
"""


@pytest.mark.needs_uml
def test_private_kernel_redirects_to_a_sidecar_that_knows_where_a_connection_was_going(student):
    """In a kernel of the student's own, who is no root elsewhere; a few lines of Python are the sidecar.

    Envoy cannot be: page tables of three levels are too few for its allocator, and that is said in one line.
    """
    assert [
        "envoy: its memory allocator needs addresses of 47 bits, this kernel has 39",
        "hello from the sidecar",
        "10.96.0.2 9080",
    ] == in_private_kernel(student, REDIRECTED).splitlines()
