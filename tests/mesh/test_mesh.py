"""An application in a mesh: what is said to it is what real requests do."""

import json
from collections import Counter

import pytest
import yaml

from cnlab.apps import bookinfo
from cnlab.apps.deployment import exchange
from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh import Mesh
from cnlab.mesh.observability.exposition import OPENMETRICS, check_openmetrics

PATHS = {"reviews": "/reviews/0", "ratings": "/ratings/0", "details": "/details/0"}


def ask(mesh, service, **how):
    return mesh.get(PATHS[service], to=service, **how)


def test_request_comes_through_gateway_and_sidecars_to_four_services(mesh):
    """The page needs them all."""
    page = mesh.get("/api/page").json()

    assert {} == page["errors"]
    assert {"details", "reviews"} <= page.keys()


def test_weights_share_out_requests(mesh):
    """A canary gets its part, and nobody else."""
    mesh.route("reviews", weights={"v1": 80, "v3": 20})
    served = Counter(ask(mesh, "reviews").served_by for _ in range(100))

    assert {"reviews-v1", "reviews-v3"} == set(served)
    assert 60 < served["reviews-v1"] < 95


def test_header_steers_a_request(mesh):
    """Jason sees version 2, everybody else version 1."""
    mesh.route("reviews", to="v1")
    mesh.route("reviews", match={"headers": {"end-user": "jason"}}, to="v2")

    assert "reviews-v2" == ask(mesh, "reviews", headers={"end-user": "jason"}).served_by
    assert "reviews-v1" == ask(mesh, "reviews").served_by


def test_route_acts_in_the_middle_of_the_mesh(mesh):
    """The gateway asks productpage, productpage's sidecar decides which version of reviews answers."""
    for version in ("v1", "v3", "v2"):
        mesh.route("reviews", to=version)

        assert f"reviews-{version}" == ask(mesh, "reviews", from_="productpage").served_by


def test_fault_delays_and_aborts_without_the_app(mesh):
    """Envoy answers by itself: flag FI, and the app has not been asked."""
    before = mesh.counts()["ratings"]
    mesh.fault("ratings", abort={"http_status": 418})
    response = ask(mesh, "ratings", from_="reviews")

    assert (418, "FI", before) == (
        response.status,
        response.headers["x-response-flags"],
        mesh.counts()["ratings"],
    )


def test_fault_of_a_rule_spares_other_requests(mesh):
    """Chaos under control: only for the user who tests."""
    mesh.route(
        "ratings",
        match={"headers": {"end-user": "jason"}},
        fault={"abort": {"http_status": 503, "percentage": 100}},
    )

    assert 503 == ask(mesh, "ratings", headers={"end-user": "jason"}).status
    assert 200 == ask(mesh, "ratings").status


def test_timeout_ends_a_request(mesh):
    """504, and the flag says that it was a timeout upstream."""
    mesh.slow("ratings", seconds=1)
    mesh.route("ratings", timeout="0.1s")
    response = ask(mesh, "ratings")

    assert (504, "UT") == (response.status, response.headers["x-response-flags"])


def test_retries_are_counted_where_they_arrive(mesh):
    """One request, three more attempts."""
    mesh.fail("ratings", rate=1.0)
    mesh.route("ratings", retries={"num_retries": 3, "retry_on": "5xx"})
    before = mesh.counts()["ratings"]

    assert 503 == ask(mesh, "ratings").status
    assert 4 == mesh.counts()["ratings"] - before


def test_mirror_gets_a_copy_of_each_request(mesh):
    """And its answers are dropped."""
    before = mesh.sidecars["reviews-v3-0"].stats(r"http\.inbound\.downstream_rq_total")
    mesh.route("reviews", to="v1", mirror={"to": "v3", "percent": 100})
    served = {ask(mesh, "reviews").served_by for _ in range(5)}
    name = "http.inbound.downstream_rq_total"

    assert {"reviews-v1"} == served
    wait_until(
        lambda: (
            mesh.sidecars["reviews-v3-0"].stats(name.replace(".", r"\.")).get(name, 0) - before.get(name, 0)
            >= 5
        ),
        timeout_s=20,
        what="five copies",
    )


