"""Discovery by files, pure and with a real Envoy."""

import json
from contextlib import ExitStack

import pytest
from small_mesh import ask, backend, own_address, resources

from cnlab.clock import wait_until
from cnlab.mesh.data_plane import readers
from cnlab.mesh.data_plane.proxy import Proxy
from cnlab.mesh.pilot import files
from cnlab.mesh.pilot.bootstrap import file_bootstrap
from cnlab.mesh.pilot.registry import Endpoint
from cnlab.mesh.pilot.resources import CDS, EDS, RDS, SDS, assignment, static_cluster, tls_certificate
from cnlab.mesh.pilot.snapshot import Snapshot, pack

V1, V2 = Endpoint("v1", "127.0.0.1", 1), Endpoint("v2", "127.0.0.1", 2)


@pytest.fixture
def snapshot():
    return Snapshot.of("1", resources("127.0.0.1", "v1", V1, V2))


def test_files_are_plain_json_of_the_same_resources(tmp_path, snapshot):
    """A student can read and write them with an editor."""
    files.write(tmp_path, snapshot)

    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"cds.json", "lds.json", "eds/v1.json", "eds/v2.json", "rds/outbound.json"} == made
    v1 = json.loads((tmp_path / "eds/v1.json").read_text())
    assert [snapshot[EDS]["v1"].to_dict()] == v1["resources"]


def test_resource_takes_from_files_what_it_took_from_the_stream(tmp_path, snapshot):
    """Whoever makes resources need not know by which way they will go."""
    files.write(tmp_path, snapshot)

    (v1, _) = json.loads((tmp_path / "cds.json").read_text())["resources"]
    source = v1["eds_cluster_config"]["eds_config"]["path_config_source"]
    assert {"path": f"{tmp_path}/eds/v1.json", "watched_directory": {"path": f"{tmp_path}/eds"}} == source
    assert "ads" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_only_what_changed_is_written(tmp_path, snapshot):
    """Envoy reads a file again when it is renamed into its place, whatever it says."""
    files.write(tmp_path, snapshot)
    changed = snapshot.updated("2", pack(EDS, assignment("v2", [V1])))

    assert [tmp_path / "eds/v2.json"] == files.write(tmp_path, changed)
    assert [] == files.write(tmp_path, changed)


def test_what_others_name_is_written_before_them(tmp_path, snapshot):
    """Nobody reads of a cluster whose endpoints are not there."""
    written = files.write(tmp_path, snapshot)

    order = [path.name for path in written]
    assert order.index("v1.json") < order.index("cds.json") < order.index("outbound.json")
    assert "lds.json" == order[-1]


def test_file_of_what_is_gone_goes_too(tmp_path, snapshot):
    """A directory is what its snapshot says, and a private key that is not used does not lie about."""
    secret = {SDS: [tls_certificate("default", "PEM", "KEY")]}
    files.write(tmp_path, Snapshot.of("1", secret))
    assert 0o600 == (tmp_path / "sds/default.json").stat().st_mode & 0o777

    files.write(tmp_path, snapshot)

    assert [] == list((tmp_path / "sds").iterdir())


def test_name_with_a_slash_stays_in_its_directory(tmp_path):
    """A name is data, and data does not choose where a file goes."""
    bad = Snapshot.of("1", {CDS: [], EDS: [assignment("../../etc|x", [V1])]})
    files.write(tmp_path, bad)

    assert ["..%2F..%2Fetc|x.json"] == [path.name for path in (tmp_path / "eds").iterdir()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An Envoy that watches a directory; requests go to v1."""
    directory, address = tmp_path_factory.mktemp("xds"), own_address()
    with ExitStack() as stack:
        v1, v2 = (stack.enter_context(backend(name)) for name in ("v1", "v2"))
        before = Snapshot.of("1", resources(address, "v1", v1, v2))
        files.write(directory, before)
        start = file_bootstrap("n", "c", admin=("127.0.0.1", 0), directory=directory)
        proxy = stack.enter_context(Proxy("by-files", start))
        assert "v1" == ask(address)
        yield directory, address, proxy, before


def test_new_endpoint_is_seen_by_requests(world):
    """One file is renamed, nobody is told, and requests go there."""
    directory, address, _, before = world
    (there,) = before[EDS]["v2"].to_dict()["endpoints"]
    files.write(directory, before.updated("2", pack(EDS, {"cluster_name": "v1", "endpoints": [there]})))

    wait_until(lambda: ask(address) == "v2", timeout_s=30, what="Envoy to read the assignment")
    files.write(directory, before)
    wait_until(lambda: ask(address) == "v1", timeout_s=30, what="Envoy to read it again")


def test_new_route_and_cluster_are_seen_by_requests(world):
    """All types go this way."""
    directory, address, _, before = world
    (there,) = before[EDS]["v2"].to_dict()["endpoints"]
    place = there["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    new = pack(CDS, static_cluster("new", [(place["address"], place["port_value"])]))
    routes = before[RDS]["outbound"].to_dict()
    routes["virtual_hosts"][0]["routes"][0]["route"]["cluster"] = "new"
    files.write(directory, before.updated("2", new, pack(RDS, routes)))

    wait_until(lambda: ask(address) == "v2", timeout_s=30, what="Envoy to read the route")
    files.write(directory, before)
    wait_until(lambda: ask(address) == "v1", timeout_s=30, what="Envoy to read it again")


def test_versions_that_envoy_has_are_those_of_its_files(world):
    """That is how one sees that it has read them."""
    directory, _, proxy, _ = world

    assert readers.versions(directory).items() <= proxy.versions().items()


def test_refused_file_shows_in_statistics_only(world):
    """There is nobody to say no to; the old configuration serves."""
    directory, address, proxy, before = world
    bad = pack(CDS, static_cluster("bad", [("127.0.0.1", 1)], connect_timeout="-1s"))
    word = "cluster_manager.cds.update_rejected"
    already = proxy.stats(word).get(word, 0)
    files.write(directory, before.updated("2", bad))

    wait_until(lambda: proxy.stats(word).get(word, 0) > already, timeout_s=30, what="Envoy to refuse it")
    assert "v1" == ask(address)
    files.write(directory, before)
