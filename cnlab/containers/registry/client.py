"""The client's side of the distribution-spec: one method for each thing that can be asked of a registry.

`push` and `pull` in `transfer` are made of these.

See: OCI distribution-spec 1.1.
"""

import contextlib
import http.client
import json
import ssl
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, BinaryIO, Self
from urllib.parse import urlencode, urljoin

from cnlab.containers.images.descriptor import (
    INDEX_MEDIA_TYPES,
    MANIFEST_MEDIA_TYPES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
    new_hash,
)
from cnlab.containers.images.reference import is_digest
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.exchange import Exchange
from cnlab.containers.registry.session import ANSWER_SIZE_MAX, Session
from cnlab.containers.registry.tokens import Access, Scope, access_to
from cnlab.containers.registry.upload import Upload
from cnlab.errors import InvalidImage

ANY_MANIFEST = (*sorted(MANIFEST_MEDIA_TYPES), *sorted(INDEX_MEDIA_TYPES))


class Client:
    """A connection to one registry.

    Args:
        address: ``host`` or ``host:port``.
        credentials: user and password, for a registry that asks for them.
        tls: whether to speak HTTPS, by default everywhere but on this machine itself; or how:
            ``ssl.create_default_context(cafile=…)`` trusts the signers in that file, not the system's.
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
        self._session = Session(address, credentials, tls, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the client can still be used, and opens new ones."""
        self._session.close()

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request so far, those for tokens too."""
        return self._session.exchanges

    def ping(self) -> None:
        """Find out that there is a registry, and that it lets us in."""
        self._session.ask("GET", "/v2/")

    def catalog(self, *, page_size: int | None = None) -> list[str]:
        """Return the names of the repositories, if the registry tells; it is not in the specification."""
        return self._pages(
            "/v2/_catalog", "repositories", page_size, (Access("catalog", ("*",), "registry"),)
        )

    def tags(self, repository: str, *, page_size: int | None = None) -> list[str]:
        """Return all tags of a repository, asked for `page_size` at a time."""
        return self._pages(f"/v2/{repository}/tags/list", "tags", page_size, access_to(repository, "pull"))

    def _pages(self, path: str, key: str, page_size: int | None, access: Scope) -> list[str]:
        found: list[str] = []
        url = path if page_size is None else f"{path}?n={page_size}"
        while url:
            with self._session.request("GET", url, access=access) as answer:
                found += json.loads(answer.read())[key] or []
                link = answer.headers.get("Link", "")
            url = (
                urljoin(self._session.url + url.lstrip("/"), link[1 : link.index(">")])
                if link.startswith("<")
                else ""
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
        with self._session.request(
            "GET", path, headers=headers, access=access_to(repository, "pull")
        ) as answer:
            data = answer.read(ANSWER_SIZE_MAX + 1)
            descriptor = _descriptor(answer, len(data), digest_of(data))
        if len(data) > ANSWER_SIZE_MAX:
            raise InvalidImage(f"{repository}/{reference}: a manifest of more than {ANSWER_SIZE_MAX} bytes")
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
        with self._session.request(
            "HEAD", path, headers=headers, access=access_to(repository, "pull")
        ) as answer:
            return _descriptor(answer, int(answer.headers["Content-Length"]), reference)

    def put_manifest(self, repository: str, reference: str, data: bytes, media_type: str) -> str:
        """Store a manifest whose parts are there already, and return its digest."""
        path, headers = f"/v2/{repository}/manifests/{reference}", {"Content-Type": media_type}
        self._session.ask(
            "PUT", path, headers=headers, body=data, access=access_to(repository, "pull", "push")
        )
        return reference if is_digest(reference) else digest_of(data)

    def delete_manifest(self, repository: str, reference: str) -> None:
        """Delete a tag, or by its digest a manifest."""
        access = access_to(repository, "delete")
        self._session.ask("DELETE", f"/v2/{repository}/manifests/{reference}", access=access)

    def referrers(
        self, repository: str, digest: str, *, artifact_type: str | None = None
    ) -> list[Descriptor]:
        """Return the manifests that name `digest` as their subject: signatures, bills of materials.

        A registry from before the specification's version 1.1 has no list of them; there they stand in an
        index, under a tag made of the digest.
        """
        query = f"?{urlencode({'artifactType': artifact_type})}" if artifact_type else ""
        path = f"/v2/{repository}/referrers/{digest}{query}"
        try:
            index = json.loads(self._session.ask("GET", path, access=access_to(repository, "pull")))
        except RegistryError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            index = self._index_of_referrers(repository, digest)
        return [
            Descriptor.from_json(entry)
            for entry in index["manifests"]
            if artifact_type in (None, entry.get("artifactType"))  # a registry need not filter
        ]

    def _index_of_referrers(self, repository: str, digest: str) -> dict[str, Any]:
        """Return what the referrers tag means, an empty index if there is none.

        See: distribution-spec, "Unavailable Referrers API".
        """
        try:
            _, data = self.manifest(repository, digest.replace(":", "-"))
        except RegistryError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return {"manifests": []}
        index: dict[str, Any] = json.loads(data)
        return index

    # Blobs

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has the blob, so that it need not be sent."""
        try:
            self._session.ask(
                "HEAD", f"/v2/{repository}/blobs/{digest}", access=access_to(repository, "pull")
            )
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
        with self._session.request(
            "GET", path, headers=headers, access=access_to(repository, "pull")
        ) as answer:
            if offset and answer.status != HTTPStatus.PARTIAL_CONTENT:
                raise RegistryError(
                    "UNSUPPORTED", f"{self._session.url} sends no parts of blobs", status=answer.status
                )
            yield answer

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob from a repository."""
        self._session.ask(
            "DELETE", f"/v2/{repository}/blobs/{digest}", access=access_to(repository, "delete")
        )

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

    def start_upload(self, repository: str) -> Upload:
        """Begin to send a blob."""
        upload = self._begin_upload(repository)
        assert upload is not None, "only a mount is done at once"
        return upload

    def resume_upload(self, repository: str, location: str) -> Upload:
        """Go on with an upload: `Upload.offset` is where.

        Registries that keep the offset in the location, as Distribution 2 does, take the newest one only,
        and none after a chunk that was cut off.
        """
        upload = Upload(self._session, repository, location)
        upload.refresh()
        return upload

    def _begin_upload(self, repository: str, mount: str = "", source: str = "") -> Upload | None:
        query = f"?{urlencode({'mount': mount, 'from': source})}" if mount else ""
        access = access_to(repository, "pull", "push") + (access_to(source, "pull") if source else ())
        with self._session.request(
            "POST", f"/v2/{repository}/blobs/uploads/{query}", body=b"", access=access
        ) as answer:
            if answer.status == HTTPStatus.CREATED:
                return None
            return Upload(self._session, repository, urljoin(self._session.url, answer.headers["Location"]))


def _descriptor(answer: http.client.HTTPResponse, size: int, digest: str) -> Descriptor:
    media_type = answer.headers.get("Content-Type", MEDIA_TYPE_MANIFEST).partition(";")[0].strip()
    return Descriptor(media_type, answer.headers.get("Docker-Content-Digest") or digest, size)