def test_circuit_breaker_refuses_what_is_too_much(mesh):
    """A slow service is asked for one thing at a time; the others hear at once that it is busy: flag UO."""
    mesh.slow("ratings", seconds=0.5)
    mesh.cluster(
        "ratings", circuit_breakers={"max_requests": 1, "max_pending_requests": 1, "max_connections": 1}
    )
    result = mesh.load(PATHS["ratings"], to="ratings", concurrency=8, requests=8)

    assert result.statuses[503] > 0
    assert "UO" in result.flags


def test_outlier_is_ejected(mesh):
    """One of three versions fails; after three failures it is asked no more."""
    mesh.fail("reviews-v2-0", rate=1.0, status=500)
    mesh.cluster(
        "reviews",
        outlier_detection={
            "consecutive_5xx": 3,
            "interval": "0.2s",
            "base_ejection_time": "30s",
            "max_ejection_percent": 50,
        },
    )
    assert 500 in {ask(mesh, "reviews").status for _ in range(3)}

    wait_until(
        lambda: {ask(mesh, "reviews").status for _ in range(20)} == {200},
        timeout_s=25,  # before it is let in again
        what="twenty answers without an error",
    )


def test_strict_mode_refuses_plain_text(mesh):
    """From outside nobody gets in; between sidecars nothing changes."""
    assert 200 == ask(mesh, "ratings", from_="outside").status
    mesh.mtls("strict")

    with pytest.raises(ConnectionError):
        ask(mesh, "ratings", from_="outside")
    assert 200 == ask(mesh, "ratings", from_="reviews").status


def test_modes_change_under_load_without_a_failed_request(mesh):
    """Sidecars take both while callers change over."""
    with mesh.loading(PATHS["reviews"], to="reviews", concurrency=4) as running:
        for mode in ("disable", "strict", "disable", "permissive"):
            mesh.mtls(mode)

    assert {200} == set(running.result.statuses)
    assert not running.result.failures


def test_policy_decides_on_the_very_next_request(mesh):
    """By the identity in the caller's certificate, not by what it says in a header."""
    mesh.policy(
        "ratings", 'package mesh\nimport rego.v1\nallow if endswith(input.source.principal, "/sa/reviews")'
    )

    assert 200 == ask(mesh, "ratings", from_="reviews").status
    assert 403 == ask(mesh, "ratings", from_="productpage").status
    mesh.unpolicy("ratings")
    assert 200 == ask(mesh, "ratings", from_="productpage").status


def test_path_is_judged_as_the_app_will_read_it(mesh):
    """``//ratings/0`` is ``/ratings/0``: another spelling is no way around a policy."""
    mesh.policy("ratings", 'package mesh\nimport rego.v1\nallow if input.request.path == "/ratings/0"')

    assert 200 == mesh.get("/x/..//ratings/0", to="ratings").status
    assert 403 == mesh.get("/ratings/1", to="ratings").status


def test_rate_limit_counts_each_source_by_itself(mesh):
    """Two for reviews, two for productpage."""
    mesh.rate_limit("ratings", requests=2, per="day", by="source")
    statuses = {
        source: [ask(mesh, "ratings", from_=source).status for _ in range(3)]
        for source in ("reviews", "details")
    }

    assert {"reviews": [200, 200, 429], "details": [200, 200, 429]} == statuses


def test_local_rate_limit_needs_nobody(mesh):
    """The bucket is in the sidecar."""
    mesh.local_rate_limit("ratings", requests=1, per="day")

    assert [200, 429] == [ask(mesh, "ratings").status for _ in range(2)]


