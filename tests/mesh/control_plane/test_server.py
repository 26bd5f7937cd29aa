"""The control plane: what it makes of what it is told, and that a wrong word changes nothing."""

import asyncio
import contextlib
import json
import threading
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import small_mesh
from aiohttp.test_utils import make_mocked_request

from cnlab.apps.deployment import exchange
from cnlab.clock import wait_until
from cnlab.errors import CnlabError, InvalidValue, MissingFeature
from cnlab.mesh import addresses
from cnlab.mesh.addresses import Place, Ports
from cnlab.mesh.configuration import GATEWAY, Configuration, Workload
from cnlab.mesh.control_plane import api
from cnlab.mesh.control_plane import remote as remote_module
from cnlab.mesh.control_plane.api import Pages
from cnlab.mesh.control_plane.remote import RemoteControlPlane
from cnlab.mesh.control_plane.server import ControlPlane, serve
from cnlab.mesh.control_plane.wanted import Wanted
from cnlab.mesh.data_plane import instance
from cnlab.mesh.errors import ControlPlaneDown, ProgramEnded
from cnlab.mesh.pilot.registry import Endpoint, StaticRegistry
from cnlab.mesh.pilot.resources import CDS, EDS, RDS, SDS
from cnlab.mesh.pilot.subscription import Ack
from cnlab.mesh.settings import ControlPlaneSettings, Surroundings

SHOP = Configuration({"front": ("v1",), "reviews": ("v1", "v2")}, "front")
WORKLOADS = (
    Workload("front-v1-0", "front", "v1", "127.1.2.10"),
    Workload("reviews-v1-0", "reviews", "v1", "127.1.2.11"),
)


@pytest.fixture
def settings(tmp_path):
    """Those of a control plane that nobody has started."""
    return ControlPlaneSettings("127.1.2.1", str(tmp_path), Surroundings("127.1.2.2"))


@pytest.fixture
def remote(tmp_path):
    """A control plane in a process of its own, without any proxy."""
    with addresses.reserve(Ports()) as subnet:
        settings = ControlPlaneSettings(subnet.control_plane, str(tmp_path), Surroundings(subnet.gateway))
        remote = RemoteControlPlane(settings, tmp_path)
        remote.start()
        try:
            remote.wait_ready()
            yield remote
        finally:
            remote.kill()


def configured(settings, *wanted):
    """Return a control plane that has been told these things, one after the other."""

    async def tell():
        plane = ControlPlane(settings)
        for one in wanted:
            await plane.configure(one, timeout_s=0)
        return plane

    return asyncio.run(tell())


def test_every_workload_and_the_gateway_get_a_snapshot(settings):
    """Who is told of is served, before it connects."""
    plane = configured(settings, Wanted(SHOP, WORKLOADS))

    assert {"front-v1-0", "reviews-v1-0", GATEWAY} == {node for node in plane.discovery.status()}


def test_change_of_a_route_leaves_all_other_resources_as_they_are(settings):
    """So nothing but the route is sent, to any of them."""
    plane = configured(settings, Wanted(SHOP, WORKLOADS))
    before = plane.discovery.snapshot("front-v1-0")
    changed = Wanted(SHOP.route("reviews", to="v2"), WORKLOADS)
    asyncio.run(plane.configure(changed, timeout_s=0))
    after = plane.discovery.snapshot("front-v1-0")

    for kind in (CDS, EDS, SDS):
        assert list(before[kind].values()) == list(after[kind].values())
    assert before[RDS]["outbound"] is not after[RDS]["outbound"]
    assert before[RDS]["inbound"] is after[RDS]["inbound"]


def test_workload_that_is_not_ready_has_a_snapshot_and_gets_no_requests(settings):
    """Its sidecar must know the way before the app is asked for anything."""
    starting = Workload("reviews-v2-0", "reviews", "v2", "127.1.2.12", is_ready=False)
    plane = configured(settings, Wanted(SHOP, (*WORKLOADS, starting)))
    snapshot = plane.discovery.snapshot("reviews-v2-0")

    assert {"cluster_name": "outbound|9080|v2|reviews"} == {
        key: value
        for key, value in snapshot[EDS]["outbound|9080|v2|reviews"].to_dict().items()
        if key != "@type"
    }


