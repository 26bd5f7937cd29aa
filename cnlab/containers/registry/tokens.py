"""Who may do what in a registry: the challenge, and the token that answers it.

A registry says 401 and where tokens are to be had. The client fetches one there, with a password or without,
for what it is about to do, and repeats its request. The registry need not know passwords: it only has to
trust the signature on the token.

See: RFC 6750 (Bearer), RFC 7617 (Basic), RFC 7519 (JWT); Distribution's "Token Authentication Specification".
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

LIFETIME_S = 300


@dataclass(frozen=True, slots=True)
class Challenge:
    """The header ``WWW-Authenticate``: a scheme and what it needs to know."""

    scheme: str  # "Bearer" or "Basic"
    parameters: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, header: str) -> "Challenge":
        """Read ``Bearer realm="http://…",service="…",scope="repository:app:pull"``."""
        scheme, _, rest = header.strip().partition(" ")
        found = re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', rest)
        return cls(scheme.capitalize(), {name.lower(): quoted or bare for name, quoted, bare in found})

    def __str__(self) -> str:
        return f"{self.scheme} " + ",".join(f'{name}="{value}"' for name, value in self.parameters.items())


@dataclass(frozen=True, slots=True)
class Access:
    """What a token allows with one resource; as text ``repository:team/app:pull,push``, a *scope*."""

    name: str
    actions: tuple[str, ...]
    type: str = "repository"

    @classmethod
    def parse(cls, scope: str) -> "Access":
        """Read a scope; the name may have a colon, where it names a port."""
        type_, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        return cls(name, tuple(actions.split(",")), type_)

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(self.actions)}"

    def covers(self, needed: "Access") -> bool:
        """Whether this allows all that is `needed`."""
        same = (self.type, self.name) == (needed.type, needed.name)
        return same and ("*" in self.actions or set(needed.actions) <= set(self.actions))


Scope = tuple[Access, ...]
"""What a request needs to be allowed."""


def access_to(repository: str, *actions: str) -> Scope:
    """Return the scope of a request that does something in one repository."""
    return (Access(repository, actions),)


def basic_credentials(header: str) -> tuple[str, str] | None:
    """Read (user, password) from ``Authorization: Basic …``, if it says that."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (user, password) if colon else None


def basic_header(user: str, password: str) -> str:
    """Return ``Authorization`` for a user and a password: encoded, which hides nothing."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TokenIssuer:
    """Sign and check tokens: JSON Web Tokens under HMAC with SHA-256.

    Args:
        key: the secret of those who sign and check; by default one that only this issuer knows.
        now: the time, in seconds since 1970.
    """

    def __init__(self, key: bytes = b"", *, now: Callable[[], float] = time.time) -> None:
        self._key = key or secrets.token_bytes(32)
        self._now = now

    def issue(self, user: str, access: Iterable[Access]) -> str:
        """Return a token that allows `access` for `LIFETIME_S`."""
        granted = [{"type": item.type, "name": item.name, "actions": item.actions} for item in access]
        issued = int(self._now())
        claims = {"sub": user, "iat": issued, "exp": issued + LIFETIME_S, "access": granted}
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def allowed(self, token: str) -> list[Access] | None:
        """Return what a token allows; None: it is not ours, was changed, or is too old."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            return None
        claims = json.loads(_decode(signed.partition(".")[2]))
        if claims["exp"] <= self._now():
            return None
        return [Access(item["name"], tuple(item["actions"]), item["type"]) for item in claims["access"]]

    def _signature(self, signed: str) -> str:
        return _base64url(hmac.digest(self._key, signed.encode(), hashlib.sha256))


def _encode(claims: Mapping[str, object]) -> str:
    return _base64url(json.dumps(claims, separators=(",", ":")).encode())


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
