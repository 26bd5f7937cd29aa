"""What people want, as plain data: verbs that change it, and what they refuse."""

import json

import pytest

from cnlab.errors import InvalidValue
from cnlab.mesh.auth import mtls
from cnlab.mesh.configuration import MODES, PERIODS, Configuration
from cnlab.mesh.mixer import quota

SHOP = Configuration({"front": ("v1",), "reviews": ("v1", "v2", "v3")}, "front")


def test_configuration_survives_json():
    """That is how it comes to the control plane."""
    wanted = (
        SHOP.route("reviews", weights={"v1": 90, "v2": 10})
        .route("reviews", match={"headers": {"end-user": "jason"}}, to="v2")
        .fault("reviews", abort={"http_status": 503, "percentage": 0.5})
        .policy("reviews", rego="package mesh")
        .rate_limit("front", requests=5, per="minute", by="source")
        .with_external("example.org", ("127.0.0.1:80",))
        .with_ingress([{"match": {"prefix": "/x"}, "service": "reviews", "to": "v3"}])
        .with_mtls("strict", "reviews")
    )

    assert wanted == Configuration.from_dict(json.loads(json.dumps(wanted.as_dict())))


def test_verb_leaves_the_old_configuration_alone():
    """The mesh goes back to it if a sidecar refuses the new one."""
    SHOP.route("reviews", to="v2")

    assert SHOP.settings == {}


def test_default_rule_keeps_what_is_not_said_anew():
    """A timeout set yesterday must not end because the weights change today."""
    rule = SHOP.route("reviews", timeout="2s").route("reviews", to="v2").of("reviews").default

    assert ("2s", {"v2": 100}) == (rule.timeout, rule.weights)


def test_rules_with_a_match_stay_in_the_order_of_their_coming():
    """The first that matches counts."""
    jason, tests = {"headers": {"end-user": "jason"}}, {"prefix": "/test"}
    both = SHOP.route("reviews", match=jason, to="v2").route("reviews", match=tests, to="v3")
    again = both.route("reviews", match=jason, to="v1")

    assert [(jason, {"v1": 100}), (tests, {"v3": 100})] == [
        (rule.match, rule.weights) for rule in again.of("reviews").rules
    ]


def test_policies_of_two_kinds_live_side_by_side():
    """Rego and Istio's AuthorizationPolicy are two filters; changing one must not open the other."""
    both = SHOP.policy("reviews", rego="package mesh").policy(
        "reviews", rbac=[{"kind": "AuthorizationPolicy"}]
    )

    assert "package mesh" == both.policy("reviews", rbac=[]).of("reviews").rego