def test_host_outside_is_reached_once_it_is_known(mesh):
    """Egress is a decision of the mesh too."""
    outside = mesh.control_plane.url.removeprefix("http://")
    assert 404 == mesh.get("/metrics", to="example.org", from_="reviews").status
    mesh.external("example.org", [outside])

    assert 200 == mesh.get("/metrics", to="example.org", from_="reviews").status
    mesh.unexternal("example.org")


def test_ingress_rules_replace_what_the_gateway_leads_where(mesh):
    """What is not led anywhere is not there."""
    mesh.ingress(
        [{"match": {"prefix": "/ratings"}, "service": "ratings"}, {"direct_response": {"status": 404}}]
    )

    assert [200, 404] == [mesh.get(path).status for path in ("/ratings/0", "/productpage")]
    mesh.uningress()
    assert 200 == mesh.get("/productpage").status


def test_changes_in_a_block_are_sent_at_once(mesh):
    """Two verbs, one version."""
    before = mesh.control_plane.status()["version"]
    with mesh.changes():
        mesh.route("reviews", to="v3")
        mesh.fault("ratings", abort={"http_status": 500})

    assert before + 1 == mesh.control_plane.status()["version"]
    assert ["reviews-v3", 500] == [ask(mesh, "reviews").served_by, ask(mesh, "ratings").status]


def test_block_that_ends_with_an_error_sends_nothing(mesh):
    """Half of what was meant is not what was meant."""
    before = mesh.configuration

    with pytest.raises(InvalidValue), mesh.changes():  # noqa: PT012 - the block is what is tested
        mesh.route("reviews", to="v3")
        mesh.route("reviews", to="v4")

    assert before == mesh.configuration


def test_change_can_be_printed_in_envoys_words(mesh):
    """What a student reads is what a sidecar got."""
    change = mesh.route("reviews", weights={"v1": 90, "v2": 10})
    outbound, ingress = yaml.safe_load_all(str(change))

    assert ["outbound", "ingress"] == [outbound["name"], ingress["name"]]
    assert ["reviews"] == [host["name"] for host in outbound["virtual_hosts"]]
    assert {"outbound", "ingress"} == {one["name"] for one in json.loads(change.to_json())}


def test_istio_manifests_are_taken(mesh):
    """What works here works there."""
    mesh.apply(
        """
        apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: ratings}
        spec:
          hosts: [ratings]
          http:
          - fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
            route: [{destination: {host: ratings}}]
        """
    )

    assert 418 == ask(mesh, "ratings").status


def test_instance_that_is_stopped_gets_no_requests_and_loses_none(mesh):
    """First endpoints go, then the process."""
    mesh.scale("ratings", "v1", 2)
    with mesh.loading(PATHS["ratings"], to="ratings", from_="reviews", rate=100) as running:
        mesh.stop_instance("ratings-v1-1")
        mesh.start_instance("ratings-v1-1")
        mesh.scale("ratings", "v1", 1)

    assert {200} == set(running.result.statuses)
    assert not running.result.failures
    assert ["ratings-v1-0"] == [one.name for one in mesh.instances if one.service == "ratings"]


def test_nodes_and_their_versions_are_known(mesh):
    """Seven proxies; each has said of each type what it accepted."""
    mesh.route("reviews", to="v1")

    assert {"ingressgateway", *(one.name for one in mesh.instances)} == set(mesh.versions)
    assert {"CDS", "EDS", "LDS", "RDS", "SDS"} == set(mesh.versions["reviews-v1-0"])
    assert not mesh.nacks


def test_access_log_tells_both_ends_of_a_call(mesh):
    """Who called is in the certificate, what came of it in the response."""
    ask(mesh, "ratings", from_="reviews", headers={"x-request-id": "11111111-2222-4333-8444-555555555555"})

    def of_this_request():
        return {one.reporter: one for one in mesh.access_log() if one.request_id.startswith("11111111-2222")}

    found = wait_until(lambda: len(of_this_request()) == 2 and of_this_request(), timeout_s=20)
    assert ("reviews", "ratings", 200) == (
        found["destination"].source,
        found["destination"].destination,
        found["destination"].status,
    )


