"""The gate before a registry: it lets requests through, or says how to get in.

With "Bearer" it gives out tokens itself, at ``/token``; a large registry leaves that to somebody else. With
"Basic" every request carries the password.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hmac import compare_digest
from http import HTTPStatus

from cnlab.containers.registry.endpoints import Answer, Request, needed_access, refusal
from cnlab.containers.registry.errors import RegistryError
from cnlab.containers.registry.tokens import LIFETIME_S, Access, Challenge, TokenIssuer, basic_credentials

SCHEMES = ("Bearer", "Basic")
Allows = Callable[[Access], bool]


class Gate:
    """Who may do what in the registry at `address`: everything, for the `users`, by name and password."""

    def __init__(self, address: str, users: Mapping[str, str], scheme: str) -> None:
        self.address = address
        self.users = users
        self.scheme = scheme
        self._issuer = TokenIssuer()

    def answer(self, request: Request, serve: Callable[[Request], Answer]) -> Answer:
        """Return what `serve` answers, or a challenge.

        Raises:
            RegistryError: the path is no endpoint's, or the password is wrong.
        """
        if request.path == "/token" and self.scheme == "Bearer":
            return self._token(request)
        needed = needed_access(request)
        allows = self._granted(request.headers.get("authorization", ""))
        if allows is None or (needed and not allows(needed)):
            return self._challenge(needed, is_known=allows is not None)
        return serve(_without_foreign_mount(request, allows))

    def _granted(self, authorization: str) -> Allows | None:
        """Return what the client may do; None: we do not know who that is."""
        scheme, _, token = authorization.partition(" ")
        if self.scheme == "Basic":
            return (lambda needed: True) if self._knows(basic_credentials(authorization)) else None
        granted = self._issuer.allowed(token) if scheme.lower() == "bearer" else None
        if granted is None:
            return None
        return lambda needed: any(access.covers(needed) for access in granted)

    def _knows(self, credentials: tuple[str, str] | None) -> bool:
        expected = self.users.get(credentials[0]) if credentials else None
        if credentials is None or expected is None:
            return False
        return compare_digest(expected.encode(), credentials[1].encode())

    def _challenge(self, needed: Access | None, *, is_known: bool) -> Answer:
        if self.scheme == "Basic":
            challenge = Challenge("Basic", {"realm": self.address})
        else:
            scope = {"scope": str(needed)} if needed else {}
            error = {"error": "insufficient_scope"} if is_known else {}
            where = {"realm": f"http://{self.address}/token", "service": self.address}
            challenge = Challenge("Bearer", {**where, **scope, **error})
        answer = refusal(RegistryError("UNAUTHORIZED", f"log in to {needed or self.address}"))
        return Answer(answer.status, {**answer.headers, "WWW-Authenticate": str(challenge)}, answer.body)

    def _token(self, request: Request) -> Answer:
        """Give out a token: to a user for what is asked, to others one that allows nothing."""
        credentials = basic_credentials(request.headers.get("authorization", ""))
        if credentials is not None and not self._knows(credentials):
            raise RegistryError("UNAUTHORIZED", f"wrong user or password: {credentials[0]}")
        scopes = request.query.get("scope", "").split() if credentials else []
        token = self._issuer.issue(credentials[0] if credentials else "", map(Access.parse, scopes))
        issued = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = {"token": token, "access_token": token, "expires_in": LIFETIME_S, "issued_at": issued}
        return Answer(HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _without_foreign_mount(request: Request, allows: Allows) -> Request:
    """Forget that a blob is to be mounted from a repository that the client may not read."""
    source = request.query.get("from")
    if source is None or allows(Access(source, ("pull",))):
        return request
    return replace(request, query={name: value for name, value in request.query.items() if name != "from"})
