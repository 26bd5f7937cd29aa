"""Sign-in from elsewhere: a real launch by LTI 1.3 and a real OAuth 2 sign-in, at a hub with TLS.

The platform and the provider are this test's own servers on loopback; they sign with real keys.
"""

from __future__ import annotations

import asyncio
import http.cookiejar
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, HTTPSHandler, build_opener

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hub.running_hub import Hub, free_ports, running_hub
from student import ROOT

from cnlab.errors import InvalidValue
from cnlab.grading.hub.sign_in import Lti13, OAuth, refuse_system_account, system_name

DOMAIN = "uni.example"
ISSUER = "https://lms.example"
CLIENT = "client-of-the-hub"
PRODUCTION = ROOT / "grading" / "hub" / "production.py"


class Elsewhere(ThreadingHTTPServer):
    """A platform's keys, and a provider's token and user data; `email` is who has signed in there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.email = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def launch(self, *, key: Any = None, **claims: object) -> str:
        """Sign who launches, as the specification's example does."""
        lti = "https://purl.imsglobal.org/spec/lti/claim"
        token = {
            "iss": ISSUER,
            "aud": CLIENT,
            "sub": "opaque-1",
            "iat": int(time.time()),
            "exp": int(time.time()) + 60,
            "email": self.email,
            f"{lti}/message_type": "LtiResourceLinkRequest",
            f"{lti}/version": "1.3.0",
            f"{lti}/deployment_id": "1",
            f"{lti}/target_link_uri": "https://hub.example/hub",
            f"{lti}/resource_link": {"id": "lab01"},
            f"{lti}/roles": ["http://purl.imsglobal.org/vocab/lis/v2/membership#Learner"],
            **claims,
        }
        return jwt.encode(token, key or self.key, algorithm="RS256", headers={"kid": "1"})


