import base64
import json

import pytest

from cnlab.containers.registry.tokens import (
    LIFETIME_S,
    Access,
    Challenge,
    TokenIssuer,
    basic_credentials,
    basic_header,
)

PULL = Access("team/app", ("pull",))
PUSH = Access("team/app", ("pull", "push"))


def test_token_allows_what_it_was_issued_for():
    """It can be checked by whoever has the key, without asking who issued it."""
    token = TokenIssuer(b"key").issue("ann", [PULL])

    assert [PULL] == TokenIssuer(b"key").allowed(token)


def test_token_that_was_changed_allows_nothing():
    """Everybody can read a token and write one; only the signature is not theirs to make."""
    header, claims, signature = TokenIssuer(b"key").issue("ann", [PULL]).split(".")
    padding = "=" * (-len(claims) % 4)
    forged = json.loads(base64.urlsafe_b64decode(claims + padding))
    forged["access"][0]["actions"] = ["pull", "push"]
    changed = base64.urlsafe_b64encode(json.dumps(forged).encode()).rstrip(b"=").decode()

    assert TokenIssuer(b"key").allowed(f"{header}.{changed}.{signature}") is None


@pytest.mark.parametrize("token", ["", ".", "x", "a.b.c", "é.é.é"])
def test_what_is_no_token_allows_nothing(token):
    """It comes from the network."""
    assert TokenIssuer(b"key").allowed(token) is None


def test_token_of_another_registry_allows_nothing():
    """Two registries with the same users have different keys."""
    assert TokenIssuer().allowed(TokenIssuer().issue("ann", [PULL])) is None


def test_token_does_not_outlive_its_time():
    """It cannot be called back, so it must not be good for long."""
    token = TokenIssuer(b"key", now=lambda: 1000).issue("ann", [PULL])

    assert [PULL] == TokenIssuer(b"key", now=lambda: 999 + LIFETIME_S).allowed(token)
    assert TokenIssuer(b"key", now=lambda: 1000 + LIFETIME_S).allowed(token) is None


@pytest.mark.parametrize(
    ("granted", "needed", "expected"),
    [
        (PUSH, PULL, True),
        (PULL, PUSH, False),
        (Access("team/app", ("*",)), Access("team/app", ("delete",)), True),
        (PULL, Access("team/other", ("pull",)), False),
        (Access("catalog", ("*",), "registry"), Access("catalog", ("*",)), False),
    ],
)
def test_access_covers_no_more_than_it_says(granted, needed, expected):
    """Neither another action, nor another repository, nor another kind of thing."""
    assert expected == granted.covers(needed)


@pytest.mark.parametrize("scope", ["repository:team/app:pull,push", "repository:localhost:5000/app:pull"])
def test_scope_survives_a_round_trip(scope):
    """Docker puts a port into the name; the last colon ends it."""
    assert scope == str(Access.parse(scope))


def test_challenge_is_read_as_it_is_written():
    """Realm and scope have commas, blanks and quotes around them."""
    header = 'Bearer realm="http://127.0.0.1:1/token",service="s",scope="repository:a:pull,push"'
    challenge = Challenge.parse(header)

    assert header == str(challenge)
    assert "repository:a:pull,push" == challenge.parameters["scope"]


def test_challenge_of_another_hand_is_read_too():
    """RFC 9110 allows blanks after the comma, values without quotes, and any case."""
    challenge = Challenge.parse('basic REALM=here, charset="UTF-8"')

    assert ("Basic", {"realm": "here", "charset": "UTF-8"}) == (challenge.scheme, challenge.parameters)


def test_password_may_have_a_colon():
    """A user's name may not, so the first one ends it."""
    assert ("ann", "a:b") == basic_credentials(basic_header("ann", "a:b"))


@pytest.mark.parametrize("header", ["", "Basic", "Basic ???", "Bearer YTpi", "Basic YQ=="])
def test_what_is_no_password_is_none(header):
    """It comes from the network."""
    assert basic_credentials(header) is None
