"""The diagram of a mesh: what is read of the live system, what is drawn of it and what its buttons do."""

from __future__ import annotations

from dataclasses import replace
from http.client import BadStatusLine
from types import SimpleNamespace

import pytest

from cnlab.apps import bookinfo
from cnlab.clock import wait_until
from cnlab.mesh import Mesh
from cnlab.mesh.errors import MeshError
from cnlab.widgets.mesh_diagram import MeshPanel, describe_mesh, draw_mesh
from cnlab.widgets.mesh_facts import TYPES, MeshFacts, Pod, read_mesh, requests_by_host
from cnlab.widgets.mimebundle import WIDGET_VIEW

VERSIONS = {"CDS": "4", "LDS": "2"}
GATEWAY = Pod("ingressgateway", "ingressgateway", "", versions=VERSIONS)
PAGE = Pod("productpage-v1-0", "productpage", "v1", versions=VERSIONS)
FACTS = MeshFacts(4711, (GATEWAY, PAGE), {("ingressgateway", "productpage-v1-0"): 30})


def cluster(name, address, total):
    """What Envoy says of a cluster of one host, as JSON."""
    stats = [{"name": "cx_total", "value": "1"}, {"name": "rq_total"}]
    stats[1] |= {"value": str(total)} if total else {}  # protobuf leaves out what is zero
    place = {"socket_address": {"address": address, "port_value": 15006}}
    return {"name": name, "host_statuses": [{"address": place, "stats": stats}]}


CLUSTERS = [
    cluster("outbound|9080||productpage", "127.7.7.10", 28),
    cluster("outbound|9080|v1|productpage", "127.7.7.10", 2),
    cluster("outbound|9080||details", "127.7.7.11", 0),
    cluster("inbound|9080||", "127.7.7.10", 30),
    cluster("xds-grpc", "127.7.7.1", 4),
    {"name": "outbound|9080||nobody"},
]


def proxy(name, clusters=(), *, is_running=True, connected=1):
    return SimpleNamespace(
        name=name,
        is_running=is_running,
        clusters=lambda: clusters,
        stats=lambda pattern: {"control_plane.connected_state": connected},
    )


@pytest.fixture
def mesh():
    """What `read_mesh` asks of a mesh, with answers like Envoy's."""
    plane = SimpleNamespace(
        is_running=True, pid=4711, kill=lambda: None, restart=lambda: None, status=lambda: {"nodes": {}}
    )
    return SimpleNamespace(
        gateway=proxy("ingressgateway", CLUSTERS),
        sidecars={"productpage-v1-0": proxy("productpage-v1-0")},
        instances=[
            SimpleNamespace(
                name="productpage-v1-0", service="productpage", version="v1", address="127.7.7.10"
            )
        ],
        control_plane=plane,
        versions={name: VERSIONS for name in ("ingressgateway", "productpage-v1-0")},
    )


def test_requests_are_counted_where_sidecars_count_them():
    """The control plane has no number to give: it has seen none of them."""
    assert {"127.7.7.10": 30, "127.7.7.11": 0} == requests_by_host(CLUSTERS)


def test_live_mesh_becomes_facts(mesh):
    """Names of instances take the place of addresses."""
    assert FACTS == read_mesh(mesh)


def test_real_mesh_is_drawn_as_it_is_and_as_it_is_left():
    """Envoy's words are read right, and the picture notices that nobody is above any more."""
    with Mesh(bookinfo()) as mesh:
        pages = [mesh.get("/productpage").status for _ in range(3)]
        alive = read_mesh(mesh)
        mesh.control_plane.kill()
        wait_until(lambda: not any(pod.has_stream for pod in read_mesh(mesh).pods), timeout_s=60)
        dead = read_mesh(mesh)

    assert [200] * 3 == pages
    assert 3 == alive.calls["ingressgateway", "productpage-v1-0"]
    assert 3 == sum(count for (_, to), count in alive.calls.items() if to.startswith("reviews"))
    assert all(pod.has_stream and pod.versions.keys() == set(TYPES) for pod in alive.pods)
    assert ("ingressgateway", "productpage-v1-0") == tuple(pod.name for pod in alive.pods[:2])
    assert (None, alive.calls) == (dead.control_plane_pid, dead.calls)