def test_workload_that_is_gone_is_forgotten(settings):
    """A list of nodes that only grows says nothing."""
    plane = configured(settings, Wanted(SHOP, WORKLOADS), Wanted(SHOP, WORKLOADS[:1]))

    assert {"front-v1-0", GATEWAY} == set(plane.discovery.status())


@pytest.mark.parametrize(
    "wrong",
    [
        SHOP.route("reviews", retries={"retries": 3}),
        SHOP.cluster("reviews", circuit_breakers={"max_conns": 1}),
        SHOP.cluster("reviews", outlier_detection={"consecutive_5xx": "many"}),
        SHOP.policy("reviews", rego="package mesh\nallow if if"),
    ],
    ids=["retry policy", "thresholds", "outlier detection", "rego"],
)
def test_wrong_word_changes_nothing(settings, wrong):
    """All or nothing: neither a resource nor a policy of what was refused is in use."""
    good = Wanted(SHOP.policy("front", rego="package mesh"), WORKLOADS)
    plane = configured(settings, good)
    before = plane.discovery.snapshot("front-v1-0")

    with pytest.raises(CnlabError):
        asyncio.run(plane.configure(Wanted(wrong, WORKLOADS), timeout_s=0))

    assert before is plane.discovery.snapshot("front-v1-0")
    assert {"front": "package mesh"} == plane.authorizer.policies
    assert good == plane.wanted
    plane.authorizer.replace({})


def test_restarted_control_plane_is_the_same_authority(settings):
    """Its key lies in a private file; else every sidecar would distrust the others for a while."""
    bundles = {configured(settings, Wanted(SHOP, WORKLOADS)).authority.bundle for _ in range(2)}

    assert 1 == len(bundles)


def test_resources_are_the_same_after_a_restart_but_for_certificates(settings):
    """Versions are hashes, so a counter that begins anew confuses no sidecar."""
    first, second = (
        configured(settings, Wanted(SHOP, WORKLOADS)).discovery.snapshot("front-v1-0") for _ in range(2)
    )

    assert [one.version for one in first if one.type_url != SDS] == [
        one.version for one in second if one.type_url != SDS
    ]


def test_certificates_rotate_without_a_change_of_anything_else(settings):
    """Listeners and clusters name the secret only."""
    plane = configured(settings, Wanted(SHOP, WORKLOADS))
    before = plane.discovery.snapshot("reviews-v1-0")
    renewed = asyncio.run(plane.rotate("reviews"))
    after = plane.discovery.snapshot("reviews-v1-0")

    assert ["reviews"] == renewed
    assert before[SDS]["default"] is not after[SDS]["default"]
    assert [one for one in before if one.type_url != SDS] == [one for one in after if one.type_url != SDS]


def test_what_is_wrong_is_said_over_http_with_its_cause(remote):
    """One line: what was done, which resource, which word."""
    with pytest.raises(InvalidValue) as caught:
        remote.configure(
            SHOP.route("reviews", retries={"retries": 3}),
            list(WORKLOADS),
            timeout_s=1,
            cause="route(reviews)",
        )

    assert str(caught.value).startswith("route(reviews): route configuration 'outbound'")
    assert '"retries"' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hint_of_an_error_comes_along():
    """What to do about it is known where it was found, and needed where it is read."""

    async def page(_request):
        raise MissingFeature("Rego", "its evaluator lacks a library", hint="apt-get install it")

    answer = asyncio.run(api._say_what_is_wrong(make_mocked_request("PUT", "/config"), page))
    error = remote_module._failure(answer.status, answer.text, "policy(ratings)")

    assert "policy(ratings): Rego: its evaluator lacks a library" == str(error)
    assert ["Hint: apt-get install it"] == error.__notes__


