"""The files behind a registry.

Blobs lie where an OCI image layout has them, once for all repositories; a repository is a folder that says
what it has::

    blobs/sha256/HEX
    uploads/ID                                     what has come of a blob so far
    repositories/team/app/_blobs/sha256/HEX        empty: the blob belongs to team/app
    repositories/team/app/_manifests/sha256/HEX    its media type
    repositories/team/app/_tags/TAG                a manifest's digest

Nothing is kept in memory, so that a registry can be stopped and started. No component of a repository's name
begins with an underscore, so those folders are never somebody's repository.
"""

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnlab.containers.images.reference import REPOSITORY_RULE, is_digest, is_repository, is_tag
from cnlab.containers.registry.errors import RegistryError

_PIECE = 1 << 20


class Storage:
    """Repositories in `directory`, which is made if need be.

    Names, tags and digests are checked before they become paths; what is not there is a `RegistryError`.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        for name in ("blobs", "uploads", "repositories"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self._deleting = threading.Lock()

    def repositories(self) -> list[str]:
        """Return the names of all repositories."""
        root = self.directory / "repositories"
        found = (Path(path).relative_to(root) for path, names, _ in os.walk(root) if "_manifests" in names)
        return sorted(map(str, found))

    # Blobs

    def blob(self, repository: str, digest: str) -> Path:
        """Return the file of a blob that `repository` has."""
        if not self.has_blob(repository, digest):
            raise RegistryError("BLOB_UNKNOWN", f"{repository} has no blob {digest}")
        return self._content(digest)

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether `repository` has this blob; that another one has it does not count."""
        return self._marker(repository, "_blobs", digest).exists() and self._content(digest).exists()

    def mount_blob(self, repository: str, digest: str, source: str) -> None:
        """Give `repository` a blob of `source`; no byte is copied."""
        self.blob(source, digest)
        self._write(self._marker(repository, "_blobs", digest), b"")

    def delete_blob(self, repository: str, digest: str) -> None:
        """Take a blob from `repository`, and from the disk if no other one has it."""
        self.blob(repository, digest)
        self._marker(repository, "_blobs", digest).unlink()
        self._forget(digest)

    # Uploads

    def begin_upload(self, repository: str) -> str:
        """Return the id of a new upload session."""
        self._repository(repository)
        upload = f"{secrets.token_hex(16)}"
        self._write(self.directory / "uploads" / upload, b"")
        return upload

    def upload_size(self, upload: str) -> int:
        """Return how many bytes of an upload have arrived."""
        return self._upload(upload).stat().st_size

    def append(self, upload: str, chunks: Iterable[bytes]) -> int:
        """Add `chunks` to an upload as they come, and return its size; what came before an error stays."""
        with self._upload(upload).open("ab") as file:
            for chunk in chunks:
                file.write(chunk)
            return file.tell()

    def finish_upload(self, repository: str, upload: str, digest: str) -> None:
        """Make a blob of an upload, if it is what `digest` says; otherwise it is gone."""
        file = self._upload(upload)
        content = self._content(digest)
        found = _digest_of_file(file, digest.partition(":")[0])
        if found != digest:
            file.unlink()
            raise RegistryError("DIGEST_INVALID", f"the bytes have the digest {found}, not {digest}")
        content.parent.mkdir(parents=True, exist_ok=True)
        file.rename(content)
        self._write(self._marker(repository, "_blobs", digest), b"")

    def cancel_upload(self, upload: str) -> None:
        """Throw away what has come."""
        self._upload(upload).unlink()

    # Manifests and tags

    def put_manifest(
        self, repository: str, data: bytes, media_type: str, *, digest: str, tag: str = ""
    ) -> None:
        """Keep a manifest under its `digest`, and let `tag` mean it from now on."""
        self._write(self._content(digest), data)
        self._write(self._marker(repository, "_manifests", digest), media_type.encode())
        if tag:
            self._write(self._tag(repository, tag), digest.encode())

    def manifest(self, repository: str, reference: str) -> tuple[str, str, bytes]:
        """Return (digest, media type, bytes) of what a tag or digest means."""
        digest = self.resolve(repository, reference)
        try:
            media_type = self._marker(repository, "_manifests", digest).read_text()
            return digest, media_type, self._content(digest).read_bytes()
        except FileNotFoundError:
            raise RegistryError("MANIFEST_UNKNOWN", f"{repository} has no manifest {reference}") from None

    def has_manifest(self, repository: str, digest: str) -> bool:
        """Whether `repository` has this manifest."""
        return self._marker(repository, "_manifests", digest).exists()

    def resolve(self, repository: str, reference: str) -> str:
        """Return the digest that a tag means now; a digest means itself."""
        if is_digest(reference):
            return reference
        try:
            return self._tag(repository, reference).read_text()
        except FileNotFoundError:
            raise RegistryError("MANIFEST_UNKNOWN", f"{repository} has no tag {reference!r}") from None

    def manifests(self, repository: str) -> Iterator[tuple[str, str, bytes]]:
        """Yield all manifests of `repository`, as `manifest` returns them."""
        root = self._repository(repository) / "_manifests"
        for marker in sorted(root.glob("*/*")):
            yield self.manifest(repository, f"{marker.parent.name}:{marker.name}")

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Take a manifest from `repository`, with all tags that mean it."""
        self.manifest(repository, digest)
        self._marker(repository, "_manifests", digest).unlink()
        for tag in self.tags(repository):
            if self.resolve(repository, tag) == digest:
                self.delete_tag(repository, tag)
        self._forget(digest)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Take a tag away; the manifest it meant stays."""
        self.resolve(repository, tag)
        self._tag(repository, tag).unlink()

    def tags(self, repository: str) -> list[str]:
        """Return the tags of `repository` in the order that the specification asks for."""
        folder = self._repository(repository)
        if not folder.exists():
            raise RegistryError("NAME_UNKNOWN", f"there is no repository {repository}")
        return sorted((path.name for path in (folder / "_tags").glob("*")), key=tag_order)

    # Paths

    def _repository(self, repository: str) -> Path:
        if not is_repository(repository):
            raise RegistryError("NAME_INVALID", f"repository {repository!r} {REPOSITORY_RULE}")
        return self.directory / "repositories" / repository

    def _marker(self, repository: str, kind: str, digest: str) -> Path:
        return self._repository(repository) / kind / _path_of(digest)

    def _tag(self, repository: str, tag: str) -> Path:
        if not is_tag(tag):
            raise RegistryError("MANIFEST_INVALID", f"{tag!r} is neither a tag nor a digest")
        return self._repository(repository) / "_tags" / tag

    def _content(self, digest: str) -> Path:
        return self.directory / "blobs" / _path_of(digest)

    def _upload(self, upload: str) -> Path:
        path = self.directory / "uploads" / upload
        if not upload.isalnum() or not path.exists():
            raise RegistryError(
                "BLOB_UPLOAD_UNKNOWN", f"there is no upload {upload!r}; it may have been finished"
            )
        return path

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.directory / "uploads" / f".{secrets.token_hex(8)}"
        draft.write_bytes(data)
        draft.rename(path)

    def _forget(self, digest: str) -> None:
        with self._deleting:
            pattern = str(Path("_*", _path_of(digest)))
            if not any((self.directory / "repositories").rglob(pattern)):
                with contextlib.suppress(FileNotFoundError):
                    self._content(digest).unlink()


def tag_order(tag: str) -> tuple[str, str]:
    """Sort as the specification says, case-insensitively, and never two tags as equal."""
    return tag.lower(), tag


def _path_of(digest: str) -> Path:
    if not is_digest(digest):
        raise RegistryError("DIGEST_INVALID", f"{digest!r} is not sha256:<64 hex digits>")
    algorithm, _, encoded = digest.partition(":")
    return Path(algorithm, encoded)


def _digest_of_file(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
