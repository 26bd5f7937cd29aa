"""Istio's AuthorizationPolicy: what is accepted, and what a real Envoy makes of it."""

import pytest
import yaml
from one_envoy import ask, envoy, from_files, listener, manager, put_secrets, tls_client, upstream

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.authority import CertificateAuthority
from cnlab.mesh.auth.mtls import inbound_filter_chains, inbound_listener_filters
from cnlab.mesh.mixer.rbac import FILTER_NAMES, check, rbac_filters, rbac_per_route
from cnlab.mesh.pilot import packing, resources

REVIEWS = "cluster.local/ns/default/sa/reviews"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"


def policy(spec, name="p"):
    """Return a manifest for the service ratings."""
    selector = {"matchLabels": {"app": "ratings"}}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name},
        "spec": {"selector": selector, **(yaml.safe_load(spec) or {})},
    }


VIEWER = f"""
action: ALLOW
rules:
- from: [{{source: {{principals: ["{REVIEWS}"]}}}}]
  to: [{{operation: {{methods: [GET], paths: ["/ratings/*"]}}}}]
"""
NO_ADMIN = """
action: DENY
rules:
- to: [{operation: {paths: ["/admin", "/admin/*"]}}]
"""
JASON = """
action: DENY
rules:
- when: [{key: "request.headers[end-user]", notValues: [jason, "test-*"]}]
"""

