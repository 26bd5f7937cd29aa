"""Manifests in the form of Istio's own samples, and what they come to; what is not understood is refused."""

from __future__ import annotations

import pytest
import yaml
from mesh.istio.samples import BOOKINFO_GATEWAY, DESTINATION_RULE

from cnlab.errors import InvalidValue
from cnlab.mesh.istio import Manifests, Plan
from cnlab.mesh.istio.subset import SUBSET, as_text, check, seconds

SERVICES = {
    "productpage": ("v1",),
    "details": ("v1",),
    "reviews": ("v1", "v2", "v3"),
    "ratings": ("v1",),
}
EMPTY = Manifests(SERVICES, "productpage")

CANARY = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
  - reviews
  http:
  - route:
    - destination:
        host: reviews
        subset: v1
      weight: 90
    - destination:
        host: reviews.default.svc.cluster.local
        subset: newest
      weight: 10
"""
JASON = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: ratings
spec:
  hosts:
  - ratings
  http:
  - match:
    - headers:
        end-user:
          exact: jason
    fault:
      delay:
        percentage:
          value: 100.0
        fixedDelay: 7s
    route:
    - destination:
        host: ratings
  - route:
    - destination:
        host: ratings
"""
GATEWAY = f"""{BOOKINFO_GATEWAY}---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: bookinfo
spec:
  hosts:
  - "*"
  gateways:
  - bookinfo-gateway
  http:
  - match:
    - uri:
        exact: /productpage
    - uri:
        prefix: /static
    route:
    - destination:
        host: productpage
        port:
          number: 9080
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: istio-system
spec:
  mtls:
    mode: STRICT
"""
SERVICE_ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: books
spec:
  hosts:
  - books.example
  location: MESH_EXTERNAL
  resolution: STATIC
  ports:
  - number: 80
    name: http
    protocol: HTTP
  endpoints:
  - address: 127.0.0.1
    ports:
      http: 8999
"""


def plan_of(*texts: str, manifests: Manifests = EMPTY) -> Plan:
    return manifests.apply("\n---\n".join(texts))[1]


def options_of(plan: Plan, method: str) -> list[dict]:
    return [dict(call.options) for call in plan if call.method == method]


def changed(text: str, path: str, value: object) -> str:
    """Return the manifest with another value at a path such as ``spec.http.0.timeout``."""
    manifest = place = yaml.safe_load(text)
    *way, last = [int(word) if word.isdigit() else word for word in path.split(".")]
    for step in way:
        place = place[step]
    place[last] = value
    return yaml.safe_dump(manifest)


# VirtualService and DestinationRule


def test_subset_becomes_the_version_that_its_label_names():
    """A subset's name is free; what counts is the label that instances carry."""
    (route,) = options_of(plan_of(DESTINATION_RULE, CANARY), "route")

    assert {"v1": 90, "v3": 10} == route["weights"]


def test_order_of_documents_does_not_matter():
    """Kubernetes keeps objects, not a script."""
    assert str(plan_of(DESTINATION_RULE, CANARY)) == str(plan_of(CANARY, DESTINATION_RULE))


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_older_versions_of_the_api_are_read(version):
    """Samples of many years are around; the fields are the same."""
    old = DESTINATION_RULE.replace("istio.io/v1", f"istio.io/{version}")

    assert len(plan_of(old, CANARY)) == len(plan_of(DESTINATION_RULE, CANARY))


def test_rule_says_istios_defaults_where_envoys_differ():
    """Without them a manifest would wait 15 s at most here, and as long as it takes there."""
    (route,) = options_of(plan_of(DESTINATION_RULE, CANARY), "route")

    assert "0s" == route["timeout"]
    assert 2 == route["retries"]["num_retries"]
    assert "connect-failure,refused-stream,unavailable,cancelled" == route["retries"]["retry_on"]


def test_fault_belongs_to_the_rule_whose_match_it_stands_by():
    """Only jason waits."""
    first, default = options_of(plan_of(JASON), "route")

    assert {"headers": {"end-user": "jason"}} == first["match"]
    assert {"delay": {"fixed_delay": "7s", "percentage": 100.0}} == first["fault"]
    assert not {"match", "fault"} & set(default)


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ({"uri": {"prefix": "/a"}}, {"prefix": "/a"}),
        ({"uri": {"exact": "/a"}}, {"path": "/a"}),
        ({"uri": {"regex": "/a.*"}}, {"safe_regex": "/a.*"}),
        ({"headers": {"End-User": {"prefix": "j"}}}, {"headers": {"end-user": {"prefix": "j"}}}),
        ({"headers": {"end-user": {"regex": "j.*"}}}, {"headers": {"end-user": {"regex": "j.*"}}}),
        ({"method": {"exact": "GET"}}, {"method": "GET"}),
        ({"sourceLabels": {"app": "productpage"}}, {"source": "productpage"}),
    ],
)
def test_match_becomes_envoys_words(match, expected):
    """Each condition of the subset."""
    first, _ = options_of(plan_of(changed(JASON, "spec.http.0.match", [match])), "route")

    assert expected == first["match"]


