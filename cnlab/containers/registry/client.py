"""The client's side of the distribution-spec: one method for each thing that can be asked of a registry.

`push` and `pull` in `transfer` are made of these. `Client.exchanges` keeps every request, those for tokens
too; nothing is tried a second time, but the request that was answered with a challenge.

See: OCI distribution-spec 1.1.
"""

import contextlib
import http.client
import ipaddress
import json
import select
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlencode, urljoin, urlsplit

from cnlab.containers.descriptor import (
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
    new_hash,
)
from cnlab.containers.reference import DEFAULT_REGISTRY, is_digest
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.exchange import Exchange
from cnlab.containers.registry.tokens import Access, Challenge, basic_header
from cnlab.errors import InvalidImage

MANIFEST_SIZE_MAX = 4 << 20
ANY_MANIFEST = (*sorted(MANIFEST_MEDIA_TYPES), *sorted(INDEX_MEDIA_TYPES))
_REDIRECTS_MAX = 5

Body = bytes | BinaryIO
Scope = tuple[Access, ...]
"""What a request needs to be allowed."""


class Client:
    """A connection to one registry.

    Args:
        address: ``host`` or ``host:port``.
        credentials: user and password, for a registry that asks for them.
        tls: whether to speak HTTPS, or how; by default everywhere but on this machine itself.
        timeout_s: how long to wait for an answer.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: tuple[str, str] | None = None,
        tls: bool | ssl.SSLContext | None = None,
        timeout_s: float = 30,
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client can still be used, and opens new ones."""
        for connection in self._connections.values():
            connection.close()

    def ping(self) -> None:
        """Find out that there is a registry, and that it lets us in."""
        self._ask("GET", "/v2/")

    def catalog(self, *, page_size: int | None = None) -> list[str]:
        """Return the names of the repositories, if the registry tells; it is not in the specification."""
        return self._pages(
            "/v2/_catalog", "repositories", page_size, (Access("catalog", ("*",), "registry"),)
        )

    def tags(self, repository: str, *, page_size: int | None = None) -> list[str]:
        """Return all tags of a repository, asked for `page_size` at a time."""
        return self._pages(f"/v2/{repository}/tags/list", "tags", page_size, _to(repository, "pull"))

    def _pages(self, path: str, key: str, page_size: int | None, access: Scope) -> list[str]:
        found: list[str] = []
        url = path if page_size is None else f"{path}?n={page_size}"
        while url:
            with self._request("GET", url, access=access) as answer:
                found += json.loads(answer.read())[key] or []
                link = answer.headers.get("Link", "")
            url = (
                urljoin(self.url + url.lstrip("/"), link[1 : link.index(">")]) if link.startswith("<") else ""
            )
        return found

    # Manifests

    def manifest(
        self, repository: str, reference: str, *, accept: Sequence[str] = ANY_MANIFEST
    ) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest means, verified.

        Raises:
            RegistryError: there is none.
            InvalidImage: what came has not the digest that was asked for, or that the registry said it has.
        """
        path, headers = f"/v2/{repository}/manifests/{reference}", {"Accept": ", ".join(accept)}
        with self._request("GET", path, headers=headers, access=_to(repository, "pull")) as answer:
            data = answer.read(MANIFEST_SIZE_MAX + 1)
            descriptor = _descriptor(answer, len(data), digest_of(data))
        if len(data) > MANIFEST_SIZE_MAX:
            raise InvalidImage(f"{repository}/{reference}: a manifest of more than {MANIFEST_SIZE_MAX} bytes")
        expected = reference if is_digest(reference) else descriptor.digest
        running = new_hash(expected)
        running.update(data)
        found = f"{running.name}:{running.hexdigest()}"
        if found != expected:
            raise InvalidImage(f"{repository}: the registry sent a manifest {found} instead of {expected}")
        return Descriptor(descriptor.media_type, expected, len(data)), data

    def head_manifest(
        self, repository: str, reference: str, *, accept: Sequence[str] = ANY_MANIFEST
    ) -> Descriptor:
        """Return what a tag or digest means, without fetching it."""
        path, headers = f"/v2/{repository}/manifests/{reference}", {"Accept": ", ".join(accept)}
        with self._request("HEAD", path, headers=headers, access=_to(repository, "pull")) as answer:
            return _descriptor(answer, int(answer.headers["Content-Length"]), reference)

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Store a manifest whose parts are there already, and return its digest."""
        path, headers = f"/v2/{repository}/manifests/{reference}", {"Content-Type": media_type}
        self._ask("PUT", path, headers=headers, body=data, access=_to(repository, "pull", "push"))
        return reference if is_digest(reference) else digest_of(data)

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete a tag, or by its digest a manifest."""
        access = _to(repository, "delete")
        self._ask("DELETE", f"/v2/{repository}/manifests/{reference}", access=access)

    def referrers(
        self, repository: str, digest: str, *, artifact_type: str | None = None
    ) -> list[Descriptor]:
        """Return the manifests that name `digest` as their subject: signatures, bills of materials."""
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        path = f"/v2/{repository}/referrers/{digest}{query}"
        index = json.loads(self._ask("GET", path, access=_to(repository, "pull")))
        return [Descriptor.from_json(entry) for entry in index["manifests"]]

    # Blobs

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has the blob, so that it need not be sent."""
        try:
            self._ask("HEAD", f"/v2/{repository}/blobs/{digest}", access=_to(repository, "pull"))
        except RegistryError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    @contextlib.contextmanager
    def open_blob(self, repository: str, digest: str, *, offset: int = 0) -> Iterator[BinaryIO]:
        """Open a blob for reading, from byte `offset` on. It is not verified: `Layout.add_blob` does that."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        path = f"/v2/{repository}/blobs/{digest}"
        with self._request("GET", path, headers=headers, access=_to(repository, "pull")) as answer:
            if offset and answer.status != HTTPStatus.PARTIAL_CONTENT:
                raise RegistryError(
                    "UNSUPPORTED", f"{self.url} sends no parts of blobs", status=answer.status
                )
            yield answer

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob from a repository."""
        self._ask("DELETE", f"/v2/{repository}/blobs/{digest}", access=_to(repository, "delete"))

    def mount(self, repository: str, digest: str, from_repository: str) -> bool:
        """Let a repository have a blob of another one; False if the registry would rather be sent it."""
        upload = self._begin_upload(repository, digest, from_repository)
        if upload is not None:
            upload.cancel()
        return upload is None

    def upload(
        self, repository: str, file: BinaryIO, descriptor: Descriptor, *, chunk_size: int | None = None
    ) -> None:
        """Send a blob, in one request or in chunks of `chunk_size` bytes."""
        upload = self.start_upload(repository)
        if chunk_size is None:
            upload.finish(descriptor.digest, file, size=descriptor.size)
            return
        while chunk := file.read(chunk_size):
            upload.send(chunk)
        upload.finish(descriptor.digest)

    def start_upload(self, repository: str) -> "Upload":
        """Begin to send a blob."""
        upload = self._begin_upload(repository)
        assert upload is not None, "only a mount is done at once"
        return upload

    def resume_upload(self, repository: str, location: str) -> "Upload":
        """Go on with an upload: `Upload.offset` is where."""
        upload = Upload(self, repository, location)
        upload.refresh()
        return upload

    def _begin_upload(self, repository: str, mount: str = "", source: str = "") -> "Upload | None":
        query = f"?{urlencode({'mount': mount, 'from': source})}" if mount else ""
        access = _to(repository, "pull", "push") + (_to(source, "pull") if source else ())
        with self._request(
            "POST", f"/v2/{repository}/blobs/uploads/{query}", body=b"", access=access
        ) as answer:
            if answer.status == HTTPStatus.CREATED:
                return None
            return Upload(self, repository, urljoin(self.url, answer.headers["Location"]))

    # Requests

    def _ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        access: Scope = (),
    ) -> bytes:
        with self._request(method, url, headers=headers, body=body, access=access) as answer:
            return answer.read()

    @contextlib.contextmanager
    def _request(
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
        answer = self._send(method, url, headers, body, self._authorizations.get(access))
        if answer.status == HTTPStatus.UNAUTHORIZED and "WWW-Authenticate" in answer.headers:
            said = answer.read()
            if not self._log_in(Challenge.parse(answer.headers["WWW-Authenticate"]), access):
                raise RegistryError.from_answer(answer.status, said, request=f"{method} {urlsplit(url).path}")
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
            answer = self._send(method, url, headers, body, self._authorizations[access])
        for _ in range(_REDIRECTS_MAX):
            if answer.status not in (HTTPStatus.FOUND, HTTPStatus.SEE_OTHER, HTTPStatus.TEMPORARY_REDIRECT):
                break
            answer.read()
            url = urljoin(url, answer.headers["Location"])
            own = urlsplit(url).netloc == urlsplit(self.url).netloc
            answer = self._send(method, url, headers, body, self._authorizations.get(access) if own else None)
        try:
            if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                request = f"{method} {urlsplit(url).path}"
                raise RegistryError.from_answer(
                    answer.status, answer.read(MANIFEST_SIZE_MAX), request=request
                )
            yield answer
        finally:
            if not answer.isclosed():
                answer.read() if answer.length == 0 else self.close()

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
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
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


class Upload:
    """A blob on its way. `location` may be kept, to go on later or elsewhere."""

    def __init__(self, client: Client, repository: str, location: str) -> None:
        self.location = location
        self.offset = 0  # bytes that have arrived
        self._client = client
        self._access = _to(repository, "pull", "push")

    def send(self, chunk: bytes) -> None:
        """Send the next bytes.

        Raises:
            RegistryError: status 416: the registry is not where we are; `refresh` tells.
        """
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{self.offset}-{self.offset + len(chunk) - 1}",
        }
        with self._client._request(
            "PATCH", self.location, headers=headers, body=chunk, access=self._access
        ) as answer:
            self._note(answer)
        self.offset += len(chunk)

    def refresh(self) -> int:
        """Ask how much has arrived, and set `offset` to it."""
        with self._client._request("GET", self.location, access=self._access) as answer:
            self._note(answer)
            last = int(answer.headers["Range"].rpartition("-")[2])
        self.offset = last + 1 if last else 0  # "0-0" is what registries say of nothing, too
        return self.offset

    def finish(self, digest: str, rest: Body = b"", *, size: int | None = None) -> None:
        """Send the rest, of `size` bytes if it is a file, and say what the digest of the whole must be."""
        length = len(rest) if isinstance(rest, bytes) else size
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        url = self.location + ("&" if "?" in self.location else "?") + urlencode({"digest": digest})
        self._client._ask("PUT", url, headers=headers, body=rest, access=self._access)

    def cancel(self) -> None:
        """Let the registry forget what has arrived."""
        self._client._ask("DELETE", self.location, access=self._access)

    def _note(self, answer: http.client.HTTPResponse) -> None:
        self.location = urljoin(self._client.url, answer.headers.get("Location", self.location))


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` is this machine, where registries speak plain HTTP."""
    host = urlsplit(f"//{address}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _to(repository: str, *actions: str) -> Scope:
    return (Access(repository, actions),)


def _descriptor(answer: http.client.HTTPResponse, size: int, digest: str) -> Descriptor:
    media_type = answer.headers.get("Content-Type", MEDIA_TYPE_MANIFEST).partition(";")[0].strip()
    return Descriptor(media_type, answer.headers.get("Docker-Content-Digest") or digest, size)
