"""HTTP to a registry: connections kept open, logged in when asked to, redirected where blobs are.

See: RFC 9110; `tokens` for challenges.
"""

import contextlib
import http.client
import ipaddress
import json
import select
import ssl
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urljoin, urlsplit

from cnlab.containers.images.reference import DEFAULT_REGISTRY
from cnlab.containers.registry.errors import RegistryError, TlsError
from cnlab.containers.registry.exchange import Exchange
from cnlab.containers.registry.tokens import Challenge, Scope, basic_header

ANSWER_SIZE_MAX = 4 << 20  # of what is read into memory
_REDIRECTS_MAX = 5
_REDIRECTS = (HTTPStatus.FOUND, HTTPStatus.SEE_OTHER, HTTPStatus.TEMPORARY_REDIRECT)

Body = bytes | BinaryIO


class Session:
    """Connections to a registry at `address`, and to where it sends us.

    Nothing is tried a second time, but the request that was answered with a challenge.
    """

    def __init__(
        self,
        address: str,
        credentials: tuple[str, str] | None,
        tls: bool | ssl.SSLContext | None,
        timeout_s: float,
    ) -> None:
        is_secure = not is_loopback(address) if tls is None else bool(tls)
        host = "registry-1.docker.io" if address == DEFAULT_REGISTRY else address
        self.url = f"{'https' if is_secure else 'http'}://{host}/"
        self.exchanges: list[Exchange] = []
        self._credentials = credentials
        self._tls = tls if isinstance(tls, ssl.SSLContext) else None
        self._timeout_s = timeout_s
        self._connections: dict[tuple[str, str], http.client.HTTPConnection] = {}
        self._authorizations: dict[Scope, str] = {}

    def close(self) -> None:
        """Close the connections; those that are needed again are opened anew."""
        for connection in self._connections.values():
            connection.close()

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        access: Scope = (),
    ) -> bytes:
        """Send a request and return the whole body of the answer; the rest is as for `request`."""
        with self.request(method, url, headers=headers, body=body, access=access) as answer:
            return answer.read()

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        access: Scope = (),
    ) -> Iterator[http.client.HTTPResponse]:
        """Yield the answer, whose body is unread; connect, log in and follow redirects as need be."""
        url = urljoin(self.url, url)
        answer = self._send(method, url, headers, body, self._authorization(url, access))
        if answer.status == HTTPStatus.UNAUTHORIZED and "WWW-Authenticate" in answer.headers:
            said = answer.read()
            if not self._log_in(Challenge.parse(answer.headers["WWW-Authenticate"]), access):
                raise RegistryError.from_answer(answer.status, said, request=f"{method} {urlsplit(url).path}")
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
            answer = self._send(method, url, headers, body, self._authorization(url, access))
        if method in ("GET", "HEAD"):
            answer = self._follow(answer, method, url, headers, access)
        try:
            if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                request = f"{method} {urlsplit(url).path}"
                raise RegistryError.from_answer(answer.status, answer.read(ANSWER_SIZE_MAX), request=request)
            yield answer
        finally:
            if not answer.isclosed():
                answer.read() if answer.length == 0 else self.close()

    def _follow(
        self,
        answer: http.client.HTTPResponse,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        access: Scope,
    ) -> http.client.HTTPResponse:
        """Go where the registry sends us: blobs may be kept elsewhere."""
        for _ in range(_REDIRECTS_MAX):
            if answer.status not in _REDIRECTS:
                break
            answer.read()
            url = urljoin(url, answer.headers["Location"])
            answer = self._send(method, url, headers, None, self._authorization(url, access))
        return answer

    def _authorization(self, url: str, access: Scope) -> str | None:
        """Return what we have to show for `access`, to the registry itself and to nobody else."""
        is_own = urlsplit(url)[:2] == urlsplit(self.url)[:2]
        return self._authorizations.get(access) if is_own else None

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: Body | None,
        authorization: str | None,
    ) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        connection = self._connection(parts.scheme, parts.netloc)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        sent = dict(headers or {}) | ({"Authorization": authorization} if authorization else {})
        started = time.perf_counter()
        try:
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
        except ssl.SSLError as error:  # an OSError whose errno is none of the kernel's
            connection.close()
            raise TlsError.from_ssl(error, request=f"{method} {url}") from None
        except OSError as error:
            connection.close()
            if error.errno is None:
                raise
            raise OSError(error.errno, f"{method} {url}: {error.strerror or error}") from None
        uploaded = len(body) if isinstance(body, bytes) else int(sent.get("Content-Length", 0))
        downloaded = int(answer.headers.get("Content-Length") or 0) if method != "HEAD" else 0
        seconds = time.perf_counter() - started
        self.exchanges.append(Exchange(method, target, answer.status, uploaded, downloaded, seconds))
        return answer

    def _connection(self, scheme: str, netloc: str) -> http.client.HTTPConnection:
        """Return the connection to a server, a new one if it has closed the old one."""
        connection = self._connections.get((scheme, netloc))
        if connection is None:
            if scheme == "https":
                connection = http.client.HTTPSConnection(netloc, timeout=self._timeout_s, context=self._tls)
            else:
                connection = http.client.HTTPConnection(netloc, timeout=self._timeout_s)
            self._connections[scheme, netloc] = connection
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # nothing was asked, so what can be read is its end
        return connection

    def _log_in(self, challenge: Challenge, access: Scope) -> bool:
        """Answer a challenge, if we can."""
        basic = basic_header(*self._credentials) if self._credentials else ""
        if challenge.scheme == "Basic":
            self._authorizations[access] = basic
            return bool(basic)
        if challenge.scheme != "Bearer" or "realm" not in challenge.parameters:
            return False
        query = [("service", challenge.parameters.get("service", ""))]
        query += [("scope", str(item)) for item in access]
        realm = challenge.parameters["realm"]
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query, quote_via=quote)}"
        answer = self._send("GET", url, {}, None, basic or None)
        said = answer.read()
        if answer.status != HTTPStatus.OK:
            raise RegistryError.from_answer(answer.status, said, request=f"GET {realm}")
        tokens: dict[str, Any] = json.loads(said)
        self._authorizations[access] = f"Bearer {tokens.get('token') or tokens['access_token']}"
        return True


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is this machine, where registries speak plain HTTP."""
    host = urlsplit(f"//{address}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