# by the name of a case: the policies, and who sends what with which result
CASES = {
    "no policy lets everybody in": ([], [("GET /ratings/0", None, 200), ("PUT /x", "details", 200)]),
    "an ALLOW policy lets in what it matches and nobody else": (
        [VIEWER],
        [
            ("GET /ratings/0", "reviews", 200),
            ("GET /ratings/0?full=1", "reviews", 200),
            ("GET /ratings/0", "details", 403),
            ("GET /ratings/0", None, 403),
            ("PUT /ratings/0", "reviews", 403),
            ("GET /health", "reviews", 403),
        ],
    ),
    "an ALLOW policy without rules lets nobody in": (["action: ALLOW"], [("GET /", "reviews", 403)]),
    "an empty policy lets nobody in": (["{}"], [("GET /", "reviews", 403)]),
    "an empty rule matches everything": (["rules: [{}]"], [("GET /", "reviews", 200), ("GET /", None, 200)]),
    "a DENY policy without rules denies nothing": (["action: DENY"], [("GET /", None, 200)]),
    "a DENY policy alone lets in what it does not match": (
        [NO_ADMIN],
        [("GET /ratings/0", None, 200), ("GET /admin", "reviews", 403), ("GET /admin/x", None, 403)],
    ),
    "DENY wins over ALLOW, whatever their order": (
        ["rules: [{}]", NO_ADMIN],
        [("GET /admin", "reviews", 403), ("GET /ratings/0", "reviews", 200)],
    ),
    "two ALLOW policies let in what either matches": (
        [VIEWER, "rules: [{to: [{operation: {paths: [/health]}}]}]"],
        [("GET /health", None, 200), ("GET /ratings/0", "reviews", 200), ("GET /x", "reviews", 403)],
    ),
    "any of the sources and any of the operations will do": (
        [
            f"""
rules:
- from: [{{source: {{principals: [{REVIEWS}]}}}}, {{source: {{principals: ["*/sa/details"]}}}}]
  to: [{{operation: {{methods: [GET]}}}}, {{operation: {{paths: ["*.json"]}}}}]
"""
        ],
        [
            ("GET /x", "reviews", 200),
            ("GET /x", "details", 200),
            ("PUT /x.json", "details", 200),
            ("PUT /x", "reviews", 403),
            ("GET /x", "productpage", 403),
        ],
    ),
    "all words of one operation must hold": (
        ["rules: [{to: [{operation: {methods: [GET, PUT], notPaths: [/secret], ports: ['8080']}}]}]"],
        [("GET /x", None, 403)],
    ),
    "a port is that of the service, wherever its sidecar listens": (
        ["action: DENY\nrules: [{to: [{operation: {ports: ['9080'], methods: [PUT]}}]}]"],
        [("PUT /x", None, 403), ("GET /x", None, 200)],
    ),
    "another port is never asked for": (
        ["rules: [{to: [{operation: {notPorts: ['9080', '8080']}}, {operation: {paths: [/y]}}]}]"],
        [("GET /x", None, 403), ("GET /y", None, 200)],
    ),
    "what is negated must not hold": (
        ["rules: [{to: [{operation: {methods: [GET, PUT], notPaths: [/secret, '/x/*']}}]}]"],
        [("GET /y", None, 200), ("PUT /y", None, 200), ("GET /secret", None, 403), ("GET /x/1", None, 403)],
    ),
    "any identity is asked for with a star": (
        ["rules: [{from: [{source: {principals: ['*']}}]}]"],
        [("GET /", "details", 200), ("GET /", None, 403)],
    ),
    "a caller without identity has no principal to be named": (
        [f"action: DENY\nrules: [{{from: [{{source: {{notPrincipals: ['{REVIEWS}']}}}}]}}]"],
        [("GET /", "reviews", 200), ("GET /", "details", 403), ("GET /", None, 403)],
    ),
    "a namespace is a part of the identity": (
        ["rules: [{from: [{source: {namespaces: [default]}}]}]"],
        [("GET /", "reviews", 200), ("GET /", None, 403)],
    ),
    "another namespace is another": (
        ["rules: [{from: [{source: {namespaces: [prod, 'def', '*fault1']}}]}]"],
        [("GET /", "reviews", 403)],
    ),
    "an address is one of a block": (
        ["rules: [{from: [{source: {ipBlocks: [127.0.0.0/8]}}]}]"],
        [("GET /", None, 200)],
    ),
    "an address is not of another block": (
        ["rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 192.0.2.1]}}]}]"],
        [("GET /", None, 403)],
    ),
    "a condition looks at a header": (
        [JASON],
        [
            ("GET / jason", None, 200),
            ("GET / test-7", None, 200),
            ("GET / eve", None, 403),
            ("GET /", None, 403),
        ],
    ),
    "conditions are joined with sources": (
        [
            f"""
rules:
- from: [{{source: {{principals: [{REVIEWS}]}}}}]
  when:
  - {{key: "request.headers[end-user]", values: [jason]}}
  - {{key: source.ip, notValues: [10.0.0.0/8]}}
"""
        ],
        [("GET / jason", "reviews", 200), ("GET / jason", "details", 403), ("GET / eve", "reviews", 403)],
    ),
    "a condition names the caller": (
        [f"rules: [{{when: [{{key: source.principal, values: ['{REVIEWS}']}}]}}]"],
        [("GET /", "reviews", 200), ("GET /", None, 403)],
    ),
    "a host is written in letters of any size": (
        ["rules: [{to: [{operation: {hosts: [Ratings]}}]}]"],
        [("GET /", None, 200)],
    ),
}


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory):
    """One Envoy that has the policies of every case; the header ``x-case`` of a request chooses."""
    directory = tmp_path_factory.mktemp("rbac")
    authority = CertificateAuthority.open(directory / "private")
    put_secrets(directory, authority.issue("ratings"), authority.bundle)
    routes = []
    for number, (specs, _) in enumerate(CASES.values()):
        manifests = [policy(spec, f"p{index}") for index, spec in enumerate(specs)]
        header = [{"name": "x-case", "string_match": {"exact": str(number)}}]
        route = resources.route("app", {"prefix": "/", "headers": header})
        routes.append({**route, "typed_per_filter_config": rbac_per_route(manifests, "ratings")})
    filters = [resources.extension(name, RBAC) for name in FILTER_NAMES]
    chains = inbound_filter_chains("permissive", [manager("inbound", routes, filters)], resources.ADS)
    words = {"listener_filters": inbound_listener_filters("permissive")}
    inbound = listener("inbound", from_files(chains, directory), **words)
    with upstream() as app, envoy([inbound], app=app) as port:
        clients = {name: tls_client(authority.bundle, authority.issue(name)) for name in SERVICES}

        def send(case, request, caller):
            method, path, user = [*request.split(), ""][:3]
            headers = {"x-case": str(case), "Host": "ratings", **({"end-user": user} if user else {})}
            tls = clients.get(caller)
            return ask(port("inbound"), path, method=method, headers=headers, tls=tls).status

        yield send


SERVICES = ("reviews", "details", "productpage")


@pytest.mark.parametrize("case", CASES)
def test_envoy_decides_as_istio_says(sidecar, case):
    """What works here works there, and what is denied here is denied there."""
    _, requests = CASES[case]
    number = list(CASES).index(case)
    statuses = [(request, caller, sidecar(number, request, caller)) for request, caller, _ in requests]

    assert requests == statuses