def test_page_that_is_not_there_is_not_found(remote):
    """An answer of HTTP, not an error of ours."""
    address = remote.url.removeprefix("http://")

    assert 404 == exchange(address, "GET", "/status").status


def test_body_that_is_no_configuration_is_refused(remote):
    """Somebody may talk to it by hand."""
    with pytest.raises(InvalidValue, match="body of PUT /config: KeyError: 'services'"):
        remote.ask("PUT", "/config", {"configuration": {}, "workloads": []})


def test_dead_control_plane_is_named_with_its_socket(remote, tmp_path):
    """And what to do about it."""
    remote.kill()

    with pytest.raises(
        ControlPlaneDown, match=rf"GET /status: the control plane at unix:{tmp_path}/api.sock does not"
    ) as caught:
        remote.status()
    assert "mesh.control_plane.restart()" in caught.value.__notes__[0]


def test_restarted_control_plane_is_told_again_and_counts_from_one(remote):
    """It keeps nothing but its key."""
    for version in ("v1", "v2", "v1"):
        remote.configure(SHOP.route("reviews", to=version), list(WORKLOADS), timeout_s=0, cause="")
    assert 3 == remote.status()["version"]
    remote.kill()
    remote.restart()

    assert 1 == remote.status()["version"]
    assert {"front-v1-0", "reviews-v1-0", GATEWAY} == set(remote.status()["nodes"])


def test_control_plane_that_cannot_start_says_why(tmp_path):
    """Its log has the reason in its last line."""
    remote = RemoteControlPlane(
        ControlPlaneSettings("127.1.2.1", "/proc/nowhere", Surroundings("127.1.2.2")), tmp_path
    )
    remote.start()

    with pytest.raises(ProgramEnded, match=r"control plane: ended with code 1: .*nowhere"):
        remote.wait_ready()


def test_settings_survive_their_file(settings, tmp_path):
    """That is how the process gets them."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(asdict(settings)))

    assert settings == ControlPlaneSettings.read(file)


@contextlib.contextmanager
def serving(settings, registry):
    """Run the control plane in a thread of ours, with a registry that is not its own."""
    loop = asyncio.new_event_loop()
    task = loop.create_task(serve(settings, registry))
    thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.wait([task]),), name="serve")
    thread.start()
    try:
        wait_until(lambda: task.done() or settings.api_socket.exists(), timeout_s=30, what="its socket")
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        loop.close()


def test_endpoint_that_somebody_else_registers_gets_requests(tmp_path):
    """A cluster fills the registry, and nobody tells the control plane: it hears of it, and so do proxies."""
    registry = StaticRegistry()
    plain = Configuration({"front": ("v1",)}, "front", mtls="disable")
    with addresses.reserve(Ports()) as subnet, small_mesh.backend("v1") as app:
        surroundings = Surroundings(subnet.gateway, Ports(inbound=app.port))
        settings = ControlPlaneSettings(subnet.control_plane, str(tmp_path), surroundings)
        gateway = instance.proxy(GATEWAY, GATEWAY, Place(subnet.gateway), settings, tmp_path)
        with serving(settings, registry):
            remote = RemoteControlPlane(settings, tmp_path)
            remote.configure(plain, [], timeout_s=0, cause="")
            remote.stop()  # no process of its own, only the connection
            with gateway:
                assert "503" == small_mesh.ask(subnet.gateway, settings.ports.gateway)

                registry.add(Endpoint("front", app.address, 9080, {"version": "v1"}))

                wait_until(
                    lambda: small_mesh.ask(subnet.gateway, settings.ports.gateway) == "v1",
                    timeout_s=20,
                    what="a request to the new endpoint",
                )


def test_registry_that_fails_once_is_read_again(settings, caplog):
    """What a cluster answers is not ours to promise; the next change brings what was missed."""
    registry = StaticRegistry()
    new = Endpoint("front", "127.1.2.10", 9080, {"version": "v1"})

    async def change():
        plane = ControlPlane(settings, registry)
        await plane.configure(Wanted(SHOP, WORKLOADS), timeout_s=0)
        following = asyncio.create_task(plane.follow_registry())
        await asyncio.sleep(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "services", lambda: 1 / 0)
            registry.add(new)
            while not caplog.records:
                await asyncio.sleep(0.01)
        registry.add(replace(new, address="127.1.2.11"))
        while plane.version == 1:
            await asyncio.sleep(0.01)
        following.cancel()
        return plane.discovery.snapshot(GATEWAY)[EDS]["outbound|9080||front"].to_dict()

    made = asyncio.run(asyncio.wait_for(change(), 30))

    assert "nodes keep what they had" in caplog.text
    assert 2 == len(made["endpoints"][0]["lb_endpoints"])


def test_registry_as_it_was_sends_nothing(settings):
    """An update that says what is known, as clusters send them all the time, costs no sidecar anything."""

    async def tell():
        plane = ControlPlane(settings)
        following = asyncio.create_task(plane.follow_registry())
        await plane.configure(Wanted(SHOP, WORKLOADS), timeout_s=0)
        for _ in range(10):
            await asyncio.sleep(0)
        following.cancel()
        return plane.version

    assert 1 == asyncio.run(tell())


def test_refusal_is_told_even_if_the_way_back_is_not_answered(settings, monkeypatch):
    """Envoy's words are what the user needs; who is silent afterwards is another matter."""
    refusal = Ack("front-v1-0", "RDS", "2", "7", error="missing )")
    answers = iter([[refusal], TimeoutError("no answer")])

    async def settle(nodes, *, timeout_s):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    plane = configured(settings, Wanted(SHOP, WORKLOADS))
    monkeypatch.setattr(plane.discovery, "settle", settle)
    changed = Wanted(SHOP.route("reviews", to="v2"), WORKLOADS)

    assert [refusal] == asyncio.run(plane.configure(changed, timeout_s=1))
    assert SHOP == plane.wanted.configuration


