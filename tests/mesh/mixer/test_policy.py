"""Policies in the path of requests: a real Envoy asks, Rego answers, who cannot be judged is denied."""

import asyncio
import contextlib
import json
import threading
from pathlib import Path

import pytest
from one_envoy import SERVICES, Services, ask, envoy, listener, manager, upstream

from cnlab.clock import wait_until
from cnlab.mesh.mixer.policy import FILTER, Authorizer, Decision, ext_authz_filter, ext_authz_per_route
from cnlab.mesh.mixer.verdict import InvalidRego
from cnlab.mesh.pilot import resources

GET_ONLY = 'package mesh\nallow if input.request.method == "GET"'
JASON_ONLY = 'package mesh\ndefault allow := false\nallow if input.request.headers["end-user"] == "jason"'
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SLOW = """package mesh
allow if {
	input.request.path == "/ratings/slow"
	some a in numbers.range(1, 10000)
	some b in numbers.range(1, 10000)
	a + b == 0
}
"""


def routes():
    """Each path asks for the policy of its service; ``/open`` for none."""
    asked = {
        f"/{service}": {"typed_per_filter_config": {FILTER: ext_authz_per_route(service)}}
        for service in ("ratings", "details", "nobody")
    }
    return [
        *({**resources.route("app", {"prefix": path}), **words} for path, words in asked.items()),
        resources.route("app"),
    ]


@pytest.fixture(scope="module")
def sidecar():
    """An Envoy that asks an authorizer, which each test fills anew."""
    authorizer = Authorizer(size=5, now=lambda: 1000.0)
    filters = [{**ext_authz_filter(SERVICES), "disabled": True}]
    inbound = listener("inbound", [{"filters": [manager("inbound", routes(), filters)]}])
    with (
        Services(authorizer) as services,
        upstream() as app,
        envoy([inbound], app=app, services=services.port) as services.port_of,
    ):
        services.authorizer = authorizer
        yield services


@pytest.fixture
def authorizer(sidecar):
    """The authorizer, without policies and without a past."""
    sidecar.authorizer.replace({})
    sidecar.authorizer.counts.clear()
    yield sidecar.authorizer
    sidecar.authorizer.replace({})


def request(sidecar, path, **words):
    """Send a request to the sidecar."""
    return ask(sidecar.port_of("inbound"), path, **words)


def test_policy_decides_before_the_app_is_asked(sidecar, authorizer):
    """The application has no line of code for it."""
    authorizer.set("ratings", GET_ONLY)
    allowed = request(sidecar, "/ratings/0")
    denied = request(sidecar, "/ratings/0", method="PUT")

    assert (200, "echo-v1") == (allowed.status, allowed.headers["x-served-by"])
    assert 403 == denied.status
    assert "x-served-by" not in denied.headers


def test_denial_says_which_policy_and_why(sidecar, authorizer):
    """Who gets a 403 must learn whom to ask; a silent one costs an afternoon."""
    authorizer.set("ratings", GET_ONLY)
    denied = request(sidecar, "/ratings/0", method="DELETE")

    assert "denied by policy 'ratings': allow is undefined\n" == denied.body
    assert denied.headers["content-type"].startswith("text/plain")


def test_each_service_has_its_own_policy(sidecar, authorizer):
    """What ratings denies may be fine for details."""
    authorizer.replace({"ratings": JASON_ONLY, "details": GET_ONLY})
    jason = {"end-user": "jason"}
    statuses = [
        request(sidecar, "/ratings").status,
        request(sidecar, "/ratings", headers=jason).status,
        request(sidecar, "/details").status,
    ]

    assert [403, 200, 200] == statuses


def test_route_without_policy_is_not_asked_about(sidecar, authorizer):
    """The filter costs nothing where it is switched off."""
    assert 200 == request(sidecar, "/open").status
    assert not authorizer.counts


def test_service_whose_policy_is_not_known_is_denied(sidecar, authorizer):
    """A control plane that has just been restarted must not let everybody in."""
    denied = request(sidecar, "/nobody")

    assert 403 == denied.status
    assert "no policy for 'nobody' is known" in denied.body
    assert 1 == authorizer.counts["nobody", "error"]


def test_policy_sees_the_words_of_envoy(sidecar, authorizer):
    """What the documentation of the input promises is there, with the path as it came."""
    authorizer.set(
        "ratings",
        """package mesh
allow if {
	input.source.address == "127.0.0.1"
	input.source.principal == ""
	input.destination.service == "ratings"
	input.request.method == "GET"
	input.request.path == "/ratings/0?verbose=1"
	input.request.host == "ratings:9080"
	input.request.scheme == "http"
	input.request.protocol == "HTTP/1.1"
	input.request.headers["x-request-id"]
	input.request.id != ""
	input.request.time > 1700000000
}""",
    )
    answer = request(sidecar, "/ratings/0?verbose=1", headers={"Host": "ratings:9080"})

    assert (200, "") == (answer.status, answer.body if answer.status != 200 else "")


