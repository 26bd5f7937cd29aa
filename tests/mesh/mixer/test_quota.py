"""Quotas: counted in one place for all sidecars, or in a token bucket of each; a real Envoy obeys."""

import pytest
from one_envoy import (
    SERVICES,
    Services,
    ask,
    envoy,
    from_files,
    listener,
    manager,
    put_secrets,
    tls_client,
    upstream,
)

from cnlab.errors import InvalidValue
from cnlab.mesh.auth.authority import CertificateAuthority
from cnlab.mesh.auth.mtls import inbound_filter_chains, inbound_listener_filters
from cnlab.mesh.mixer import quota
from cnlab.mesh.mixer.quota import Limit, RateLimiter, local_ratelimit, local_ratelimit_filter
from cnlab.mesh.pilot import resources

NOON = 1_800_000_000.0
REVIEWS = "spiffe://cluster.local/ns/default/sa/reviews"


class Time:
    """A clock that a test moves."""

    seconds = NOON

    def __call__(self) -> float:
        return self.seconds


def codes(limiter, times, service="ratings", caller=REVIEWS):
    """Hit so many times; return whether each was within the limit."""
    return [limiter.hit(service, caller).code == 1 for _ in range(times)]


def limiter_with(now=None, **limits):
    """Return a rate limiter with these limits, and a clock that stands still."""
    limiter = RateLimiter(now=now or Time())
    limiter.replace(limits)
    return limiter


def test_limit_is_the_number_of_requests_that_pass():
    """Five a minute are five, not four and not six."""
    limiter = limiter_with(ratings=Limit(5, "minute"))

    assert [True] * 5 + [False] * 3 == codes(limiter, 8)


def test_new_window_starts_at_zero():
    """And what was refused in the old one is not held against anybody."""
    now = Time()
    limiter = limiter_with(now, ratings=Limit(2, "second"))
    codes(limiter, 5)
    now.seconds += 1

    assert [True, True, False] == codes(limiter, 3)


def test_twice_the_limit_may_pass_around_the_edge_of_a_window():
    """That is the price of fixed windows, and said in the module."""
    now = Time()
    limiter = limiter_with(now, ratings=Limit(5, "minute"))
    now.seconds += 59.9
    before = codes(limiter, 5)
    now.seconds += 0.2

    assert [True] * 10 == before + codes(limiter, 5)


def test_each_caller_has_its_own_count():
    """One that asks too much does not lock out the others."""
    limiter = limiter_with(ratings=Limit(1))

    assert [True, False] == codes(limiter, 2, caller="reviews")
    assert [True, False] == codes(limiter, 2, caller="details")


def test_each_service_has_its_own_count():
    """A caller's requests to one service do not count for another."""
    limiter = limiter_with(ratings=Limit(1), details=Limit(2))

    assert [True, False] == codes(limiter, 2, "ratings")
    assert [True, True, False] == codes(limiter, 3, "details")


def test_service_without_limit_is_not_limited():
    """Nor counted: nothing is kept of its callers."""
    limiter = limiter_with()

    assert [True] * 100 == codes(limiter, 100)
    assert not limiter._windows


def test_limit_of_zero_closes_the_service():
    """It makes sense as an emergency brake."""
    assert [False] == codes(limiter_with(ratings=Limit(0)), 1)


def test_status_says_what_is_left_and_until_when():
    """A caller that reads it need not run into the wall."""
    now = Time()
    limiter = limiter_with(now, ratings=Limit(5, "minute"))
    now.seconds += 15
    limiter.hit("ratings", REVIEWS)
    status = limiter.hit("ratings", REVIEWS, 2)

    assert (2, 5, "MINUTE") == (
        status.limit_remaining,
        status.current_limit.requests_per_unit,
        status.current_limit.Unit.Name(status.current_limit.unit),
    )
    assert 45 - NOON % 60 == status.duration_until_reset.ToSeconds()


def test_same_limit_again_forgets_nothing_and_another_starts_anew():
    """All of the configuration is sent on every change; that must not refill anybody's quota."""
    limiter = limiter_with(ratings=Limit(2), details=Limit(1))
    codes(limiter, 2, "ratings"), codes(limiter, 1, "details")
    limiter.replace({"ratings": Limit(2), "details": Limit(3)})

    assert [False] == codes(limiter, 1, "ratings")
    assert [True] * 3 == codes(limiter, 3, "details")