def test_several_matches_are_several_rules():
    """The conditions in one match hold together, the matches of a list each for itself."""
    either = [{"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}]

    routes = options_of(plan_of(changed(JASON, "spec.http.0.match", either)), "route")

    assert [{"prefix": "/a"}, {"prefix": "/b"}, None] == [route.get("match") for route in routes]


def test_who_matches_no_rule_gets_404():
    """As in Istio: a VirtualService replaces the default route."""
    only_jason = changed(JASON, "spec.http", yaml.safe_load(JASON)["spec"]["http"][:1])

    *_, last = options_of(plan_of(only_jason), "route")

    assert {"direct_response": {"status": 404}} == last


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        ({"attempts": 0}, {"num_retries": 0}),
        ({"attempts": 3, "perTryTimeout": "200ms"}, {"num_retries": 3, "per_try_timeout": "0.2s"}),
        ({"attempts": 1, "retryOn": "5xx,reset"}, {"retry_on": "5xx,reset"}),
        (
            {"attempts": 1, "retryOn": "reset,503"},
            {"retry_on": "reset,retriable-status-codes", "retriable_status_codes": [503]},
        ),
    ],
)
def test_retries_become_envoys_words(retries, expected):
    """A number among the reasons is a status."""
    (route,) = options_of(plan_of(DESTINATION_RULE, changed(CANARY, "spec.http.0.retries", retries)), "route")

    assert expected.items() <= route["retries"].items()


def test_mirror_goes_to_a_subset_with_a_share():
    """The answer of the mirror is thrown away, so it may have any share."""
    rule = yaml.safe_load(CANARY)["spec"]["http"][0]
    rule |= {"mirror": {"host": "reviews", "subset": "v2"}, "mirrorPercentage": {"value": 12.5}}

    (route,) = options_of(plan_of(DESTINATION_RULE, changed(CANARY, "spec.http.0", rule)), "route")

    assert {"service": "reviews", "to": "v2", "percent": 12.5} == route["mirror"]


def test_abort_redirect_rewrite_and_direct_response_are_translated():
    """What answers in place of the service, or changes what it is asked."""
    abort = {"abort": {"httpStatus": 503, "percentage": {"value": 0.5}}}
    rules = [
        {"match": [{"uri": {"prefix": "/a"}}], "redirect": {"uri": "/b", "redirectCode": 302}},
        {"match": [{"uri": {"prefix": "/c"}}], "directResponse": {"status": 418, "body": {"string": "tea"}}},
        {"fault": abort, "rewrite": {"uri": "/d"}, "route": [{"destination": {"host": "ratings"}}]},
    ]

    first, second, third = options_of(plan_of(changed(JASON, "spec.http", rules)), "route")

    assert {"path": "/b", "code": 302} == first["redirect"]
    assert {"status": 418, "body": "tea"} == second["direct_response"]
    assert ({"prefix": "/d"}, {"abort": {"http_status": 503, "percentage": 0.5}}) == (
        third["rewrite"],
        third["fault"],
    )


def test_route_to_another_service_says_so():
    """The host that is asked for and the host that answers may differ."""
    other = changed(JASON, "spec.http.1.route", [{"destination": {"host": "details"}}])

    *_, last = options_of(plan_of(other), "route")

    assert "details" == last["to_service"]


def test_traffic_policy_becomes_envoys_circuit_breakers_and_outlier_detection():
    """Istio's words for the same thresholds, and its defaults: least request, no ejection by success rate."""
    policy = {
        "connectionPool": {
            "tcp": {"maxConnections": 1, "connectTimeout": "500ms"},
            "http": {"http1MaxPendingRequests": 2, "http2MaxRequests": 3, "maxRetries": 4},
        },
        "outlierDetection": {"consecutive5xxErrors": 1, "interval": "1s", "baseEjectionTime": "3m"},
        "tls": {"mode": "ISTIO_MUTUAL"},
    }

    (words,) = options_of(plan_of(changed(DESTINATION_RULE, "spec.trafficPolicy", policy)), "cluster")

    assert words == {
        "load_balancing": "LEAST_REQUEST",
        "connect_timeout": "0.5s",
        "circuit_breakers": {
            "max_connections": 1,
            "max_pending_requests": 2,
            "max_requests": 3,
            "max_retries": 4,
        },
        "outlier_detection": {
            "enforcing_success_rate": 0,
            "consecutive_5xx": 1,
            "enforcing_consecutive_5xx": 100,
            "interval": "1s",
            "base_ejection_time": "180s",
        },
        "tls": "istio_mutual",
    }