@pytest.mark.parametrize("page", ["access_log", "traces"])
def test_long_answer_is_written_beside_the_event_loop(page):
    """There are thousands of records, and on the loop sidecars wait for what policies say."""
    goes_on = threading.Event()

    class Long:
        def as_dict(self):
            return {"does_loop_go_on": goes_on.wait(30)}

    plane = SimpleNamespace(
        access_log=SimpleNamespace(records=lambda since: [Long(), Long()]),
        traces=SimpleNamespace(traces=lambda: [Long(), Long()]),
    )

    async def ask():
        asked = asyncio.create_task(getattr(Pages(plane), page)(make_mocked_request("GET", "/")))
        await asyncio.sleep(0)
        goes_on.set()
        return json.loads((await asked).text)

    answer = asyncio.run(ask())
    assert [{"does_loop_go_on": True}] * 2 == (answer if page == "traces" else answer["records"])


class FailsOnce:
    """An authority whose disk is full, once."""

    def __init__(self, authority):
        self._authority = authority
        self.has_failed = False

    def issue(self, service, *, ttl_s):
        if not self.has_failed:
            self.has_failed = True
            raise OSError("No space left on device")
        return self._authority.issue(service, ttl_s=ttl_s)


def test_authority_that_fails_once_is_asked_again(settings, caplog):
    """Renewal that ends without a word is found an hour later, when nobody trusts anybody."""
    plane = configured(replace(settings, certificate_ttl_s=1.0), Wanted(SHOP, WORKLOADS))
    before = plane.discovery.snapshot("reviews-v1-0")[SDS]["default"]
    authority = plane.identities._authority = FailsOnce(plane.authority)

    async def renew():
        renewal = asyncio.create_task(plane.renew_certificates())
        async with asyncio.timeout(30):
            while plane.discovery.snapshot("reviews-v1-0")[SDS]["default"] is before:
                await asyncio.sleep(0.01)
        renewal.cancel()

    asyncio.run(renew())

    assert authority.has_failed
    assert "certificates could not be renewed" in caplog.text
