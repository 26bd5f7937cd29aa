"""Mutual TLS between two real Envoys: who gets through, who does not; certificates that change meanwhile."""

import contextlib
import json
import ssl
import threading
import time

import pytest
from one_envoy import ask, envoy, from_files, listener, manager, put_secrets, tls_client, upstream

from cnlab.clock import wait_until
from cnlab.errors import InvalidValue
from cnlab.mesh.auth.authority import CertificateAuthority
from cnlab.mesh.auth.identity import load_certificates, spiffe_id
from cnlab.mesh.auth.mtls import (
    MODES,
    check_mode,
    inbound_filter_chains,
    inbound_listener_filters,
    upstream_tls,
)
from cnlab.mesh.pilot import resources

REFUSED = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, ssl.SSLError, EOFError)


def inbound(name, mode, directory):
    """Return a listener before the app."""
    routes = [resources.route("app")]
    header = {"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": True}}
    chains = inbound_filter_chains(mode, [manager(name, routes, **header)], resources.ADS)
    return listener(name, from_files(chains, directory), listener_filters=inbound_listener_filters(mode))


class Pair:
    """The sidecar of ratings, the sidecar of reviews that calls it, and their authority."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = CertificateAuthority.open(directory / "private")

    def give(self, service, name=None, **words):
        """Issue a certificate and put it where the sidecar looks."""
        svid = self.authority.issue(service, **words)
        put_secrets(self.directory / (name or service), svid, self.authority.bundle)
        return svid

    def client(self, svid=None):
        """Return how a client without a sidecar shows `svid` and trusts our authority."""
        return tls_client(self.authority.bundle, svid)

    def serial_number(self, name):
        """Return the serial number of the certificate that a listener presents."""
        text = ssl.get_server_certificate(("127.0.0.1", self.callee(name)))
        return load_certificates(text)[0].serial_number


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Both sidecars; ``old`` is a listener whose certificate has expired."""
    pair = Pair(tmp_path_factory.mktemp("mtls"))
    pair.give("ratings"), pair.give("reviews")
    now = time.time()
    pair.give("ratings", "old", ttl_s=-60, not_before=now - 3600)
    ratings = pair.directory / "ratings"
    inbounds = [inbound(mode, mode, ratings) for mode in MODES]
    inbounds.append(inbound("old", "strict", pair.directory / "old"))
    with upstream() as app, envoy(inbounds, app=app) as pair.callee:
        called = {"right": ("strict", "ratings"), "wrong": ("strict", "details"), "old": ("old", "ratings")}
        clusters = [
            resources.static_cluster(
                name,
                [("127.0.0.1", pair.callee(at))],
                transport_socket=from_files(upstream_tls([who], resources.ADS), pair.directory / "reviews"),
            )
            for name, (at, who) in called.items()
        ]
        routes = [resources.route(name, {"prefix": f"/{name}"}) for name in called]
        outbound = listener("outbound", [{"filters": [manager("outbound", routes)]}])
        with envoy([outbound], clusters=clusters, node="reviews-v1-0") as pair.caller:
            yield pair


def test_sidecars_know_each_other_by_their_certificates(pair):
    """The app gets told who calls; the caller cannot say so itself."""
    lie = {"x-forwarded-client-cert": f"URI={spiffe_id('admin')}"}
    answer = ask(pair.caller("outbound"), "/right", headers=lie)

    assert 200 == answer.status
    assert f"URI={spiffe_id('reviews')}" in json.loads(answer.body)["x-forwarded-client-cert"]
    assert "admin" not in answer.body


def test_callee_that_is_somebody_else_is_refused(pair):
    """Its certificate is good, but of ratings, and details was meant: the wrong subject alternative name."""
    answer = ask(pair.caller("outbound"), "/wrong")

    assert 503 == answer.status
    assert 1 == pair.caller.proxy.stats("cluster.wrong.ssl")["cluster.wrong.ssl.fail_verify_san"]


def test_callee_whose_certificate_has_expired_is_refused(pair):
    """Renewal that has stopped must be noticed, not overlooked."""
    answer = ask(pair.caller("outbound"), "/old")

    assert 503 == answer.status
    assert 1 == pair.caller.proxy.stats("cluster.old.ssl")["cluster.old.ssl.fail_verify_error"]


def test_strict_listener_resets_plain_text(pair):
    """Nothing answers that a caller without a certificate could read."""
    with pytest.raises(REFUSED):
        ask(pair.callee("strict"))


def test_strict_listener_refuses_caller_without_certificate(pair):
    """TLS alone hides what is said, and says nothing about who says it."""
    with pytest.raises(REFUSED):
        ask(pair.callee("strict"), tls=pair.client())