# The ways in and out, and who may speak


def test_gateway_gets_the_rules_of_its_virtual_service():
    """And the sidecars get none of them: it is bound to the gateway alone."""
    plan = plan_of(GATEWAY)

    (words,) = options_of(plan, "ingress")
    assert [{"path": "/productpage"}, {"prefix": "/static"}, None] == [
        rule.get("match") for rule in words["rules"]
    ]
    assert ("*",) == words["hosts"]
    assert [] == options_of(plan, "route")


def test_service_entry_names_the_endpoints_of_an_outside_host():
    """The port is that of the endpoint, by the name that the entry gives it."""
    (call,) = plan_of(SERVICE_ENTRY)

    assert "mesh.external('books.example', endpoints=['127.0.0.1:8999'])  # ServiceEntry/books" == str(call)


def test_peer_authentication_is_for_the_mesh_or_for_whom_it_selects():
    """Without a selector it is for all."""
    one = changed(STRICT, "spec.selector", {"matchLabels": {"app": "ratings"}})
    one = changed(one, "metadata.name", "ratings")

    assert ["mesh.mtls('strict')", "mesh.mtls('strict', service='ratings')"] == [
        str(call).partition("  #")[0] for call in plan_of(STRICT, one)
    ]


# What holds, and what changes


def test_applying_again_changes_nothing():
    """`kubectl apply` says "unchanged"; no proxy is bothered."""
    manifests, _ = EMPTY.apply(f"{DESTINATION_RULE}---{CANARY}")

    assert 0 == len(plan_of(CANARY, manifests=manifests))
    assert "nothing to do" == str(plan_of(CANARY, manifests=manifests))


def test_same_kind_and_name_replaces():
    """What the old one said must not shine through: the service's rules begin anew."""
    manifests, _ = EMPTY.apply(JASON)
    plan = plan_of(changed(JASON, "spec.http", [{"directResponse": {"status": 404}}]), manifests=manifests)

    assert ["unroute", "route"] == [call.method for call in plan]


def test_deleting_takes_back():
    """Each kind has its way back."""
    manifests, _ = EMPTY.apply("---".join([DESTINATION_RULE, JASON, GATEWAY, STRICT, SERVICE_ENTRY]))

    _, plan = manifests.delete("---".join([DESTINATION_RULE, JASON, GATEWAY, STRICT, SERVICE_ENTRY]))

    assert {"uncluster", "unroute", "uningress", "mtls", "unexternal"} == {call.method for call in plan}


def test_deleting_what_is_not_there_is_refused():
    """A typing mistake in a name must not pass for success."""
    with pytest.raises(InvalidValue, match="VirtualService/ratings: not found"):
        EMPTY.delete(JASON)


def test_subset_in_use_cannot_be_deleted():
    """Istio would answer 503 from then on; here it is said before."""
    manifests, _ = EMPTY.apply(f"{DESTINATION_RULE}---{CANARY}")

    with pytest.raises(InvalidValue, match="no DestinationRule has 'v1' of reviews; there are: none"):
        manifests.delete(DESTINATION_RULE)


def test_plan_can_be_read_before_it_is_run():
    """Each line is a call that a reader could have typed, and says where it comes from."""
    lines = str(plan_of(DESTINATION_RULE, CANARY)).splitlines()

    assert lines[0] == "mesh.uncluster('reviews')"
    assert lines[-1].startswith("mesh.route('reviews', weights={'v1': 90, 'v3': 10}, timeout='0s', ")
    assert lines[-1].endswith("  # VirtualService/reviews http[0]")


# Refusals


