"""Names of images: ``registry/repository:tag@digest``, of which people write as little as they can.

See: OCI distribution-spec, "Pulling manifests", for what a repository, a tag and a digest may look like.
"""

import re
from dataclasses import dataclass

from cnlab.errors import InvalidValue

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_REGISTRY = re.compile(r"[a-zA-Z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?")
_NAME_MAX = 255


@dataclass(frozen=True, slots=True)
class Reference:
    """The full name of an image; `str` gives it as one would type it, defaults spelled out."""

    registry: str  # "host" or "host:port"
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read a name as Docker's command line does: ``busybox`` is ``docker.io/library/busybox:latest``.

        The first component is a registry if it could not be a folder: it has a dot or a port, or is
        ``localhost``.

        Raises:
            InvalidValue: it is not a name of an image.
        """
        rest, _, digest = text.partition("@")
        registry, slash, repository = rest.partition("/")
        if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
            registry, repository = DEFAULT_REGISTRY, rest
        repository, _, tag = repository.partition(":")
        if registry == DEFAULT_REGISTRY and "/" not in repository:
            repository = f"library/{repository}"
        reference = cls(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest)
        reference._check(text)
        return reference

    def __str__(self) -> str:
        name = f"{self.registry}/{self.repository}"
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def tag_or_digest(self) -> str:
        """What a registry is asked for: the digest where there is one, which never means another image."""
        return self.digest or self.tag

    def _check(self, text: str) -> None:
        parts = (
            (_REGISTRY.fullmatch(self.registry), f"registry {self.registry!r} is no host or host:port"),
            (is_repository(self.repository), f"repository {self.repository!r} {REPOSITORY_RULE}"),
            (not self.tag or is_tag(self.tag), f"tag {self.tag!r} has other than letters, digits, . _ -"),
            (
                not self.digest or is_digest(self.digest),
                f"digest {self.digest!r} is not sha256:<64 hex digits>",
            ),
        )
        for is_valid, reason in parts:
            if not is_valid:
                raise InvalidValue(f"image name {text!r}: {reason}")


REPOSITORY_RULE = "has other than lower-case letters, digits and . _ - between them, / between folders"


def is_repository(text: str) -> bool:
    """Whether a registry may have a repository of this name; dots alone are none, so no path climbs out."""
    return len(text) <= _NAME_MAX and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` can be a tag."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Whether `text` can be a digest."""
    return _DIGEST.fullmatch(text) is not None