def test_strict_listener_accepts_any_service_of_the_mesh(pair):
    """Who of them may do what is decided by policies."""
    answer = ask(pair.callee("strict"), tls=pair.client(pair.authority.issue("details")))

    assert 200 == answer.status
    assert spiffe_id("details") in answer.body


def test_certificate_of_another_authority_is_refused(pair, tmp_path):
    """The same name, signed by somebody else."""
    stranger = CertificateAuthority.open(tmp_path)

    with pytest.raises(REFUSED):
        ask(pair.callee("strict"), tls=pair.client(stranger.issue("reviews")))


def test_caller_whose_certificate_has_expired_is_refused(pair):
    """What was stolen yesterday is worth nothing today."""
    expired = pair.authority.issue("reviews", ttl_s=-60, not_before=time.time() - 3600)

    with pytest.raises(REFUSED):
        ask(pair.callee("strict"), tls=pair.client(expired))


def test_short_lived_certificate_ends_by_itself(pair):
    """Nobody has to be told that it is no longer good."""
    svid = pair.authority.issue("reviews", ttl_s=2)
    client = pair.client(svid)

    def refused_at():
        with contextlib.suppress(*REFUSED):
            ask(pair.callee("strict"), tls=client)
            return None
        return time.time()

    refused = wait_until(refused_at, timeout_s=30, poll_s=0.1, what="the end of the certificate")
    assert refused >= svid.not_after


def test_permissive_listener_takes_both(pair):
    """A mesh is introduced service by service; until all have sidecars plain text must work."""
    plain = ask(pair.callee("permissive"), headers={"x-forwarded-client-cert": f"URI={spiffe_id('admin')}"})
    secured = ask(pair.callee("permissive"), tls=pair.client(pair.authority.issue("reviews")))

    assert (200, 200) == (plain.status, secured.status)
    assert "x-forwarded-client-cert" not in json.loads(plain.body), (
        "a caller in plain text gave itself a name"
    )
    assert spiffe_id("reviews") in secured.body


def test_permissive_listener_refuses_tls_without_certificate(pair):
    """Who begins with TLS has to prove who it is."""
    with pytest.raises(REFUSED):
        ask(pair.callee("permissive"), tls=pair.client())


def test_disabled_listener_speaks_plain_text_only(pair):
    """A service that others must reach without the mesh."""
    assert 200 == ask(pair.callee("disable")).status
    with pytest.raises(REFUSED):
        ask(pair.callee("disable"), tls=pair.client())


def test_rotation_drops_no_request(pair):
    """Both ends get new certificates, again and again, while requests go on."""
    statuses, stop = [], threading.Event()

    def load():
        while not stop.is_set():
            statuses.append(ask(pair.caller("outbound"), "/right").status)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(5):
            before = len(statuses)
            svid = pair.give("ratings")
            pair.give("reviews")
            wait_until(lambda: pair.serial_number("strict") == svid.serial_number, timeout_s=30)  # noqa: B023
            wait_until(lambda: len(statuses) >= before + 5, timeout_s=30)  # noqa: B023
    finally:
        stop.set()
        thread.join()

    assert {200} == set(statuses)


def test_client_sees_the_new_serial_number_after_rotation(pair):
    """New connections show the new certificate at once; nothing is restarted."""
    old = pair.serial_number("strict")
    new = pair.give("ratings").serial_number
    wait_until(lambda: pair.serial_number("strict") == new, timeout_s=30, what="the new certificate")

    assert old != new


def test_root_can_be_replaced_while_both_are_trusted(pair):
    """First all trust the new root, then it signs: in between nobody is refused."""
    old = pair.client(pair.authority.issue("details"))
    pair.authority.rotate_root()
    put_secrets(pair.directory / "reviews", pair.authority.issue("reviews"), pair.authority.bundle)
    svid = pair.give("ratings")
    wait_until(lambda: pair.serial_number("strict") == svid.serial_number, timeout_s=30)
    by_new_root = pair.client(pair.authority.issue("details"))

    def answer(client):
        with contextlib.suppress(*REFUSED):
            return ask(pair.callee("strict"), tls=client).status
        return None

    assert wait_until(lambda: answer(by_new_root) == 200, timeout_s=30, what="trust in the new root")
    old.load_verify_locations(cadata=pair.authority.bundle)
    assert 200 == answer(old)


def test_modes_are_istios_words():
    """A manifest writes them in capitals."""
    assert "strict" == check_mode("STRICT")
    with pytest.raises(InvalidValue, match="mTLS mode 'mutual': the modes are strict, permissive, disable"):
        check_mode("mutual")


def test_caller_must_say_whom_it_expects():
    """Without a name any certificate of the mesh would do, also a stolen one."""
    with pytest.raises(InvalidValue, match="no service given"):
        upstream_tls([], resources.ADS)
