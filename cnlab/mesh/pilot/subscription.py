"""What a client has subscribed to of one type, what it has, what it refused: the xDS protocol without a wire.

Both variants of the protocol are the same here but for two things: in the state of the world a request lists
all names, and a response of clusters or listeners all resources; in the delta variant both say what differs.

See: https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from sys import intern

from cnlab.mesh.pilot.resources import CDS, LDS
from cnlab.mesh.pilot.snapshot import Resource, Resources

WHOLE = (CDS, LDS)
"""Types of which a client may ask for all, `*`, and a response in the state of the world lists all."""
_WORD = re.compile(r"[^\s,;:'\"()\[\]]+")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client says: what it wants from now on, and what it thinks of the response with this nonce."""

    type_url: str
    names: frozenset[str] | None = None
    """All that it wants, in the state of the world; else `subscribe` and `unsubscribe` say what changes."""
    subscribe: frozenset[str] = frozenset()
    unsubscribe: frozenset[str] = frozenset()
    nonce: str = ""
    error: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """What it has already, from another stream."""


@dataclass(frozen=True, slots=True)
class Response:
    """What to send, and which of it is new to the client."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    changed: tuple[Resource, ...] = ()


@dataclass(frozen=True, slots=True)
class Ack:
    """A client's answer to a response: ACK, or NACK with its reason."""

    node: str
    type: str
    version: str
    nonce: str
    error: str = ""
    resources: tuple[str, ...] = ()
    time_s: float = 0.0

    @property
    def is_ack(self) -> bool:
        """Whether the client took all of it."""
        return not self.error


@dataclass(slots=True)
class Subscription:
    """One type on one stream."""

    is_wildcard: bool = False
    names: set[str] = field(default_factory=set)
    known: dict[str, Resource] = field(default_factory=dict)
    """What the client has accepted."""
    due: set[str] = field(default_factory=set)
    """Names to look at: they changed, or were asked for."""
    again: set[str] = field(default_factory=set)
    """Names to send even if the client has them."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Versions that the client refused, by name."""
    suspects: set[str] = field(default_factory=set)
    """Names refused together, for a reason that names none; they are sent anew, one at a time."""
    unsure: set[str] = field(default_factory=set)
    """Names refused of the first list: the client may have them from elsewhere, in a version unknown."""
    refusal: Ack | None = None
    sent: Response | None = None
    """The response that has no answer yet; there is never more than one."""
    nonce: str = ""
    is_fresh: bool = True
    """Nothing has been sent: the client waits for an answer, also for an empty one."""

    def want(self, type_url: str, request: Request, available: Resources) -> None:
        """Take in what the client subscribes to and what not."""
        subscribe, unsubscribe = request.subscribe, request.unsubscribe
        if request.names is not None:
            subscribe, unsubscribe = request.names - self.names, frozenset(self.names) - request.names
        was_wildcard = self.is_wildcard
        if type_url in WHOLE:
            self.is_wildcard = self._asks_for_all(request)
        names = {intern(name) for name in subscribe if name != "*"}
        self.names |= names
        self.due |= names
        self.again |= names - request.versions.keys()
        if self.is_wildcard and not was_wildcard:
            self.due |= available.keys() | self.known.keys()
        self._forget(unsubscribe)

    def _asks_for_all(self, request: Request) -> bool:
        is_first = not self.nonce and not self.names and not self.is_wildcard
        if request.names is not None:
            return "*" in request.names or (not request.names and (is_first or self.is_wildcard))
        if "*" in request.unsubscribe:
            return False
        return "*" in request.subscribe or self.is_wildcard or (is_first and not request.subscribe)

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.names.discard(name)
            self.known.pop(name, None)
            self.again.discard(name)
            if self.is_wildcard:
                self.due.add(name)  # it is still part of `*`
            else:
                self.due.discard(name)

    def changed(self, names: frozenset[str]) -> None:
        """Take in that resources of these names are others now, or gone."""
        ours = names if self.is_wildcard else names & self.names
        self.due |= ours
        self.suspects -= ours
        if not ours.isdisjoint(self.rejected):
            self.due |= self.rejected.keys()  # refused together, perhaps for the fault of one
            self.rejected.clear()
            self.refusal = None

    def answered(self, type_url: str, error: str, *, may_isolate: bool) -> bool:
        """Take in the answer to what was sent; return whether it refuses something for good.

        Of clusters and listeners Envoy takes those that its error does not name. Of other types, and where it
        names none, nobody knows how far it came: all that is to be sent anew, also what was to be removed.
        """
        response, self.sent = self.sent, None
        assert response is not None
        sent = {one.name: one for one in response.changed if self.is_wildcard or one.name in self.names}
        self.suspects -= sent.keys()
        blamed = _named_in(error, sent)
        is_lost = bool(error and sent and not (blamed and type_url in WHOLE))
        lost = {*sent, *response.removed} - blamed if is_lost else set()
        if error and not blamed:
            if len(sent) > 1 and may_isolate:
                self.suspects |= sent.keys()
                self.due |= lost
                return False
            blamed, lost = set(sent), lost - sent.keys()
        if not may_isolate:
            self.unsure |= blamed
        self.due |= lost
        self.again |= lost & sent.keys()
        self.rejected |= {name: sent[name].version for name in blamed}
        for name in sent.keys() - blamed - lost:
            self.known[name] = sent[name]
            self.rejected.pop(name, None)
        for name in set(response.removed) - lost:
            self.known.pop(name, None)
        if not self.rejected:
            self.refusal = None
        return bool(blamed)

    def is_news(self, resource: Resource) -> bool:
        """Whether the client has neither this version nor refused it."""
        name, known = resource.name, self.known.get(resource.name)
        if self.rejected.get(name) == resource.version:
            return False
        return name in self.again or known is None or known.version != resource.version


def _named_in(error: str, names: Iterable[str]) -> set[str]:
    """Return the resources that an error names; Envoy takes the others of the response."""
    words = {word.strip(".") for word in _WORD.findall(error)}
    return words.intersection(names)