def test_saturation_is_what_waits_for_an_answer(mesh):
    """The one golden signal that no log of finished requests has."""

    def in_flight():
        signals = mesh.golden_signals()
        return signals["ratings"].saturation if "ratings" in signals else 0

    mesh.slow("ratings", seconds=1)
    with mesh.loading(PATHS["ratings"], to="ratings", from_="reviews", concurrency=3):
        wait_until(lambda: in_flight() == 3, timeout_s=20, what="3 in flight")

    wait_until(lambda: in_flight() == 0, timeout_s=20, what="none in flight")


def test_window_leaves_out_what_was_before_it(mesh):
    """Else the requests of the last hour would be those "of the last second"."""
    ask(mesh, "ratings", from_="reviews")
    wait_until(lambda: mesh.edges() and "ratings" in mesh.golden_signals(), timeout_s=20)

    assert "ratings" not in mesh.golden_signals(window_s=0.001)
    assert [] == mesh.edges(window_s=0.001)


def test_trace_goes_through_all_services(mesh):
    """Apps pass on one header, sidecars do the rest."""
    before = {trace.trace_id for trace in mesh.traces()}
    mesh.get("/productpage")

    def services():
        fresh = [trace for trace in mesh.traces() if trace.trace_id not in before]
        return {span.service for trace in fresh for _, span in trace.walk()}

    expected = {"ingressgateway", "productpage", "details", "reviews"}
    wait_until(lambda: expected <= services(), timeout_s=20, what=f"{expected} in one trace")


def test_metrics_of_the_control_plane_are_openmetrics(mesh):
    """Prometheus scrapes it like everything else."""
    address = mesh.control_plane.url.removeprefix("http://")
    answer = exchange(address, "GET", "/metrics", {"accept": OPENMETRICS})

    assert "pilot_xds" in check_openmetrics(answer.body)


def test_certificates_rotate_and_the_proxy_presents_the_new_one(mesh):
    """By SDS, without a restart."""
    instance = next(one for one in mesh.instances if one.service == "ratings")
    before = instance.sidecar.certificate(instance.address, mesh.ports.inbound)
    mesh.rotate_certificates("ratings")

    wait_until(
        lambda: before != instance.sidecar.certificate(instance.address, mesh.ports.inbound),
        timeout_s=20,
        what="the new certificate",
    )
    assert 200 == ask(mesh, "ratings", from_="reviews").status


def test_memory_is_told_by_part_and_fits_a_small_machine(mesh):
    """Six instances, their sidecars and the gateway within 2 GB."""
    memory = mesh.memory_bytes

    assert memory["total"] == sum(size for part, size in memory.items() if part != "total")
    assert 50e6 < memory["total"] < 2e9


@pytest.mark.parametrize("discovery", ["sotw", "files"])
def test_sidecars_learn_the_same_in_another_way(discovery):
    """The state of the world over gRPC, or files that they watch."""
    with Mesh(bookinfo(), discovery=discovery, tracing=False) as mesh:
        for version in ("v2", "v3", "v1"):
            mesh.route("reviews", to=version)

            assert f"reviews-{version}" == ask(mesh, "reviews").served_by


@pytest.mark.parametrize("order", ["app-first", "proxy-first"])
def test_one_of_app_and_sidecar_waits_for_the_other(order):
    """The timeline shows it."""
    with Mesh(bookinfo(2), start_order=order) as mesh:
        when = {event: moment for moment, event in mesh.timeline}
        apps = [moment for event, moment in when.items() if event.endswith("app ready")]
        sidecars = [moment for event, moment in when.items() if event.endswith("sidecar live")]

        assert (max(apps) < min(sidecars)) == (order == "app-first")
        assert 200 == mesh.get("/productpage").status


@pytest.mark.as_student
def test_student_needs_no_rights():
    """The ordinary kernel of a student's account."""
    with Mesh(bookinfo()) as mesh:
        assert 200 == mesh.get("/productpage").status