def test_dead_control_plane_has_no_process_and_no_stream(mesh):
    """Nothing is asked of it then; what was acknowledged before is still in force."""

    def ask():
        raise MeshError("control plane: not running")

    dead = SimpleNamespace(**vars(mesh) | {"control_plane": SimpleNamespace(is_running=False, status=ask)})
    dead.sidecars = {"productpage-v1-0": proxy("productpage-v1-0", connected=0)}
    facts = read_mesh(dead)

    assert facts.control_plane_pid is None
    assert not facts.pods[1].has_stream
    assert VERSIONS == facts.pods[1].versions


def test_sidecar_that_is_killed_is_drawn_and_not_asked(mesh):
    """Its admin port is gone with it."""
    mesh.sidecars = {"productpage-v1-0": SimpleNamespace(name="productpage-v1-0", is_running=False)}
    mesh.versions = {}

    assert "productpage-v1-0 with its sidecar not running" in draw_mesh(read_mesh(mesh)).alt


@pytest.mark.parametrize(
    "error", [MeshError("productpage-v1-0: Envoy does not run"), ConnectionRefusedError(), BadStatusLine("")]
)
def test_sidecar_that_ends_while_it_is_asked_is_drawn_as_not_running(mesh, error):
    """A picture of a mesh in which things die must not fail because something dies."""

    def end(pattern):
        raise error

    mesh.sidecars["productpage-v1-0"].stats = end

    assert [True, False] == [pod.is_running for pod in read_mesh(mesh).pods]


def test_only_refusals_that_stand_are_drawn(mesh):
    """One mistake that was taken back would else be red for ever."""
    nodes = {"ingressgateway": {"refusals": []}, "productpage-v1-0": {"refusals": [{"type": "RDS"}]}}
    mesh.control_plane.status = lambda: {"nodes": nodes}

    assert [0, 1] == [pod.nacks for pod in read_mesh(mesh).pods]


def test_words_say_what_the_picture_says():
    """They are all that a screen reader has."""
    expected = (
        "Control plane (Pilot, Auth, Mixer): process 4711; it touches no request. Data plane: "
        "ingressgateway with a stream, CDS 4 LDS 2; productpage-v1-0 with a stream, CDS 4 LDS 2. "
        "Requests between sidecars: ingressgateway to productpage-v1-0 30."
    )

    assert expected == describe_mesh(FACTS)


def test_refused_resources_are_told():
    """A NACK is what a reader has come for."""
    assert "CDS 4 LDS 2, 2 refused" in describe_mesh(replace(FACTS, pods=(replace(PAGE, nacks=2),)))


def test_button_kills_the_control_plane_and_the_picture_follows(mesh):
    """The control changes something real, and what is drawn is read anew."""
    mesh.control_plane.kill = lambda: setattr(mesh.control_plane, "is_running", False)
    panel = MeshPanel(mesh, lambda: "30 times 200")
    (tools, message, image) = panel._live(panel.picture()).children
    send, kill, _restart, _look = tools.children
    before = image.value
    send.click()
    assert "30 times 200" == message.value
    kill.click()

    assert "not running" in panel.picture().alt
    assert image.value != before


def test_what_goes_wrong_is_said_in_a_line(mesh):
    """Killing what is dead is a reader's first experiment."""

    def refuse():
        raise MeshError("control plane: not running")

    assert "control plane: not running" == MeshPanel(mesh, lambda: "").do(refuse)


def test_still_form_has_the_picture(mesh):
    """The book shows the same although no kernel runs there."""
    bundle = MeshPanel(mesh, lambda: "")._repr_mimebundle_()

    assert WIDGET_VIEW in bundle
    assert 'src="data:image/png;base64,' in bundle["text/html"]
    assert bundle["text/plain"].startswith("Control plane (Pilot, Auth, Mixer): process 4711")