@pytest.mark.parametrize(
    ("text", "path", "value", "said"),
    [
        (CANARY, "spec.http.0.corsPolicy", {}, r"VirtualService/reviews: spec.http\[0\].corsPolicy is not"),
        (CANARY, "spec.tcp", [], "spec.tcp is not supported; supported there: hosts, gateways, http"),
        (CANARY, "spec.hosts", ["stars"], "host 'stars' is no service of this mesh; there are details, "),
        (CANARY, "spec.http.0.route.0.weight", 20, "route: the weights sum to 30, not to 100"),
        (CANARY, "spec.http.0.route.1.destination.subset", "v9", "no DestinationRule has 'v9' of reviews"),
        (CANARY, "spec.http.0.route.1.destination.host", "details", "no DestinationRule has 'newest'"),
        (CANARY, "spec.http.0.timeout", "fast", r"spec.http\[0\].timeout: expected a duration such as 2s"),
        (CANARY, "spec.http.0.timeout", 5, "expected a duration such as 2s or 500ms, got 5"),
        (CANARY, "spec.http.0.route.0.weight", "90", "expected a whole number, got '90'"),
        (CANARY, "spec.http.0.match", [{}], r"match\[0\] is empty: leave match out"),
        (CANARY, "spec.gateways", ["gate"], "there is no Gateway 'gate'; apply it first"),
        (CANARY, "metadata.namespace", "prod", "there is only one namespace here, default"),
        (CANARY, "apiVersion", "networking.istio.io/v2", "apiVersion 'networking.istio.io/v2' is not one of"),
        (JASON, "spec.http.0.fault.delay.percentage", {}, "fault.delay.percentage.value is missing"),
        (JASON, "spec.http.0.match.0.uri", {"prefix": "/a", "exact": "/a"}, "uri needs exactly one of exact"),
        (JASON, "spec.http.1.retries", {"perTryTimeout": "1s"}, "retries.attempts is missing"),
        (JASON, "spec.http.0.match", [], "never reached, the rule before it has no match"),
        (JASON, "spec.http.1.route.0.destination.port", {"number": 80}, "every service listens on 9080 here"),
        (DESTINATION_RULE, "spec.subsets.0.labels", {"version": "v9"}, "reviews has no 'v9'; there are v1, "),
        (DESTINATION_RULE, "spec.subsets.0.labels", {"tier": "a"}, "labels.tier is not supported"),
        (DESTINATION_RULE, "spec.trafficPolicy", {"tls": {"mode": "SIMPLE"}}, "expected one of ISTIO_MUTUAL"),
        (STRICT, "spec.mtls.mode", "strict", "PERMISSIVE, DISABLE, UNSET, got 'strict'"),
        (STRICT, "spec.selector", {"matchLabels": {"version": "v1"}}, "not supported; supported: app"),
        (SERVICE_ENTRY, "spec.resolution", "DNS", "spec.resolution: expected one of STATIC, got 'DNS'"),
        (SERVICE_ENTRY, "spec.hosts", ["ratings"], "ratings is a service of the mesh"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(text, path, value, said):
    """Kind, name, the field by its path, and what there may be: nobody has to guess."""
    manifests = EMPTY if text == DESTINATION_RULE else EMPTY.apply(DESTINATION_RULE)[0]

    with pytest.raises(InvalidValue, match=said) as caught:
        manifests.apply(changed(text, path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "the manifest is no YAML"),
        ("", "the manifest is empty"),
        ("- 1", "a document is no manifest"),
        ("apiVersion: apps/v1\nkind: Deployment", "kind 'Deployment' is not supported; supported: Virt"),
        ("apiVersion: networking.istio.io/v1\nkind: Gateway", "Gateway: metadata.name is missing"),
        (f"{JASON}---{JASON.replace('name: ratings', 'name: other', 1)}", "ratings has a VirtualService for"),
    ],
)
def test_text_that_holds_no_manifests_is_refused(text, said):
    """Before anything else is looked at."""
    with pytest.raises(InvalidValue, match=said):
        EMPTY.apply(text)


def test_manifests_stay_as_they_were_when_one_of_several_is_refused():
    """All documents of a text, or none."""
    with pytest.raises(InvalidValue):
        EMPTY.apply(f"{DESTINATION_RULE}---{changed(CANARY, 'spec.http.0.corsPolicy', {})}")

    assert {} == EMPTY.objects


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2s", 2.0), ("500ms", 0.5), ("1.5m", 90.0), ("1h", 3600.0), ("5", None), ("s", None)],
)
def test_durations_are_read_as_istio_writes_them(text, expected):
    """Envoy's JSON knows seconds only."""
    assert expected == seconds(text)


def test_list_of_the_subset_names_every_kind():
    """The page that readers see is made of the list that the code obeys."""
    assert list(SUBSET) == [line for line in as_text().splitlines() if not line.startswith(" ")]


def test_real_form_of_a_manifest_may_have_labels_and_annotations():
    """Metadata is for people and tools; only the name and the namespace matter here."""
    manifest = yaml.safe_load(CANARY)
    manifest["metadata"] |= {"labels": {"app": "reviews"}, "annotations": {"note": "canary"}}

    assert ("VirtualService", "reviews") == check(manifest)