def test_decisions_are_kept_with_the_trace(sidecar, authorizer):
    """A denial in the log leads to the trace of the request, and the other way round."""
    authorizer.set("ratings", GET_ONLY)
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    request(sidecar, "/ratings/7", method="PUT", headers=headers)
    decision = authorizer.decisions[-1]

    assert (1000.0, "ratings", False, False) == (
        decision.time,
        decision.policy,
        decision.is_allowed,
        decision.is_error,
    )
    assert ("PUT", "/ratings/7", TRACE) == (decision.method, decision.path, decision.trace_id)
    assert decision == Decision.from_dict(json.loads(json.dumps(decision.as_dict())))


def test_log_of_decisions_is_bounded_and_counts_are_not(sidecar, authorizer):
    """A control plane runs for months."""
    authorizer.set("ratings", GET_ONLY)
    for _ in range(8):
        request(sidecar, "/ratings")

    assert 5 == len(authorizer.decisions)
    assert {("ratings", "allow"): 8} == authorizer.counts


def test_policy_that_does_not_parse_leaves_the_old_one_in_force(sidecar, authorizer):
    """A typing error opens no door and closes none."""
    authorizer.replace({"ratings": GET_ONLY, "details": GET_ONLY})
    with pytest.raises(InvalidRego, match="policy 'ratings', line 2"):
        authorizer.replace({"ratings": "package mesh\nallow if {\n"})

    assert {"ratings": GET_ONLY, "details": GET_ONLY} == authorizer.policies
    assert (200, 403) == (
        request(sidecar, "/ratings").status,
        request(sidecar, "/details", method="PUT").status,
    )


def test_error_in_a_policy_denies_and_is_counted_apart(sidecar, authorizer):
    """A policy that fails is a mistake of its author, to be found in the counts."""
    authorizer.set("ratings", 'package mesh\nallow if to_number(input.request.headers["age"]) > 17')
    statuses = [request(sidecar, "/ratings", headers={"age": age}).status for age in ("18", "old")]

    assert [200, 403] == statuses
    assert {("ratings", "allow"): 1, ("ratings", "error"): 1} == authorizer.counts


def test_slow_policy_holds_up_nobody_else(sidecar, authorizer):
    """The event loop that answers checks serves configuration too."""
    authorizer.replace({"ratings": SLOW, "details": GET_ONLY})
    slow = []
    thread = threading.Thread(target=lambda: slow.append(request(sidecar, "/ratings/slow")))
    thread.start()
    quick = request(sidecar, "/details")
    thread.join()

    assert 200 == quick.status
    assert 403 == slow[0].status
    assert "no verdict within 0.4 s of processor time" in slow[0].body


def test_removed_policy_leaves_neither_thread_nor_process(sidecar, authorizer):
    """Policies come and go for as long as a control plane runs."""
    before = evaluators()
    authorizer.set("details", GET_ONLY)
    new = evaluators() - before
    request(sidecar, "/details")
    authorizer.remove("details")

    assert {} == authorizer.policies
    assert 1 == len(new)
    wait_until(lambda: not new & evaluators(), timeout_s=30, what="the end of the policy's process")
    gone = lambda: "rego details" not in {thread.name for thread in threading.enumerate()}  # noqa: E731
    wait_until(gone, timeout_s=30, what="the end of the policy's thread")


def evaluators():
    """The pids of the processes that evaluate policies for us."""
    files = Path("/proc/self/task").glob("*/children")
    children = {pid for file in files for pid in file.read_text().split()}
    found = set()
    for pid in children:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"rego_evaluator" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
    return found


def test_unchanged_policy_is_not_read_again():
    """All of the configuration is sent on every change."""
    authorizer = Authorizer()
    authorizer.set("ratings", GET_ONLY)
    before = authorizer._policies["ratings"]
    authorizer.replace({"ratings": GET_ONLY, "details": GET_ONLY})

    assert before is authorizer._policies["ratings"]


def test_sidecar_denies_when_nobody_answers(sidecar, authorizer):
    """Killing the control plane must not open what it guards."""
    filters = [ext_authz_filter("app")]  # an upstream that is no gRPC server at all
    chains = [{"filters": [manager("inbound", routes(), filters)]}]
    with envoy([listener("inbound", chains)], node="ratings-v1-1") as port:
        assert 403 == ask(port("inbound"), "/ratings").status


def test_verdict_needs_no_envoy():
    """The same question in a notebook's cell."""
    authorizer = Authorizer()
    authorizer.set("ratings", GET_ONLY)
    verdict = asyncio.run(authorizer.decide("ratings", {"request": {"method": "GET"}}))
    authorizer.replace({})

    assert verdict.is_allowed
