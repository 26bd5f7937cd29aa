"""The endpoints of the distribution-spec: a request in, an answer out. There is no socket here.

Each function of `Endpoints` is one row of the specification's table, ``end-1`` to ``end-14``; `ROUTES` is
that table.

See: OCI distribution-spec 1.1, "Endpoints".
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cnlab.containers.images.reference import is_digest
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.storage import Storage, tag_order
from cnlab.containers.registry.tokens import Access

MANIFEST_SIZE_MAX = 4 << 20
"""The size that the specification tells registries to accept at least."""

_INDEX = "application/vnd.oci.image.index.v1+json"
_FOREIGN = ("nondistributable", "foreign")  # layers that are fetched elsewhere: nobody pushes them


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for; `body` can be read once, chunk by chunk."""

    method: str
    path: str  # decoded, without the query
    query: Mapping[str, str]
    headers: Mapping[str, str]  # names in lower case
    body: Iterable[bytes] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets: bytes, or a part of a file."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Path = b""
    offset: int = 0  # of a file
    length: int | None = None  # of the file's part; None: to its end


def refusal(error: RegistryError) -> Answer:
    """Put an error into the words of the specification."""
    return Answer(error.status, {"Content-Type": "application/json"}, error.to_json())


class Endpoints:
    """A registry without its network: what it answers, from what is in `storage`."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def answer(self, request: Request) -> Answer:
        """Find the endpoint and call it.

        Raises:
            RegistryError: the request is refused.
        """
        route, names = find_route(request)
        return route.endpoint(self, request, **names)

    def version(self, request: Request) -> Answer:
        """Say that this is a registry (end-1)."""
        return _json({})

    def catalog(self, request: Request) -> Answer:
        """List the repositories, a page at a time; Docker's, not in the specification."""
        names, headers = _page(self.storage.repositories(), request, key=lambda name: (name,))
        return _json({"repositories": names}, headers)

    def tags(self, request: Request, name: str) -> Answer:
        """List the tags of a repository, a page at a time (end-8)."""
        tags, headers = _page(self.storage.tags(name), request, key=tag_order)
        return _json({"name": name, "tags": tags}, headers)

    # Blobs

    def blob(self, request: Request, name: str, digest: str) -> Answer:
        """Send a blob, or the range of it that is asked for (end-2)."""
        path = self.storage.blob(name, digest)
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
        }
        if not (asked := request.headers.get("range")):
            return Answer(HTTPStatus.OK, headers, path)
        size = path.stat().st_size
        first, last = _byte_range(asked, size)
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Answer(HTTPStatus.PARTIAL_CONTENT, headers, path, first, last - first + 1)

    def delete_blob(self, request: Request, name: str, digest: str) -> Answer:
        """Take a blob from a repository (end-10)."""
        self.storage.delete_blob(name, digest)
        return Answer(HTTPStatus.ACCEPTED)

    def begin_upload(self, request: Request, name: str) -> Answer:
        """Begin an upload (end-4a), do it at once (end-4b), or spare it by a mount (end-11)."""
        mount, source = request.query.get("mount", ""), request.query.get("from", "")
        if mount and source and self.storage.has_blob(source, mount):
            self.storage.mount_blob(name, mount, source)
            return _created(name, "blobs", mount)
        upload = self.storage.begin_upload(name)
        if "digest" in request.query:
            return self.finish_upload(request, name, upload)
        return self._progress(HTTPStatus.ACCEPTED, name, upload)

    def upload_status(self, request: Request, name: str, upload: str) -> Answer:
        """Say how much has arrived, to a client that wants to go on (end-13)."""
        return self._progress(HTTPStatus.NO_CONTENT, name, upload)

    def send_chunk(self, request: Request, name: str, upload: str) -> Answer:
        """Take the next chunk of an upload (end-5)."""
        refused = self._take(request, name, upload)
        return refused or self._progress(HTTPStatus.ACCEPTED, name, upload)

    def finish_upload(self, request: Request, name: str, upload: str) -> Answer:
        """Take the last chunk, if there is one, and make a blob if the digest is right (end-6)."""
        digest = request.query.get("digest", "")
        if not is_digest(digest):
            raise RegistryError("DIGEST_INVALID", f"?digest={digest} is not sha256:<64 hex digits>")
        if refused := self._take(request, name, upload):
            return refused
        self.storage.finish_upload(name, upload, digest)
        return _created(name, "blobs", digest)

    def cancel_upload(self, request: Request, name: str, upload: str) -> Answer:
        """Forget an upload (end-14)."""
        self.storage.cancel_upload(upload)
        return Answer(HTTPStatus.NO_CONTENT)

    def _take(self, request: Request, name: str, upload: str) -> Answer | None:
        """Append the body, or say what has arrived where the client is not there."""
        size = self.storage.upload_size(upload)
        sent = re.fullmatch(
            r"(?:bytes )?(\d+)-(\d+)(?:/\S+)?", request.headers.get("content-range", f"{size}-{size}")
        )
        if not sent or int(sent[1]) != size:
            return self._progress(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, name, upload)
        self.storage.append(upload, request.body)
        return None

    def _progress(self, status: HTTPStatus, name: str, upload: str) -> Answer:
        size = self.storage.upload_size(upload)
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{upload}",
            "Range": f"0-{max(size - 1, 0)}",
            "Docker-Upload-UUID": upload,
        }
        return Answer(status, headers)

    # Manifests

    def manifest(self, request: Request, name: str, reference: str) -> Answer:
        """Send a manifest (end-3)."""
        digest, media_type, data = self.storage.manifest(name, reference)
        return Answer(HTTPStatus.OK, {"Content-Type": media_type, "Docker-Content-Digest": digest}, data)

    def put_manifest(self, request: Request, name: str, reference: str) -> Answer:
        """Keep a manifest all of whose parts are here, and let a tag mean it (end-7)."""
        data = _read_manifest(request)
        manifest = _parse_manifest(data)
        media_type = request.headers.get("content-type") or manifest.get("mediaType", "")
        if manifest.get("mediaType", media_type) != media_type:
            raise RegistryError(
                "MANIFEST_INVALID", f"it says {manifest['mediaType']}, but is sent as {media_type}"
            )
        self._require_parts(name, manifest)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        tag = "" if is_digest(reference) else reference
        if not tag:
            algorithm = reference.partition(":")[0]
            digest = f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"
            if digest != reference:
                raise RegistryError("DIGEST_INVALID", f"the bytes have the digest {digest}, not {reference}")
        self.storage.put_manifest(name, data, media_type, digest=digest, tag=tag)
        created = _created(name, "manifests", digest)
        subject = {"OCI-Subject": manifest["subject"]["digest"]} if manifest.get("subject") else {}
        return Answer(created.status, {**created.headers, **subject})

    def delete_manifest(self, request: Request, name: str, reference: str) -> Answer:
        """Take a tag away, or a manifest with all its tags (end-9)."""
        if is_digest(reference):
            self.storage.delete_manifest(name, reference)
        else:
            self.storage.delete_tag(name, reference)
        return Answer(HTTPStatus.ACCEPTED)

    def referrers(self, request: Request, name: str, digest: str) -> Answer:
        """List the manifests whose subject is this one: signatures, bills of materials (end-12)."""
        wanted = request.query.get("artifactType")
        found = []
        for own_digest, media_type, data in self.storage.manifests(name):
            manifest = json.loads(data)
            artifact_type = manifest.get("artifactType") or manifest.get("config", {}).get("mediaType", "")
            if (manifest.get("subject") or {}).get("digest") == digest and wanted in (None, artifact_type):
                descriptor = {"mediaType": media_type, "digest": own_digest, "size": len(data)}
                annotations = {"annotations": manifest["annotations"]} if "annotations" in manifest else {}
                found.append(descriptor | {"artifactType": artifact_type} | annotations)
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": found}
        return _json(index, {**headers, "Content-Type": _INDEX})

    def _require_parts(self, name: str, manifest: Mapping[str, Any]) -> None:
        """Refuse a manifest that nobody could pull."""
        for part in (manifest.get("config"), *manifest.get("layers", ())):
            if not part or any(word in part.get("mediaType", "") for word in _FOREIGN):
                continue
            if not self.storage.has_blob(name, part["digest"]):
                reason = f"{name} has no blob {part['digest']}; push it first"
                raise RegistryError("MANIFEST_BLOB_UNKNOWN", reason)
        for part in manifest.get("manifests", ()):
            if not self.storage.has_manifest(name, part["digest"]):
                reason = f"{name} has no manifest {part['digest']}; push it first"
                raise RegistryError("MANIFEST_BLOB_UNKNOWN", reason)


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the table: method and path, who answers, and what a token must allow."""

    method: str
    path: re.Pattern[str]
    endpoint: Callable[..., Answer]
    action: str = ""


def _route(method: str, path: str, endpoint: Callable[..., Answer], action: str) -> Route:
    parts = {"name": ".+"}  # the only one that may have a slash
    pattern = re.sub(r"<(\w+)>", lambda part: f"(?P<{part[1]}>{parts.get(part[1], '[^/]+')})", path)
    return Route(method, re.compile(pattern), endpoint, action)


ROUTES = (
    _route("GET", "/v2/", Endpoints.version, ""),
    _route("GET", "/v2/_catalog", Endpoints.catalog, "*"),
    _route("GET", "/v2/<name>/tags/list", Endpoints.tags, "pull"),
    _route("GET", "/v2/<name>/referrers/<digest>", Endpoints.referrers, "pull"),
    _route("POST", "/v2/<name>/blobs/uploads/", Endpoints.begin_upload, "push"),
    _route("GET", "/v2/<name>/blobs/uploads/<upload>", Endpoints.upload_status, "push"),
    _route("PATCH", "/v2/<name>/blobs/uploads/<upload>", Endpoints.send_chunk, "push"),
    _route("PUT", "/v2/<name>/blobs/uploads/<upload>", Endpoints.finish_upload, "push"),
    _route("DELETE", "/v2/<name>/blobs/uploads/<upload>", Endpoints.cancel_upload, "push"),
    _route("GET", "/v2/<name>/blobs/<digest>", Endpoints.blob, "pull"),
    _route("DELETE", "/v2/<name>/blobs/<digest>", Endpoints.delete_blob, "delete"),
    _route("GET", "/v2/<name>/manifests/<reference>", Endpoints.manifest, "pull"),
    _route("PUT", "/v2/<name>/manifests/<reference>", Endpoints.put_manifest, "push"),
    _route("DELETE", "/v2/<name>/manifests/<reference>", Endpoints.delete_manifest, "delete"),
)


def find_route(request: Request) -> tuple[Route, dict[str, str]]:
    """Return the row for a request, and what its path names; HEAD is GET whose body is not sent."""
    method = "GET" if request.method == "HEAD" else request.method
    matches = [(route, found) for route in ROUTES if (found := route.path.fullmatch(request.path))]
    for route, found in matches:
        if route.method == method:
            return route, found.groupdict()
    if matches:
        raise RegistryError("UNSUPPORTED", f"{request.method} is not for {request.path}")
    raise RegistryError(
        "NAME_INVALID", f"no endpoint has the path {request.path}", status=HTTPStatus.NOT_FOUND
    )


def needed_access(request: Request) -> Access | None:
    """Return what a token must allow for this request; None: nothing, any token will do."""
    route, names = find_route(request)
    if not route.action:
        return None
    actions = ("pull", "push") if route.action == "push" else (route.action,)
    return Access(names["name"], actions) if names else Access("catalog", actions, "registry")


def _json(value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(
        HTTPStatus.OK, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode()
    )


def _created(name: str, kind: str, digest: str) -> Answer:
    return Answer(
        HTTPStatus.CREATED, {"Location": f"/v2/{name}/{kind}/{digest}", "Docker-Content-Digest": digest}
    )


def _page(
    items: list[str], request: Request, *, key: Callable[[str], tuple[str, ...]]
) -> tuple[list[str], dict[str, str]]:
    """Cut out the ``n`` items after ``last``, with a ``Link`` to those that follow."""
    if "last" in request.query:
        items = [item for item in items if key(item) > key(request.query["last"])]
    asked = request.query.get("n", "")
    page = items[: int(asked)] if asked.isdigit() else items
    if not page or len(page) == len(items):
        return page, {}
    return page, {"Link": f'<{request.path}?n={asked}&last={quote(page[-1])}>; rel="next"'}


def _byte_range(header: str, size: int) -> tuple[int, int]:
    """Read ``bytes=first-last``, ``bytes=first-`` or ``bytes=-count``."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if not found or found[0] == "bytes=-":
        raise RegistryError("RANGE_INVALID", f"range {header!r} is not bytes=first-last")
    first = int(found[1]) if found[1] else max(size - int(found[2]), 0)
    last = min(int(found[2]), size - 1) if found[1] and found[2] else size - 1
    if first > last:
        raise RegistryError("RANGE_INVALID", f"range {header!r} is not within the blob's {size} bytes")
    return first, last


def _read_manifest(request: Request) -> bytes:
    data = bytearray()
    for chunk in request.body:
        data += chunk
        if len(data) > MANIFEST_SIZE_MAX:
            raise RegistryError(
                "SIZE_INVALID", f"a manifest may have {MANIFEST_SIZE_MAX} bytes; put data into blobs"
            )
    return bytes(data)


def _parse_manifest(data: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        descriptors = [manifest.get("subject"), manifest.get("config")]
        descriptors += [*manifest.get("layers", ()), *manifest.get("manifests", ())]
        is_valid = manifest.get("schemaVersion") == 2 and all(
            is_digest(descriptor["digest"]) for descriptor in descriptors if descriptor is not None
        )
    except (ValueError, LookupError, TypeError, AttributeError):
        is_valid = False
    if not is_valid:
        raise RegistryError("MANIFEST_INVALID", "it is no manifest of schemaVersion 2 with descriptors")
    return dict(manifest)