WRONG = {
    "weights that sum to 110": (
        lambda: SHOP.route("reviews", weights={"v1": 60, "v2": 50}),
        "route(reviews): weights {'v1': 60, 'v2': 50} sum to 110, not to 100",
    ),
    "a negative weight": (
        lambda: SHOP.route("reviews", weights={"v1": 110, "v2": -10}),
        "route(reviews), weight of v2: expected a whole number, 0 or more, got -10",
    ),
    "an unknown service": (
        lambda: SHOP.route("review", to="v1"),
        "unknown service 'review'; there are front, reviews",
    ),
    "an unknown version": (
        lambda: SHOP.route("reviews", to="v4"),
        "reviews has no version 'v4'; there are v1, v2, v3",
    ),
    "a mirror to an unknown version": (
        lambda: SHOP.route("reviews", mirror={"to": "v9"}),
        "reviews has no version 'v9'; there are v1, v2, v3",
    ),
    "to and weights": (
        lambda: SHOP.route("reviews", to="v1", weights={"v2": 100}),
        "route(reviews): give either to or weights",
    ),
    "an unknown word": (
        lambda: SHOP.route("reviews", time_out="1s"),
        "route(reviews): unknown word 'time_out'; the words are to_service, weights, timeout, "
        "retries, mirror, fault, rewrite, redirect, direct_response, to",
    ),
    "a duration without its unit": (
        lambda: SHOP.route("reviews", timeout="500ms"),
        "route(reviews): timeout '500ms' is no duration such as '0.5s'",
    ),
    "an unknown word of a match": (
        lambda: SHOP.route("reviews", match={"header": {}}, to="v1"),
        "route(reviews), match: unknown word 'header'; the words are prefix, path, safe_regex, "
        "method, headers, source",
    ),
    "an unknown word of a rewrite": (
        lambda: SHOP.route("reviews", rewrite={"path": "/x"}),
        "route(reviews), rewrite: unknown word 'path'; the words are prefix, authority",
    ),
    "an unknown word of a redirect": (
        lambda: SHOP.route("reviews", redirect={"uri": "/x"}),
        "route(reviews), redirect: unknown word 'uri'; the words are path, prefix, host, code",
    ),
    "an unknown word of a direct response": (
        lambda: SHOP.route("reviews", direct_response={"text": "x"}),
        "route(reviews), direct_response: unknown word 'text'; the words are status, body",
    ),
    "a header that is no header": (
        lambda: SHOP.route("reviews", match={"headers": {"end user": "jason"}}, to="v1"),
        "route(reviews), match: 'end user' is no name of a header",
    ),
    "two ways to match a path": (
        lambda: SHOP.route("reviews", match={"path": "/a", "prefix": "/"}, to="v1"),
        "route(reviews), match: prefix and path exclude each other",
    ),
    "more than all": (
        lambda: SHOP.fault("reviews", abort={"http_status": 503, "percentage": 101}),
        "fault(reviews), abort: 101 is not from 0 to 100 percent",
    ),
    "a delay without length": (
        lambda: SHOP.fault("reviews", delay={"percentage": 10}),
        "fault(reviews), delay: fixed_delay is missing",
    ),
    "an unknown mode": (
        lambda: SHOP.with_mtls("on"),
        "mtls: unknown mode 'on'; the modes are strict, permissive, disable",
    ),
    "an endpoint without port": (
        lambda: SHOP.with_external("example.org", ("127.0.0.1",)),
        "external(example.org): '127.0.0.1' is no address:port",
    ),
    "no policy": (lambda: SHOP.policy("reviews"), "policy(reviews): neither rego nor rbac is given"),
    "a limit of nothing": (
        lambda: SHOP.rate_limit("reviews", requests=0, per="second"),
        "rate_limit(reviews), requests: expected a whole number, 1 or more, got 0",
    ),
    "a limit in letters": (
        lambda: SHOP.rate_limit("reviews", requests="5", per="second"),
        "rate_limit(reviews), requests: expected a whole number, 1 or more, got '5'",
    ),
    "a limit by the week": (
        lambda: SHOP.rate_limit("reviews", requests=1, per="week"),
        "rate_limit(reviews): per 'week'; the periods are second, minute, hour, day",
    ),
    "a list of weights": (
        lambda: SHOP.route("reviews", weights=["v1"]),
        "route(reviews), weights: expected words and values, {…: …}, got ['v1']",
    ),
    "a weight that is true": (
        lambda: SHOP.route("reviews", weights={"v1": True, "v2": 99}),
        "route(reviews), weight of v1: expected a whole number, 0 or more, got True",
    ),
    "a list of versions": (
        lambda: SHOP.route("reviews", to=["v1"]),
        "route(reviews), to: expected a text, got ['v1']",
    ),
    "a path in place of a match": (
        lambda: SHOP.route("reviews", match="/x", to="v1"),
        "route(reviews), match: expected words and values, {…: …}, got '/x'",
    ),
    "a method that is a number": (
        lambda: SHOP.route("reviews", match={"method": 3}, to="v1"),
        "route(reviews), match, method: expected a text, got 3",
    ),
    "a list of headers": (
        lambda: SHOP.route("reviews", match={"headers": ["a"]}, to="v1"),
        "route(reviews), match, headers: expected words and values, {…: …}, got ['a']",
    ),
    "a number of retries alone": (
        lambda: SHOP.route("reviews", retries=3),
        "route(reviews), retries: expected words and values, {…: …}, got 3",
    ),
    "a budget that is a number": (
        lambda: SHOP.cluster("reviews", circuit_breakers={"retry_budget": 20}),
        "cluster(reviews), retry_budget: expected words and values, {…: …}, got 20",
    ),
    "a policy that is a document": (
        lambda: SHOP.policy("reviews", rego={"allow": True}),
        "policy(reviews), rego: expected a text, got {'allow': True}",
    ),
    "a manifest that is a text": (
        lambda: SHOP.policy("reviews", rbac=["kind: AuthorizationPolicy"]),
        "policy(reviews), rbac: expected words and values, {…: …}, got 'kind: AuthorizationPolicy'",
    ),
    "a rule that is a text": (
        lambda: SHOP.with_ingress(["/x"]),
        "ingress: expected words and values, {…: …}, got '/x'",
    ),
    "a host outside that nobody knows": (
        lambda: SHOP.unexternal("example.org"),
        "unknown host outside 'example.org'; there are none",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_word_is_refused_in_one_line(what):
    """Early, and naming what would be right: Envoy would only say later that it does not like it."""
    say, expected = WRONG[what]

    with pytest.raises(InvalidValue) as caught:
        say()

    assert expected == str(caught.value)


def test_reason_to_try_again_that_envoy_does_not_know_is_refused():
    """Envoy would take it without a word, and never try again."""
    with pytest.raises(
        InvalidValue, match=r"route\(reviews\), retries: retry_on '5XX'; the reasons are 5xx, gateway"
    ):
        SHOP.route("reviews", retries={"num_retries": 3, "retry_on": "reset, 5XX"})


def test_modes_and_periods_are_those_of_the_control_plane():
    """They are written twice, for those who only want something need neither gRPC nor Envoy's protobuf."""
    assert (mtls.MODES, tuple(quota.UNITS)) == (MODES, PERIODS)