def test_policy_for_another_service_is_not_ours():
    """Each sidecar gets its own policies only."""
    assert [] == rbac_filters([policy(VIEWER)], "details")


def test_policy_without_selector_is_for_all():
    """Istio: all workloads of the namespace."""
    manifest = policy(VIEWER)
    del manifest["spec"]["selector"]

    assert 1 == len(rbac_filters([manifest], "details"))


def test_two_policies_of_one_name_are_refused():
    """One would silently take the place of the other; which one denied, nobody could tell."""
    with pytest.raises(InvalidValue, match="AuthorizationPolicy/p: two policies have this name"):
        rbac_filters([policy(NO_ADMIN), policy(VIEWER)], "ratings")


def test_filters_are_envoys_and_deny_stands_first():
    """They are printed for students, who look them up in Envoy's documentation."""
    filters = rbac_filters([policy(VIEWER, "viewer"), policy(NO_ADMIN, "no-admin")], "ratings")
    rules = [one["typed_config"]["rules"] for one in filters]
    for one in filters:
        packing.to_any(one["typed_config"]["@type"], one["typed_config"])

    assert list(FILTER_NAMES) == [one["name"] for one in filters]
    assert ["DENY", "ALLOW"] == [one["action"] for one in rules]
    assert ["ns[default]-policy[viewer]-rule[0]"] == list(rules[1]["policies"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("action: AUDIT", "AuthorizationPolicy/p: spec.action 'AUDIT'; supported: DENY, ALLOW"),
        (
            "rule: []",
            "AuthorizationPolicy/p: spec.rule is not supported here; supported: action, rules, selector",
        ),
        (
            "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
            "spec.rules[0].from[0].source.requestPrincipals is not supported here; supported: ",
        ),
        ("rules: [{}, {to: [{operation: {verbs: [GET]}}]}]", "spec.rules[1].to[0].operation.verbs"),
        (
            "rules: [{when: [{key: 'request.auth.claims[x]', values: [a]}]}]",
            "'request.auth.claims[x]' is not",
        ),
        ("rules: [{when: [{key: source.ip}]}]", "neither values nor notValues"),
        ("rules: [{to: [{operation: {paths: ['/a*b']}}]}]", "'/a*b': a * may only be the first or the last"),
        ("rules: [{to: [{operation: {paths: ['/{*}/x']}}]}]", "path template '/{*}/x'"),
        ("rules: [{to: [{operation: {paths: []}}]}]", "expected a list with at least one value"),
        ("rules: [{to: [{operation: {paths: /x}}]}]", "expected a list with at least one value, got '/x'"),
        ("rules: [{to: [{operation: {}}]}]", "spec.rules[0].to[0].operation: says nothing"),
        ("rules: [{to: [{operation: {ports: [http]}}]}]", "port 'http' is no number"),
        ("rules: [{from: [{source: {ipBlocks: [10.0.0.256]}}]}]", "ipBlocks: '10.0.0.256'"),
        ("selector: {matchLabels: {version: v1}}", "spec.selector.matchLabels.version is not supported"),
        ("selector: [ratings]", "spec.selector: expected words and values"),
        ("rules: {from: []}", "spec.rules: expected a list"),
        ("rules: [from]", "spec.rules[0]: expected words and values, got 'from'"),
    ],
)
def test_word_that_is_not_understood_is_refused(spec, words):
    """A rule that is half understood lets in whom it should keep out."""
    with pytest.raises(InvalidValue) as refusal:
        check(policy(spec))

    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        (
            {"kind": "VirtualService", "metadata": {"name": "x"}},
            "VirtualService/x: not an AuthorizationPolicy",
        ),
        ({}, "manifest/: not an AuthorizationPolicy"),
        ({"kind": "AuthorizationPolicy", "spec": {}}, "AuthorizationPolicy/: metadata.name is missing"),
        (
            {"kind": "AuthorizationPolicy", "metadata": {"name": "x", "namespace": "prod"}},
            "metadata.namespace 'prod'; the mesh has 'default' only",
        ),
    ],
)
def test_manifest_of_something_else_is_refused(manifest, words):
    """One line says what it is."""
    with pytest.raises(InvalidValue) as refusal:
        check(manifest)

    assert words in str(refusal.value)
