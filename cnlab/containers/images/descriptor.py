"""Descriptors: typed, sized, content-addressed pointers, of which an image is a tree.

An index points at manifests, a manifest at a config and layers. A pointer holds the digest of what it points
at, so whoever has the root's digest can tell every forged or damaged byte below it.

See: OCI image-spec, descriptor.md, image-index.md (platform) and media-types.md.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Self

from cnlab.errors import InvalidImage, InvalidValue

MEDIA_TYPE_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_TYPE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_TYPE_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_TYPE_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_TYPE_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
MEDIA_TYPE_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
MEDIA_TYPE_EMPTY = "application/vnd.oci.empty.v1+json"

MEDIA_TYPE_DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_TYPE_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_TYPE_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MEDIA_TYPE_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
MEDIA_TYPE_DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEX_MEDIA_TYPES = frozenset({MEDIA_TYPE_INDEX, MEDIA_TYPE_DOCKER_INDEX})
MANIFEST_MEDIA_TYPES = frozenset({MEDIA_TYPE_MANIFEST, MEDIA_TYPE_DOCKER_MANIFEST})

_ENCODED_LENGTH = {"sha256": 64, "sha384": 96, "sha512": 128}
_CHUNK_BYTES = 1 << 20


def new_hash(digest: str) -> "hashlib._Hash":
    """Return an empty hash of the algorithm that `digest` names.

    Raises:
        InvalidImage: `digest` is malformed, or of an algorithm that this module does not know.
    """
    algorithm, _, encoded = digest.partition(":")
    length = _ENCODED_LENGTH.get(algorithm)
    if length is None or not re.fullmatch(rf"[0-9a-f]{{{length}}}", encoded):
        raise InvalidImage(f"digest {digest!r} is not 'sha256:' and 64 lowercase hex digits")
    return hashlib.new(algorithm)


def digest_of(content: bytes | BinaryIO) -> str:
    """Return the ``sha256:…`` digest of bytes, or of what is left to read of a binary file."""
    if isinstance(content, bytes):
        return f"sha256:{hashlib.sha256(content).hexdigest()}"
    running = hashlib.sha256()
    while chunk := content.read(_CHUNK_BYTES):
        running.update(chunk)
    return f"sha256:{running.hexdigest()}"


@dataclass(frozen=True, slots=True)
class Platform:
    """The machine that an image is for, in Go's words: ``linux/amd64``, ``linux/arm64/v8``."""

    os: str
    architecture: str
    variant: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Other fields, such as ``os.version``, as they stand in the JSON."""

    @classmethod
    def here(cls) -> Self:
        """Return the platform of this machine."""
        names = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
        machine = os.uname().machine
        return cls("linux", names.get(machine, machine))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``os/architecture`` or ``os/architecture/variant``."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise InvalidValue(f"platform {text!r} is not like 'linux/amd64' or 'linux/arm64/v8'")
        return cls(parts[0], parts[1], "".join(parts[2:]))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read the ``platform`` of a descriptor; an image config has the same fields."""
        extra = dict(data)
        system, architecture, variant = (extra.pop(name, "") for name in ("os", "architecture", "variant"))
        if not (isinstance(system, str) and isinstance(architecture, str) and system and architecture):
            raise InvalidImage(f"platform {dict(data)!r} lacks 'os' or 'architecture'")
        return cls(system, architecture, variant, extra)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": self.os, **variant, **self.extra}

    def satisfies(self, wanted: "Platform") -> bool:
        """Whether what is made for this platform runs on the `wanted` one; no variant wanted is any."""
        same = (self.os, self.architecture) == (wanted.os, wanted.architecture)
        return same and (not wanted.variant or self._variant() == wanted._variant())

    def _variant(self) -> str:
        return self.variant or {"arm64": "v8", "arm": "v7"}.get(self.architecture, "")

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to `size` bytes with that `digest`, to be read as `media_type` says.

    Raises:
        InvalidImage: the digest or the size is none.
    """

    media_type: str
    digest: str  # "sha256:" and 64 hex digits
    size: int  # bytes
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Other fields, such as ``urls`` or ``artifactType``, as they stand in the JSON."""

    def __post_init__(self) -> None:
        new_hash(self.digest)
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 0:
            raise InvalidImage(f"descriptor of {self.digest}: size {self.size!r} is no number of bytes")

    @classmethod
    def of(
        cls,
        content: bytes,
        media_type: str,
        *,
        annotations: Mapping[str, str] | None = None,
        platform: Platform | None = None,
    ) -> Self:
        """Return the descriptor of `content`."""
        return cls(media_type, digest_of(content), len(content), dict(annotations or {}), platform)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read a JSON descriptor; fields that this class does not know are kept in `extra`."""
        rest = dict(data) if isinstance(data, Mapping) else {}
        media_type, digest, size = (rest.pop(name, None) for name in ("mediaType", "digest", "size"))
        annotations, platform = rest.pop("annotations", None) or {}, rest.pop("platform", None)
        if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(size, int):
            raise InvalidImage(f"descriptor {data!r} lacks 'mediaType', 'digest' or 'size'")
        if not isinstance(annotations, Mapping):
            raise InvalidImage(f"descriptor of {digest}: annotations {annotations!r} are no JSON object")
        # Engines write {"os": "", …} or an empty object into descriptors of what has no platform.
        has_platform = isinstance(platform, Mapping) and platform.get("os") and platform.get("architecture")
        if platform is not None and not has_platform:
            rest["platform"] = platform
        return cls(
            media_type,
            digest,
            size,
            annotations,
            Platform.from_json(platform) if has_platform else None,
            rest,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON object."""
        data: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            data["annotations"] = dict(self.annotations)
        if self.platform is not None:
            data["platform"] = self.platform.to_json()
        return data | dict(self.extra)

    @property
    def hex(self) -> str:
        """The digest without its algorithm: the blob's file name."""
        return self.digest.partition(":")[2]

    @property
    def is_index(self) -> bool:
        """Whether it points at an index, which points at manifests."""
        return self.media_type in INDEX_MEDIA_TYPES

    @property
    def is_manifest(self) -> bool:
        """Whether it points at an image manifest."""
        return self.media_type in MANIFEST_MEDIA_TYPES