class Answers(BaseHTTPRequestHandler):
    """What the hub itself asks elsewhere."""

    server: Elsewhere

    def do_GET(self) -> None:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.server.key.public_key()))
        keys = {"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}
        self._answer(keys if self.path == "/jwks" else {"email": self.server.email})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"access_token": "token", "token_type": "Bearer"})

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Browser:
    """Keeps cookies, trusts one certificate, follows redirects at the hub but not elsewhere."""

    def __init__(self, certificate: Path) -> None:
        trust = ssl.create_default_context(cafile=str(certificate))
        self.cookies = http.cookiejar.CookieJar()
        self._opener = build_opener(HTTPSHandler(context=trust), HTTPCookieProcessor(self.cookies), _Stay())

    def get(self, url: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        """Return status, where a redirect leads, and the text."""
        data = urlencode(form).encode() if form else None
        try:
            with self._opener.open(url, data, timeout=30) as answer:
                return answer.status, answer.headers.get("Location", ""), answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.headers.get("Location", ""), error.read().decode()


class _Stay(HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """The servers of others."""
    with Elsewhere() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", f"{path}", "-keyout", f"{path}.key"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@contextmanager
def production(certificate: Path, **settings: str) -> Iterator[tuple[Hub, str]]:
    """A hub with the settings for production, and its address."""
    port = free_ports(1)
    env = {
        "CNLAB_TLS_CERT": f"{certificate}",
        "CNLAB_TLS_KEY": f"{certificate}.key",
        "CNLAB_HUB_BIND": f"https://127.0.0.1:{port}",
        "CNLAB_MAIL_DOMAIN": DOMAIN,
        **settings,
    }
    with running_hub(f"--config={PRODUCTION}", students=1, env=env) as hub:
        yield hub, f"https://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def lti(certificate: Path, elsewhere: Elsewhere) -> Iterator[tuple[Hub, str]]:
    """A hub that takes launches."""
    settings = {
        "CNLAB_SIGN_IN": "lti13",
        "LTI13_ISSUER": ISSUER,
        "LTI13_AUTHORIZE_URL": f"{elsewhere.address}/authorize",
        "LTI13_JWKS_URL": f"{elsewhere.address}/jwks",
        "LTI13_CLIENT_ID": CLIENT,
    }
    with production(certificate, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def oauth(certificate: Path, elsewhere: Elsewhere) -> Iterator[tuple[Hub, str]]:
    """A hub that asks a provider."""
    settings = {
        "CNLAB_SIGN_IN": "oauth",
        "OAUTH_CLIENT_ID": CLIENT,
        "OAUTH_CLIENT_SECRET": "secret",
        "OAUTH_CALLBACK_URL": "https://hub.example/hub/oauth_callback",
        "OAUTH2_AUTHORIZE_URL": f"{elsewhere.address}/authorize",
        "OAUTH2_TOKEN_URL": f"{elsewhere.address}/token",
        "OAUTH2_USERDATA_URL": f"{elsewhere.address}/userdata",
    }
    with production(certificate, **settings) as running:
        yield running


def launch(address: str, browser: Browser, elsewhere: Elsewhere, **claims: object) -> tuple[int, str, str]:
    """Launch from the platform: its log-in request, the hub's question, the platform's signed answer."""
    request = {"iss": ISSUER, "login_hint": "7", "client_id": CLIENT, "target_link_uri": f"{address}/hub"}
    _, question, _ = browser.get(f"{address}/hub/lti13/oauth_login?{urlencode(request)}")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(question).query).items()}
    answer = {"id_token": elsewhere.launch(**{"nonce": asked["nonce"], **claims}), "state": asked["state"]}
    return browser.get(f"{address}/hub/lti13/oauth_callback", answer)


def signed_in(address: str, browser: Browser) -> str:
    """Who the hub's home page says one is; nothing when it asks to sign in."""
    _, _, page = browser.get(f"{address}/hub/home")
    found = re.search(r'user: "([^"]*)"', page)
    return found.group(1) if found else ""


@pytest.mark.needs_root
@pytest.mark.slow
@pytest.mark.timeout(400)
class TestLaunchByLti:
    """See: https://www.imsglobal.org/spec/security/v1p0, section 5.1.1."""

    def test_launch_signs_in_the_user_of_the_address(self, lti, elsewhere, certificate):
        """The platform's key, our nonce, our client id, an address of our domain."""
        hub, address = lti
        browser = Browser(certificate)
        elsewhere.email = f"{hub.students[0].upper()}@{DOMAIN}"
        status, _, page = launch(address, browser, elsewhere)

        assert (302, hub.students[0]) == (status, signed_in(address, browser)), page

    @pytest.mark.parametrize(
        "claims",
        [
            {"key": "stranger"},
            {"aud": "another tool"},
            {"nonce": "of yesterday"},
            {"exp": 1},
            {"iss": "https://evil"},
        ],
        ids=["key", "audience", "nonce", "expired", "issuer"],
    )
    def test_launch_that_is_not_the_platforms_is_refused(self, lti, elsewhere, certificate, claims):
        """Nobody comes in by a token that somebody else has made, or by an old one."""
        hub, address = lti
        browser = Browser(certificate)
        elsewhere.email = f"{hub.students[0]}@{DOMAIN}"
        if "key" in claims:
            claims = {"key": elsewhere.stranger}
        status, _, _ = launch(address, browser, elsewhere, **claims)

        assert (True, "") == (400 <= status < 500, signed_in(address, browser))

    @pytest.mark.parametrize("email", [f"root@{DOMAIN}", "ada@evil.example", f"../x@{DOMAIN}"])
    def test_address_that_is_nobody_of_ours_is_refused(self, lti, elsewhere, certificate, email):
        """The platform may vouch for a root: the hub would start a server as root."""
        _, address = lti
        browser = Browser(certificate)
        elsewhere.email = email
        status, _, _ = launch(address, browser, elsewhere)

        assert (403, "") == (status, signed_in(address, browser))

    def test_platform_finds_what_to_register(self, lti, certificate):
        """At the address that the instructor's desk names; it asks nobody to sign in."""
        _, address = lti
        status, _, page = Browser(certificate).get(f"{address}/hub/lti13/config")

        assert (200, f"{address}/hub/lti13/oauth_login") == (status, json.loads(page)["oidc_initiation_url"])

    def test_cookies_travel_over_tls_only(self, lti, elsewhere, certificate):
        """And the page says that browsers are to insist on TLS."""
        _, address = lti
        browser = Browser(certificate)
        browser.get(f"{address}/hub/login")

        assert all(cookie.secure for cookie in browser.cookies)
        assert list(browser.cookies)


@pytest.mark.needs_root
@pytest.mark.slow
@pytest.mark.timeout(400)
class TestSignInByOAuth:
    """See: RFC 6749, section 4.1."""

    def sign_in(self, address: str, browser: Browser) -> int:
        _, question, _ = browser.get(f"{address}/hub/oauth_login")
        state = parse_qs(urlsplit(question).query)["state"][0]
        return browser.get(f"{address}/hub/oauth_callback?{urlencode({'code': 'x', 'state': state})}")[0]

    def test_student_signs_in(self, oauth, elsewhere, certificate):
        """By the address that the provider has on file."""
        hub, address = oauth
        browser = Browser(certificate)
        elsewhere.email = f"{hub.students[0]}@{DOMAIN}"

        assert (302, hub.students[0]) == (self.sign_in(address, browser), signed_in(address, browser))

    @pytest.mark.parametrize("email", [f"stranger@{DOMAIN}", f"root@{DOMAIN}", "ada@evil.example"])
    def test_others_do_not(self, oauth, elsewhere, certificate, email):
        """Who has an account at the provider takes not yet this course."""
        _, address = oauth
        browser = Browser(certificate)
        elsewhere.email = email

        assert (403, "") == (self.sign_in(address, browser), signed_in(address, browser))


def test_address_makes_a_user_name():
    """Dots and capitals are the provider's, not the system's."""
    assert "ada-lovelace" == system_name("Ada.Lovelace@Uni.Example", DOMAIN)


@pytest.mark.parametrize(
    "address",
    [
        *("ada@evil.example", "ada", "a b@uni.example", "@uni.example", "1@uni.example"),
        *("\u212aate@uni.example", "a.-b@uni.example", "a-.b@uni.example", "a..b@uni.example"),
    ],
)
def test_other_addresses_make_none(address):
    """Another university's ada is not ours."""
    with pytest.raises(InvalidValue):
        system_name(address, DOMAIN)


def test_no_two_addresses_are_one_user():
    """Or one of them would read the other's home, and hand in as the other. Tried on all short names."""
    local_parts = ["".join(signs) for length in range(1, 7) for signs in product("a._-", repeat=length)]
    users = {}
    for local in local_parts:
        with suppress(InvalidValue):
            users.setdefault(system_name(f"{local}@{DOMAIN}", DOMAIN), []).append(local)

    assert len(users) > 500
    assert [] == [names for names in users.values() if len(names) > 1]


@pytest.mark.parametrize("account", ["root", "daemon", "nobody"])
def test_accounts_of_the_system_are_nobodys(account):
    """The hub starts servers as the user of that name."""
    with pytest.raises(InvalidValue, match="an account of the system"):
        refuse_system_account(account)


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "ada"},
        {"email": "alice@uni.example", "email_verified": False},
        {"email": "alice@uni.example", "email_verified": "false"},
        {"email": ["alice@uni.example"]},
        {"sub": "alice"},
    ],
    ids=lambda claims: json.dumps(claims),
)
def test_claim_that_is_no_verified_address_signs_nobody_in(claims):
    """Where people choose the claim, "alice", who teaches, would be one word."""
    lti = Lti13(mail_domain=DOMAIN, allow_all=True)
    oauth = OAuth(mail_domain=DOMAIN, username_claim=lambda claims: claims.get("email", claims.get("sub")))

    assert None is asyncio.run(lti.get_authenticated_user(None, claims))
    assert "" == oauth.user_info_to_username(claims)


def test_claim_that_is_a_verified_address_signs_in():
    """By both ways, as the same user."""
    claims = {"email": "Ada.Lovelace@uni.example", "email_verified": True}
    lti = Lti13(mail_domain=DOMAIN, allow_all=True)
    oauth = OAuth(mail_domain=DOMAIN, username_claim="email")

    assert "ada-lovelace" == asyncio.run(lti.get_authenticated_user(None, claims))["name"]
    assert "ada-lovelace" == oauth.user_info_to_username(claims)