def test_callers_that_are_made_up_do_not_fill_the_memory(monkeypatch):
    """Who is counted by a header of its own may write anything into it."""
    monkeypatch.setattr(quota, "CALLERS", 10)
    limiter = limiter_with(ratings=Limit(1, "day"))
    for number in range(100):
        limiter.hit("ratings", f"caller {number}")

    assert 10 == len(limiter._windows)
    assert [False] == codes(limiter, 1, caller="caller 99")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Limit(-1), "-1 requests; it must not be negative"),
        (lambda: Limit(1, "week"), "per 'week'; the units are second, minute, hour, day"),
        (lambda: local_ratelimit(0), "0 requests; a bucket holds one token at least"),
        (lambda: local_ratelimit(1, "month"), "per 'month'"),
    ],
)
def test_limit_that_makes_no_sense_is_refused(make, words):
    """Before anything is sent to a sidecar."""
    with pytest.raises(InvalidValue, match=words):
        make()


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory):
    """An Envoy that asks a rate limiter; each path is limited in another way."""
    directory = tmp_path_factory.mktemp("quota")
    authority = CertificateAuthority.open(directory / "private")
    put_secrets(directory, authority.issue("ratings"), authority.bundle)
    limits = {
        "bysource": Limit(2, "day"),
        "byuser": Limit(2, "day", by="end-user"),
        "inall": Limit(3, "day", by=""),
    }
    limiter = limiter_with(**limits)
    routes = [
        resources.route("app", {"prefix": f"/{name}"}, rate_limits=quota.rate_limits(name, limit))
        for name, limit in limits.items()
    ]
    bucket = {quota.LOCAL_FILTER: local_ratelimit(3, "day")}
    routes += [
        {**resources.route("app", {"prefix": "/local"}), "typed_per_filter_config": bucket},
        resources.route("app"),
    ]
    filters = [local_ratelimit_filter(), quota.ratelimit_filter(SERVICES)]
    chains = inbound_filter_chains("permissive", [manager("inbound", routes, filters)], resources.ADS)
    words = {"listener_filters": inbound_listener_filters("permissive")}
    inbound = listener("inbound", from_files(chains, directory), **words)
    with (
        Services(limiter) as services,
        upstream() as app,
        envoy([inbound], app=app, services=services.port) as port,
    ):
        clients = {
            name: tls_client(authority.bundle, authority.issue(name)) for name in ("reviews", "details")
        }

        def send(path, caller=None, **headers):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return ask(port("inbound"), path, headers=named, tls=clients.get(caller))

        send.limiter = limiter
        yield send


def test_callers_are_told_apart_by_their_certificates(sidecar):
    """A caller cannot get a new quota by another name; those without a certificate share one."""
    mine = [sidecar("/bysource", "reviews").status for _ in range(3)]
    others = [sidecar("/bysource", "details").status for _ in range(3)]
    nobody = [sidecar("/bysource", None, x_forwarded_client_cert=f"URI={n}").status for n in range(3)]

    assert [200, 200, 429] == mine == others == nobody


def test_callers_are_told_apart_by_a_header(sidecar):
    """An edge that has checked who logged in may count by user; requests without user are one user."""
    jason = [sidecar("/byuser", end_user="jason").status for _ in range(3)]
    eve = [sidecar("/byuser", end_user="eve").status for _ in range(3)]
    nobody = [sidecar("/byuser").status for _ in range(3)]

    assert [200, 200, 429] == jason == eve == nobody


def test_all_callers_share_a_limit_of_the_service(sidecar):
    """What protects the service, whoever asks."""
    statuses = [sidecar("/inall", caller).status for caller in ("reviews", "details", None, "reviews")]

    assert [200, 200, 200, 429] == statuses
    assert {"OK": 3, "OVER_LIMIT": 1} == {
        word: count for (service, word), count in sidecar.limiter.counts.items() if service == "inall"
    }


def test_refusal_carries_the_headers_of_the_limit(sidecar):
    """The caller learns when to come again, and that it was Envoy who said no."""
    sidecar.limiter.set("inall", Limit(1, "hour", by=""))
    passed, refused = sidecar("/inall"), sidecar("/inall")

    assert (200, 429) == (passed.status, refused.status)
    assert refused.headers["x-ratelimit-limit"].startswith("1, 1;w=3600")
    assert "0" == refused.headers["x-ratelimit-remaining"]
    assert int(refused.headers["x-ratelimit-reset"]) > 0
    assert "true" == refused.headers["x-envoy-ratelimited"]


def test_sidecar_alone_counts_with_a_token_bucket(sidecar):
    """Nobody is asked: the limiter has counted nothing."""
    before = sum(sidecar.limiter.counts.values())
    statuses = [sidecar("/local").status for _ in range(5)]

    assert [200, 200, 200, 429, 429] == statuses
    assert before == sum(sidecar.limiter.counts.values())


def test_route_without_limit_is_not_asked_about(sidecar):
    """A filter that is there costs nothing where no route names it."""
    before = sum(sidecar.limiter.counts.values())

    assert 200 == sidecar("/open").status
    assert before == sum(sidecar.limiter.counts.values())


def test_requests_pass_when_nobody_counts():
    """A quota is no lock: without the control plane the service goes on."""
    routes = [resources.route("app", rate_limits=quota.rate_limits("ratings", Limit(0)))]
    chains = [{"filters": [manager("inbound", routes, [quota.ratelimit_filter("app")])]}]
    with upstream() as app, envoy([listener("inbound", chains)], app=app) as port:
        assert 200 == ask(port("inbound")).status
